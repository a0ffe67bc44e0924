//! CUSTOM: an external service decides, over gRPC or HTTP. The messages are
//! written down here, apart from the proxy's, with the numbers of Envoy's
//! `envoy.service.auth.v3`.

use std::collections::HashMap;
use std::time::Duration;

use ambit_e2e::Cluster;
use ambit_e2e::http::Ask;
use anyhow::{Context, Result, ensure};
use prost::Message;

use super::super::serve::{Given, Got, Server, Speaks};
use super::super::{ask, on, wait_status};

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<Peer>,
    #[prost(message, optional, tag = "2")]
    destination: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    request: Option<RequestAttributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Peer {
    #[prost(string, tag = "4")]
    principal: String,
}

#[derive(Clone, PartialEq, Message)]
struct RequestAttributes {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpRequest {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "5")]
    host: String,
    #[prost(string, tag = "11")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    denied: Option<Denied>,
    #[prost(message, optional, tag = "3")]
    ok: Option<Allowed>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Denied {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct Allowed {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
    #[prost(string, repeated, tag = "5")]
    remove: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    response_headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn header(key: &str, value: &str) -> HeaderOption {
    let (key, value) = (key.to_owned(), value.to_owned());
    HeaderOption {
        header: Some(Header { key, value }),
    }
}

/// Decides by the header `x-verdict`.
fn decide(got: &Got) -> Given {
    let check: CheckRequest = got.message().unwrap();
    let http = check
        .attributes
        .and_then(|a| a.request)
        .and_then(|r| r.http);
    let http = http.unwrap_or_default();
    match http.headers.get("x-verdict").map(String::as_str) {
        Some("allow") => Given::grpc(&CheckResponse {
            status: Some(Status { code: 0 }),
            ok: Some(Allowed {
                headers: vec![header("x-user", "mara")],
                remove: vec!["x-secret".to_owned()],
                response_headers: vec![header("x-decided", "yes")],
            }),
            denied: None,
        }),
        Some("hang") => Given::of(200, "").after(Duration::from_secs(30)),
        Some("broken") => Given::of(500, ""),
        _ => Given::grpc(&CheckResponse {
            status: Some(Status { code: 7 }),
            denied: Some(Denied {
                status: Some(Status { code: 418 }),
                headers: vec![header("x-why", "teapot")],
                body: "not today".to_owned(),
            }),
            ok: None,
        }),
    }
}

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: by-grpc
      envoyExtAuthzGrpc: {service: authz.plain.svc.cluster.local, port: 9000, timeout: 1s, includeRequestBodyInCheck: {maxRequestBytes: 64}}
    - name: by-http
      envoyExtAuthzHttp:
        service: authz.plain.svc.cluster.local
        port: 8000
        timeout: 1s
        pathPrefix: /check
        includeRequestHeadersInCheck: [x-verdict]
        includeAdditionalHeadersInCheck: {x-from: mesh}
        headersToUpstreamOnAllow: [x-user]
        headersToDownstreamOnDeny: [x-why]
        headersToDownstreamOnAllow: [x-decided]
---
apiVersion: v1
kind: Service
metadata: {name: authz, namespace: plain}
spec:
  clusterIP: 10.96.3.80
  selector: {app: client}
  ports:
    - {name: grpc, port: 9000, targetPort: 9100, appProtocol: grpc}
    - {name: http, port: 8000, targetPort: 8100, appProtocol: http}
";

fn policy(provider: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: custom, namespace: mesh}}
spec:
  targetRefs: [{{group: '', kind: Service, name: echo}}]
  action: CUSTOM
  provider: {{name: {provider}}}
  rules: [{{to: [{{operation: {{notPaths: ['/health']}}}}]}}]
"
    )
}

fn verdict(verdict: &str) -> Ask {
    Ask::get("/a?b=c")
        .header("x-verdict", verdict)
        .header("x-secret", "1")
}

