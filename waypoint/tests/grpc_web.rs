//! gRPC-Web on a port that declares it (`waypoint-contract` 1.8): a browser's
//! call reaches the backend as gRPC, and its trailers come back in the body.

mod support;

use std::net::IpAddr;
use std::sync::Arc;

use ambit_proto::waypoint as pb;
use ambit_runtime::Scope;
use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;

use support::{Answer, World, resources as res};

/// Content type, TE and body of what the backend got.
type Got = Arc<Mutex<Vec<(String, String, Bytes)>>>;

/// A gRPC service over HTTP/2 that answers every call with one message and
/// trailers; `/shop.Cart/Refuse` with trailers only.
async fn backend(scope: &Scope, ip: IpAddr) -> Result<Got> {
    let listener = TcpListener::bind((ip, 8080)).await?;
    let got = Got::default();
    let (tasks, seen) = (scope.clone(), Arc::clone(&got));
    scope.spawn("backend", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tasks.spawn("backend connection", async move {
                let service = service_fn(move |request| answer(Arc::clone(&seen), request));
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(got)
}

type Frames = futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, hyper::Error>>>;

async fn answer(
    seen: Got,
    request: Request<Incoming>,
) -> Result<Response<StreamBody<Frames>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let field = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("none").to_owned()
    };
    let body = body.collect().await?.to_bytes();
    seen.lock().push((field("content-type"), field("te"), body));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("grpc-message", HeaderValue::from_static("fine"));
    let refused = head.uri.path().ends_with("/Refuse");
    let frames = match refused {
        true => vec![],
        false => vec![Ok(Frame::data(MESSAGE)), Ok(Frame::trailers(trailers))],
    };
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        HeaderValue::from_static("application/grpc+proto"),
    );
    if refused {
        headers.insert("grpc-status", HeaderValue::from_static("9"));
    }
    Ok(response)
}

const MESSAGE: Bytes = Bytes::from_static(b"\0\0\0\0\x02hi");
const SENT: &[u8] = b"\0\0\0\0\x05hello";

/// The trailers of the backend, as the last message. Its flag isn't UTF-8.
fn is_last(message: &str) -> bool {
    let Some(text) = message.strip_prefix("\u{fffd}\0\0\0") else {
        return false;
    };
    text.contains("grpc-status: 0\r\n") && text.contains("grpc-message: fine\r\n")
}

/// base64 in padded parts, one after the other.
fn parts(text: &str) -> Result<String> {
    let mut out = Vec::new();
    let mut part = Vec::new();
    for group in text.as_bytes().chunks(4) {
        part.extend_from_slice(group);
        if group.ends_with(b"=") {
            out.extend(BASE64.decode(std::mem::take(&mut part))?);
        }
    }
    out.extend(BASE64.decode(part)?);
    Ok(String::from_utf8_lossy(&out).into_owned())
}

async fn call(
    world: &World,
    to: std::net::SocketAddr,
    method: &str,
    kind: &str,
    body: Vec<u8>,
) -> Result<Answer> {
    let mut client = world.client.http1(to).await?;
    let request = Request::post(format!("/shop.Cart/{method}"))
        .header("host", "cart.shop")
        .header("content-type", kind);
    client.send(request.body(Full::from(body))?).await
}

#[tokio::test]
async fn a_browsers_call_is_grpc_for_the_backend_and_its_trailers_come_back() -> Result<()> {
    let world = World::start().await?;
    let ip = world.address();
    let got = backend(&world.scope, ip).await?;
    let endpoint = res::endpoint("cart", ip, None);
    let cart = world.publish("cart", pb::Protocol::GrpcWeb, vec![], &[endpoint]);
    world.settled(cart.vip, "/", 200).await?;
    got.lock().clear();

    // Bytes.
    let reply = call(
        &world,
        cart.vip,
        "Get",
        "application/grpc-web+proto",
        SENT.into(),
    )
    .await?;
    assert_eq!(reply.status(), 200);
    assert_eq!(
        reply.header("content-type"),
        Some("application/grpc-web+proto")
    );
    let (message, last) = reply.body.split_at(MESSAGE.len());
    assert_eq!(message.as_bytes(), &*MESSAGE);
    assert!(is_last(last), "{last:?}");

    // base64, of which the client sends two parts.
    let (one, two) = SENT.split_at(7);
    let sent = format!("{}{}", BASE64.encode(one), BASE64.encode(two));
    let reply = call(
        &world,
        cart.vip,
        "Get",
        "application/grpc-web-text",
        sent.into(),
    )
    .await?;
    assert_eq!(
        reply.header("content-type"),
        Some("application/grpc-web-text")
    );
    let body = parts(&reply.body)?;
    let (message, last) = body.split_at(MESSAGE.len());
    assert_eq!(message.as_bytes(), &*MESSAGE);
    assert!(is_last(last), "{last:?}");
    for (kind, te, body) in std::mem::take(&mut *got.lock()) {
        ensure!(
            kind.starts_with("application/grpc") && !kind.contains("web"),
            "{kind}"
        );
        ensure!(te == "trailers" && *body == *SENT, "{te} {body:?}");
    }
    Ok(())
}

