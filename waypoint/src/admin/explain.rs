//! `/explain`: what would become of a request, by the code that decides:
//! every policy in order with its rule or near miss, the route with what was
//! considered before it, the backends with their weights and health, and the
//! retries that would apply. Nothing is sent, counted or drawn.

use std::net::{IpAddr, SocketAddr};

use ambit_hbone::Authority;
use ambit_policy::http::{
    HttpAttrs, HttpPolicies, HttpRequest, HttpTrace, HttpVerdict, RequestAuth,
};
use ambit_route::{Head, Rule};
use ambit_types::SpiffeId;
use http::{HeaderName, HeaderValue, Request};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::dump;
use crate::config::{Config, Frontend};
use crate::destination::{self, Found};
use crate::http::{Checked, check};
use crate::node::Node;

/// The question, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Question {
    /// `IP:PORT` that the client dials; or `service` and `port`.
    destination: Option<String>,
    /// `namespace/hostname`.
    service: Option<String>,
    port: Option<u16>,
    /// `spiffe://...` of the client.
    principal: String,
    source_ip: Option<IpAddr>,
    #[serde(default = "get")]
    method: String,
    host: Option<String>,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    headers: Map<String, Value>,
    /// Claims of a token that is taken as verified.
    claims: Option<Map<String, Value>>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// A question that can't be answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswerable {
    #[error("not a question: {0}")]
    Json(#[from] serde_json::Error),
    #[error("neither destination nor service and port are given")]
    NoDestination,
    #[error("no frontend {0:?}, or it has no address")]
    NoFrontend(String),
    #[error("destination {0:?} is not of the form IP:PORT")]
    Destination(String),
    #[error("principal {0:?} is no SPIFFE ID")]
    Principal(String),
    #[error("header {0:?} or its value can't be one")]
    Header(String),
    #[error("method, host and path make no request: {0}")]
    Request(#[from] http::Error),
}

/// Answers.
pub(super) fn explain(node: &Node, body: &[u8]) -> Result<Value, Unanswerable> {
    let question: Question = serde_json::from_slice(body)?;
    let config = node.config.load_full();
    let peer: SpiffeId = question
        .principal
        .parse()
        .map_err(|_| Unanswerable::Principal(question.principal.clone()))?;
    let authority = question.authority(&config)?;
    let own = |address| node.is_own(address);
    let (dialled, chosen) = match destination::choose(&config, &authority, own) {
        Ok(chosen) => chosen,
        Err(refusal) => {
            return Ok(json!({
                "version": config.version,
                "connect": { "status": refusal.status(), "reason": refusal.to_string() },
            }));
        }
    };
    let Some(found) = chosen.find(&config) else {
        return Ok(json!({ "version": config.version, "connect": { "status": 404 } }));
    };
    let request = question.request()?;
    let (mut head, ()) = request.into_parts();
    let gateway = &config.gateway;
    let checked = match check(&mut head, &gateway.limits, gateway.normalization) {
        Ok(checked) => checked,
        Err(reply) => {
            let (status, details) = (reply.status.as_u16(), reply.details);
            return Ok(json!({
                "version": config.version,
                "connect": { "status": 200 },
                "verdict": { "status": status, "details": details },
            }));
        }
    };
    let claims = question.claims.clone().unwrap_or_default();
    let token = question.claims.as_ref().map(Token::new);
    let attrs = HttpAttrs {
        source_ip: question.source_ip.unwrap_or(node.ip()),
        remote_ip: None,
        peer: Some(&peer),
        destination_ip: dialled.ip(),
        destination_port: found.service_port(),
        sni: None,
        http: Some(HttpRequest {
            method: head.method.as_str(),
            host: checked.authority.to_str().unwrap_or_default(),
            path: checked.target.path(),
            headers: &head.headers,
            auth: token.as_ref().map(|token| RequestAuth {
                issuer: &token.issuer,
                subject: &token.subject,
                audiences: &token.audiences,
                presenter: token.presenter.as_deref(),
                claims: &claims,
            }),
        }),
    };
    Ok(json!({
        "version": config.version,
        "connect": { "status": 200 },
        "protocol": format!("{:?}", found.declared()),
        "path": checked.target.as_str(),
        "authorization": authorization(found.policies(), &attrs, &found),
        "route": route(&config, &found, &head, &checked, &peer, token.map(|_| claims.clone())),
    }))
}

impl Question {
    fn authority(&self, config: &Config) -> Result<Authority, Unanswerable> {
        if let Some(text) = &self.destination {
            let wrong = || Unanswerable::Destination(text.clone());
            let address: SocketAddr = text.parse().map_err(|_| wrong())?;
            return Ok(Authority::Addr(address));
        }
        let (Some(service), Some(port)) = (&self.service, self.port) else {
            return Err(Unanswerable::NoDestination);
        };
        let frontend = config.frontend(service);
        let address = frontend.and_then(|frontend| first_address(frontend));
        let address = address.ok_or_else(|| Unanswerable::NoFrontend(service.clone()))?;
        Ok(Authority::Addr(SocketAddr::new(address, port)))
    }

    fn request(&self) -> Result<Request<()>, Unanswerable> {
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(self.path.as_str())
            .body(())?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            let wrong = || Unanswerable::Header(name.clone());
            let text = value.as_str().ok_or_else(wrong)?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            headers.append(name, HeaderValue::from_str(text).map_err(|_| wrong())?);
        }
        if !headers.contains_key(http::header::HOST) {
            let host = self.host.as_deref().or(self.service.as_deref());
            let host = host.unwrap_or("explained").rsplit('/').next();
            let host = HeaderValue::from_str(host.unwrap_or_default());
            let host = host.map_err(|_| Unanswerable::Header("host".to_owned()))?;
            headers.insert(http::header::HOST, host);
        }
        Ok(request)
    }
}

