//! What applications see through a tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_hbone::{Baggage, ConnectRequest, Forwarded, HboneConfig, Pool, TraceParent, Tunnel};
use ambit_net::{Meter, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pki::id;
use crate::{Mesh, app, sockets, until, within};

async fn read_all(app: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    within(app.read_to_end(&mut all)).await.unwrap();
    all
}

#[tokio::test]
async fn bytes_identities_and_headers_go_through() {
    let mesh = Mesh::new().await;
    let forwarded = Forwarded {
        client: "10.0.0.9:4000".parse().unwrap(),
        host: Some("db.shop".into()),
    };
    let trace = TraceParent::generate();
    let baggage = Baggage {
        namespace: "shop".into(),
        ..Baggage::default()
    };
    let request = ConnectRequest {
        authority: "10.0.0.7:80".into(),
        baggage: baggage.to_string(),
        forwarded: forwarded.to_string(),
        traceparent: trace.to_string(),
    };
    let svid = Arc::clone(&mesh.client);
    let key = mesh.key();
    let tunnel = mesh.pool.open(&key, || async move { Ok(svid) }, &request);
    let tunnel = within(tunnel).await.unwrap();
    assert_eq!(tunnel.peer(), &id("db"));
    assert_eq!(tunnel.baggage().unwrap().namespace, "there");
    let (mut app, meter) = app(&mesh.scope, tunnel).await;
    app.write_all(b"ping").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(read_all(&mut app).await, b"ping");
    assert_eq!((meter.received(), meter.sent()), (4, 4));
    let head = mesh.server.seen.heads.lock().pop().unwrap();
    let want = format!(
        "{} 10.0.0.7:80 Some(\"shop\") Some({:?}) Some({:?})",
        id("cart"),
        forwarded.to_string(),
        trace.to_string()
    );
    assert_eq!(head, want);
}

#[tokio::test]
async fn half_close_survives_in_both_directions() {
    let mesh = Mesh::new().await;
    // Ours first: the echo's end comes back only after ours went there.
    let (mut one, _) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
    one.write_all(b"question").await.unwrap();
    one.shutdown().await.unwrap();
    assert_eq!(read_all(&mut one).await, b"question");
    // Theirs first: we still write, and it is read.
    let (mut two, meter) = app(&mesh.scope, mesh.open("fin-first:1").await.unwrap()).await;
    assert_eq!(read_all(&mut two).await, b"done");
    two.write_all(b"late").await.unwrap();
    two.shutdown().await.unwrap();
    until("the late bytes left", || meter.received() == 4).await;
    assert_eq!(mesh.scope.panics(), 0, "the server read them");
}

#[tokio::test]
async fn the_server_may_speak_first() {
    let mesh = Mesh::new().await;
    let (mut app, _) = app(&mesh.scope, mesh.open("greet:1").await.unwrap()).await;
    let mut greeting = [0; 11];
    within(app.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
}

#[tokio::test]
async fn a_reset_of_the_application_reaches_the_other_one_as_a_reset() {
    let mesh = Mesh::new().await;
    let (mut app, _) = app(&mesh.scope, mesh.open("reset:1").await.unwrap()).await;
    app.write_all(b"x").await.unwrap();
    let error = within(app.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_tunnel_that_is_dropped_ends_at_the_other_side() {
    let mesh = Mesh::new().await;
    drop(mesh.open("echo:1").await.unwrap());
    let opened = mesh.open("drop:1").await;
    assert!(opened.is_err(), "reset before any answer");
    // The same connection still works.
    let (mut again, _) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
    again.write_all(b"x").await.unwrap();
    again.shutdown().await.unwrap();
    assert_eq!(read_all(&mut again).await, b"x");
}

#[tokio::test]
async fn a_hundred_megabytes_come_back_unchanged() {
    const SIZE: usize = 100 << 20;
    let mesh = Mesh::new().await;
    let (app, meter) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
    let (mut read, mut write) = app.into_split();
    let sending = async {
        let mut sum = Sum::default();
        let mut piece = vec![0u8; 200_003];
        let mut at = 0;
        while at < SIZE {
            let len = piece.len().min(SIZE - at);
            // Cheap, and different everywhere.
            for (i, word) in piece[..len].chunks_mut(8).enumerate() {
                let value = ((at + i) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let n = word.len();
                word.copy_from_slice(&value.to_le_bytes()[..n]);
            }
            sum.add(&piece[..len]);
            write.write_all(&piece[..len]).await.unwrap();
            at += len;
        }
        write.shutdown().await.unwrap();
        sum
    };
    let receiving = async {
        let mut sum = Sum::default();
        let mut buf = vec![0; 300_000];
        loop {
            let n = read.read(&mut buf).await.unwrap();
            if n == 0 {
                return sum;
            }
            sum.add(&buf[..n]);
        }
    };
    let both = async { tokio::join!(sending, receiving) };
    let (sent, received) = tokio::time::timeout(Duration::from_secs(120), both)
        .await
        .unwrap();
    assert_eq!(sent, received);
    assert_eq!(meter.sent() as usize, SIZE);
}

/// Adler-like: order matters.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    a: u64,
    b: u64,
    len: usize,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.a = self.a.wrapping_add(u64::from(*byte));
            self.b = self.b.wrapping_add(self.a);
        }
        self.len += bytes.len();
    }
}

#[tokio::test]
async fn many_streams_at_once_each_keep_their_own_bytes() {
    const STREAMS: usize = 250;
    let mesh = Mesh::new().await;
    let done = Arc::new(AtomicUsize::new(0));
    let tunnels = (0..STREAMS).map(|_| mesh.open("echo:1"));
    let tunnels = futures::future::join_all(tunnels).await;
    for (i, tunnel) in tunnels.into_iter().enumerate() {
        let (mut app, _) = app(&mesh.scope, tunnel.unwrap()).await;
        let done = Arc::clone(&done);
        mesh.scope.spawn("app", async move {
            for round in 0..10 {
                let text = format!("{i}/{round}").repeat(i + 1);
                app.write_all(text.as_bytes()).await.unwrap();
                let mut back = vec![0; text.len()];
                app.read_exact(&mut back).await.unwrap();
                assert_eq!(back, text.as_bytes());
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    until("all echoes", || done.load(Ordering::SeqCst) == STREAMS).await;
    assert_eq!(mesh.server.connections(), STREAMS.div_ceil(100));
}

#[tokio::test]
async fn a_stalled_reader_costs_its_window_and_leaves_the_others_alone() {
    let mesh = Mesh::new().await;
    let (mut stalled, meter) = app(&mesh.scope, mesh.open("stall:1").await.unwrap()).await;
    let filling = async {
        loop {
            let write = stalled.write_all(&[7; 65_536]);
            let patience = Duration::from_millis(700);
            if tokio::time::timeout(patience, write).await.is_err() {
                return;
            }
        }
    };
    within(filling).await;
    let taken = meter.received();
    let window = 4 << 20;
    assert!(taken >= window, "the whole window is used: {taken}");
    assert!(taken <= window + (1 << 20), "and little beyond it: {taken}");
    let (mut app, _) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
    app.write_all(&[1; 1 << 20]).await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(read_all(&mut app).await.len(), 1 << 20);
    assert_eq!(mesh.server.connections(), 1, "on the same connection");
}

#[tokio::test]
async fn many_small_writes_to_a_stalled_reader_do_not_cost_the_connection() {
    let mesh = Mesh::new().await;
    let (mut stalled, meter) = app(&mesh.scope, mesh.open("stall:1").await.unwrap()).await;
    let mut sent = 0;
    while sent < 60 * 60_000 {
        // One frame each: the next goes when this one was taken.
        stalled.write_all(&[b'x'; 60]).await.unwrap();
        sent += 60;
        until("taken", || meter.received() == sent).await;
        if sent > 60 * 3_000 {
            break;
        }
    }
    let (mut app, _) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
    app.write_all(b"x").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(read_all(&mut app).await, b"x");
    assert_eq!(mesh.server.connections(), 1);
}

#[tokio::test]
async fn futures_of_a_flow_are_small() {
    fn relay_size<F, A, B>(_: fn(A, B, &'static Meter) -> F) -> usize {
        size_of::<F>()
    }
    let relay_size = relay_size(relay::<TcpStream, Tunnel>);
    println!(
        "tunnel {} B, relay of socket and tunnel {relay_size} B",
        size_of::<Tunnel>()
    );
    assert!(size_of::<Tunnel>() <= 192);
    assert!(relay_size <= 320);
    let scope = ambit_runtime::Scope::new("test");
    let pool = Pool::new(HboneConfig::default(), sockets(), &scope);
    let key = crate::key_to("127.0.0.1:1".parse().unwrap());
    let request = ConnectRequest::default();
    let svid: Arc<ambit_identity::Svid> =
        Arc::new(crate::pki::Authority::new("mesh").svid(&id("cart")));
    let open = pool.open(&key, || async move { Ok(svid) }, &request);
    println!("open {} B", size_of_val(&open));
    assert!(size_of_val(&open) <= 2048);
}

/// Both proxies' and both applications' share, in one process. The kernel's
/// own memory isn't in it.
#[tokio::test]
#[ignore = "measures the process's resident memory: run it alone, by name"]
async fn resident_memory_of_idle_tunnels() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    };
    let mesh = Mesh::new().await;
    let mut apps = Vec::new();
    let mut last = (0, 0);
    for goal in [200, 1000, 2000, 3000] {
        while apps.len() < goal {
            let (mut app, _) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
            app.write_all(b"x").await.unwrap();
            app.read_exact(&mut [0]).await.unwrap();
            apps.push(app);
        }
        let now = (goal, resident());
        let slope = (now.1.saturating_sub(last.1)) / (now.0 - last.0);
        println!("{goal} tunnels: {} KiB, {slope} B each", now.1 / 1024);
        last = now;
    }
}