#[tokio::test]
async fn refusals_reach_a_browser_in_its_own_form() -> Result<()> {
    let world = World::start().await?;
    let ip = world.address();
    let got = backend(&world.scope, ip).await?;
    let endpoint = res::endpoint("cart", ip, None);
    let cart = world.publish("cart", pb::Protocol::GrpcWeb, vec![], &[endpoint]);
    world.settled(cart.vip, "/", 200).await?;
    // Trailers only; and our own refusals, in the client's own form.
    let kind = "application/grpc-web";
    let reply = call(&world, cart.vip, "Refuse", kind, SENT.into()).await?;
    assert_eq!(reply.header("content-type"), Some(kind));
    assert_eq!(reply.header("grpc-status"), Some("9"));
    let deny = pb::Authorization {
        origin: res::origin("AuthorizationPolicy", "deny"),
        rules: vec![pb::AuthorizationRule::default()],
        action: pb::AuthorizationAction::Deny.into(),
        ..pb::Authorization::default()
    };
    let name = "AuthorizationPolicy/shop/deny";
    world
        .control
        .publish(res::AUTHORIZATION, &[(name, deny.encode_to_vec())]);
    ambit_testkit::eventually("denied", async || {
        let reply = call(&world, cart.vip, "Get", kind, SENT.into()).await?;
        ensure!(reply.status() == 200, "{reply:?}");
        ensure!(reply.header("content-type") == Some(kind), "{reply:?}");
        ensure!(reply.header("grpc-status") == Some("7"), "{reply:?}");
        Ok(())
    })
    .await?;
    world.control.remove(res::AUTHORIZATION, &[name]);

    // What isn't base64 never becomes a whole request.
    ambit_testkit::eventually("allowed again", async || {
        let reply = call(&world, cart.vip, "Get", kind, SENT.into()).await?;
        ensure!(reply.header("grpc-status").is_none(), "{reply:?}");
        Ok(())
    })
    .await?;
    got.lock().clear();
    let junk = b"AAAA*AAA".to_vec();
    let reply = call(&world, cart.vip, "Get", "application/grpc-web-text", junk).await?;
    assert_eq!(reply.header("grpc-status"), Some("13"), "{reply:?}");
    assert!(got.lock().is_empty(), "{got:?}");
    Ok(())
}

/// Where the port doesn't say so, nothing is translated.
#[tokio::test]
async fn ports_of_grpc_pass_grpc_web_on_as_it_is() -> Result<()> {
    let world = World::start().await?;
    let ip = world.address();
    let got = backend(&world.scope, ip).await?;
    let endpoint = res::endpoint("cart", ip, None);
    let cart = world.publish("cart", pb::Protocol::Grpc, vec![], &[endpoint]);
    world.settled(cart.vip, "/", 200).await?;
    got.lock().clear();
    let kind = "application/grpc-web+proto";
    let reply = call(&world, cart.vip, "Get", kind, SENT.into()).await?;
    assert_eq!(reply.header("content-type"), Some("application/grpc+proto"));
    assert_eq!(got.lock()[0].0, kind);
    Ok(())
}

/// 5.5: nobody can have a backend ejected by what they send.
#[tokio::test]
async fn what_a_client_sends_wrong_is_no_fault_of_the_backends() -> Result<()> {
    let world = World::start().await?;
    let (ip, vip) = (world.address(), world.address());
    let got = backend(&world.scope, ip).await?;
    let mut message = res::backend_message("cart", &[(80, pb::Protocol::GrpcWeb)]);
    message.policy = Some(pb::TrafficPolicy {
        outlier: Some(pb::Outlier {
            consecutive_5xx: 1,
            consecutive_local_failures: 1,
            base_ejection_ms: 60_000,
            max_ejection_percent: 100,
            ..pb::Outlier::default()
        }),
        ..pb::TrafficPolicy::default()
    });
    let endpoint = res::endpoint("cart", ip, None);
    world.publish_with("cart", vip, &message, pb::Protocol::GrpcWeb, &[endpoint]);
    let to = std::net::SocketAddr::new(vip, 80);
    world.settled(to, "/", 200).await?;
    for _ in 0..5 {
        let kind = "application/grpc-web-text";
        let reply = call(&world, to, "Get", kind, b"AAAA*AAA".to_vec()).await?;
        assert_eq!(reply.header("grpc-status"), Some("13"), "{reply:?}");
    }
    got.lock().clear();
    let reply = call(&world, to, "Get", "application/grpc-web", SENT.into()).await?;
    assert_eq!(reply.header("grpc-status"), None, "{reply:?}");
    assert_eq!(got.lock().len(), 1);
    Ok(())
}
