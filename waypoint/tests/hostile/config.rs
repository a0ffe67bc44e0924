//! Configuration that can't be used: it is refused by name, what was good
//! stays; routes to nothing answer as the contract says.

use ambit_proto::waypoint as pb;
use ambit_testkit::eventually;
use anyhow::{Result, ensure};
use prost::Message;

use crate::support::{World, resources as res};

#[tokio::test]
async fn a_bad_resource_of_any_type_is_refused_by_name_and_the_last_good_stays() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let junk = vec![0xff; 16];
    let key = res::key("cart");
    let regex = pb::StringMatch {
        kind: Some(pb::string_match::Kind::Regex("(".to_owned())),
        ignore_case: false,
    };
    let authorization = pb::Authorization {
        origin: res::origin("AuthorizationPolicy", "bad"),
        rules: vec![pb::AuthorizationRule {
            to: vec![pb::Operation {
                hosts: vec![regex],
                ..pb::Operation::default()
            }],
            ..pb::AuthorizationRule::default()
        }],
        ..pb::Authorization::default()
    };
    let endpoint = pb::Endpoint {
        addresses: vec![vec![1, 2, 3]],
        ..res::endpoint("cart", world.address(), None)
    };
    let cases = [
        (res::GATEWAY, "shop/wp", junk.clone()),
        (res::BACKEND, key.as_str(), junk.clone()),
        (res::FRONTEND, key.as_str(), junk.clone()),
        (res::ENDPOINTS, key.as_str(), junk.clone()),
        (res::ENDPOINTS, key.as_str(), res::endpoints(&[endpoint])),
        (res::ROUTE, "HTTPRoute/shop/junk", junk.clone()),
        (res::RATE_LIMIT, "LocalRateLimit/shop/junk", junk.clone()),
    ];
    for (kind, name, body) in cases {
        let refusals = |log: &str| log.matches("resource rejected").count();
        let before = refusals(&world.waypoint.log());
        let nacks = world.control.nacks().len();
        world.control.publish(kind, &[(name, body)]);
        eventually("a refusal", async || {
            let log = world.waypoint.log();
            ensure!(refusals(&log) > before, "{kind} {name}: {log}");
            let last = log
                .lines()
                .rev()
                .find(|line| line.contains("resource rejected"));
            ensure!(last.is_some_and(|line| line.contains(name)), "{last:?}");
            // And so says the NACK, as the control plane heard it.
            let heard = world.control.nacks();
            let new = heard.get(nacks..).unwrap_or_default();
            let named = new.iter().any(|(t, n)| t == kind && n == name);
            ensure!(named, "NACKs for {kind} {name}: {new:?}");
            Ok(())
        })
        .await?;
        let answer = world.client.get(cart.vip, "/").await?;
        assert_eq!(answer.status(), 200, "{kind} {name}");
    }
    // Where the unreadable is a policy, nothing is let through instead: closed.
    let name = "AuthorizationPolicy/shop/bad";
    let body = authorization.encode_to_vec();
    world.control.publish(res::AUTHORIZATION, &[(name, body)]);
    world.settled(cart.vip, "/", 403).await?;
    assert!(world.waypoint.log().contains(name));
    world.control.remove(res::AUTHORIZATION, &[name]);
    world.settled(cart.vip, "/", 200).await
}

#[tokio::test]
async fn routes_to_nothing_answer_by_the_table() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let at = |path: &str, backends: Vec<pb::BackendRef>| pb::Rule {
        matches: vec![res::at_path(path)],
        backends,
        ..pb::Rule::default()
    };
    // What the compiler makes of a backend that a ReferenceGrant doesn't allow.
    let forbidden = pb::BackendRef {
        invalid: Some(pb::Invalid {
            status: 500,
            ..pb::Invalid::default()
        }),
        ..res::to("cart", 1)
    };
    world.route(
        &cart,
        vec![
            at("/nothing", vec![res::to("nothing", 1)]),
            at("/forbidden", vec![forbidden]),
            at("/zero", vec![res::to("cart", 0), res::to("cart", 0)]),
            at("/none", vec![]),
            at("/ok", vec![res::to("cart", 1)]),
        ],
    );
    // Without the route it was 200.
    world.settled(cart.vip, "/nothing", 500).await?;
    for (path, want) in [
        ("/nothing", 500),
        ("/forbidden", 500),
        ("/zero", 500),
        ("/unmatched", 404),
        ("/ok", 200),
    ] {
        let answer = world.client.get(cart.vip, path).await?;
        assert_eq!(answer.status(), want, "{path}: {answer:?}");
    }
    Ok(())
}
