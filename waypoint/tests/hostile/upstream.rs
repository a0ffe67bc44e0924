//! Backends that break the rules or break off, and clients that don't read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_proto::waypoint as pb;
use ambit_testkit::eventually_within;
use anyhow::{Result, ensure};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{open, say};
use crate::support::raw::{Script, Then};
use crate::support::{Client, World, resources as res};

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";

/// Answers `/ready` only, and never says a word to anything else.
pub(crate) fn silent() -> Script {
    Arc::new(|head, _| {
        if head.starts_with("GET /ready") {
            return (FINE.as_bytes().to_vec(), Then::Next);
        }
        (Vec::new(), Then::Next)
    })
}

/// `/ready` is fine; the rest gets `answer`.
fn answering(answer: Vec<u8>, then: Then) -> Script {
    Arc::new(move |head, _| {
        if head.contains(" /ready ") {
            return (FINE.as_bytes().to_vec(), Then::Next);
        }
        (answer.clone(), then)
    })
}

const ASK: &str = "GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_backend_that_breaks_off_is_503_before_its_head_and_a_cut_after() -> Result<()> {
    let world = World::start().await?;
    let huge = format!("HTTP/1.1 200 OK\r\nx-huge: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-n: 1\r\n".repeat(5000));
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let cut_chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nha";
    let bad = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\nfine");
    let cases: Vec<(&'static str, String, Then, u16)> = vec![
        ("closes", String::new(), Then::Close, 503),
        ("resets", String::new(), Then::Reset, 503),
        (
            "half-a-head",
            "HTTP/1.1 200 OK\r\nx: ".into(),
            Then::Close,
            503,
        ),
        ("no-http", "SSH-2.0-OpenSSH\r\n".into(), Then::Next, 503),
        ("1-mib-of-header", huge, Then::Next, 503),
        ("5000-fields", many, Then::Next, 503),
        ("nul", bad("x: \0\r\n"), Then::Next, 503),
        (
            "two-lengths",
            bad("content-length: 4\r\ncontent-length: 5\r\n"),
            Then::Next,
            503,
        ),
        (
            "length-sign",
            bad("content-length: +4\r\n"),
            Then::Next,
            503,
        ),
        ("closes-mid-body", cut.into(), Then::Close, 200),
        ("resets-mid-body", cut.into(), Then::Reset, 200),
        ("closes-mid-chunk", cut_chunk.into(), Then::Close, 200),
    ];
    let mut wrong = Vec::new();
    for (name, answer, then, want) in cases {
        let (cart, _) = world
            .raw(name, answering(answer.into_bytes(), then))
            .await?;
        world.settled(cart.vip, "/ready", 200).await?;
        let said = say(&world, cart.vip, ASK.as_bytes()).await?;
        let body = said.text.split("\r\n\r\n").nth(1).unwrap_or_default();
        let good = if want == 200 {
            // Neither the whole length nor the last chunk.
            body.len() < 100 && !said.text.ends_with("0\r\n\r\n")
        } else {
            body.starts_with("upstream connect error or disconnect/reset before headers")
        };
        if said.status() != want || !said.closed || !good {
            wrong.push(format!("{name}: {said:?}"));
        }
        // And the next request finds the service as it was.
        let again = world.client.get(cart.vip, "/ready").await?;
        if again.status() != 200 {
            wrong.push(format!("{name}: afterwards {again:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_backend_that_hangs_holds_nobody_longer_than_the_timeout() -> Result<()> {
    let world = World::start().await?;
    let (slow, _) = world.raw("slow", answering(Vec::new(), Then::Hang)).await?;
    let rule = pb::Rule {
        timeout_ms: Some(400),
        backends: vec![res::to("slow", 1)],
        ..pb::Rule::default()
    };
    world.route(&slow, vec![rule]);
    world.settled(slow.vip, "/x", 504).await?;
    let begun = Instant::now();
    let said = say(&world, slow.vip, ASK.as_bytes()).await?;
    assert_eq!(said.status(), 504, "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(world.client.get(slow.vip, "/ready").await?.status(), 200);
    Ok(())
}

/// A second request must never see the rest of the first one's answer.
#[tokio::test]
async fn a_connection_with_unread_bytes_is_never_used_again() -> Result<()> {
    let world = World::start().await?;
    let more = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let of = |head: &str| format!("{head}{more}").into_bytes();
    let cases: Vec<(&'static str, &str, Vec<u8>)> = vec![
        ("second-answer", "GET", of(FINE)),
        (
            "no-content",
            "GET",
            of("HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nbody"),
        ),
        (
            "not-modified",
            "GET",
            of("HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nbody"),
        ),
        (
            "head",
            "HEAD",
            of("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"),
        ),
        (
            "both-lengths",
            "GET",
            of(
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
        ),
    ];
    for (name, method, answer) in cases {
        let (cart, _) = world.raw(name, answering(answer, Then::Next)).await?;
        world.settled(cart.vip, "/ready", 200).await?;
        for _ in 0..10 {
            let ask = format!("{method} /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            let said = say(&world, cart.vip, ask.as_bytes()).await?;
            assert!(!said.text.contains("poison"), "{name}: {said:?}");
            let bodiless = name == "no-content" || name == "not-modified" || name == "head";
            let body = said.text.split("\r\n\r\n").nth(1).unwrap_or_default();
            assert!(!bodiless || body.is_empty(), "{name}: {said:?}");
            let next = world.client.get(cart.vip, "/ready").await?;
            assert_eq!((next.status(), &next.body[..]), (200, "fine"), "{name}");
        }
    }
    Ok(())
}

/// A request whose body wasn't taken whole leaves a connection behind that
/// nobody else may get: the rest of the body would be the next request.
#[tokio::test]
async fn an_early_answer_does_not_hand_on_a_connection_mid_body() -> Result<()> {
    let world = World::start().await?;
    let (cart, seen) = world
        .raw("cart", answering(FINE.into(), Then::Next))
        .await?;
    world.settled(cart.vip, "/ready", 200).await?;
    let mut io = open(&world, cart.vip).await?;
    let head = "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhalf";
    io.write_all(head.as_bytes()).await?;
    let mut first = [0; 12];
    io.read_exact(&mut first).await?;
    assert_eq!(&first, b"HTTP/1.1 200");
    // The client is gone mid-body.
    drop(io);
    let before = seen.connections();
    for _ in 0..3 {
        let next = world.client.get(cart.vip, "/ready").await?;
        assert_eq!(next.status(), 200);
    }
    assert!(seen.connections() >= before);
    let text = seen.text();
    assert!(!text.contains("halfGET"), "{text}");
    Ok(())
}

/// Bounded memory and no harm to others while a client takes a byte a second.
#[tokio::test]
async fn a_client_that_reads_a_byte_a_second_costs_a_bounded_amount() -> Result<()> {
    let world = World::start().await?;
    let body = vec![b'x'; 128 << 20];
    let mut large =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    large.extend(body);
    let (cart, _) = world.raw("cart", answering(large, Then::Next)).await?;
    world.settled(cart.vip, "/ready", 200).await?;
    // Others come over a connection of their own: on one HBONE connection, the
    // windows are the client's to share out.
    let id = "spiffe://cluster.local/ns/shop/sa/other";
    let other = Client::new(&world.authority, id, world.waypoint.ip, &world.scope)?;
    let before = world.waypoint.resident();
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut io = open(&world, cart.vip).await?;
        io.write_all(ASK.as_bytes()).await?;
        slow.push(io);
    }
    let mut worst = Duration::ZERO;
    for _ in 0..4 {
        for io in &mut slow {
            let mut one = [0];
            io.read_exact(&mut one).await?;
        }
        for _ in 0..5 {
            let begun = Instant::now();
            assert_eq!(other.get(cart.vip, "/ready").await?.status(), 200);
            worst = worst.max(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let grown = world.waypoint.resident().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes for four slow clients");
    assert!(worst < Duration::from_secs(2), "others waited {worst:?}");
    Ok(())
}

/// 7.2, 1.10: what all slow clients together may hold.
#[tokio::test]
async fn slow_clients_together_have_a_bound_and_are_let_go_when_it_is_met() -> Result<()> {
    const LIMIT: u64 = 80 << 20;
    let world = World::start_with(&[("AMBIT_MEMORY_LIMIT", &LIMIT.to_string())]).await?;
    let body = vec![b'x'; 2 << 20];
    let mut large =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    large.extend(body);
    let (cart, _) = world.raw("cart", answering(large, Then::Next)).await?;
    world.settled(cart.vip, "/ready", 200).await?;
    let id = "spiffe://cluster.local/ns/shop/sa/other";
    let other = Client::new(&world.authority, id, world.waypoint.ip, &world.scope)?;
    let mut kept = other.http1(cart.vip).await?;
    let ready = || {
        http::Request::get("/ready")
            .header("host", "a")
            .body(Full::default())
    };
    let mut slow = Vec::new();
    let refusal = loop {
        let answer = kept.send(ready()?).await?;
        if answer.status() != 200 {
            break answer;
        }
        let held = world.waypoint.resident();
        ensure!(slow.len() < 400, "{} clients hold {held} bytes", slow.len());
        // Where the tunnel itself is refused already, the next answer says so.
        if let Ok(mut io) = open(&world, cart.vip).await {
            io.write_all(ASK.as_bytes()).await?;
            slow.push(io);
        }
    };
    assert_eq!(
        (refusal.status(), &*refusal.body),
        (503, "envoy overloaded")
    );
    assert_eq!(refusal.header("connection"), Some("close"));
    let held = world.waypoint.resident();
    assert!(held < LIMIT + (32 << 20), "{held} bytes held");
    // Those who take nothing are let go, and there is room again.
    eventually_within(Duration::from_secs(60), "room again", async || {
        let answer = other.get(cart.vip, "/ready").await?;
        ensure!(answer.status() == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    assert!(world.waypoint.resident() < LIMIT);
    drop(slow);
    Ok(())
}
