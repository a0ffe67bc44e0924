//! Bounds that the mesh sets and answers that depend on the kind of route:
//! limits of connections and streams, breakers, aliases of the trust domain.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_proto::waypoint as pb;
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use prost::Message;

use support::app::{Answering, Handler};
use support::resources as res;
use support::{Answer, Client, World};

fn publish(world: &World, gateway: &pb::Gateway) {
    let body = gateway.encode_to_vec();
    world.control.publish(res::GATEWAY, &[("shop/wp", body)]);
}

fn grpc_request() -> Result<Request<Full<Bytes>>> {
    let request = Request::post("http://cart.shop/shop.Cart/Get");
    let request = request.header("content-type", "application/grpc");
    Ok(request.header("te", "trailers").body(Full::default())?)
}

/// waypoint-contract 2.4: HTTP routes answer 500, GRPCRoutes UNAVAILABLE.
#[tokio::test]
async fn what_a_grpcroute_leads_to_in_vain_is_unavailable() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Grpc).await?;
    let other = world.service("other", pb::Protocol::Grpc).await?;
    let invalid = pb::Invalid {
        reason: "no such backend".to_owned(),
        status: 500,
    };
    let rule = pb::Rule {
        backends: vec![pb::BackendRef {
            weight: 1,
            invalid: Some(invalid),
            ..pb::BackendRef::default()
        }],
        ..pb::Rule::default()
    };
    for (service, kind, want) in [
        (&cart, pb::RouteKind::Grpc, "14"),
        (&other, pb::RouteKind::Http, "2"),
    ] {
        let route = pb::Route::decode(&*res::route(service.name, vec![rule.clone()]))?;
        let route = pb::Route {
            kind: kind.into(),
            ..route
        };
        let name = format!("Route/shop/{}", service.name);
        world
            .control
            .publish(res::ROUTE, &[(&name, route.encode_to_vec())]);
        eventually("the route", async || {
            let mut client = world.client.http2(service.vip).await?;
            let answer = client.send(grpc_request()?).await?;
            ensure!(answer.status() == 200, "{answer:?}");
            ensure!(answer.header("grpc-status") == Some(want), "{answer:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// CLI contract 6.1: the setting holds as soon as it has arrived, and as long.
#[tokio::test]
async fn the_destination_reporter_is_a_matter_of_the_configuration() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    for wanted in [true, false] {
        let gateway = pb::Gateway {
            destination_reporter: wanted,
            ..res::gateway_message()
        };
        publish(&world, &gateway);
        eventually("the setting", async || {
            let (_, text) = world.waypoint.get(15020, "/metrics").await?;
            ensure!(text.contains("reporter=\"waypoint\""), "{text}");
            ensure!(text.contains("reporter=\"destination\"") == wanted);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// 7.2: streams of the outer connection, and an inner one that nobody uses.
#[tokio::test]
async fn limits_of_the_gateway_hold_for_new_connections() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let gateway = pb::Gateway {
        limits: Some(pb::Limits {
            connection_idle_ms: 300,
            max_streams: 2,
            ..pb::Limits::default()
        }),
        ..res::gateway_message()
    };
    publish(&world, &gateway);
    eventually("idle connections end", async || {
        let mut http2 = world.client.http2(cart.vip).await?;
        let mut http1 = world.client.http1(cart.vip).await?;
        let get = || Request::get("http://cart.shop/").body(Full::default());
        ensure!(http2.send(get()?).await?.status() == 200);
        let request = Request::get("/").header("host", "cart.shop");
        let answer = http1.send(request.body(Full::default())?).await?;
        ensure!(answer.status() == 200);
        tokio::time::sleep(Duration::from_millis(700)).await;
        ensure!(http2.send.is_closed() && http1.send.is_closed());
        Ok(())
    })
    .await?;
    // A new outer connection takes two tunnels; for the third there is another.
    let ip = world.waypoint.ip;
    let client = Client::new(&world.authority, support::CLIENT, ip, &world.scope)?;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(client.tunnel(&cart.vip.to_string()).await?);
    }
    ensure!(client.connections() == 2, "{}", client.connections());
    Ok(())
}

/// 1.1 row 1: the mesh's trust domain and its aliases, nobody else.
#[tokio::test]
async fn peers_of_an_alias_of_the_trust_domain_are_accepted() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let ip = world.waypoint.ip;
    let client = |domain: &str| {
        let id = format!("spiffe://{domain}/ns/shop/sa/web");
        Client::new(&world.authority, &id, ip, &world.scope)
    };
    let (alias, far) = (client("old.example")?, client("far.example")?);
    ensure!(
        alias.get(cart.vip, "/").await.is_err(),
        "not configured yet"
    );
    let gateway = pb::Gateway {
        trust_domain_aliases: vec!["old.example".to_owned()],
        ..res::gateway_message()
    };
    publish(&world, &gateway);
    eventually("the alias", async || {
        let answer = alias.get(cart.vip, "/").await?;
        ensure!(answer.status() == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    ensure!(far.get(cart.vip, "/").await.is_err());
    Ok(())
}

/// A backend with a pool of its own, of one plain endpoint.
async fn pooled(
    world: &World,
    name: &'static str,
    pool: pb::ConnectionPool,
    handler: Handler,
) -> Result<support::mesh::Service> {
    let ip = world.address();
    let app = support::app::serve(&world.scope, ip, handler).await?;
    let protocol = pb::Protocol::Http;
    let backend = pb::Backend {
        policy: Some(pb::TrafficPolicy {
            pool: Some(pool),
            ..pb::TrafficPolicy::default()
        }),
        ..res::backend_message(name, &[(80, protocol)])
    };
    let vip = world.address();
    let endpoint = res::endpoint(name, ip, None);
    world.publish_with(name, vip, &backend, protocol, &[endpoint]);
    Ok(support::mesh::Service {
        name,
        vip: std::net::SocketAddr::new(vip, 80),
        apps: vec![app],
    })
}

fn slow(delay: Duration) -> Handler {
    Arc::new(move |_, _| -> Answering {
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            Response::new(Full::from("slow"))
        })
    })
}

/// 5.4: what finds no connection waits, and only so many wait.
#[tokio::test]
async fn requests_wait_for_a_connection_up_to_a_number() -> Result<()> {
    let world = World::start().await?;
    let pool = pb::ConnectionPool {
        max_connections: Some(1),
        max_pending_requests: Some(1),
        ..pb::ConnectionPool::default()
    };
    let app = slow(Duration::from_millis(400));
    let cart = pooled(&world, "cart", pool, app).await?;
    world.settled(cart.vip, "/", 200).await?;
    let begun = Instant::now();
    let ask = || world.client.get(cart.vip, "/");
    let late = async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ask().await
    };
    let later = async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let answer = ask().await?;
        anyhow::Ok((answer, begun.elapsed()))
    };
    let (first, second, third) = tokio::join!(ask(), late(), later());
    let (third, after) = third?;
    assert_eq!((first?.status(), second?.status()), (200, 200));
    assert_eq!(third.status(), 503);
    assert_eq!(third.header("x-envoy-overloaded"), Some("true"));
    assert!(after < Duration::from_millis(390), "it failed at once");
    assert_eq!(cart.apps[0].connections(), 1);
    // The endpoint is none the worse for it.
    assert_eq!(ask().await?.status(), 200);
    Ok(())
}

/// 3.5: a connection's uses and its life are bounded.
#[tokio::test]
async fn connections_to_endpoints_are_worn_out() -> Result<()> {
    let world = World::start().await?;
    let uses = pb::ConnectionPool {
        max_requests_per_connection: Some(2),
        ..pb::ConnectionPool::default()
    };
    let app = slow(Duration::ZERO);
    let uses = pooled(&world, "uses", uses, Arc::clone(&app)).await?;
    let life = pb::ConnectionPool {
        max_connection_duration_ms: Some(300),
        ..pb::ConnectionPool::default()
    };
    let life = pooled(&world, "life", life, app).await?;
    world.settled(uses.vip, "/", 200).await?;
    world.settled(life.vip, "/", 200).await?;
    let before = (uses.apps[0].requests(), uses.apps[0].connections());
    let mut client = world.client.http1(uses.vip).await?;
    for _ in 0..4 {
        let request = Request::get("/").header("host", "a");
        let answer: Answer = client.send(request.body(Full::default())?).await?;
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(uses.apps[0].requests() - before.0, 4);
    let made = uses.apps[0].connections() - before.1;
    assert!((1..=2).contains(&made), "{made}");

    let connections = life.apps[0].connections();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let answer = world.client.get(life.vip, "/").await.context("old")?;
    assert_eq!(answer.status(), 200);
    assert!(life.apps[0].connections() > connections);
    Ok(())
}

/// A burst's connections cost memory for seconds, not for the idle limit; a few
/// stay for requests that come one by one.
#[tokio::test]
async fn connections_of_a_burst_are_let_go_but_for_a_few() -> Result<()> {
    let world = World::start().await?;
    let cart = world
        .misbehaving("cart", slow(Duration::from_millis(300)))
        .await?;
    world.settled(cart.vip, "/", 200).await?;
    let app = &cart.apps[0];
    let burst = (0..32).map(|_| world.client.get(cart.vip, "/"));
    for answer in futures::future::try_join_all(burst).await? {
        assert_eq!(answer.status(), 200);
    }
    assert!(app.connections() > 8, "{}", app.connections());
    eventually("the burst's connections are let go", async || {
        ensure!(app.open() <= 4, "{} are open", app.open());
        Ok(())
    })
    .await?;
    let made = app.connections();
    assert_eq!(world.client.get(cart.vip, "/").await?.status(), 200);
    assert_eq!(app.connections(), made, "one was kept");
    Ok(())
}
