//! What a waypoint says of its requests: series, access log, spans
//! (`waypoint-contract` 6). The collector is a real OTLP receiver over gRPC; its
//! messages are written down here with the numbers of `opentelemetry-proto`.

use std::time::Duration;

use ambit_e2e::Cluster;
use ambit_e2e::http::{self, Ask};
use ambit_e2e::scrape::Samples;
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use prost::Message;
use serde_json::Value;

use super::serve::{Given, Server, Speaks};
use super::{ask, on, wait_status};

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(int64, tag = "3")]
    number: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Exported {}

impl Span {
    fn tag(&self, key: &str) -> Option<String> {
        let found = self.attributes.iter().find(|tag| tag.key == key)?;
        let value = found.value.clone()?;
        Some(match value.number {
            0 => value.text,
            number => number.to_string(),
        })
    }
}

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: otel
      opentelemetry: {service: otel.plain.svc.cluster.local, port: 4317}
---
apiVersion: v1
kind: Service
metadata: {name: otel, namespace: plain}
spec:
  clusterIP: 10.96.3.81
  selector: {app: client}
  ports: [{name: grpc, port: 4317, targetPort: 4317, appProtocol: grpc}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: traces, namespace: mesh}
spec:
  tracing:
    - providers: [{name: otel}]
      randomSamplingPercentage: 100
      customTags: {env: {literal: {value: test}}, tester: {header: {name: x-tester, defaultValue: nobody}}}
";

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn spans(server: &Server) -> Result<Vec<Span>> {
    let mut all = Vec::new();
    for got in server.seen() {
        let service = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        ensure!(got.path == service, "{}", got.path);
        let export: Export = got.message()?;
        for resource in export.resources {
            let own = resource.resource.context("a resource")?;
            ensure!(
                own.attributes.iter().any(|a| a.key == "service.name"),
                "no service.name in {:?}",
                own.attributes
            );
            all.extend(resource.scopes.into_iter().flat_map(|scope| scope.spans));
        }
    }
    Ok(all)
}

