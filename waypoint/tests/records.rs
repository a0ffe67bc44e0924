//! What requests and connections leave behind, and what the waypoint says of
//! itself to those whom it dials.

mod support;

use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{Baggage, Forwarded, HandshakeGate, HboneConfig, TraceParent, serve_tls};
use ambit_net::DuplexIo;
use ambit_proto::waypoint as pb;
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use support::World;
use support::app::{Answering, Handler};
use support::resources as res;

fn tag(span: &Span, name: &str) -> Option<String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let found = span.attributes.iter().find(|one| one.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

/// 6.4, 4.8: OTLP by POST; a span for the request and one for each try, and
/// what a dry-run policy would have done.
#[tokio::test]
async fn spans_go_to_a_collector_over_http() -> Result<()> {
    let world = World::start().await?;
    let cart = world.service("cart", pb::Protocol::Http).await?;
    let got: Arc<Mutex<Vec<(String, ExportTraceServiceRequest)>>> = Arc::default();
    let seen = Arc::clone(&got);
    let collector: Handler = Arc::new(move |request, _| -> Answering {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let kind = request.headers().get("content-type").cloned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let kind = kind.map(|kind| kind.to_str().unwrap().to_owned());
            let about = format!("{path} {}", kind.unwrap_or_default());
            let message = ExportTraceServiceRequest::decode(body).unwrap();
            seen.lock().push((about, message));
            Response::new(Full::default())
        })
    });
    world.misbehaving("collector", collector).await?;
    let gateway = pb::Gateway {
        telemetry: Some(pb::Telemetry {
            tracing: Some(pb::Tracing {
                sampling: 100.0,
                otlp: Some(pb::OtlpExporter {
                    service: res::key("collector"),
                    port: 80,
                    http_path: "/v1/traces".to_owned(),
                    ..pb::OtlpExporter::default()
                }),
                ..pb::Tracing::default()
            }),
            ..pb::Telemetry::default()
        }),
        ..res::gateway_message()
    };
    let body = gateway.encode_to_vec();
    world.control.publish(res::GATEWAY, &[("shop/wp", body)]);
    let policy = pb::Authorization {
        origin: res::origin("AuthorizationPolicy", "would-deny"),
        action: pb::AuthorizationAction::Deny.into(),
        dry_run: true,
        rules: vec![pb::AuthorizationRule::default()],
        ..pb::Authorization::default()
    };
    let name = "AuthorizationPolicy/shop/would-deny";
    let policy = policy.encode_to_vec();
    world.control.publish(res::AUTHORIZATION, &[(name, policy)]);
    world.settled(cart.vip, "/", 200).await?;
    eventually("spans", async || {
        let answer = world.client.get(cart.vip, "/traced").await?;
        let parent = answer.echo()["headers"]["traceparent"].clone();
        let parent = parent.as_str().context("no traceparent")?.to_owned();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let all = got.lock();
        let (about, _) = all.first().context("nothing yet")?;
        ensure!(about == "/v1/traces application/x-protobuf", "{about}");
        let spans = all.iter().flat_map(|(_, message)| &message.resource_spans);
        let spans = spans.flat_map(|one| &one.scope_spans);
        let spans: Vec<&Span> = spans.flat_map(|one| &one.spans).collect();
        let hex = |id: &[u8]| id.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let client = spans
            .iter()
            .find(|span| parent.contains(&hex(&span.span_id)))
            .context("the backend's parent isn't exported")?;
        let server = spans
            .iter()
            .find(|span| span.span_id == client.parent_span_id)
            .context("no server span")?;
        ensure!(tag(client, "http.status_code").as_deref() == Some("200"));
        ensure!(server.trace_id == client.trace_id && server.parent_span_id.is_empty());
        let said = tag(server, "istio.authorization.dry_run.deny_policy.result");
        ensure!(said.as_deref() == Some("denied"), "{server:?}");
        let rule = tag(server, "istio.authorization.dry_run.deny_policy.name");
        ensure!(rule.as_deref() == Some("ns[shop]-policy[would-deny]-rule[0]"));
        Ok(())
    })
    .await
}