fn first_address(frontend: &Frontend) -> Option<IpAddr> {
    let mut blocks = frontend.message.addresses.iter();
    blocks.find_map(|cidr| crate::config::block(cidr).map(|net| net.addr()))
}

/// What policies see of claims.
struct Token {
    issuer: String,
    subject: String,
    audiences: Vec<String>,
    presenter: Option<String>,
}

impl Token {
    fn new(claims: &Map<String, Value>) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        let audiences = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(all)) => {
                let all = all.iter().filter_map(Value::as_str);
                all.map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        Self {
            issuer: text("iss").unwrap_or_default(),
            subject: text("sub").unwrap_or_default(),
            audiences,
            presenter: text("azp"),
        }
    }
}

fn authorization(policies: &HttpPolicies, attrs: &HttpAttrs<'_>, found: &Found<'_>) -> Value {
    let mut custom = HttpTrace::default();
    let without_token = HttpAttrs {
        http: attrs.http.map(|http| HttpRequest { auth: None, ..http }),
        ..*attrs
    };
    let asked = policies.custom_with(&without_token, &mut custom);
    let providers: Vec<_> = asked.iter().map(|one| one.provider.to_owned()).collect();
    let mut trace = HttpTrace::default();
    let decision = policies.evaluate_with(attrs, &mut trace);
    let mut workload = HttpTrace::default();
    let pod = match found {
        Found::Service { pod, .. } => pod.map(|(pod, _)| pod),
        Found::Workload { pod, .. } => Some(*pod),
    };
    let of_workload = pod.map(|pod| {
        let uid = &pod.endpoint.uid;
        verdict(
            policies
                .evaluate_workload_with(uid, attrs, &mut workload)
                .verdict,
        )
    });
    json!({
        "custom": { "providers": providers, "policies": custom.policies },
        "verdict": verdict(decision.verdict),
        "audit": decision.audit.map(|rule| rule.to_string()),
        "policies": trace.policies,
        "workload": { "verdict": of_workload, "policies": workload.policies },
    })
}

fn verdict(verdict: HttpVerdict<'_>) -> Value {
    match verdict {
        HttpVerdict::Allow(by) => json!({
            "allowed": true,
            "by": by.map(|rule| rule.to_string()),
        }),
        HttpVerdict::Deny(by) => json!({ "allowed": false, "by": by.to_string() }),
    }
}

fn route(
    config: &Config,
    found: &Found<'_>,
    head: &http::request::Parts,
    checked: &Checked,
    peer: &SpiffeId,
    claims: Option<Map<String, Value>>,
) -> Value {
    let Found::Service { frontend, port, .. } = found else {
        return json!({ "to": "the workload that is dialled" });
    };
    let claims = claims.map(Value::Object);
    let lookup = Head {
        method: head.method.as_str(),
        scheme: "http",
        authority: checked.authority.to_str().unwrap_or_default(),
        path: checked.target.path(),
        query: checked.target.query(),
        headers: &head.headers,
        port: port.number,
        source_namespace: Some(peer.namespace()),
        claims: claims.as_ref(),
    };
    let mut log = ambit_route::Log::default();
    let taken = frontend.routes.find_with(&lookup, &mut log);
    let considered = log.steps.iter().map(|step| {
        json!({
            "route": &*step.route.object,
            "kind": &*step.route.origin.kind,
            "rule": &*step.rule.name,
            "match": step.alternative,
            "why": format!("{:?}", step.why),
        })
    });
    let considered: Vec<_> = considered.collect();
    let own = || backend(config, &frontend.key, port.number, "", 1);
    match taken {
        ambit_route::Found::NoMatch => json!({ "status": 404, "considered": considered }),
        ambit_route::Found::Service => json!({
            "to": "the service itself",
            "backends": [own()],
            "retries": config.gateway.default_retry.attempts,
            "considered": considered,
        }),
        ambit_route::Found::Rule(matched) => json!({
            "route": &*matched.route.object,
            "kind": &*matched.route.origin.kind,
            "rule": &*matched.rule.name,
            "match": matched.alternative,
            "answer": matched.rule.answer.as_ref().map(|answer| format!("{answer:?}")),
            "backends": backends(config, matched.rule, port.number, own),
            "mirrors": matched.rule.mirrors.len(),
            "timeoutMs": matched.rule.timeout.map(|timeout| timeout.as_millis()),
            "retries": matched.rule.retry.as_ref().map_or(
                config.gateway.default_retry.attempts,
                |retry| retry.attempts,
            ),
            "considered": considered,
        }),
    }
}

fn backends(config: &Config, rule: &Rule, port: u16, own: impl Fn() -> Value) -> Vec<Value> {
    if rule.to_frontend {
        return vec![own()];
    }
    let all = rule.backends.iter().map(|one| {
        let number = if one.port == 0 { port } else { one.port };
        match &one.invalid {
            Some(invalid) => json!({
                "service": &*one.service,
                "weight": one.weight,
                "status": invalid.status.as_u16(),
                "reason": &*invalid.reason,
            }),
            None => backend(config, &one.service, number, &one.subset, one.weight),
        }
    });
    all.collect()
}

fn backend(config: &Config, key: &str, port: u16, subset: &str, weight: u32) -> Value {
    let target = config
        .service(key)
        .and_then(|service| service.target(port, subset).ok());
    match target {
        Some(target) => json!({ "weight": weight, "cluster": dump::target(target) }),
        None => json!({ "service": key, "port": port, "subset": subset, "weight": weight,
                        "reason": "no such backend, port or subset" }),
    }
}
