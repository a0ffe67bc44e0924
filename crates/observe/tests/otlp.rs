//! Spans reach an OTLP collector: a real gRPC receiver in this process.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::{Duration, SystemTime};

use ambit_observe::{
    Chance, Ends, IstioTags, Propagation, Record, RequestProtocol, ResponseFlags, Sampling,
    Telemetry, begin, client_span, exporter, inject, server_span, span_queue,
};
use ambit_proto::waypoint as pb;
use ambit_runtime::Scope;
use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

struct Collector(mpsc::Sender<(Option<String>, ExportTraceServiceRequest)>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let header = request.metadata().get("x-tenant");
        let header = header.map(|value| value.to_str().unwrap().to_owned());
        self.0.send((header, request.into_inner())).await.unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector(
    scope: &Scope,
) -> (
    Channel,
    mpsc::Receiver<(Option<String>, ExportTraceServiceRequest)>,
) {
    let (sender, receiver) = mpsc::channel(8);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    scope.spawn("collector", async move {
        Server::builder()
            .add_service(TraceServiceServer::new(Collector(sender)))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (endpoint.connect_lazy(), receiver)
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|one| one.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn spans_arrive_with_their_tags() {
    let scope = Scope::new("test");
    let (channel, mut received) = collector(&scope).await;
    let headers = [("X-Tenant".to_owned(), "mesh".to_owned())];
    let resource = [("service.name", "waypoint.shop".to_owned())];
    let exporter = exporter(channel, Duration::from_secs(5), &headers, &resource).unwrap();
    let (queue, export) = span_queue();
    let token = scope.token();
    scope.spawn("spans", async move {
        export.run(exporter, token).await;
    });

    let telemetry = Telemetry::decode(&pb::Telemetry {
        tracing: Some(pb::Tracing {
            sampling: 100.0,
            tags: vec![pb::SpanTag {
                name: "tenant".to_owned(),
                value: Some(pb::span_tag::Value::Header("x-tenant".to_owned())),
                default_value: "nobody".to_owned(),
            }],
            ..pb::Tracing::default()
        }),
        ..pb::Telemetry::default()
    })
    .unwrap();
    let tracing = telemetry.tracing.unwrap();
    assert_eq!(
        tracing.sampling,
        Sampling {
            percent: 100.0,
            by_request_id: true
        }
    );
    let mut request = HeaderMap::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.insert("traceparent", parent.parse().unwrap());
    let context = begin(&mut request, tracing.sampling, Chance::draw());
    let try_span = ambit_observe::SpanId(7);
    inject(&mut request, Propagation::W3c, &context, try_span);

    let ends = Ends::default();
    let record = Record {
        start: SystemTime::now(),
        duration: Duration::from_millis(5),
        protocol: RequestProtocol::Http,
        version: "HTTP/2",
        method: "GET",
        path: "/a",
        authority: "cart",
        request_headers: &request,
        response_headers: None,
        response_trailers: None,
        status: 503,
        grpc_status: None,
        flags: ResponseFlags::NONE,
        details: "via_upstream",
        termination: "",
        transport_failure: "",
        bytes_received: 0,
        bytes_sent: 0,
        request_messages: 0,
        response_messages: 0,
        upstream_service_time: None,
        upstream_host: None,
        upstream_cluster: "c",
        upstream_local: None,
        downstream_local: None,
        downstream_remote: None,
        peer: None,
        sni: None,
        route: "",
        ends: &ends,
        trace_id: Some(context.trace),
    };
    let istio = IstioTags {
        own: vec![("istio.mesh_id", "m".to_owned())],
    };
    let tags = tracing.tags_of(&record);
    queue.push(server_span(
        &record,
        &context,
        "cart:80/*",
        Some(&istio),
        &tags,
    ));
    let time = (record.start, record.start + record.duration);
    queue.push(client_span(
        &context,
        try_span,
        "try",
        time,
        &[],
        Some("reset"),
    ));

    let wait = tokio::time::timeout(Duration::from_secs(20), received.recv());
    let (header, batch) = wait.await.unwrap().unwrap();
    assert_eq!(header.as_deref(), Some("mesh"));
    let group = &batch.resource_spans[0];
    let resource = group.resource.as_ref().unwrap();
    assert!(
        resource
            .attributes
            .iter()
            .any(|one| one.key == "service.name")
    );
    let spans = &group.scope_spans[0].spans;
    let (server, client) = (&spans[0], &spans[1]);
    assert_eq!(
        server.trace_id,
        0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes()
    );
    assert_eq!(
        server.parent_span_id,
        0x00f0_67aa_0ba9_02b7_u64.to_be_bytes()
    );
    assert_eq!(server.name, "cart:80/*");
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(attribute(server, "http.status_code").unwrap(), "503");
    assert_eq!(attribute(server, "error").unwrap(), "true");
    assert_eq!(attribute(server, "istio.mesh_id").unwrap(), "m");
    assert_eq!(attribute(server, "tenant").unwrap(), "nobody");
    assert_eq!(attribute(server, "http.url").unwrap(), "http://cart/a");
    // Counted once the collector has answered.
    let counted = async {
        while queue.exported() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), counted)
        .await
        .unwrap();
    assert_eq!(queue.dropped(), 0);
    scope.cancel();
    scope.finish(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_dead_collector_stops_nobody() {
    let (queue, export) = span_queue();
    let context = begin(&mut HeaderMap::new(), Sampling::default(), Chance::draw());
    let now = SystemTime::now();
    let span = || client_span(&context, context.span, "x", (now, now), &[], None);
    for _ in 0..3_000 {
        queue.push(span());
    }
    assert_eq!(queue.dropped(), 3_000 - 2_048, "the queue is bounded");
    let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let exporter = exporter(channel, Duration::from_secs(1), &[], &[]).unwrap();
    let stop = ambit_runtime::CancellationToken::new();
    stop.cancel();
    let run = export.run(exporter, stop);
    let ended = tokio::time::timeout(Duration::from_secs(20), run).await;
    assert!(ended.is_ok());
    assert_eq!(queue.failed(), 2_048);
    assert_eq!(queue.exported(), 0);
}

#[tokio::test]
async fn spans_go_over_http_too() {
    let (sender, mut received) = mpsc::channel(1);
    let post: ambit_observe::Post = Box::new(move |body| {
        let sender = sender.clone();
        Box::pin(async move { sender.send(body).await.is_ok() })
    });
    let resource = [("service.name", "waypoint.shop".to_owned())];
    let exporter = ambit_observe::http_exporter(post, &resource);
    let (queue, export) = span_queue();
    let context = begin(&mut HeaderMap::new(), Sampling::default(), Chance::draw());
    let now = SystemTime::now();
    queue.push(client_span(
        &context,
        context.span,
        "x",
        (now, now),
        &[],
        None,
    ));
    let stop = ambit_runtime::CancellationToken::new();
    stop.cancel();
    export.run(exporter, stop).await;
    let body = received.recv().await.unwrap();
    let batch: ExportTraceServiceRequest = prost::Message::decode(body).unwrap();
    assert_eq!(batch.resource_spans[0].scope_spans[0].spans[0].name, "x");
    assert_eq!(queue.exported(), 1);
}
