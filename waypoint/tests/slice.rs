//! HBONE in, a request routed, an endpoint picked, HBONE or plain out.

mod support;

use std::collections::BTreeSet;

use ambit_proto::waypoint as pb;
use anyhow::{Result, ensure};
use http::Request;
use http_body_util::Full;

use support::World;
use support::app;
use support::resources as res;

#[tokio::test]
async fn a_request_goes_in_and_out_over_hbone() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;

    let mut connection = world.client.http1(cart.vip).await?;
    for n in 0..3 {
        let request = Request::post(format!("/items/{n}?a=1"))
            .header("host", "cart.shop")
            .header("x-envoy-retry-on", "5xx")
            .header("x-forwarded-client-cert", "URI=spiffe://evil");
        let answer = connection.send(request.body(Full::from("body"))?).await?;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(answer.header("server"), Some("istio-envoy"));
        let said = answer.echo();
        assert_eq!(said["path"], format!("/items/{n}?a=1"));
        assert_eq!(said["body"], "body");
        assert_eq!(said["headers"]["host"], "cart.shop");
        assert_eq!(said["headers"]["x-forwarded-proto"], "http");
        assert_eq!(said["headers"]["x-request-id"].as_str().unwrap().len(), 36);
        assert!(said["headers"].get("x-envoy-retry-on").is_none());
        assert!(said["headers"].get("x-forwarded-client-cert").is_none());
    }
    assert!(cart.apps[0].connections() <= 2, "connections are kept");
    Ok(())
}

/// Without a waypoint a connection is what is balanced, with one each request is.
#[tokio::test]
async fn requests_of_one_connection_go_to_every_endpoint() -> Result<()> {
    let world = World::start().await?;
    let (mut apps, mut endpoints) = (Vec::new(), Vec::new());
    for name in ["cart-1", "cart-2", "cart-3"] {
        let ip = world.address();
        apps.push(app::echo(&world.scope, ip, name).await?);
        endpoints.push(res::endpoint(name, ip, None));
    }
    let cart = world.publish("cart", pb::Protocol::Http, apps, &endpoints);
    world.settled(cart.vip, "/", 200).await?;
    let mut connection = world.client.http1(cart.vip).await?;
    let mut answered = BTreeSet::new();
    // That one of three is never chosen in 200 has a chance of 1e-34.
    for _ in 0..200 {
        let request = Request::get("/").header("host", "cart.shop");
        let answer = connection.send(request.body(Full::default())?).await?;
        assert_eq!(answer.status(), 200, "{answer:?}");
        answered.insert(answer.echo()["app"].as_str().unwrap_or_default().to_owned());
    }
    let all = ["cart-1", "cart-2", "cart-3"].map(str::to_owned);
    assert_eq!(answered, BTreeSet::from(all));
    Ok(())
}

#[tokio::test]
async fn both_versions_of_http_are_accepted_and_the_port_decides_what_is_spoken() -> Result<()> {
    let world = World::start().await?;
    let one = world.service("one", pb::Protocol::Http).await?;
    let two = world.service("two", pb::Protocol::Http2).await?;
    let auto = world.service("auto", pb::Protocol::Auto).await?;
    for service in [&one, &two, &auto] {
        world.settled(service.vip, "/", 200).await?;
    }
    let version = |service: &support::mesh::Service, h2: bool| {
        let (client, vip) = (&world.client, service.vip);
        async move {
            let answer = if h2 {
                let request = Request::get("http://cart.shop/x").body(Full::default())?;
                client.http2(vip).await?.send(request).await?
            } else {
                client.get(vip, "/x").await?
            };
            assert_eq!(answer.status(), 200, "{answer:?}");
            let said = answer.echo();
            let host = said["headers"]["host"].as_str().map(str::to_owned);
            let authority = said["authority"].as_str().map(str::to_owned);
            assert_eq!(host.or(authority).as_deref(), Some("cart.shop"));
            anyhow::Ok(said["version"].as_str().unwrap().to_owned())
        }
    };
    assert_eq!(version(&one, false).await?, "HTTP/1.1");
    assert_eq!(version(&one, true).await?, "HTTP/1.1");
    assert_eq!(version(&two, false).await?, "HTTP/2.0");
    assert_eq!(version(&two, true).await?, "HTTP/2.0");
    assert_eq!(version(&auto, false).await?, "HTTP/1.1");
    assert_eq!(version(&auto, true).await?, "HTTP/2.0");
    Ok(())
}

