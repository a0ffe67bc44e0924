//! What becomes of requests and connections besides being routed: retries,
//! timeouts, upgrades, opaque bytes, policies, mirrors, drain.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the test's own servers"
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ambit_net::DuplexIo;
use ambit_proto::waypoint as pb;
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use support::app::{Answering, Handler};
use support::resources as res;
use support::{Answer, CLIENT, Client, World};

fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("from the app"));
    *response.status_mut() = code.try_into().unwrap();
    response
}

/// Fails the first `failures` requests with 503, then echoes the body.
fn flaky(failures: usize) -> Handler {
    Arc::new(move |request, number| -> Answering {
        Box::pin(async move {
            let body = request.into_body().collect().await;
            if number < failures {
                return status(503);
            }
            Response::new(Full::new(
                body.map(|body| body.to_bytes()).unwrap_or_default(),
            ))
        })
    })
}

fn retry(attempts: u32) -> pb::Retry {
    pb::Retry {
        attempts,
        on: Some(pb::RetryOn {
            status_5xx: true,
            ..pb::RetryOn::default()
        }),
        ..pb::Retry::default()
    }
}

fn rule_to(name: &str) -> pb::Rule {
    pb::Rule {
        backends: vec![res::to(name, 1)],
        ..pb::Rule::default()
    }
}

#[tokio::test]
async fn retries_hide_a_flaky_backend_and_replay_the_body() -> Result<()> {
    let world = World::start().await?;
    let cart = world.misbehaving("cart", flaky(3)).await?;
    let rule = pb::Rule {
        retry: Some(retry(2)),
        ..rule_to("cart")
    };
    world.route(&cart, vec![rule]);
    // Three attempts fail, and the last outcome stands.
    world.settled(cart.vip, "/", 503).await?;
    ensure!(cart.apps[0].requests() == 3, "{}", cart.apps[0].requests());
    let body = "x".repeat(100_000);
    let request = Request::post("/").header("host", "cart.shop");
    let request = request.body(Full::from(body.clone()))?;
    let answer = world.client.http1(cart.vip).await?.send(request).await?;
    assert_eq!((answer.status(), answer.body.len()), (200, body.len()));

    let second = world.misbehaving("second", flaky(1)).await?;
    let rule = pb::Rule {
        retry: Some(retry(1)),
        ..rule_to("second")
    };
    world.route(&second, vec![rule]);
    world.settled(second.vip, "/", 200).await?;
    let before = second.apps[0].requests();
    let request = Request::post("/").header("host", "cart.shop");
    let request = request.body(Full::from(body.clone()))?;
    let answer = world.client.http1(second.vip).await?.send(request).await?;
    assert_eq!((answer.status(), answer.body.len()), (200, body.len()));
    assert_eq!(second.apps[0].requests(), before + 1);
    Ok(())
}

