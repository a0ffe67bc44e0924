//! What the admin port shows, and what it explains.

mod support;

use ambit_proto::waypoint as pb;
use anyhow::Result;
use prost::Message;
use serde_json::{Value, json};

use support::World;
use support::resources as res;

async fn explain(world: &World, question: Value) -> Result<Value> {
    let (status, body) = world
        .waypoint
        .post(15000, "/explain", question.to_string())
        .await?;
    assert_eq!(status, 200, "{body}");
    Ok(serde_json::from_str(&body)?)
}

#[tokio::test]
async fn a_request_is_explained_by_what_would_decide_it() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let other = world.service("other", pb::Protocol::Http).await?;
    world.route(
        &cart,
        vec![pb::Rule {
            name: "split".to_owned(),
            matches: vec![res::at_path("/a")],
            backends: vec![res::to("cart", 90), res::to("other", 10)],
            ..pb::Rule::default()
        }],
    );
    let only = pb::StringMatch {
        kind: Some(pb::string_match::Kind::Exact(
            "cluster.local/ns/shop/sa/web".to_owned(),
        )),
        ignore_case: false,
    };
    let policy = pb::Authorization {
        origin: res::origin("AuthorizationPolicy", "web-only"),
        rules: vec![pb::AuthorizationRule {
            from: vec![pb::Source {
                principals: vec![only],
                ..pb::Source::default()
            }],
            ..pb::AuthorizationRule::default()
        }],
        ..pb::Authorization::default()
    };
    let name = "AuthorizationPolicy/shop/web-only";
    world
        .control
        .publish(res::AUTHORIZATION, &[(name, policy.encode_to_vec())]);
    world.settled(other.vip, "/", 200).await?;
    world.settled(cart.vip, "/a/x", 200).await?;

    let question = |principal: &str, path: &str| {
        json!({
            "service": res::key("cart"),
            "port": 80,
            "principal": principal,
            "path": path,
        })
    };
    let good = explain(&world, question(support::CLIENT, "/a/b/../x?y=1")).await?;
    assert_eq!(good["path"], "/a/x?y=1");
    assert_eq!(
        good["authorization"]["verdict"]["allowed"], true,
        "{good:#}"
    );
    assert_eq!(good["route"]["rule"], "split", "{good:#}");
    assert_eq!(good["route"]["backends"][0]["weight"], 90);
    let endpoint = &good["route"]["backends"][0]["cluster"]["endpoints"][0];
    assert_eq!(endpoint["healthy"], true, "{good:#}");

    let other = explain(&world, question("spiffe://cluster.local/ns/x/sa/y", "/a")).await?;
    let verdict = &other["authorization"]["verdict"];
    assert_eq!(verdict["allowed"], false, "{other:#}");
    assert_eq!(
        other["authorization"]["policies"][0]["policy"], "shop/web-only",
        "{other:#}"
    );

    let nowhere = explain(&world, question(support::CLIENT, "/none")).await?;
    assert_eq!(nowhere["route"]["status"], 404);
    let unknown = json!({ "destination": "192.0.2.1:80", "principal": support::CLIENT });
    assert_eq!(explain(&world, unknown).await?["connect"]["status"], 404);

    let (_, dump) = world.waypoint.get(15000, "/config_dump").await?;
    let dump: Value = serde_json::from_str(&dump)?;
    let frontends = dump["frontends"].as_array().unwrap();
    assert_eq!(frontends.len(), 2);
    assert_eq!(frontends[0]["origin"]["name"], "cart");
    assert_eq!(
        frontends[0]["routes"][0]["rules"][0]["backends"][1]["weight"],
        10
    );
    assert!(!dump.to_string().contains("PRIVATE"), "no keys");
    Ok(())
}

#[tokio::test]
async fn a_bad_push_is_refused_by_name_and_the_last_good_stays() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let direct = |status| {
        vec![pb::Rule {
            direct_response: Some(pb::DirectResponse {
                status,
                body: Vec::new(),
            }),
            ..pb::Rule::default()
        }]
    };
    world.route(&cart, direct(418));
    world.settled(cart.vip, "/", 418).await?;
    let mut bad = direct(420);
    bad[0].matches = vec![pb::Match {
        path: Some(pb::PathMatch {
            kind: Some(pb::path_match::Kind::Regex("(".to_owned())),
            ignore_case: false,
        }),
        ..pb::Match::default()
    }];
    world.route(&cart, bad);
    ambit_testkit::eventually("a refusal", async || {
        let log = world.waypoint.log();
        anyhow::ensure!(log.contains("resource rejected"), "{log}");
        anyhow::ensure!(log.contains("HTTPRoute/shop/cart"), "{log}");
        Ok(())
    })
    .await?;
    world.settled(cart.vip, "/", 418).await?;
    world.route(&cart, direct(419));
    world.settled(cart.vip, "/", 419).await
}

#[tokio::test]
async fn tokens_are_verified_and_their_claims_decide() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let jwks = json!({ "keys": [{ "kty": "oct", "alg": "HS256", "kid": "k",
        "k": "c2VjcmV0LW9mLXRoZS10ZXN0LXRoYXQtaXMtbG9uZy1lbm91Z2gtZm9yLWhtYWM" }] });
    let authentication = pb::Authentication {
        origin: res::origin("RequestAuthentication", "jwt"),
        rules: vec![pb::JwtRule {
            issuer: "issuer.test".to_owned(),
            keys: Some(pb::jwt_rule::Keys::InlineJwks(jwks.to_string())),
            ..pb::JwtRule::default()
        }],
        ..pb::Authentication::default()
    };
    world.control.publish(
        res::AUTHENTICATION,
        &[("shop/jwt", authentication.encode_to_vec())],
    );
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some("k".to_owned());
    let key =
        jsonwebtoken::EncodingKey::from_secret(b"secret-of-the-test-that-is-long-enough-for-hmac");
    let claims = json!({ "iss": "issuer.test", "sub": "me", "exp": 4_102_444_800u64 });
    let token = jsonwebtoken::encode(&header, &claims, &key)?;
    let get = |token: Option<String>| {
        let (client, vip) = (&world.client, cart.vip);
        async move {
            let mut request = http::Request::get("/").header("host", "a");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.body(http_body_util::Full::default())?;
            client.http1(vip).await?.send(request).await
        }
    };
    ambit_testkit::eventually("tokens count", async || {
        let answer = get(Some("not.a.token".to_owned())).await?;
        anyhow::ensure!(answer.status() == 401, "{answer:?}");
        anyhow::ensure!(answer.header("www-authenticate").is_some(), "{answer:?}");
        Ok(())
    })
    .await?;
    assert_eq!(get(None).await?.status(), 200, "no token is no error");
    let good = get(Some(token)).await?;
    assert_eq!(good.status(), 200, "{good:?}");
    let said = good.echo();
    assert!(
        said["headers"].get("authorization").is_none(),
        "it is taken out"
    );
    Ok(())
}