#[test]
fn traces_go_on_from_the_client_to_the_backend_and_to_a_collector() {
    on("traces", async |cluster| {
        let ns = cluster.pod_ns("plain", "client")?;
        let server = Server::start(&ns, 4317, Speaks::GRPC, |_| Given::grpc(&Exported {}))?;
        cluster.apply(OBJECTS)?;
        eventually("spans come", async || {
            ask(cluster, &Ask::get("/warm")).await?;
            ensure!(!spans(&server)?.is_empty(), "none");
            Ok(())
        })
        .await?;
        let traced = Ask::get("/orders?a=b")
            .header("traceparent", &format!("00-{TRACE}-{PARENT}-01"))
            .header("tracestate", "vendor=1")
            .header("x-tester", "mara");
        let echo = ask(cluster, &traced).await?.echo()?;
        let sent = echo.header("traceparent").context("no traceparent")?;
        let parts: Vec<&str> = sent.split('-').collect();
        ensure!(
            parts.len() == 4 && parts[1] == TRACE && parts[3] == "01",
            "{sent}"
        );
        ensure!(parts[2] != PARENT, "the backend has the client's span");
        ensure!(
            echo.header("tracestate").as_deref() == Some("vendor=1"),
            "tracestate"
        );
        let span = eventually("the span comes", async || {
            let all = spans(&server)?;
            let found = all
                .into_iter()
                .find(|span| hex(&span.trace) == TRACE && span.kind == 2);
            found.context("not yet")
        })
        .await?;
        ensure!(hex(&span.parent) == PARENT, "parent {}", hex(&span.parent));
        ensure!(span.end > span.start && span.start > 0, "{span:?}");
        let tags = [
            ("http.method", "GET"),
            ("http.status_code", "200"),
            ("env", "test"),
            ("tester", "mara"),
            ("istio.source_workload", "client"),
            ("istio.destination_namespace", "mesh"),
        ];
        for (key, value) in tags {
            let got = span.tag(key);
            ensure!(
                got.as_deref() == Some(value),
                "{key} is {got:?} in {:?}",
                span.attributes
            );
        }
        // The client's no is a no.
        let unsampled = "11111111111111111111111111111111";
        let quiet = Ask::get("/").header("traceparent", &format!("00-{unsampled}-{PARENT}-00"));
        let echo = ask(cluster, &quiet).await?.echo()?;
        let sent = echo.header("traceparent").context("no traceparent")?;
        ensure!(sent.contains(unsampled) && sent.ends_with("-00"), "{sent}");
        // B3 is carried on.
        let b3 = Ask::get("/")
            .header("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124")
            .header("x-b3-spanid", "a2fb4a1d1a96d312")
            .header("x-b3-sampled", "1");
        let echo = ask(cluster, &b3).await?.echo()?;
        let trace = echo.header("x-b3-traceid");
        ensure!(
            trace.as_deref() == Some("463ac35c9f6413ad48485a3953bb6124"),
            "{trace:?}"
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        let unwanted = spans(&server)?
            .into_iter()
            .any(|span| hex(&span.trace) == unsampled);
        ensure!(!unwanted, "a span of a trace that isn't sampled");
        // A collector that is gone costs no request.
        drop(server);
        for _ in 0..20 {
            ensure!(ask(cluster, &Ask::get("/")).await?.status == 200, "failed");
        }
        Ok(())
    });
}

async fn samples(cluster: &Cluster) -> Result<Samples> {
    let pods = cluster.waypoint_pods("mesh", "waypoint");
    let pod = pods.first().context("a waypoint")?;
    let page = cluster
        .waypoint_page("mesh", pod, 15020, "/metrics")
        .await?;
    Ok(Samples::parse(&page.body))
}

#[test]
fn requests_are_counted_with_their_labels_and_flags() {
    on("series", async |cluster| {
        wait_status(cluster, "an answer", &Ask::get("/"), 200).await?;
        cluster.apply(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: mesh}
spec:
  parentRefs: [{group: '', kind: Service, name: echo, port: 80}]
  rules:
    - {matches: [{path: {type: PathPrefix, value: /v1}}], backendRefs: [{name: echo-v1, port: 80}]}
    - {matches: [{path: {type: PathPrefix, value: /empty}}], backendRefs: [{name: empty, port: 80}]}
    - {matches: [{path: {type: PathPrefix, value: /slow}}], timeouts: {request: 200ms}, backendRefs: [{name: echo-v1, port: 80}]}
",
        )?;
        wait_status(cluster, "no route", &Ask::get("/nowhere"), 404).await?;
        wait_status(cluster, "no endpoint", &Ask::get("/empty"), 503).await?;
        wait_status(cluster, "too slow", &Ask::get("/slow?delay=2s"), 504).await?;
        for _ in 0..10 {
            wait_status(cluster, "routed", &Ask::get("/v1"), 200).await?;
        }
        let ends = [
            ("reporter", "waypoint"),
            ("source_workload", "client"),
            ("source_workload_namespace", "mesh"),
            (
                "source_principal",
                "spiffe://cluster.local/ns/mesh/sa/client",
            ),
            ("request_protocol", "http"),
        ];
        eventually("series", async || {
            let samples = samples(cluster).await?;
            let sum = |name: &str, more: &[(&str, &str)]| {
                let labels: Vec<_> = ends.iter().chain(more).copied().collect();
                samples.sum(name, &labels)
            };
            let good = [
                ("response_code", "200"),
                ("response_flags", "-"),
                ("destination_service", "echo-v1.mesh.svc.cluster.local"),
                ("destination_service_name", "echo-v1"),
                ("destination_service_namespace", "mesh"),
                ("destination_workload_namespace", "mesh"),
                (
                    "destination_principal",
                    "spiffe://cluster.local/ns/mesh/sa/echo",
                ),
                ("connection_security_policy", "mutual_tls"),
            ];
            let all: Vec<_> = samples.of("istio_requests_total").collect();
            let routed = sum("istio_requests_total", &good);
            ensure!(routed == 10.0, "{routed} routed: {all:#?}");
            for histogram in [
                "istio_request_duration_milliseconds",
                "istio_request_bytes",
                "istio_response_bytes",
            ] {
                let count = sum(&format!("{histogram}_count"), &good);
                ensure!(count == 10.0, "{histogram}: {count}");
            }
            for (code, flags) in [("404", "NR"), ("503", "UH"), ("504", "UT")] {
                let count = sum(
                    "istio_requests_total",
                    &[("response_code", code), ("response_flags", flags)],
                );
                ensure!(count >= 1.0, "{code} {flags}: {all:#?}");
            }
            Ok(())
        })
        .await?;
        other_protocols(cluster).await?;
        overrides(cluster).await
    });
}