/// 6.1: messages of gRPC, both ways.
#[tokio::test]
async fn messages_of_grpc_are_counted() -> Result<()> {
    let world = World::start().await?;
    let handler: Handler = Arc::new(|request, _| -> Answering {
        Box::pin(async move {
            let _ = request.into_body().collect().await;
            let mut response =
                Response::new(Full::from(&b"\0\0\0\0\x01a\0\0\0\0\0\0\0\0\0\x02bc"[..]));
            let headers = response.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            headers.insert("grpc-status", "0".parse().unwrap());
            response
        })
    });
    let cart = world.misbehaving("cart", handler).await?;
    world.settled(cart.vip, "/", 200).await?;
    let request = Request::post("http://cart.shop/shop.Cart/Get");
    let request = request.header("content-type", "application/grpc");
    let body = Full::new(Bytes::from_static(b"\0\0\0\0\x03abc\0\0\0\0\0"));
    let mut client = world.client.http2(cart.vip).await?;
    let answer = client.send(request.body(body)?).await?;
    assert_eq!(answer.status(), 200);
    eventually("the counts", async || {
        let (_, text) = world.waypoint.get(15020, "/metrics").await?;
        let value = |family: &str| {
            let line = text.lines().find(|line| line.starts_with(family));
            line.and_then(|line| line.rsplit(' ').next())
                .map(str::to_owned)
        };
        let requests = value("istio_request_messages_total{");
        let responses = value("istio_response_messages_total{");
        ensure!(requests.as_deref() == Some("2"), "{requests:?}");
        ensure!(responses.as_deref() == Some("3"), "{responses:?}");
        Ok(())
    })
    .await
}

/// What a CONNECT says besides where it goes.
type Said = (Option<Baggage>, Option<Forwarded>, Option<TraceParent>);

/// 6.1: an open connection's bytes don't wait for its end. `ztunnel-contract`
/// 2.3: what a CONNECT says of the source, its client and its trace.
#[tokio::test]
async fn an_opaque_connection_is_told_of_while_it_lasts() -> Result<()> {
    let world = World::start().await?;
    let ip = world.address();
    let said: Arc<Mutex<Vec<Said>>> = Arc::default();
    let svid = support::svid(&world.authority, "spiffe://cluster.local/ns/shop/sa/cart")?;
    let listener = TcpListener::bind((ip, 15008)).await?;
    let noted = Arc::clone(&said);
    let tasks = world.scope.clone();
    world.scope.spawn("node proxy", async move {
        let gate = HandshakeGate::new(4);
        while let Ok((stream, _)) = listener.accept().await {
            let config = HboneConfig::default();
            let connection = serve_tls(stream, &svid, &config, &gate).await;
            let mut connection = connection.unwrap();
            while let Some(Ok(stream)) = connection.next().await {
                let all = (
                    stream.baggage.clone(),
                    stream.forwarded.clone(),
                    stream.traceparent,
                );
                noted.lock().push(all);
                let mut io = DuplexIo::new(stream.accept(None).unwrap());
                tasks.spawn("echo", async move {
                    let mut bytes = [0; 5];
                    while io.read_exact(&mut bytes).await.is_ok() {
                        if io.write_all(&bytes).await.is_err() || io.flush().await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    let endpoint = res::endpoint("cart", ip, Some("cart"));
    let cart = world.publish("cart", pb::Protocol::Tcp, vec![], &[endpoint]);
    let mut open = None;
    eventually("a connection", async || {
        let mut io = DuplexIo::new(world.client.tunnel(&cart.vip.to_string()).await?);
        io.write_all(b"hello").await?;
        io.flush().await?;
        let mut back = [0; 5];
        tokio::time::timeout(Duration::from_secs(2), io.read_exact(&mut back)).await??;
        open = Some(io);
        Ok(())
    })
    .await?;
    let (baggage, forwarded, trace) = said.lock().last().cloned().context("no CONNECT")?;
    let baggage = baggage.context("no baggage")?;
    assert_eq!(
        (&*baggage.namespace, &*baggage.workload_name),
        ("shop", "wp")
    );
    let forwarded = forwarded.context("no forwarded")?;
    assert_eq!(forwarded.host.as_deref(), Some(&*res::host("cart")));
    assert!(forwarded.client.ip().is_loopback() && trace.is_some());
    tokio::time::sleep(Duration::from_secs(5)).await;
    eventually("bytes of an open connection", async || {
        let (_, text) = world.waypoint.get(15020, "/metrics").await?;
        let sum = |family: &str| -> u64 {
            let lines = text.lines().filter(|line| line.starts_with(family));
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            values.sum()
        };
        let bytes = sum("istio_tcp_received_bytes_total{");
        ensure!(
            bytes >= 5 && sum("istio_tcp_sent_bytes_total{") >= 5,
            "{text}"
        );
        let opened = sum("istio_tcp_connections_opened_total{");
        ensure!(opened > sum("istio_tcp_connections_closed_total{"));
        Ok(())
    })
    .await?;
    drop(open);
    Ok(())
}