#[test]
fn a_grpc_service_decides() {
    on("ext_authz gRPC", async |cluster| {
        let ns = cluster.pod_ns("plain", "client")?;
        let server = Server::start(&ns, 9100, Speaks::GRPC, decide)?;
        cluster.apply(OBJECTS)?;
        cluster.apply(&policy("by-grpc"))?;
        decisions(cluster).await?;
        let body = verdict("allow").method("POST").body("short");
        wait_status(cluster, "with a body", &body, 200).await?;
        let last = server.seen().last().cloned().context("nobody asked")?;
        ensure!(
            last.path == "/envoy.service.auth.v3.Authorization/Check",
            "{}",
            last.path
        );
        let check: CheckRequest = last.message()?;
        let attributes = check.attributes.context("attributes")?;
        let principal = attributes.source.context("source")?.principal;
        ensure!(
            principal == "spiffe://cluster.local/ns/mesh/sa/client",
            "{principal}"
        );
        let http = attributes.request.and_then(|r| r.http).context("http")?;
        ensure!(http.method == "POST" && http.path == "/a?b=c", "{http:?}");
        ensure!(http.body == "short" && http.host == "10.96.3.1", "{http:?}");
        // A body over the limit isn't sent in part unasked.
        let long = verdict("allow").method("POST").body(vec![b'x'; 65]);
        wait_status(cluster, "a long body", &long, 413).await?;
        fails_closed(cluster, server).await
    });
}

#[test]
fn an_http_service_decides() {
    on("ext_authz HTTP", async |cluster| {
        let ns = cluster.pod_ns("plain", "client")?;
        let server = Server::start(&ns, 8100, Speaks::HTTP, |got| {
            match got.header("x-verdict") {
                "allow" => Given::of(200, "")
                    .header("x-user", "mara")
                    .header("x-decided", "yes")
                    .header("x-other", "not passed on"),
                "hang" => Given::of(200, "").after(Duration::from_secs(30)),
                "broken" => Given::of(500, ""),
                _ => Given::of(418, "not today").header("x-why", "teapot"),
            }
        })?;
        cluster.apply(OBJECTS)?;
        cluster.apply(&policy("by-http"))?;
        decisions(cluster).await?;
        let reply = ask(cluster, &verdict("allow")).await?;
        ensure!(reply.echo()?.header("x-other").is_none(), "x-other passed");
        let last = server.seen().last().cloned().context("nobody asked")?;
        ensure!(
            last.path == "/check/a?b=c" && last.method == "GET",
            "{last:?}"
        );
        ensure!(last.header("x-from") == "mesh", "{last:?}");
        ensure!(last.header("x-secret").is_empty(), "{last:?}");
        fails_closed(cluster, server).await
    });
}

/// Allow and deny, as both protocols say them.
async fn decisions(cluster: &Cluster) -> Result<()> {
    let reply = wait_status(cluster, "denied", &verdict("deny"), 418).await?;
    ensure!(
        reply.header("x-why") == Some("teapot"),
        "{:?}",
        reply.headers
    );
    ensure!(reply.body == "not today", "{:?}", reply.body);
    let reply = wait_status(cluster, "allowed", &verdict("allow"), 200).await?;
    ensure!(
        reply.header("x-decided") == Some("yes"),
        "{:?}",
        reply.headers
    );
    let echo = reply.echo()?;
    ensure!(
        echo.header("x-user").as_deref() == Some("mara"),
        "{:?}",
        echo.headers
    );
    // A path that no rule names isn't asked about.
    wait_status(cluster, "not asked", &Ask::get("/health"), 200).await?;
    Ok(())
}

/// A provider that breaks, hangs or is gone: refused, in time.
async fn fails_closed(cluster: &Cluster, server: Server) -> Result<()> {
    wait_status(cluster, "a broken provider", &verdict("broken"), 403).await?;
    let started = std::time::Instant::now();
    let reply = ask(cluster, &verdict("hang")).await?;
    let took = started.elapsed();
    ensure!(reply.status == 403, "{}", reply.status);
    let bounds = Duration::from_millis(900)..Duration::from_secs(4);
    ensure!(bounds.contains(&took), "took {took:?}");
    drop(server);
    wait_status(cluster, "no provider", &verdict("allow"), 403).await?;
    Ok(())
}
