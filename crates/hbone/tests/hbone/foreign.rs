//! The other implementation: `tokio-rustls` with plain `h2`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_identity::Svid;
use ambit_runtime::Scope;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::pki::id;
use crate::{Mesh, key_to, open, within};

/// A client's TLS configuration with or without a certificate.
async fn client(scope: &Scope, peer: SocketAddr, svid: &Svid) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(peer).await.unwrap();
    let connector = TlsConnector::from(svid.client_config(&[id("db")]));
    let name = ServerName::try_from("ignored.example").unwrap();
    let tls = connector.connect(name, tcp).await.unwrap();
    let (send, connection) = h2::client::handshake(tls).await.unwrap();
    scope.spawn("foreign client", async move {
        let _ = connection.await;
    });
    send.ready().await.unwrap()
}

fn request(method: Method, uri: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().unwrap();
    request
}

#[tokio::test]
async fn our_server_serves_a_foreign_client_and_answers_400_to_what_is_no_connect() {
    let mesh = Mesh::new().await;
    let mut send = client(&mesh.scope, mesh.server.addr, &mesh.client).await;
    let cases = [
        (Method::GET, "https://db/", 400),
        (Method::POST, "https://db:80/", 400),
        (Method::CONNECT, "db", 400),
        (Method::CONNECT, "10.0.0.1:0", 400),
        (Method::CONNECT, "401:80", 401),
        (Method::CONNECT, "503:80", 503),
        (Method::CONNECT, "echo:80", 200),
        (Method::CONNECT, "[fd00::7]:80", 200),
    ];
    for (method, uri, status) in cases {
        let (response, mut body) = send
            .send_request(request(method.clone(), uri), false)
            .unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{method} {uri}");
        let baggage = response.headers().get("baggage");
        assert_eq!(baggage.is_some(), status == 200, "{method} {uri}");
        if status == 200 {
            body.send_data(Bytes::from_static(b"ping"), true).unwrap();
            let echo = within(response.into_body().data()).await.unwrap().unwrap();
            assert_eq!(&echo[..], b"ping");
        } else {
            assert!(response.body().is_end_stream(), "{method} {uri}: no body");
        }
    }
    assert_eq!(mesh.server.seen.bad_requests.lock().len(), 4);
}

#[tokio::test]
async fn our_server_announces_the_contracts_settings() {
    let mesh = Mesh::new().await;
    let mut send = client(&mesh.scope, mesh.server.addr, &mesh.client).await;
    let (response, mut body) = send
        .send_request(request(Method::CONNECT, "stall:80"), false)
        .unwrap();
    within(response).await.unwrap();
    assert_eq!(send.current_max_send_streams(), 200);
    body.reserve_capacity(64 << 20);
    let mut granted = 0;
    while granted < 4 << 20 {
        let more = std::future::poll_fn(|cx| body.poll_capacity(cx));
        granted = within(more).await.unwrap().unwrap();
        if body.capacity() >= 400 << 10 {
            // As much as h2 hands out at a time; send it to see the rest.
            break;
        }
    }
    assert!(granted >= 400 << 10);
}

#[tokio::test]
async fn key_updates_go_both_ways() {
    let mesh = Mesh::new().await;
    let tcp = TcpStream::connect(mesh.server.addr).await.unwrap();
    let connector = TlsConnector::from(mesh.client.client_config(&[id("db")]));
    let name = ServerName::try_from("ignored.example").unwrap();
    let mut tls = connector.connect(name, tcp).await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    tls.write_all(&settings).await.unwrap();
    let mut heard = Vec::new();
    for round in 1..=3u8 {
        // Asks for the peer's new keys too.
        tls.get_mut().1.refresh_traffic_keys().unwrap();
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, round, 0, 0, 0, 0, 0, 0, round];
        tls.write_all(&ping).await.unwrap();
        tls.flush().await.unwrap();
        let mut pong = ping;
        pong[4] = 1;
        while !heard.windows(pong.len()).any(|w| w == pong) {
            assert!(within(tls.read_buf(&mut heard)).await.unwrap() > 0);
        }
    }
}