#[tokio::test]
async fn each_try_says_the_same() -> Result<()> {
    let world = World::start().await?;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let failing: Handler = Arc::new(move |request, _| -> Answering {
        let (uri, headers) = (request.uri(), request.headers());
        if headers.contains_key("x-mine") {
            noted.lock().unwrap().push(format!("{uri} {headers:?}"));
        }
        Box::pin(async { status(503) })
    });
    let cart = world.misbehaving("cart", failing).await?;
    let rule = pb::Rule {
        retry: Some(retry(2)),
        ..rule_to("cart")
    };
    world.route(&cart, vec![rule]);
    world.settled(cart.vip, "/", 503).await?;
    let request = Request::get("/a?b=c").header("host", "cart.shop");
    let request = request.header("x-mine", "1").header("x-mine", "2");
    let request = request.body(Full::default())?;
    let answer = world.client.http1(cart.vip).await?.send(request).await?;
    assert_eq!(answer.status(), 503);
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 3, "{seen:?}");
    let first = &seen[0];
    for part in ["/a?b=c", "cart.shop", "x-request-id", "\"2\""] {
        assert!(first.contains(part), "{part}: {first}");
    }
    assert!(seen.iter().all(|one| one == first), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn a_slow_backend_is_504_and_an_unreachable_one_503() -> Result<()> {
    let world = World::start().await?;
    let slow: Handler = Arc::new(|_, _| -> Answering {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            status(200)
        })
    });
    let slow = world.misbehaving("slow", slow).await?;
    let rule = pb::Rule {
        timeout_ms: Some(300),
        ..rule_to("slow")
    };
    world.route(&slow, vec![rule]);
    world.settled(slow.vip, "/", 504).await?;
    let begun = Instant::now();
    let answer = world.client.get(slow.vip, "/").await?;
    assert_eq!(
        (answer.status(), answer.body.as_str()),
        (504, "upstream request timeout")
    );
    assert!(begun.elapsed() < Duration::from_secs(3));

    let nobody = world.publish("nobody", pb::Protocol::Http, vec![], &[]);
    world.settled(nobody.vip, "/", 503).await?;
    let answer = world.client.get(nobody.vip, "/").await?;
    assert_eq!(answer.body, "no healthy upstream");

    let closed = res::endpoint("closed", world.address(), None);
    let closed = world.publish("closed", pb::Protocol::Http, vec![], &[closed]);
    world.settled(closed.vip, "/", 503).await?;
    let answer = world.client.get(closed.vip, "/").await?;
    assert!(
        answer.body.starts_with("upstream connect error"),
        "{answer:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_peer_that_is_not_the_endpoint_gets_nothing() -> Result<()> {
    let world = World::start().await?;
    let ip = world.address();
    let app = support::app::echo(&world.scope, ip, "cart").await?;
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    support::app::hbone(&world.scope, &world.authority, ip, other)?;
    let endpoint = res::endpoint("cart", ip, Some("cart"));
    let cart = world.publish("cart", pb::Protocol::Http, vec![app.clone()], &[endpoint]);
    world.settled(cart.vip, "/", 503).await?;
    assert_eq!(app.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn websockets_are_joined_after_101_and_not_before() -> Result<()> {
    let world = World::start().await?;
    let handler: Handler = Arc::new(|mut request, _| -> Answering {
        Box::pin(async move {
            if request
                .headers()
                .get("upgrade")
                .is_none_or(|v| v != "websocket")
            {
                return status(400);
            }
            if request.uri().path() == "/refused" {
                return status(403);
            }
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
                let mut seen = [0; 4];
                io.read_exact(&mut seen).await.unwrap();
                io.write_all(&seen).await.unwrap();
                io.shutdown().await.unwrap();
            });
            let mut response = status(101);
            *response.body_mut() = Full::default();
            let headers = response.headers_mut();
            headers.insert("upgrade", "websocket".parse().unwrap());
            headers.insert("connection", "upgrade".parse().unwrap());
            response
        })
    });
    let chat = world.misbehaving("chat", handler).await?;
    world.settled(chat.vip, "/", 400).await?;
    let exchange = |path: &'static str| {
        let (client, vip) = (&world.client, chat.vip);
        async move {
            let mut io = DuplexIo::new(client.tunnel(&vip.to_string()).await?);
            let head = format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            );
            io.write_all(head.as_bytes()).await?;
            let mut said = vec![0; 12];
            io.read_exact(&mut said).await?;
            // After a refusal there is nobody to write to.
            let _ = io.write_all(b"ping").await;
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(2), io.read_to_end(&mut rest)).await;
            said.extend(rest);
            anyhow::Ok(String::from_utf8_lossy(&said).into_owned())
        }
    };
    let upgraded = exchange("/").await?;
    assert!(upgraded.starts_with("HTTP/1.1 101"), "{upgraded}");
    assert!(upgraded.ends_with("\r\n\r\nping"), "{upgraded}");
    let refused = exchange("/refused").await?;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(!refused.contains("ping"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn opaque_bytes_go_both_ways_and_a_server_may_speak_first() -> Result<()> {
    let world = World::start().await?;
    let ip = world.address();
    let listener = tokio::net::TcpListener::bind((ip, 8080)).await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"220 hello\r\n").await.unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    let endpoint = res::endpoint("mail", ip, None);
    for (name, protocol) in [("mail", pb::Protocol::Tcp), ("auto", pb::Protocol::Auto)] {
        let service = world.publish(name, protocol, vec![], std::slice::from_ref(&endpoint));
        let begun = Instant::now();
        let mut io = eventually("a tunnel", async || {
            Ok(world.client.tunnel(&service.vip.to_string()).await?)
        })
        .await
        .map(DuplexIo::new)?;
        let mut banner = [0; 11];
        io.read_exact(&mut banner).await?;
        assert_eq!(&banner, b"220 hello\r\n");
        assert!(begun.elapsed() < Duration::from_secs(3));
        io.write_all(b"QUIT\r\n").await?;
        io.shutdown().await?;
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await?;
        assert_eq!(rest, b"QUIT\r\n", "{name}");
    }
    Ok(())
}

fn deny(path: &str) -> Vec<u8> {
    let text = pb::StringMatch {
        kind: Some(pb::string_match::Kind::Prefix(path.to_owned())),
        ignore_case: false,
    };
    let operation = pb::Operation {
        paths: vec![pb::PathPattern {
            kind: Some(pb::path_pattern::Kind::Text(text)),
        }],
        ..pb::Operation::default()
    };
    pb::Authorization {
        origin: res::origin("AuthorizationPolicy", "no-admin"),
        action: pb::AuthorizationAction::Deny.into(),
        rules: vec![pb::AuthorizationRule {
            to: vec![operation],
            ..pb::AuthorizationRule::default()
        }],
        ..pb::Authorization::default()
    }
    .encode_to_vec()
}

#[tokio::test]
async fn policies_see_the_path_that_the_backend_sees() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let name = "AuthorizationPolicy/shop/no-admin";
    world
        .control
        .publish(res::AUTHORIZATION, &[(name, deny("/admin"))]);
    world.settled(cart.vip, "/admin", 403).await?;
    for path in [
        "/admin/x",
        "/a/../admin",
        "/%61dmin",
        "/./admin",
        "/x\\..\\admin",
    ] {
        let Ok(answer) = world.client.get(cart.vip, path).await else {
            continue; // not a URI that the client would send
        };
        assert_eq!(answer.status(), 403, "{path}");
        assert_eq!(answer.body, "RBAC: access denied");
    }
    let answer = world.client.get(cart.vip, "/x/../public").await?;
    assert_eq!(answer.echo()["path"], "/public");
    // A policy that can't be read refuses, and the control plane is told.
    world.control.remove(res::AUTHORIZATION, &[name]);
    world.settled(cart.vip, "/admin", 200).await?;
    Ok(())
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_no_say() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let shadow = world.misbehaving("shadow", flaky(usize::MAX)).await?;
    let rule = pb::Rule {
        mirrors: vec![pb::Mirror {
            backend: Some(res::to("shadow", 1)),
            share: 1_000_000,
        }],
        ..rule_to("cart")
    };
    world.route(&cart, vec![rule]);
    eventually("a copy", async || {
        let answer = world.client.get(cart.vip, "/copied").await?;
        ensure!(answer.status() == 200, "{answer:?}");
        ensure!(shadow.apps[0].requests() > 0, "no copy");
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_provider_decides_custom_policies() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let provider: Handler = Arc::new(|request, _| -> Answering {
        Box::pin(async move {
            let mut response = status(if request.uri().path() == "/check/yes" {
                200
            } else {
                401
            });
            let headers = response.headers_mut();
            headers.insert("x-user", "somebody".parse().unwrap());
            headers.insert("x-why", "because".parse().unwrap());
            response
        })
    });
    world.misbehaving("authz", provider).await?;
    let exact = |text: &str| pb::StringMatch {
        kind: Some(pb::string_match::Kind::Exact(text.to_owned())),
        ignore_case: false,
    };
    let http = pb::HttpProvider {
        path_prefix: "/check".to_owned(),
        headers_to_upstream: vec![exact("x-user")],
        ..pb::HttpProvider::default()
    };
    let gateway = pb::Gateway {
        authorization_providers: vec![pb::AuthorizationProvider {
            name: "ask".to_owned(),
            kind: Some(pb::authorization_provider::Kind::Http(http)),
            service: res::key("authz"),
            port: 80,
            ..pb::AuthorizationProvider::default()
        }],
        ..res::gateway_message()
    };
    world
        .control
        .publish(res::GATEWAY, &[("shop/wp", gateway.encode_to_vec())]);
    let custom = pb::Authorization {
        origin: res::origin("AuthorizationPolicy", "ask"),
        action: pb::AuthorizationAction::Custom.into(),
        provider: "ask".to_owned(),
        rules: vec![pb::AuthorizationRule::default()],
        ..pb::Authorization::default()
    };
    let name = "AuthorizationPolicy/shop/ask";
    world
        .control
        .publish(res::AUTHORIZATION, &[(name, custom.encode_to_vec())]);
    world.settled(cart.vip, "/no", 401).await?;
    let denied = world.client.get(cart.vip, "/no").await?;
    assert_eq!(
        (denied.header("x-why"), denied.body.as_str()),
        (Some("because"), "from the app")
    );
    let allowed = world.client.get(cart.vip, "/yes").await?;
    assert_eq!(allowed.echo()["headers"]["x-user"], "somebody");
    Ok(())
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_says_goodbye() -> Result<()> {
    let mut world = World::start().await?;
    let handler: Handler = Arc::new(|_, number| -> Answering {
        Box::pin(async move {
            if number > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            status(200)
        })
    });
    let slow = world.misbehaving("slow", handler).await?;
    world.settled(slow.vip, "/", 200).await?;
    let mut connection = world.client.http1(slow.vip).await?;
    connection.send.ready().await?;
    let request = Request::get("/")
        .header("host", "a")
        .body(Full::default())?;
    let pending = connection.send.send_request(request);
    let begun = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.waypoint.signal("TERM");
    };
    let (response, ()) = tokio::join!(pending, begun);
    let answer = Answer::read(response.context("the request was cut")?).await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("connection"), Some("close"));
    world.waypoint.ended().await?;
    Ok(())
}

/// Node proxies that haven't heard of another replica yet come in a crowd.
#[tokio::test]
async fn whoever_comes_late_in_a_drain_is_served() -> Result<()> {
    let mut world = World::start_with(&[("CONNECTION_TERMINATION_DEADLINE", "12s")]).await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    // Its connection carries what comes late as well as new ones do.
    let kept = &world.client;
    let fresh = Client::new(&world.authority, CLIENT, world.waypoint.ip, &world.scope)?;
    world.waypoint.signal("TERM");
    eventually("the drain", async || {
        ensure!(world.waypoint.log().contains("draining"), "not yet");
        Ok(())
    })
    .await?;
    for client in [kept, &fresh] {
        let all = (0..24).map(|_| client.get(cart.vip, "/"));
        for answer in futures::future::join_all(all).await {
            let answer = answer?;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.header("connection"), Some("close"));
        }
    }
    world.waypoint.ended().await
}

