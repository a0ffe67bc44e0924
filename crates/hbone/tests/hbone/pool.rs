//! Who shares a connection with whom, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_hbone::{ConnectRequest, HboneConfig, OpenError, PoolKey, Tunnel};
use ambit_types::FlowReason;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::pki::id;
use crate::{Mesh, app, key_to, until, within};

fn capped(cap: usize) -> HboneConfig {
    HboneConfig {
        max_streams_per_connection: cap,
        ..HboneConfig::default()
    }
}

async fn open_all(mesh: &Mesh, n: usize) -> Vec<Tunnel> {
    let opens = join_all((0..n).map(|_| mesh.open("echo:1"))).await;
    opens.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn connections_are_reused() {
    let mesh = Mesh::new().await;
    for _ in 0..5 {
        drop(mesh.open("echo:1").await.unwrap());
    }
    let _held = open_all(&mesh, 50).await;
    assert_eq!(mesh.server.connections(), 1);
    assert_eq!(mesh.pool.connections(), 1);
}

#[tokio::test]
async fn every_part_of_the_key_matters() {
    let mesh = Mesh::new().await;
    let key = mesh.key();
    let reversed: Vec<_> = key.expected.iter().rev().cloned().collect();
    let keys = [
        PoolKey {
            source_ip: [127, 0, 0, 2].into(),
            ..key.clone()
        },
        PoolKey {
            source: id("other"),
            ..key.clone()
        },
        PoolKey {
            expected: reversed.into(),
            ..key.clone()
        },
        PoolKey {
            expected: Arc::from([id("db")]),
            ..key.clone()
        },
        key,
    ];
    for key in &keys {
        for _ in 0..3 {
            drop(mesh.open_key(key, "echo:1").await.unwrap());
        }
    }
    assert_eq!(mesh.server.connections(), keys.len());
}

#[tokio::test]
async fn simultaneous_requests_share_as_few_dials_as_the_cap_allows() {
    let mesh = Mesh::with(capped(2), HboneConfig::default()).await;
    let first = open_all(&mesh, 4).await;
    assert_eq!(mesh.server.connections(), 2);
    let second = open_all(&mesh, 5).await;
    assert_eq!(mesh.server.connections(), 5);
    // Unlike upstream's, saturated connections serve again when they empty.
    drop(first);
    drop(second);
    let _third = open_all(&mesh, 9).await;
    assert_eq!(mesh.server.connections(), 5);
}

#[tokio::test]
async fn the_peers_limit_counts_as_soon_as_it_is_known() {
    let server = HboneConfig {
        accepted_streams: 3,
        ..HboneConfig::default()
    };
    let mesh = Mesh::with(HboneConfig::default(), server).await;
    let held = open_all(&mesh, 9).await;
    assert!(mesh.server.connections() >= 3);
    drop(held);
    assert_eq!(mesh.scope.panics(), 0);
}

#[tokio::test]
async fn stress() {
    for (keys, streams, connections) in [(1u8, 100, 1), (100, 100, 100), (3, 300, 3)] {
        let mesh = Mesh::new().await;
        let opens = join_all((0..streams).map(|i| {
            let key = PoolKey {
                source_ip: [127, 0, 1, (i % usize::from(keys)) as u8].into(),
                ..mesh.key()
            };
            let mesh = &mesh;
            async move { mesh.open_key(&key, "echo:1").await.unwrap() }
        }))
        .await;
        assert_eq!(opens.len(), streams);
        assert_eq!(mesh.server.connections(), connections);
    }
}

#[tokio::test]
async fn a_draining_server_keeps_its_tunnels_and_gets_no_new_ones() {
    let mesh = Mesh::new().await;
    let (mut old, _) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
    mesh.server.drain();
    until("goaway", || {
        mesh.server.seen.open.load(Ordering::SeqCst) == 1
    })
    .await;
    for _ in 0..20 {
        mesh.open("echo:1").await.unwrap();
    }
    assert_eq!(mesh.server.connections(), 2, "one more, and it is shared");
    old.write_all(b"still here").await.unwrap();
    old.shutdown().await.unwrap();
    let mut back = Vec::new();
    within(old.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, b"still here");
    let open = &mesh.server.seen.open;
    until("the old connection ends", || {
        open.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test]
async fn requests_that_cross_a_goaway_are_served() {
    let mesh = Mesh::new().await;
    let _held = mesh.open("echo:1").await.unwrap();
    mesh.server.drain();
    let crossed = open_all(&mesh, 32).await;
    assert_eq!(crossed.len(), 32);
    assert!(mesh.server.connections() <= 2, "nobody had to look twice");
    assert!(mesh.server.seen.bad_requests.lock().is_empty());
    for tunnel in crossed {
        let (mut io, _) = app(&mesh.scope, tunnel).await;
        io.write_all(b"hello").await.unwrap();
        io.shutdown().await.unwrap();
        let mut back = Vec::new();
        within(io.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, b"hello");
    }
}

#[tokio::test]
async fn a_failed_dial_fails_those_who_wait_for_it_and_nobody_else() {
    let mesh = Mesh::new().await;
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let key = key_to(nobody.local_addr().unwrap());
    drop(nobody);
    let dials = Arc::new(AtomicUsize::new(0));
    let opens = (0..10).map(|_| {
        let (svid, dials) = (Arc::clone(&mesh.client), Arc::clone(&dials));
        let key = &key;
        let pool = &mesh.pool;
        async move {
            let svid = || async move {
                dials.fetch_add(1, Ordering::SeqCst);
                Ok(svid)
            };
            let request = ConnectRequest {
                authority: "a:1".into(),
                ..ConnectRequest::default()
            };
            pool.open(key, svid, &request).await.map(drop)
        }
    });
    let results = within(join_all(opens)).await;
    for result in results {
        assert_eq!(result.unwrap_err().reason(), FlowReason::PeerUnreachable);
    }
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    assert_eq!(mesh.pool.connections(), 0);
    mesh.open("echo:1").await.unwrap();
}

#[tokio::test]
async fn a_request_that_goes_away_leaves_its_dial_to_the_others() {
    let mesh = Mesh::new().await;
    let gate = Arc::new(tokio::sync::Notify::new());
    let request = ConnectRequest {
        authority: "echo:1".into(),
        ..ConnectRequest::default()
    };
    let key = mesh.key();
    let (svid, opened) = (Arc::clone(&mesh.client), Arc::clone(&gate));
    let svid = || async move {
        opened.notified().await;
        Ok(svid)
    };
    let mut first = Box::pin(mesh.pool.open(&key, svid, &request));
    assert!(futures::poll!(first.as_mut()).is_pending());
    let mut second = Box::pin(mesh.open("echo:1"));
    assert!(futures::poll!(second.as_mut()).is_pending());
    drop(first);
    gate.notify_one();
    second.await.unwrap();
    assert_eq!(mesh.server.connections(), 1);
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let config = HboneConfig {
        unused_release: Duration::from_millis(50),
        ..HboneConfig::default()
    };
    let mesh = Mesh::with(config, HboneConfig::default()).await;
    let busy_key = PoolKey {
        source_ip: [127, 0, 0, 3].into(),
        ..mesh.key()
    };
    let busy = mesh.open_key(&busy_key, "echo:1").await.unwrap();
    drop(mesh.open("echo:1").await.unwrap());
    assert_eq!(mesh.pool.connections(), 2);
    let open = &mesh.server.seen.open;
    until("the idle one is closed", || {
        open.load(Ordering::SeqCst) == 1
    })
    .await;
    assert_eq!(mesh.pool.connections(), 1);
    drop(mesh.open_key(&busy_key, "echo:1").await.unwrap());
    assert_eq!(mesh.server.connections(), 2, "the busy one was there");
    drop(busy);
    until("all closed", || open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(mesh.pool.connections(), 0);
    // And the sweeper starts again for the next one.
    drop(mesh.open("echo:1").await.unwrap());
    until("closed again", || open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn the_budget_closes_idle_connections_first() {
    let config = HboneConfig {
        max_connections: 2,
        ..HboneConfig::default()
    };
    let mesh = Mesh::with(config, HboneConfig::default()).await;
    let key = |last| PoolKey {
        source_ip: [127, 0, 0, last].into(),
        ..mesh.key()
    };
    let _busy = mesh.open_key(&key(1), "echo:1").await.unwrap();
    drop(mesh.open_key(&key(2), "echo:1").await.unwrap());
    let _third = mesh.open_key(&key(3), "echo:1").await.unwrap();
    assert_eq!(mesh.pool.connections(), 2);
    let error = mesh.open_key(&key(4), "echo:1").await.unwrap_err();
    assert_eq!(error.reason(), FlowReason::LimitReached);
    mesh.open_key(&key(1), "echo:1").await.unwrap();
}

#[tokio::test]
async fn no_tunnel_is_opened_beyond_the_end_of_the_certificate() {
    let mesh = Mesh::new().await;
    let brief = mesh.authority.svid_for(&id("cart"), Duration::from_secs(2));
    let brief = Arc::new(brief);
    let key = mesh.key();
    let (mut old, _) = app(
        &mesh.scope,
        crate::open(&mesh.pool, &brief, &key, "echo:1")
            .await
            .unwrap(),
    )
    .await;
    let end = brief.not_after();
    // Certificates are good to the end of their last second.
    let end = end + Duration::from_secs(1);
    until("expired", || std::time::SystemTime::now() > end).await;
    let error = crate::open(&mesh.pool, &brief, &key, "echo:1")
        .await
        .unwrap_err();
    assert_ne!(error.reason(), FlowReason::LimitReached, "{error}");
    // With a new one it goes on, and what was open is left alone.
    mesh.open("echo:1").await.unwrap();
    old.write_all(b"x").await.unwrap();
    within(old.read_exact(&mut [0])).await.unwrap();
    assert_eq!(mesh.server.connections(), 2);
}

#[tokio::test]
async fn a_closed_pool_ends_everything() {
    let mesh = Mesh::new().await;
    let (mut flow, _) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
    let mut waiting = Box::pin(mesh.open("never:1"));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    mesh.pool.close();
    let ended = within(flow.read(&mut [0])).await;
    assert!(matches!(ended, Err(_) | Ok(0)));
    assert!(within(waiting).await.is_err());
    let error = mesh.open("echo:1").await.unwrap_err();
    assert!(matches!(error, OpenError::Closed));
    assert_eq!(error.reason(), FlowReason::Drained);
}

#[tokio::test]
async fn connections_end_with_their_last_tunnel_when_the_pool_is_gone() {
    let mut mesh = Mesh::new().await;
    let tunnel = mesh.open("echo:1").await.unwrap();
    let other = crate::Pool::new(HboneConfig::default(), crate::sockets(), &mesh.scope);
    drop(std::mem::replace(&mut mesh.pool, other));
    let (mut app, _) = app(&mesh.scope, tunnel).await;
    app.write_all(b"x").await.unwrap();
    within(app.read_exact(&mut [0])).await.unwrap();
    drop(app);
    let open = &mesh.server.seen.open;
    until("closed", || open.load(Ordering::SeqCst) == 0).await;
}