#[tokio::test]
async fn routes_match_and_local_answers_follow_the_table() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let other = world.service("other", pb::Protocol::Http).await?;
    world.settled(other.vip, "/", 200).await?;
    let direct = pb::DirectResponse {
        status: 418,
        body: b"teapot".to_vec(),
    };
    world.route(
        &cart,
        vec![
            pb::Rule {
                matches: vec![res::at_path("/other")],
                backends: vec![res::to("other", 1)],
                ..pb::Rule::default()
            },
            pb::Rule {
                matches: vec![res::at_path("/missing")],
                backends: vec![res::to("missing", 1)],
                ..pb::Rule::default()
            },
            pb::Rule {
                matches: vec![res::at_path("/direct")],
                direct_response: Some(direct),
                ..pb::Rule::default()
            },
        ],
    );
    world.settled(cart.vip, "/direct", 418).await?;
    let answer = world.client.get(cart.vip, "/other/x").await?;
    assert_eq!(answer.echo()["app"], "other");
    let cases = [
        ("/none", 404, ""),
        ("/missing", 500, ""),
        ("/direct", 418, "teapot"),
    ];
    for (path, status, body) in cases {
        let answer = world.client.get(cart.vip, path).await?;
        assert_eq!(
            (answer.status(), answer.body.as_str()),
            (status, body),
            "{path}"
        );
    }
    // The same as gRPC callers see it.
    let request = Request::post("http://cart.shop/none/x")
        .header("content-type", "application/grpc")
        .body(Full::default())?;
    let answer = world.client.http2(cart.vip).await?.send(request).await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("grpc-status"), Some("12"));
    Ok(())
}

/// Endpoints by address and by name, as a ServiceEntry has both; and labels that change.
#[tokio::test]
async fn a_subset_takes_endpoints_by_their_labels_named_ones_too() -> Result<()> {
    let world = World::start().await?;
    let mut endpoints = Vec::new();
    for (at, name) in ["one", "two", "other"].into_iter().enumerate() {
        let ip = world.address();
        app::echo(&world.scope, ip, name).await?;
        let mut endpoint = res::endpoint(name, ip, None);
        if at == 1 {
            endpoint.addresses.clear();
            endpoint.hostname = ip.to_string();
        }
        endpoints.push(endpoint);
    }
    let label = |version: &str| {
        vec![pb::Label {
            key: "version".to_owned(),
            value: version.to_owned(),
        }]
    };
    let (vip, protocol) = (world.address(), pb::Protocol::Http);
    let mut backend = res::backend_message("cart", &[(80, protocol)]);
    backend.resolution = pb::Resolution::Dns.into();
    backend.subsets = ["v1", "v2"]
        .map(|name| pb::Subset {
            name: name.to_owned(),
            labels: label(name),
            ..pb::Subset::default()
        })
        .into();
    let rule = |path: &str, subset: &str| pb::Rule {
        matches: vec![res::at_path(path)],
        backends: vec![pb::BackendRef {
            subset: subset.to_owned(),
            ..res::to("cart", 1)
        }],
        ..pb::Rule::default()
    };
    let rules = vec![rule("/v1", "v1"), rule("/v2", "v2")];
    let route = res::route("cart", rules);
    world
        .control
        .publish(res::ROUTE, &[("HTTPRoute/shop/cart", route)]);
    let to = std::net::SocketAddr::new(vip, 80);
    for (first, second) in [("v1", "v2"), ("v2", "v1")] {
        endpoints[0].labels = label(first);
        endpoints[1].labels = label(second);
        world.publish_with("cart", vip, &backend, protocol, &endpoints);
        for (path, wanted) in [(format!("/{first}"), "one"), (format!("/{second}"), "two")] {
            ambit_testkit::eventually(&format!("{path} is {wanted}"), async || {
                for _ in 0..10 {
                    let answer = world.client.get(to, &path).await?;
                    ensure!(answer.status() == 200, "{answer:?}");
                    ensure!(answer.echo()["app"] == wanted, "{answer:?}");
                }
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_ours_is_refused_on_the_connect() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let vip = cart.vip.ip();
    let own = world.waypoint.ip;
    let cases = [
        (format!("{vip}:81"), 404),
        (format!("{}:80", world.address()), 404),
        (format!("{own}:15000"), 400),
        ("cart.shop.svc.cluster.local:80".to_owned(), 400),
        ("nonsense".to_owned(), 400),
    ];
    for (authority, want) in cases {
        let refused = world.client.tunnel(&authority).await.err();
        let status = match refused {
            Some(ambit_hbone::OpenError::Rejected { status }) => status.as_u16(),
            other => panic!("{authority}: {other:?}"),
        };
        assert_eq!(status, want, "{authority}");
    }
    Ok(())
}