#[tokio::test]
async fn a_service_that_comes_a_moment_after_its_clients_is_waited_for() -> Result<()> {
    let world = World::start().await?;
    let web = world.service("web", pb::Protocol::Http).await?;
    world.settled(web.vip, "/", 200).await?;
    let (vip, ip) = (world.address(), world.address());
    let _app = support::app::echo(&world.scope, ip, "cart").await?;
    let comes = async {
        // Only to be later than the CONNECT.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let backend = res::backend_message("cart", &[(80, pb::Protocol::Http)]);
        let endpoint = res::endpoint("cart", ip, None);
        world.publish_with("cart", vip, &backend, pb::Protocol::Http, &[endpoint]);
    };
    let (answer, ()) = tokio::join!(world.client.get((vip, 80).into(), "/"), comes);
    assert_eq!(answer?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn what_leaves_a_waypoint_is_served_until_its_clients_know() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let mut kept = world.client.http1(cart.vip).await?;
    let request = || Request::get("/").header("host", "a").body(Full::default());
    assert_eq!(kept.send(request()?).await?.status(), 200);
    // As the control plane does it: what came last goes first.
    for type_url in [res::FRONTEND, res::BACKEND, res::ENDPOINTS] {
        world.control.remove(type_url, &[&res::key("cart")]);
    }
    // Something that is seen when all of it has arrived.
    let web = world.service("web", pb::Protocol::Http).await?;
    world.settled(web.vip, "/", 200).await?;
    let answer = kept.send(request()?).await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("connection"), Some("close"));
    let answer = world.client.get(cart.vip, "/").await?;
    assert_eq!(answer.status(), 200, "of who hasn't heard yet");
    assert!(cart.apps[0].requests() > 2);
    Ok(())
}

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_are_refused() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let before = cart.apps[0].requests();
    let cases = [
        (
            "two lengths",
            "content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        ),
        ("sign", "content-length: +1\r\n\r\na"),
        (
            "both",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "not final",
            "transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        ),
        ("unknown", "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("space", "x-a : b\r\n\r\n"),
        ("fold", "x-a: b\r\n c\r\n\r\n"),
        ("NUL", "x-a: b\0c\r\n\r\n"),
        ("bare CR", "x-a: b\rc: d\r\n\r\n"),
        ("bare LF", "x-a: b\nx-c: d\r\n\r\n"),
        ("two hosts", "host: b\r\n\r\n"),
    ];
    for (name, rest) in cases {
        let mut io = DuplexIo::new(world.client.tunnel(&cart.vip.to_string()).await?);
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{rest}");
        io.write_all(head.as_bytes()).await?;
        let mut said = Vec::new();
        let read = io.read_to_end(&mut said);
        let _ = tokio::time::timeout(Duration::from_secs(2), read).await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with("HTTP/1.1 400"), "{name}: {said}");
        let answers = said.matches("HTTP/1.1").count();
        assert_eq!(answers, 1, "{name}: {said}");
    }
    assert_eq!(
        cart.apps[0].requests(),
        before,
        "nothing reached the backend"
    );
    Ok(())
}

#[tokio::test]
async fn metrics_and_the_access_log_say_what_happened() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let gateway = pb::Gateway {
        telemetry: Some(pb::Telemetry {
            access_log: Some(pb::AccessLogging::default()),
            ..pb::Telemetry::default()
        }),
        ..res::gateway_message()
    };
    world
        .control
        .publish(res::GATEWAY, &[("shop/wp", gateway.encode_to_vec())]);
    world.settled(cart.vip, "/seen", 200).await?;
    eventually("metrics", async || {
        world.client.get(cart.vip, "/seen").await?;
        let (_, text) = world.waypoint.get(15020, "/stats/prometheus").await?;
        let line = text
            .lines()
            .find(|line| line.starts_with("istio_requests_total{") && line.contains("\"200\""))
            .context("no series")?;
        for label in [
            "reporter=\"waypoint\"",
            "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
            "destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"",
            "destination_service=\"cart.shop.svc.cluster.local\"",
            "destination_workload=\"cart\"",
            "connection_security_policy=\"mutual_tls\"",
        ] {
            ensure!(line.contains(label), "{label} not in {line}");
        }
        let log = world.waypoint.log();
        ensure!(
            log.contains("\"GET /seen HTTP/1.1\" 200 - via_upstream"),
            "{log}"
        );
        Ok(())
    })
    .await
}
