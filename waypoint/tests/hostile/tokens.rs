//! Tokens and keys that aren't what they claim to be (4.9; the issue's list).

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use ambit_proto::waypoint as pb;
use ambit_testkit::eventually;
use anyhow::{Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::Request;
use http_body_util::Full;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::mesh::Service;
use crate::support::{Answer, World, resources as res};

const SECRET: &[u8] = b"secret-of-the-test-that-is-long-enough-for-hmac";
const FAR: u64 = 4_102_444_800;

fn jwks() -> Value {
    json!({ "keys": [{ "kty": "oct", "alg": "HS256", "kid": "k", "k": BASE64.encode(SECRET) }] })
}

fn require(world: &World, keys: pb::jwt_rule::Keys) {
    let authentication = pb::Authentication {
        origin: res::origin("RequestAuthentication", "jwt"),
        rules: vec![pb::JwtRule {
            issuer: "issuer.test".to_owned(),
            audiences: vec!["cart".to_owned()],
            keys: Some(keys),
            fetch_timeout_ms: 500,
            ..pb::JwtRule::default()
        }],
        ..pb::Authentication::default()
    };
    let resource = authentication.encode_to_vec();
    world
        .control
        .publish(res::AUTHENTICATION, &[("shop/jwt", resource)]);
}

fn signed(kid: &str, secret: &[u8], claims: &Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(kid.to_owned());
    encode(&header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

/// A token of any bytes, signed rightly.
fn by_hand(header: &str, payload: &str) -> String {
    let text = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
    let key = EncodingKey::from_secret(SECRET);
    let signature = jsonwebtoken::crypto::sign(text.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{text}.{signature}")
}

async fn get(world: &World, to: &Service, token: &str) -> Result<Answer> {
    let request = Request::get("/").header("host", "a");
    let request = request.header("authorization", format!("Bearer {token}"));
    let request = request.body(Full::default())?;
    world.client.http1(to.vip).await?.send(request).await
}

/// A good token's claims, and others on top.
fn claims(more: Value) -> Value {
    let mut all = json!({ "iss": "issuer.test", "sub": "me", "aud": "cart", "exp": FAR });
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

/// Name, token, status. `good` is one that passes.
fn bad_tokens(good: &str) -> Vec<(&'static str, String, u16)> {
    let head = r#"{"alg":"HS256","kid":"k"}"#;
    let body = r#"{"iss":"issuer.test","sub":"me","aud":"cart","exp":4102444800}"#;
    let none = format!(
        "{}.{}.",
        BASE64.encode(r#"{"alg":"none"}"#),
        BASE64.encode(body)
    );
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let deep = body.replace("\"me\"", &format!("\"me\",\"deep\":{deep}"));
    let twice = body.replace("\"sub\":\"me\"", "\"sub\":\"me\",\"sub\":\"admin\"");
    let issuers = body.replace("{\"iss\"", "{\"iss\":\"x\",\"iss\"");
    let heads = r#"{"alg":"HS256","kid":"k","alg":"none"}"#;
    let big = claims(json!({ "big": "x".repeat(20_000) }));
    vec![
        (
            "expired",
            signed("k", SECRET, &claims(json!({ "exp": 1_000_000_000 }))),
            401,
        ),
        (
            "not yet valid",
            signed("k", SECRET, &claims(json!({ "nbf": FAR - 1 }))),
            401,
        ),
        (
            "other audience",
            signed("k", SECRET, &claims(json!({ "aud": "other" }))),
            403,
        ),
        (
            "other issuer",
            signed("k", SECRET, &claims(json!({ "iss": "other" }))),
            401,
        ),
        (
            "unknown key",
            signed(
                "k",
                b"another-secret-that-is-as-long-as-it-has-to-be",
                &claims(json!({})),
            ),
            401,
        ),
        (
            "unknown kid",
            signed(
                "other",
                b"another-secret-that-is-as-long-as-it-has-to-be",
                &claims(json!({})),
            ),
            401,
        ),
        (
            "no signature",
            good.rsplit_once('.').unwrap().0.to_owned() + ".",
            401,
        ),
        ("alg none", none, 401),
        ("duplicated claim", by_hand(head, &twice), 401),
        ("duplicated issuer", by_hand(head, &issuers), 401),
        ("duplicated alg", by_hand(heads, body), 401),
        ("deep JSON (CVE-2026-48042)", by_hand(head, &deep), 401),
        ("oversized", signed("k", SECRET, &big), 401),
        ("two parts", "a.b".to_owned(), 401),
        ("bytes after it", format!("{good}.x"), 401),
    ]
}

#[tokio::test]
async fn a_token_that_is_not_good_is_401_and_says_why_without_its_contents() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    require(&world, pb::jwt_rule::Keys::InlineJwks(jwks().to_string()));
    let good = signed("k", SECRET, &claims(json!({})));
    eventually("tokens count", async || {
        let answer = get(&world, &cart, "not.a.token").await?;
        ensure!(answer.status() == 401, "{answer:?}");
        Ok(())
    })
    .await?;
    assert_eq!(get(&world, &cart, &good).await?.status(), 200);
    let before = cart.apps[0].requests();
    let cases = bad_tokens(&good);
    for (name, token, want) in cases {
        let answer = get(&world, &cart, &token).await?;
        assert_eq!(answer.status(), want, "{name}: {answer:?}");
        let told = !answer.body.contains("admin") && !answer.body.contains("issuer.test");
        assert!(told, "{name}: {}", answer.body);
    }
    // Two tokens, one of them good: the good one launders nothing.
    let request = Request::get("/?access_token=x.y.z").header("host", "a");
    let request = request.header("authorization", format!("Bearer {good}"));
    let answer = world
        .client
        .http1(cart.vip)
        .await?
        .send(request.body(Full::default())?)
        .await?;
    assert_ne!(answer.status(), 200, "{answer:?}");
    assert_eq!(
        cart.apps[0].requests(),
        before,
        "nothing reached the backend"
    );
    assert_eq!(get(&world, &cart, &good).await?.status(), 200);
    Ok(())
}

/// An address of this host that isn't loopback: keys are never fetched from
/// there. Nothing is sent. None on a host without a network.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback()).then_some(ip)
}

async fn key_server(world: &World, ip: IpAddr, answer: Option<String>) -> Result<String> {
    let listener = TcpListener::bind((ip, 0)).await?;
    let at = listener.local_addr()?;
    let tasks = world.scope.clone();
    world.scope.spawn("keys", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tasks.spawn("keys of one", async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                match answer {
                    Some(answer) => {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                    None => tokio::time::sleep(Duration::from_secs(600)).await,
                }
            });
        }
    });
    Ok(format!("http://{at}/keys"))
}

#[tokio::test]
async fn key_servers_that_misbehave_close_the_door_and_hold_nobody() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let claims = json!({ "iss": "issuer.test", "sub": "me", "aud": "cart", "exp": FAR });
    let token = signed("k", SECRET, &claims);
    let full = |status: &str, more: &str, body: &str| {
        let length = body.len();
        Some(format!(
            "HTTP/1.1 {status}\r\n{more}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        ))
    };
    let good = full("200 OK", "", &jwks().to_string());
    let mut cases: Vec<(&str, String, u16)> = vec![
        ("link-local", "http://169.254.169.254/keys".to_owned(), 401),
        (
            "loopback",
            key_server(&world, world.address(), good.clone()).await?,
            401,
        ),
        ("no such host", "http://keys.invalid/keys".to_owned(), 401),
    ];
    if let Some(ip) = own_address() {
        let target = key_server(&world, ip, good.clone()).await?;
        let redirect = full("302 Found", &format!("location: {target}\r\n"), "");
        let huge = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(4 << 20));
        for (name, answer, want) in [
            ("good", good.clone(), 200),
            ("hangs", None, 401),
            ("junk", full("200 OK", "", "<html>"), 401),
            ("no keys", full("200 OK", "", "{\"keys\":[]}"), 401),
            ("redirects", redirect, 401),
            ("error", full("500 Oops", "", &jwks().to_string()), 401),
            ("4 MiB", full("200 OK", "", &huge), 401),
        ] {
            cases.push((name, key_server(&world, ip, answer).await?, want));
        }
    }
    for (name, url, want) in cases {
        require(&world, pb::jwt_rule::Keys::JwksUri(url));
        eventually(name, async || {
            let begun = Instant::now();
            let answer = get(&world, &cart, &token).await?;
            // 500 ms for the fetch, and some for a busy machine.
            ensure!(
                begun.elapsed() < Duration::from_secs(4),
                "{:?}",
                begun.elapsed()
            );
            ensure!(answer.status() == want, "{answer:?}");
            Ok(())
        })
        .await?;
        // Who brings no token isn't held up by any of it.
        let begun = Instant::now();
        assert_eq!(world.client.get(cart.vip, "/").await?.status(), 200);
        assert!(begun.elapsed() < Duration::from_secs(2), "{name}");
    }
    Ok(())
}
