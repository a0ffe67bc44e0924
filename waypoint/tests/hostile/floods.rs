//! Attacks on HTTP/2 (7.2, 7.4): each is cut off or answered at its own pace,
//! in bounded memory, while others are served.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, H2, HEADERS, Heard, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
};
use crate::support::World;
use crate::support::mesh::Service;

/// More than this for one attacker is a leak.
const BOUND: u64 = 48 << 20;

struct Attack<'w> {
    world: &'w World,
    cart: &'w Service,
    before: u64,
}

impl<'w> Attack<'w> {
    fn begin(world: &'w World, cart: &'w Service) -> Self {
        let before = world.waypoint.resident();
        Self {
            world,
            cart,
            before,
        }
    }

    /// Others are served, and memory is bounded.
    async fn harmless(&self, name: &str) -> Result<()> {
        let begun = Instant::now();
        let answer = self.world.client.get(self.cart.vip, "/ready").await?;
        assert_eq!(answer.status(), 200, "{name}");
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(3),
            "{name}: others wait {took:?}"
        );
        let grown = self.world.waypoint.resident().saturating_sub(self.before);
        assert!(grown < BOUND, "{name}: {grown} bytes");
        Ok(())
    }
}

/// Writes `unit` again and again without reading a byte; true when the waypoint
/// stopped taking it.
async fn flood(h2: &mut H2, first: &[u8], unit: impl Fn(u32) -> Vec<u8>, count: u32) -> bool {
    if !h2.write(first).await {
        return true;
    }
    let mut batch = Vec::new();
    for n in 0..count {
        batch.extend(unit(n));
        if batch.len() > 32 << 10 || n + 1 == count {
            if !h2.write(&batch).await {
                return true;
            }
            batch.clear();
        }
    }
    false
}

fn cut(heard: &Heard) -> bool {
    heard.closed || heard.goaway().is_some()
}

async fn served(world: &World) -> Result<Service> {
    let (cart, _) = world.raw("cart", crate::upstream::silent()).await?;
    world.settled(cart.vip, "/ready", 200).await?;
    Ok(cart)
}

#[tokio::test]
async fn floods_of_frames_cost_no_memory_and_no_neighbour() -> Result<()> {
    let world = World::start().await?;
    let cart = served(&world).await?;
    let request = frame(HEADERS, END_HEADERS, 1, &block(&GET));
    type Unit = fn(u32) -> Vec<u8>;
    let cases: [(&str, Unit); 7] = [
        ("PING (CVE-2019-9512)", |_| frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS (CVE-2019-9515)", |_| {
            frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])
        }),
        ("empty DATA (CVE-2019-9518)", |_| frame(DATA, 0, 1, &[])),
        ("PRIORITY (CVE-2019-9513)", |n| {
            frame(PRIORITY, 0, 2 * n + 3, &[0, 0, 0, 1, 16])
        }),
        ("WINDOW_UPDATE", |_| {
            frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())
        }),
        ("unknown frames", |_| frame(77, 0, 0, &[0; 32])),
        ("one byte of DATA (CVE-2019-9511)", |_| {
            frame(DATA, 0, 1, b"x")
        }),
    ];
    for (name, unit) in cases {
        let attack = Attack::begin(&world, &cart);
        let mut h2 = H2::open(&world, cart.vip, &[]).await?;
        flood(&mut h2, &request, unit, 100_000).await;
        attack.harmless(name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn resets_are_rationed() -> Result<()> {
    let world = World::start().await?;
    let cart = served(&world).await?;
    let request = |stream: u32| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GET));
    // CVE-2023-44487: requests that are taken back at once.
    let attack = Attack::begin(&world, &cart);
    let mut h2 = H2::open(&world, cart.vip, &[]).await?;
    let unit = |n: u32| {
        let stream = 2 * n + 1;
        [
            request(stream),
            frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()),
        ]
        .concat()
    };
    flood(&mut h2, &[], unit, 20_000).await;
    let heard = h2.hear(Duration::from_secs(3), cut).await;
    assert!(cut(&heard), "rapid reset goes on");
    attack.harmless("rapid reset").await?;
    // CVE-2025-8671: requests that the server has to reset.
    let attack = Attack::begin(&world, &cart);
    let mut h2 = H2::open(&world, cart.vip, &[]).await?;
    let unit = |n: u32| {
        let stream = 2 * n + 1;
        [request(stream), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
    };
    flood(&mut h2, &[], unit, 20_000).await;
    let heard = h2.hear(Duration::from_secs(3), cut).await;
    assert!(cut(&heard), "MadeYouReset goes on");
    attack.harmless("MadeYouReset").await?;
    Ok(())
}

#[tokio::test]
async fn header_blocks_without_an_end_are_cut() -> Result<()> {
    let world = World::start().await?;
    let cart = served(&world).await?;
    // CVE-2024-27316, RUSTSEC-2024-0332: CONTINUATION for ever.
    let big = block(&[("x-n", &"y".repeat(1000))]);
    for (name, payload) in [("full", big), ("empty", Vec::new())] {
        let attack = Attack::begin(&world, &cart);
        let mut h2 = H2::open(&world, cart.vip, &[]).await?;
        let first = frame(HEADERS, END_STREAM, 1, &block(&GET));
        let stopped = flood(
            &mut h2,
            &first,
            |_| frame(CONTINUATION, 0, 1, &payload),
            50_000,
        )
        .await;
        let heard = h2.hear(Duration::from_secs(3), cut).await;
        assert!(
            stopped || cut(&heard),
            "{name} CONTINUATION goes on: {heard:?}"
        );
        attack.harmless(name).await?;
    }
    // CVE-2019-9516: fields without a name or a value.
    let attack = Attack::begin(&world, &cart);
    let mut h2 = H2::open(&world, cart.vip, &[]).await?;
    let empty = [block(&GET), block(&[("", "")]).repeat(4000)].concat();
    h2.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &empty))
        .await;
    let heard = h2
        .hear(Duration::from_secs(3), |h| {
            cut(h) || h.reset(1).is_some() || h.response(1).is_some()
        })
        .await;
    assert!(!heard.is_ok(1), "{heard:?}");
    attack.harmless("empty names").await
}

/// CVE-2026-47774, CVE-2026-49975: one byte on the wire is a whole field, all of
/// them cookie crumbs, on as many streams as there may be, none of which ever
/// takes a byte.
#[tokio::test]
async fn the_http2_bomb_does_not_go_off() -> Result<()> {
    let world = World::start().await?;
    let cart = served(&world).await?;
    let attack = Attack::begin(&world, &cart);
    let mut connections = Vec::new();
    for _ in 0..4 {
        // INITIAL_WINDOW_SIZE 0: nothing of an answer's body is ever taken.
        let mut h2 = H2::open(&world, cart.vip, &[0, 4, 0, 0, 0, 0]).await?;
        // One literal with indexing, `cookie: y…`; then its index, 0xbe.
        let mut bomb = block(&GET);
        bomb.extend([0x40, 6]);
        bomb.extend(b"cookie");
        bomb.push(100);
        bomb.extend([b'y'; 100]);
        bomb.extend([0xbe; 16_000]);
        let unit = |n: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &bomb);
        flood(&mut h2, &[], unit, 200).await;
        connections.push(h2);
    }
    attack.harmless("bomb").await?;
    for h2 in &mut connections {
        let heard = h2.hear(Duration::from_millis(500), |_| false).await;
        let forwarded = heard.frames.iter().any(|frame| heard.is_ok(frame.2));
        assert!(!forwarded, "{heard:?}");
    }
    attack.harmless("bomb, later").await
}