/// gRPC has its status, opaque bytes have connections and sizes.
async fn other_protocols(cluster: &Cluster) -> Result<()> {
    let ns = cluster.pod_ns("mesh", "client")?;
    let grpc = cluster.service_addr("mesh", "echo", 7070)?;
    let reply = http::grpc(&ns, grpc, "/a.B/C", &[], b"hello").await?;
    ensure!(reply.status == 0, "{reply:?}");
    let tcp = cluster.service_addr("mesh", "echo", 9090)?;
    http::line(&ns, tcp, "hello").await?;
    eventually("series of gRPC and TCP", async || {
        let samples = samples(cluster).await?;
        let service = ("destination_service", "echo.mesh.svc.cluster.local");
        let grpc = [
            service,
            ("request_protocol", "grpc"),
            ("response_code", "200"),
            ("grpc_response_status", "0"),
        ];
        let count = samples.sum("istio_requests_total", &grpc);
        ensure!(count == 1.0, "gRPC: {count}");
        let tcp = [
            service,
            ("request_protocol", "tcp"),
            ("response_flags", "-"),
        ];
        for (name, least) in [
            ("istio_tcp_connections_opened_total", 1.0),
            ("istio_tcp_connections_closed_total", 1.0),
            ("istio_tcp_sent_bytes_total", 6.0),
            ("istio_tcp_received_bytes_total", 6.0),
        ] {
            let count = samples.sum(name, &tcp);
            let all: Vec<_> = samples.of(name).collect();
            ensure!(count >= least, "{name}: {count} {all:?}");
        }
        Ok(())
    })
    .await
}

/// The Telemetry API takes a label away, and a whole metric.
async fn overrides(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(
        "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: metrics, namespace: mesh}
spec:
  metrics:
    - providers: [{name: prometheus}]
      overrides:
        - match: {metric: REQUEST_COUNT, mode: SERVER}
          tagOverrides: {source_principal: {operation: REMOVE}, method: {operation: UPSERT, value: request.method}}
",
    )?;
    eventually("the override holds", async || {
        wait_status(cluster, "routed", &Ask::get("/v1").method("PUT"), 200).await?;
        let samples = samples(cluster).await?;
        let found = samples.of("istio_requests_total").any(|(labels, _)| {
            labels.get("method").is_some_and(|m| m == "PUT")
                && !labels.contains_key("source_principal")
        });
        ensure!(found, "not yet");
        Ok(())
    })
    .await
}

fn telemetry(provider: &str, filter: &str) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    extensionProviders:
    - name: json
      envoyFileAccessLog: {{path: /dev/stdout, logFormat: {{labels: {{code: '%RESPONSE_CODE%', path: '%REQ(:PATH)%', flags: '%RESPONSE_FLAGS%'}}}}}}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: logs, namespace: mesh}}
spec:
  accessLogging: [{{providers: [{{name: {provider}}}], filter: {{expression: '{filter}'}}}}]
"
    )
}

fn log(cluster: &Cluster) -> Result<String> {
    let pods = cluster.waypoint_pods("mesh", "waypoint");
    let pod = pods.first().context("a waypoint")?;
    Ok(cluster.waypoint_process("mesh", pod)?.log())
}

#[test]
fn access_lines_are_written_as_text_and_as_json() {
    on("access log", async |cluster| {
        wait_status(cluster, "an answer", &Ask::get("/"), 200).await?;
        ensure!(
            !log(cluster)?.contains("\"GET / HTTP/1.1\""),
            "logged unasked"
        );
        cluster.apply(&telemetry("envoy", "response.code >= 200"))?;
        eventually("a line of text", async || {
            let id = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736";
            ask(cluster, &Ask::get("/text?a=b").header("x-request-id", id)).await?;
            let log = log(cluster)?;
            let line = log
                .lines()
                .find(|line| line.contains("\"GET /text?a=b HTTP/1.1\" 200 - via_upstream"));
            let line = line.context("no line")?;
            ensure!(line.starts_with('['), "{line}");
            for part in [id, "\"10.96.3.1\"", "8080"] {
                ensure!(line.contains(part), "no {part} in {line}");
            }
            Ok(())
        })
        .await?;
        cluster.apply(&telemetry("json", "response.code >= 400"))?;
        eventually("a line of JSON", async || {
            ask(cluster, &Ask::get("/json?status=503")).await?;
            let log = log(cluster)?;
            let lines = log
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found = lines
                .into_iter()
                .find(|line| line["path"] == "/json?status=503");
            let line = found.context("no line")?;
            ensure!(line["code"] == 503 || line["code"] == "503", "{line}");
            Ok(())
        })
        .await?;
        ask(cluster, &Ask::get("/filtered")).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(
            !log(cluster)?.contains("/filtered"),
            "the filter lets 200 through"
        );
        Ok(())
    });
}
