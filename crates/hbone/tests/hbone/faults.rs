//! Peers that are wrong, slow, silent or hostile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ambit_hbone::{HboneConfig, Pool};
use ambit_identity::Svid;
use ambit_types::FlowReason;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::pki::{Authority, id};
use crate::server::Server;
use crate::{Mesh, app, key_to, open, other_domain, sockets, until, within};

/// Dials the mesh's server as somebody else.
async fn knock(mesh: &Mesh, svid: Svid) -> ambit_hbone::OpenError {
    let pool = Pool::new(HboneConfig::default(), sockets(), &mesh.scope);
    open(&pool, &Arc::new(svid), &mesh.key(), "echo:1")
        .await
        .expect_err("the server refuses")
}

#[tokio::test]
async fn clients_that_are_not_ours_are_refused_by_name() {
    let mesh = Mesh::new().await;
    let stranger = Authority::new("mesh");
    let cases = [
        (
            mesh.authority.svid(&other_domain("cart")),
            FlowReason::PeerUntrusted,
            "not in our trust domain",
        ),
        (
            mesh.authority.expired_svid(&id("cart")),
            FlowReason::PeerUntrusted,
            "expired",
        ),
        (
            mesh.authority.self_signed_svid(&id("cart")),
            FlowReason::PeerUntrusted,
            "not issued by a root of ours",
        ),
    ];
    let foreign = stranger.svid_trusting(&id("cart"), &mesh.authority);
    let foreign = (foreign, FlowReason::PeerUntrusted, "not issued by");
    for (svid, reason, text) in cases.into_iter().chain([foreign]) {
        let seen = knock(&mesh, svid).await;
        // The client is told by an alert, or finds the connection closed.
        assert!(
            matches!(
                seen.reason(),
                FlowReason::TlsFailure | FlowReason::PeerUnreachable | FlowReason::Http2Failure
            ),
            "{seen}"
        );
        until(text, || !mesh.server.seen.refusals.lock().is_empty()).await;
        assert_eq!(mesh.server.seen.refusals.lock().pop(), Some(reason));
        let said = mesh.server.seen.refusal_texts.lock().pop().unwrap();
        assert!(said.contains(text), "{said}");
    }
    assert_eq!(mesh.server.connections(), 0);
}

#[tokio::test]
async fn servers_that_are_not_expected_are_refused_by_name() {
    let mesh = Mesh::new().await;
    let servers = [
        (mesh.authority.svid(&id("impostor")), "none of the expected"),
        (
            mesh.authority.svid(&other_domain("db")),
            "none of the expected",
        ),
        (mesh.authority.expired_svid(&id("db")), "expired"),
        (mesh.authority.self_signed_svid(&id("db")), "not issued by"),
    ];
    for (svid, text) in servers {
        let server = Server::start(Arc::new(svid), HboneConfig::default(), &mesh.scope).await;
        let error = mesh
            .open_key(&key_to(server.addr), "echo:1")
            .await
            .unwrap_err();
        assert_eq!(error.reason(), FlowReason::PeerUntrusted);
        assert!(error.to_string().contains(text), "{error}");
        until("refused", || !server.seen.refusals.lock().is_empty()).await;
        assert_eq!(server.seen.refusals.lock()[0], FlowReason::TlsFailure);
    }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new().await;
    let mut config = (*mesh.client.client_config(&[id("db")])).clone();
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let connector = TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(mesh.server.addr).await.unwrap();
    let name = ServerName::try_from("ignored.example").unwrap();
    if let Ok(mut tls) = connector.connect(name, tcp).await {
        assert!(matches!(within(tls.read(&mut [0])).await, Err(_) | Ok(0)));
    }
    until("refused", || !mesh.server.seen.refusals.lock().is_empty()).await;
    let said = mesh.server.seen.refusal_texts.lock().pop().unwrap();
    assert!(said.contains("no certificate"), "{said}");
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let mesh = Mesh::new().await;
    let (mut good, _) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 4096],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
        &[0x16, 3, 1, 0, 4, 1, 0, 0, 0],
    ];
    for bytes in garbage {
        let mut tcp = TcpStream::connect(mesh.server.addr).await.unwrap();
        let _ = tcp.write_all(bytes).await;
        let _ = tcp.shutdown().await;
        let mut rest = Vec::new();
        let _ = within(tcp.read_to_end(&mut rest)).await;
    }
    let refusals = &mesh.server.seen.refusals;
    until("all refused", || refusals.lock().len() == garbage.len()).await;
    assert!(
        refusals
            .lock()
            .iter()
            .all(|r| *r != FlowReason::PeerUntrusted)
    );
    assert_eq!(mesh.server.gate.active(), 0);
    good.write_all(b"x").await.unwrap();
    within(good.read_exact(&mut [0])).await.unwrap();
}

#[tokio::test]
async fn garbage_inside_tls_ends_that_connection_only() {
    let mesh = Mesh::new().await;
    let (mut good, _) = app(&mesh.scope, mesh.open("echo:1").await.unwrap()).await;
    let connector = TlsConnector::from(mesh.client.client_config(&[id("db")]));
    let name = ServerName::try_from("ignored.example").unwrap();
    let tcp = TcpStream::connect(mesh.server.addr).await.unwrap();
    let mut tls = connector.connect(name, tcp).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = within(tls.read_to_end(&mut rest)).await;
    until("refused", || !mesh.server.seen.refusals.lock().is_empty()).await;
    assert_eq!(
        mesh.server.seen.refusals.lock()[0],
        FlowReason::Http2Failure
    );
    good.write_all(b"x").await.unwrap();
    within(good.read_exact(&mut [0])).await.unwrap();
}

