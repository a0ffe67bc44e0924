//! Rows of `waypoint-contract` 9 that only a running waypoint shows.

use std::time::Duration;

use ambit_proto::waypoint as pb;
use anyhow::Result;
use http::Request;
use http_body_util::Full;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::{hear, open, say};
use crate::frames::{END_HEADERS, END_STREAM, GET, H2, HEADERS, block, frame};
use crate::support::raw::{Script, Then};
use crate::support::{World, resources as res};

fn at(path: &str, to: &str) -> pb::Rule {
    pb::Rule {
        matches: vec![res::at_path(path)],
        backends: vec![res::to(to, 1)],
        ..pb::Rule::default()
    }
}

#[tokio::test]
async fn the_address_chooses_the_service_and_each_request_its_route() -> Result<()> {
    let world = World::start().await?;
    let a = world.service("a", pb::Protocol::Http).await?;
    let b = world.service("b", pb::Protocol::Http).await?;
    world.route(&a, vec![at("/a", "a"), at("/b", "b")]);
    world.settled(b.vip, "/", 200).await?;
    world.settled(a.vip, "/nothing", 404).await?;
    // One CONNECT, several requests; b's name in Host changes nothing.
    let mut connection = world.client.http1(a.vip).await?;
    for (path, host, want) in [
        ("/a", "b.shop.svc.cluster.local", Some("a")),
        ("/b", "a.shop.svc.cluster.local", Some("b")),
        ("/nothing", "b.shop.svc.cluster.local", None),
        ("/a", "elsewhere.example", Some("a")),
    ] {
        let request = Request::get(path)
            .header("host", host)
            .body(Full::default())?;
        let answer = connection.send(request).await?;
        match want {
            None => assert_eq!(answer.status(), 404, "{path} {host}"),
            Some(app) => {
                let said = answer.echo();
                assert_eq!(said["app"], app, "{path} {host}");
                assert_eq!(said["headers"]["host"], host, "{path}");
                let count = said["headers"].get("x-envoy-attempt-count");
                assert!(count.is_none(), "9, row 36");
            }
        }
    }
    // A change of routes holds for the next request of the same connection.
    world.route(&a, vec![at("/a", "b")]);
    world.settled(a.vip, "/b", 404).await?;
    let request = Request::get("/a")
        .header("host", "a")
        .body(Full::default())?;
    assert_eq!(connection.send(request).await?.echo()["app"], "b");
    Ok(())
}

#[tokio::test]
async fn a_verdict_is_told_to_logs_and_not_to_clients() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let gateway = pb::Gateway {
        telemetry: Some(pb::Telemetry {
            access_log: Some(pb::AccessLogging::default()),
            ..pb::Telemetry::default()
        }),
        ..res::gateway_message()
    };
    let control = &world.control;
    control.publish(res::GATEWAY, &[("shop/wp", gateway.encode_to_vec())]);
    let deny = pb::Authorization {
        origin: res::origin("AuthorizationPolicy", "the-name-of-it"),
        action: pb::AuthorizationAction::Deny.into(),
        rules: vec![pb::AuthorizationRule::default()],
        ..pb::Authorization::default()
    };
    let name = "AuthorizationPolicy/shop/the-name-of-it";
    control.publish(res::AUTHORIZATION, &[(name, deny.encode_to_vec())]);
    world.settled(cart.vip, "/", 403).await?;
    let answer = world.client.get(cart.vip, "/").await?;
    assert_eq!(answer.body, "RBAC: access denied");
    assert!(!format!("{:?}", answer.head).contains("the-name-of-it"));
    ambit_testkit::eventually("a line of log", async || {
        let log = world.waypoint.log();
        anyhow::ensure!(log.contains("the-name-of-it"), "{log}");
        Ok(())
    })
    .await
}

