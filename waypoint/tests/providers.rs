//! CUSTOM authorization beyond one HTTP request: opaque connections, header
//! lists; and upgrades that nobody asked the mesh for.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ambit_net::DuplexIo;
use ambit_proto::waypoint as pb;
use ambit_testkit::eventually;
use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use support::World;
use support::app::{Answering, Handler};
use support::resources as res;

fn custom(provider: &str) -> Vec<u8> {
    pb::Authorization {
        origin: res::origin("AuthorizationPolicy", "ask"),
        action: pb::AuthorizationAction::Custom.into(),
        provider: provider.to_owned(),
        rules: vec![pb::AuthorizationRule::default()],
        ..pb::Authorization::default()
    }
    .encode_to_vec()
}

fn ask(world: &World, kind: pb::authorization_provider::Kind) {
    let gateway = pb::Gateway {
        authorization_providers: vec![pb::AuthorizationProvider {
            name: "ask".to_owned(),
            kind: Some(kind),
            service: res::key("authz"),
            port: 80,
            ..pb::AuthorizationProvider::default()
        }],
        ..res::gateway_message()
    };
    let body = gateway.encode_to_vec();
    world.control.publish(res::GATEWAY, &[("shop/wp", body)]);
    let name = "AuthorizationPolicy/shop/ask";
    world
        .control
        .publish(res::AUTHORIZATION, &[(name, custom("ask"))]);
}

/// 4.6: CUSTOM on TCP asks a provider over gRPC; any other refuses.
#[tokio::test]
async fn opaque_connections_are_put_to_a_provider_over_grpc() -> Result<()> {
    let world = World::start().await?;
    let allow = Arc::new(AtomicBool::new(false));
    let questions: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let (decides, seen) = (Arc::clone(&allow), Arc::clone(&questions));
    let provider: Handler = Arc::new(move |request, _| -> Answering {
        let (decides, seen) = (Arc::clone(&decides), Arc::clone(&seen));
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            assert_eq!(path, "/envoy.service.auth.v3.Authorization/Check");
            let question = request.into_body().collect().await.unwrap().to_bytes();
            seen.lock().push(question);
            // CheckResponse with status.code 0 or 7.
            let code = if decides.load(Ordering::SeqCst) { 0 } else { 7 };
            let body = vec![0, 0, 0, 0, 4, 0x0a, 2, 8, code];
            let mut response = Response::new(Full::from(body));
            let headers = response.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            headers.insert("grpc-status", "0".parse().unwrap());
            response
        })
    });
    world.misbehaving("authz", provider).await?;
    ask(
        &world,
        pb::authorization_provider::Kind::Grpc(pb::GrpcProvider::default()),
    );
    let ip = world.address();
    let listener = tokio::net::TcpListener::bind((ip, 8080)).await?;
    world.scope.spawn("app", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"hello").await;
        }
    });
    let endpoint = res::endpoint("mail", ip, None);
    let mail = world.publish("mail", pb::Protocol::Tcp, vec![], &[endpoint]);
    let said = async || {
        let mut io = DuplexIo::new(world.client.tunnel(&mail.vip.to_string()).await?);
        let mut all = Vec::new();
        let read = io.read_to_end(&mut all);
        let _ = tokio::time::timeout(Duration::from_secs(2), read).await;
        anyhow::Ok(String::from_utf8_lossy(&all).into_owned())
    };
    eventually("a refusal", async || {
        ensure!(said().await?.is_empty());
        ensure!(!questions.lock().is_empty(), "nobody was asked");
        Ok(())
    })
    .await?;
    let question = questions.lock().last().cloned().unwrap_or_default();
    let text = String::from_utf8_lossy(&question).into_owned();
    assert!(text.contains(support::CLIENT), "{text:?}");
    allow.store(true, Ordering::SeqCst);
    assert_eq!(said().await?, "hello");

    // One over HTTP can't be asked.
    let asked = questions.lock().len();
    let http = pb::HttpProvider::default();
    ask(&world, pb::authorization_provider::Kind::Http(http));
    eventually("the other provider", async || {
        ensure!(said().await?.is_empty());
        Ok(())
    })
    .await?;
    assert!(questions.lock().len() >= asked);
    Ok(())
}

/// 4.5: header lists of a provider over HTTP, regular expressions included.
#[tokio::test]
async fn header_lists_of_a_provider_may_be_regular_expressions() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let provider: Handler = Arc::new(|request, _| -> Answering {
        let seen: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
        Box::pin(async move {
            let mut response = Response::new(Full::default());
            let headers = response.headers_mut();
            headers.insert("x-out-saw", seen.join(",").parse().unwrap());
            headers.insert("x-outside", "no".parse().unwrap());
            response
        })
    });
    world.misbehaving("authz", provider).await?;
    let regex = |text: &str| pb::StringMatch {
        kind: Some(pb::string_match::Kind::Regex(text.to_owned())),
        ignore_case: false,
    };
    let http = pb::HttpProvider {
        request_headers: vec![regex("X-In-[0-9]+")],
        headers_to_upstream: vec![regex("x-out-.*")],
        ..pb::HttpProvider::default()
    };
    ask(&world, pb::authorization_provider::Kind::Http(http));
    eventually("asked", async || {
        let request = Request::get("/")
            .header("host", "cart.shop")
            .header("x-in-1", "a")
            .header("x-in-b", "b");
        let request = request.body(Full::default())?;
        let answer = world.client.http1(cart.vip).await?.send(request).await?;
        ensure!(answer.status() == 200, "{answer:?}");
        let echo = answer.echo();
        let saw = echo["headers"]["x-out-saw"].as_str().unwrap_or_default();
        ensure!(saw.contains("x-in-1") && !saw.contains("x-in-b"), "{echo}");
        ensure!(echo["headers"].get("x-outside").is_none(), "{echo}");
        Ok(())
    })
    .await
}

/// 1.5: `websocket` only; others where a setting says so.
#[tokio::test]
async fn other_upgrades_than_websocket_are_403_unless_they_are_allowed() -> Result<()> {
    for (setting, protocol, status) in [
        (None, "foo", 403),
        (None, "WebSocket", 200),
        (Some("websocket, foo"), "foo", 200),
        (Some("websocket, foo"), "bar", 403),
    ] {
        let env = setting.map(|setting| ("AMBIT_UPGRADES", setting));
        let env: Vec<_> = env.into_iter().collect();
        let world = World::start_with(&env).await?;
        let cart = world.service("cart", pb::Protocol::Http).await?;
        world.settled(cart.vip, "/", 200).await?;
        let before = cart.apps[0].requests();
        let request = Request::get("/")
            .header("host", "a")
            .header("connection", "upgrade")
            .header("upgrade", protocol);
        let request = request.body(Full::default())?;
        let answer = world.client.http1(cart.vip).await?.send(request).await?;
        assert_eq!(
            answer.status(),
            status,
            "{setting:?} {protocol}: {answer:?}"
        );
        let reached = cart.apps[0].requests() - before;
        assert_eq!(reached, usize::from(status == 200));
    }
    Ok(())
}