#[tokio::test]
async fn stalled_handshakes_are_bounded_and_do_not_keep_others_out() {
    const GATE: usize = 8;
    let mesh = Mesh::new().await;
    let svid = Arc::new(mesh.authority.svid(&id("db")));
    let server = Server::gated(svid, HboneConfig::default(), &mesh.scope, GATE).await;
    let mut stalled = Vec::new();
    for i in 0..50u8 {
        let mut tcp = TcpStream::connect(server.addr).await.unwrap();
        // Some say nothing, some begin a hello.
        if i % 2 == 0 {
            tcp.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        }
        stalled.push(tcp);
    }
    let gate = &server.gate;
    until("cut", || gate.refused() == 50 - GATE as u64).await;
    assert_eq!(gate.active(), GATE);
    mesh.open_key(&key_to(server.addr), "echo:1").await.unwrap();
    let refusals = server.seen.refusals.lock().clone();
    assert!(refusals.iter().all(|r| *r == FlowReason::LimitReached));
}

#[tokio::test]
async fn handshakes_have_a_deadline_on_either_side() {
    let quick = HboneConfig {
        handshake_timeout: Duration::from_millis(100),
        ..HboneConfig::default()
    };
    let mesh = Mesh::with(quick.clone(), quick).await;
    let _silent = TcpStream::connect(mesh.server.addr).await.unwrap();
    let refusals = &mesh.server.seen.refusals;
    until("timed out", || !refusals.lock().is_empty()).await;
    assert_eq!(refusals.lock()[0], FlowReason::HandshakeTimeout);

    let deaf = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let key = key_to(deaf.local_addr().unwrap());
    let error = mesh.open_key(&key, "echo:1").await.unwrap_err();
    assert_eq!(error.reason(), FlowReason::HandshakeTimeout);
}

#[tokio::test]
async fn an_unanswered_connect_has_a_deadline_and_its_own_reason() {
    let config = HboneConfig {
        connect_timeout: Duration::from_millis(100),
        ..HboneConfig::default()
    };
    let mesh = Mesh::with(config, HboneConfig::default()).await;
    let error = mesh.open("never:1").await.unwrap_err();
    assert_eq!(error.reason(), FlowReason::ConnectTimeout);
    mesh.open("echo:1").await.unwrap();
    assert_eq!(mesh.server.connections(), 1, "the connection is fine");
}

#[tokio::test]
async fn a_dial_that_nobody_answers_hints_at_network_policy() {
    let config = HboneConfig {
        dial_timeout: Duration::from_millis(100),
        ..HboneConfig::default()
    };
    let mesh = Mesh::with(config, HboneConfig::default()).await;
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    full.bind(&any.into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    while held.len() < 10 {
        let dial = TcpStream::connect(addr);
        match tokio::time::timeout(Duration::from_millis(100), dial).await {
            Ok(tcp) => held.push(tcp),
            Err(_) => break,
        }
    }
    let error = mesh.open_key(&key_to(addr), "a:1").await.unwrap_err();
    assert_eq!(error.reason(), FlowReason::HboneDialTimeout);
    assert!(error.to_string().contains("NetworkPolicy"), "{error}");
}

/// Forwards bytes until it is told to swallow them.
async fn tube(mesh: &Mesh) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let blocked = Arc::new(AtomicBool::new(false));
    let (server, scope) = (mesh.server.addr, mesh.scope.clone());
    let flag = Arc::clone(&blocked);
    mesh.scope.spawn("tube", async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(server).await.unwrap();
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            for (mut from, mut to) in [(near_read, far_write), (far_read, near_write)] {
                let flag = Arc::clone(&flag);
                scope.spawn("tube end", async move {
                    let mut buf = vec![0; 65_536];
                    loop {
                        let n = from.read(&mut buf).await.unwrap_or(0);
                        if flag.load(Ordering::SeqCst) {
                            // Hold both sockets open and pass nothing on.
                            std::future::pending::<()>().await;
                        }
                        if n == 0 || to.write_all(&buf[..n]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    (addr, blocked)
}

#[tokio::test]
async fn a_dead_path_is_noticed_by_pings_on_both_sides() {
    let config = HboneConfig {
        ping_interval: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(300),
        ..HboneConfig::default()
    };
    let mesh = Mesh::with(config.clone(), config).await;
    let (addr, blocked) = tube(&mesh).await;
    let key = key_to(addr);
    let (mut flow, _) = app(&mesh.scope, mesh.open_key(&key, "echo:1").await.unwrap()).await;
    flow.write_all(b"x").await.unwrap();
    within(flow.read_exact(&mut [0])).await.unwrap();
    // Several pings are answered before the path dies.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(mesh.pool.connections(), 1, "alive");
    blocked.store(true, Ordering::SeqCst);
    let ended = within(flow.read(&mut [0])).await;
    assert!(matches!(ended, Err(_) | Ok(0)), "the application is told");
    let seen = &mesh.server.seen;
    until("the server gives up too", || {
        seen.ping_timeouts.load(Ordering::SeqCst) == 1
    })
    .await;
    assert_eq!(mesh.pool.connections(), 0);
}