/// Serves one connection after another; each handles requests by `answer`,
/// which says what becomes of the n-th request overall.
async fn server(
    scope: &Scope,
    svid: Svid,
    answer: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(svid.server_config());
    let (answer, count) = (Arc::new(answer), Arc::new(std::sync::Mutex::new(0)));
    let tasks = scope.clone();
    scope.spawn("foreign server", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            let count = Arc::clone(&count);
            tasks.spawn("foreign connection", async move {
                let tls = acceptor.accept(tcp).await.unwrap();
                let mut connection = h2::server::handshake(tls).await.unwrap();
                let mut kept = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let n = {
                        let mut count = count.lock().unwrap();
                        *count += 1;
                        *count
                    };
                    match answer(n) {
                        Answer::Status(status) => {
                            let mut response = http::Response::new(());
                            *response.status_mut() = status;
                            let end = status != StatusCode::OK;
                            kept.push((request, respond.send_response(response, end).ok()));
                        }
                        Answer::Refuse => respond.send_reset(h2::Reason::REFUSED_STREAM),
                        Answer::GoAway => connection.abrupt_shutdown(h2::Reason::NO_ERROR),
                        Answer::Hangup => return,
                    }
                }
            });
        }
    });
    addr
}

enum Answer {
    Status(StatusCode),
    Refuse,
    GoAway,
    Hangup,
}

#[tokio::test]
async fn a_refused_stream_is_tried_on_another_connection() {
    let mesh = Mesh::new().await;
    let svid = mesh.authority.svid(&id("db"));
    let addr = server(&mesh.scope, svid, |n| match n {
        1 => Answer::Status(StatusCode::OK),
        2 => Answer::Refuse,
        _ => Answer::Status(StatusCode::OK),
    })
    .await;
    let key = key_to(addr);
    let _first = mesh.open_key(&key, "a:1").await.unwrap();
    let _second = mesh.open_key(&key, "a:1").await.unwrap();
    assert_eq!(mesh.pool.connections(), 1, "the refusing one is let go");
}

/// As when a peer begins to drain between our handshake and our request.
#[tokio::test]
async fn a_new_connection_that_refuses_its_first_stream_is_replaced() {
    let mesh = Mesh::new().await;
    let svid = mesh.authority.svid(&id("db"));
    let addr = server(&mesh.scope, svid, |n| match n {
        1 => Answer::Refuse,
        _ => Answer::Status(StatusCode::OK),
    })
    .await;
    mesh.open_key(&key_to(addr), "a:1").await.unwrap();
}

#[tokio::test]
async fn a_connection_that_dies_under_a_request_is_replaced_once() {
    for death in [|| Answer::GoAway, || Answer::Hangup] {
        let mesh = Mesh::new().await;
        let svid = mesh.authority.svid(&id("db"));
        let addr = server(&mesh.scope, svid, move |n| match n {
            2 => death(),
            _ => Answer::Status(StatusCode::OK),
        })
        .await;
        let key = key_to(addr);
        drop(mesh.open_key(&key, "a:1").await.unwrap());
        mesh.open_key(&key, "a:1").await.unwrap();
    }
}

/// A port in front of a server that closes its first connections without a
/// word, as one does that is handed over to another process; how many came.
async fn closing(mesh: &Mesh, to: SocketAddr, first: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let scope = mesh.scope.clone();
    mesh.scope.spawn("port", async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if count.fetch_add(1, Ordering::SeqCst) < first {
                continue;
            }
            scope.spawn("connection", async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (addr, seen)
}

#[tokio::test]
async fn a_handshake_that_ends_without_a_word_is_tried_again() {
    let mesh = Mesh::new().await;
    let svid = mesh.authority.svid(&id("db"));
    let addr = server(&mesh.scope, svid, |_| Answer::Status(StatusCode::OK)).await;
    let (port, seen) = closing(&mesh, addr, 2).await;
    mesh.open_key(&key_to(port), "a:1").await.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_port_that_always_closes_is_not_dialled_for_ever() {
    let mesh = Mesh::new().await;
    let (port, seen) = closing(&mesh, ([127, 0, 0, 1], 9).into(), usize::MAX).await;
    let error = open(&mesh.pool, &mesh.client, &key_to(port), "a:1")
        .await
        .unwrap_err();
    assert_eq!(error.reason(), ambit_types::FlowReason::PeerUnreachable);
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_peer_that_always_refuses_is_not_asked_for_ever() {
    let mesh = Mesh::new().await;
    let svid = mesh.authority.svid(&id("db"));
    let addr = server(&mesh.scope, svid, |_| Answer::Refuse).await;
    assert!(mesh.open_key(&key_to(addr), "a:1").await.is_err());
}

#[tokio::test]
async fn statuses_other_than_200_are_rejections() {
    let mesh = Mesh::new().await;
    for status in [201u16, 204, 401, 404, 503] {
        let svid = mesh.authority.svid(&id("db"));
        let status = StatusCode::from_u16(status).unwrap();
        let addr = server(&mesh.scope, svid, move |_| Answer::Status(status)).await;
        let error = open(&mesh.pool, &mesh.client, &key_to(addr), "a:1")
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), format!("http status: {status}"));
        assert_eq!(error.reason(), ambit_types::FlowReason::ConnectRejected);
    }
}