/// The bound for idle connections isn't one for streams (row 33).
#[tokio::test]
async fn a_quiet_stream_outlives_the_idle_bound() -> Result<()> {
    let world = World::start().await?;
    let gateway = pb::Gateway {
        limits: Some(pb::Limits {
            connection_idle_ms: 700,
            header_timeout_ms: 700,
            ..pb::Limits::default()
        }),
        ..res::gateway_message()
    };
    let control = &world.control;
    control.publish(res::GATEWAY, &[("shop/wp", gateway.encode_to_vec())]);
    let script: Script = std::sync::Arc::new(|head, _| {
        if head.starts_with("GET /ws") {
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                          upgrade: websocket\r\n\r\n";
            return (answer.as_bytes().to_vec(), Then::Next);
        }
        if head.starts_with("GET /stream") || head.starts_with("GET /x") {
            // An event stream that has nothing to say.
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
            return (answer.as_bytes().to_vec(), Then::Hang);
        }
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
            Then::Next,
        )
    });
    let (cart, seen) = world.raw("cart", script).await?;
    world.settled(cart.vip, "/", 200).await?;
    let mut events = open(&world, cart.vip).await?;
    events
        .write_all(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
        .await?;
    let mut h2 = H2::open(&world, cart.vip, &[]).await?;
    h2.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GET)))
        .await;
    let mut socket = open(&world, cart.vip).await?;
    let ask = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    socket.write_all(ask.as_bytes()).await?;
    let mut buffer = [0; 4096];
    let n = socket.read(&mut buffer).await?;
    assert!(buffer[..n].starts_with(b"HTTP/1.1 101"));
    let heard = h2.hear(Duration::from_secs(4), |_| false).await;
    assert!(!heard.closed && heard.goaway().is_none(), "{heard:?}");
    let said = hear(&mut events, Duration::from_secs(1)).await;
    assert!(!said.closed && said.status() == 200, "{said:?}");
    socket.write_all(b"still here").await?;
    ambit_testkit::eventually("a message", async || {
        anyhow::ensure!(seen.text().contains("still here"), "{}", seen.text());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_full_backend_says_so_and_a_drain_says_goodbye_to_http2() -> Result<()> {
    let world = World::start().await?;
    let (slow, _) = world.raw("slow", crate::upstream::silent()).await?;
    let mut backend = res::backend_message("slow", &[(80, pb::Protocol::Http)]);
    backend.policy = Some(pb::TrafficPolicy {
        pool: Some(pb::ConnectionPool {
            max_requests: Some(1),
            ..pb::ConnectionPool::default()
        }),
        ..pb::TrafficPolicy::default()
    });
    let key = res::key("slow");
    let control = &world.control;
    control.publish(res::BACKEND, &[(&key, backend.encode_to_vec())]);
    world.settled(slow.vip, "/ready", 200).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut first = open(&world, slow.vip).await?;
    first
        .write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")
        .await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let text = b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let said = say(&world, slow.vip, text).await?;
    assert_eq!(said.status(), 503, "{said:?}");
    assert!(said.text.contains("x-envoy-overloaded: true"), "{said:?}");
    assert!(said.text.ends_with("reset reason: overflow"), "{said:?}");
    // 9, row 34.
    let mut h2 = H2::open(&world, slow.vip, &[]).await?;
    let settled = h2
        .hear(Duration::from_secs(2), |heard| !heard.frames.is_empty())
        .await;
    assert!(!settled.frames.is_empty());
    world.waypoint.signal("TERM");
    let heard = h2
        .hear(Duration::from_secs(4), |heard| heard.goaway().is_some())
        .await;
    assert_eq!(heard.goaway(), Some(0), "{heard:?}");
    Ok(())
}

/// Issue 4, 100-continue (RFC 9110, 10.1.1): a client that waits is told to go
/// on when its body is wanted, and not when the answer is no.
#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on_or_refused() -> Result<()> {
    const ASK: &[u8] = b"POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let mut io = open(&world, cart.vip).await?;
    io.write_all(ASK).await?;
    let mut told = Vec::new();
    while !told.ends_with(b"\r\n\r\n") {
        told.push(timeout(Duration::from_secs(10), io.read_u8()).await??);
    }
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.starts_with("HTTP/1.1 100 Continue\r\n"), "{told}");
    io.write_all(b"hello").await?;
    let said = hear(&mut io, Duration::from_secs(10)).await;
    assert_eq!(said.status(), 200, "{said:?}");
    assert!(said.text.contains(r#""body":"hello""#), "{said:?}");
    // What was settled with the client is no matter of the backend.
    assert!(!said.text.contains(r#""expect""#), "{said:?}");

    let deny = pb::Authorization {
        origin: res::origin("AuthorizationPolicy", "deny"),
        rules: vec![pb::AuthorizationRule::default()],
        action: pb::AuthorizationAction::Deny.into(),
        ..pb::Authorization::default()
    };
    let policy = ("AuthorizationPolicy/shop/deny", deny.encode_to_vec());
    world.control.publish(res::AUTHORIZATION, &[policy]);
    world.settled(cart.vip, "/", 403).await?;
    let said = say(&world, cart.vip, ASK).await?;
    assert_eq!(said.status(), 403, "{said:?}");
    assert!(
        said.closed && !said.text.contains("100 Continue"),
        "{said:?}"
    );
    Ok(())
}
