//! The steps of one request, in the order of `waypoint-contract` 1.11: who
//! asks, may they, which rule, which backend; then `forward` sends it. Each
//! step is one call; what ends a request early is a [`LocalReply`].

use std::sync::Arc;

use ambit_policy::http::{HttpAttrs, HttpRequest, HttpVerdict};
use ambit_route::{Answer, Choice, CorsDecision, Head, Matched, MatchedPath, RedirectInput, Rule};
use http::header::{HOST, ORIGIN, SERVER};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};

use super::body::{DownBody, Replay};
use super::exchange::Exchange;
use super::forward::{self, Call, Forwarded};
use super::head::{self, Checked, XFCC, sanitise_response};
use super::reply::{Flag, LocalReply, is_grpc};
use super::server::Inner;
use super::upgrade;
use ambit_upstream::Endpoint;

use crate::config::{Config, Gateway, Missing, ServerHeader, Target, Upstream};
use crate::destination::Found;

/// Answers one request.
pub(crate) async fn handle(inner: Arc<Inner>, request: Request<Incoming>) -> Response<DownBody> {
    let config = inner.worker.node.config.load_full();
    let (mut head, body) = request.into_parts();
    let mut exchange = Box::new(Exchange::begin(&inner, &head));
    let done = steps(&config, &inner, &mut head, body, &mut exchange).await;
    match done {
        Ok(Done::Forwarded(forwarded)) => respond(&config.gateway, forwarded, exchange),
        Ok(Done::Local(reply)) | Err(reply) => answer(&config.gateway, reply, exchange),
    }
}

/// How the steps ended.
enum Done {
    Forwarded(Box<Forwarded>),
    Local(LocalReply),
}

async fn steps(
    config: &Arc<Config>,
    inner: &Arc<Inner>,
    head: &mut Parts,
    body: Incoming,
    exchange: &mut Exchange,
) -> Result<Done, LocalReply> {
    let gateway = &config.gateway;
    let checked = head::check(head, &gateway.limits, gateway.normalization)?;
    exchange.checked(&checked);
    identify(gateway, inner, head);
    exchange.request_id = head.headers.get(REQUEST_ID).cloned();
    let found = inner
        .destination
        .find(config)
        .ok_or_else(LocalReply::no_route)?;
    if let Found::Service { frontend, .. } = &found {
        exchange.frontend = Some(Arc::clone(frontend));
    }
    authorize(inner, &found, head, &checked)?;

    let matched = find_rule(inner, &found, head, &checked)?;
    let rule = matched.as_ref().map(|matched| &**matched.rule);
    if let Some(matched) = &matched {
        exchange.route = Some(Arc::clone(&matched.route.object));
    }
    let path = matched
        .as_ref()
        .map_or(MatchedPath::Whole, |matched| matched.path);
    if let Some(rule) = rule {
        fault(rule, exchange).await?;
        if let Some(reply) = preflight(rule, head) {
            return Ok(Done::Local(reply));
        }
        if let Some(answer) = &rule.answer {
            return Ok(Done::Local(answered(answer, &found, &checked, path)));
        }
    }
    let chosen = choose(config, &found, rule, &checked, path)?;
    exchange.target.clone_from(&chosen.target);
    let outbound = Outbound::make(head, &checked, rule, &chosen, path, exchange)?;
    let replay = (!body.is_end_stream()).then(|| {
        let retry = rule.and_then(|rule| rule.retry.as_deref());
        let retry = retry.unwrap_or(&gateway.default_retry);
        let limit = if retry.attempts == 0 {
            0
        } else {
            retry.body_limit
        };
        Replay::new(body, limit as u64)
    });
    let origin = head.headers.get(ORIGIN).cloned();
    let call = Call {
        config,
        inner,
        rule,
        chosen: &chosen,
        outbound,
        replay,
        client_version: head.version,
    };
    let upgrading = checked.upgrade.is_some().then(|| upgrade::take(head));
    let mut forwarded = forward::send(call, exchange).await?;
    if forwarded.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        upgrade::join(inner, &mut forwarded, upgrading)?;
    }
    finish_headers(rule, &chosen, origin.as_ref(), head, &mut forwarded);
    Ok(Done::Forwarded(Box::new(forwarded)))
}

/// Adds what says who asks and which request this is (1.5, 1.6).
fn identify(gateway: &Gateway, inner: &Inner, head: &mut Parts) {
    let headers = &mut head.headers;
    if gateway.message.xfcc_client_identity {
        let (by, uri) = (&inner.worker.node.id, &inner.peer);
        if let Ok(value) = HeaderValue::from_str(&format!("By={by};URI={uri}")) {
            headers.insert(HeaderName::from_static(XFCC), value);
        }
    }
    if !headers.contains_key(REQUEST_ID) {
        headers.insert(REQUEST_ID, crate::ids::request_id());
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
}

/// AUDIT, DENY, ALLOW.
fn authorize(
    inner: &Inner,
    found: &Found<'_>,
    head: &Parts,
    checked: &Checked,
) -> Result<(), LocalReply> {
    let policies = match found {
        Found::Service { port, .. } => &port.policies,
        Found::Workload { pod, .. } => &pod.policies,
    };
    if policies.is_empty() {
        return Ok(());
    }
    let attrs = HttpAttrs {
        source_ip: inner.source.ip(),
        remote_ip: None,
        peer: Some(&inner.peer),
        destination_ip: inner.dialled.ip(),
        destination_port: found.service_port(),
        sni: None,
        http: Some(HttpRequest {
            method: head.method.as_str(),
            host: checked.authority.to_str().unwrap_or_default(),
            path: checked.target.path(),
            headers: &head.headers,
            auth: None,
        }),
    };
    match policies.evaluate(&attrs).verdict {
        HttpVerdict::Allow(_) => Ok(()),
        HttpVerdict::Deny(by) => Err(LocalReply::denied(by.to_string())),
    }
}

/// The rule of the request; none: to the service itself.
fn find_rule<'c>(
    inner: &Inner,
    found: &Found<'c>,
    head: &Parts,
    checked: &Checked,
) -> Result<Option<Matched<'c>>, LocalReply> {
    let Found::Service { frontend, port, .. } = found else {
        return Ok(None);
    };
    let lookup = Head {
        method: head.method.as_str(),
        scheme: "http",
        authority: checked.authority.to_str().unwrap_or_default(),
        path: checked.target.path(),
        query: checked.target.query(),
        headers: &head.headers,
        port: port.number,
        source_namespace: Some(inner.peer.namespace()),
        claims: None,
    };
    match frontend.routes.find(&lookup) {
        ambit_route::Found::Rule(matched) => Ok(Some(matched)),
        ambit_route::Found::Service => Ok(None),
        ambit_route::Found::NoMatch => Err(LocalReply::no_route()),
    }
}

async fn fault(rule: &Rule, exchange: &mut Exchange) -> Result<(), LocalReply> {
    let Some(fault) = &rule.fault else {
        return Ok(());
    };
    let drawn = fault.draw(&mut rand::rng());
    if let Some(delay) = drawn.delay {
        exchange.flag(Flag::DelayInjected);
        tokio::time::sleep(delay).await;
    }
    let mut reply = match drawn.abort {
        None => return Ok(()),
        Some(ambit_route::Abort::Status(status)) => LocalReply::new(
            status,
            "fault filter abort",
            Flag::FaultInjected,
            "fault_filter_abort",
        ),
        Some(ambit_route::Abort::Grpc(status)) => {
            let mut reply = LocalReply::new(
                StatusCode::OK,
                "fault filter abort",
                Flag::FaultInjected,
                "fault_filter_abort",
            );
            reply.grpc_status = Some(u32::from(status));
            reply
        }
    };
    reply.close = false;
    Err(reply)
}

fn preflight(rule: &Rule, head: &Parts) -> Option<LocalReply> {
    let cors = rule.cors.as_ref()?;
    match cors.decide(&head.method, &head.headers) {
        CorsDecision::Preflight(headers) => {
            let mut reply = LocalReply::new(StatusCode::OK, "", None, "cors_preflight");
            reply.headers = headers;
            Some(reply)
        }
        _ => None,
    }
}

/// The answer that a rule gives by itself.
fn answered(
    answer: &Answer,
    found: &Found<'_>,
    checked: &Checked,
    path: MatchedPath,
) -> LocalReply {
    match answer {
        Answer::Redirect(redirect) => redirected(redirect, found, checked, path),
        Answer::Direct(direct) => {
            LocalReply::new(direct.status, direct.body.clone(), None, "direct_response")
        }
        Answer::Invalid(invalid) => LocalReply::no_cluster(invalid.status),
    }
}

fn redirected(
    redirect: &ambit_route::Redirect,
    found: &Found<'_>,
    checked: &Checked,
    path: MatchedPath,
) -> LocalReply {
    let input = RedirectInput {
        scheme: "http",
        authority: checked.authority.to_str().unwrap_or_default(),
        port: found.service_port(),
        path: checked.target.path(),
        query: checked.target.query(),
    };
    let Some(location) = redirect.location(&input, path) else {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return LocalReply::new(status, "", None, "redirect_has_no_location");
    };
    let mut reply = LocalReply::new(redirect.status, "", None, "redirect");
    reply.headers.insert(http::header::LOCATION, location);
    reply
}

/// Where a request goes.
pub(crate) struct Chosen<'c> {
    /// `None`: a workload's own address, of which no backend speaks.
    pub(crate) target: Option<Arc<Target>>,
    /// The destination of the rule, if it was one.
    pub(crate) backend: Option<&'c ambit_route::BackendRef>,
    /// Only this endpoint: the client dialled it.
    pub(crate) direct: Option<(Arc<Endpoint>, u16)>,
    /// What is spoken there, as far as was declared.
    pub(crate) upstream: Upstream,
}

fn choose<'c>(
    config: &Config,
    found: &Found<'c>,
    rule: Option<&'c Rule>,
    checked: &Checked,
    path: MatchedPath,
) -> Result<Chosen<'c>, LocalReply> {
    let (frontend, port, pod) = match found {
        Found::Workload { pod, port } => {
            return Ok(Chosen {
                target: None,
                backend: None,
                direct: Some((Arc::clone(&pod.endpoint), *port)),
                upstream: found.upstream(),
            });
        }
        Found::Service {
            frontend,
            port,
            pod,
        } => (frontend, port, pod),
    };
    let (key, number, subset, backend) = match rule.map(|rule| rule.choose(&mut rand::rng())) {
        None | Some(Choice::Frontend) => (&*frontend.key, port.number, "", None),
        Some(Choice::Refused { status, .. }) => return Err(LocalReply::no_cluster(status)),
        Some(Choice::Backend(backend)) => {
            if let Some(redirect) = &backend.redirect {
                return Err(redirected(redirect, found, checked, path));
            }
            let number = match backend.port {
                0 => port.number,
                number => number,
            };
            (&*backend.service, number, &*backend.subset, Some(backend))
        }
    };
    let missing = rule.map_or(StatusCode::SERVICE_UNAVAILABLE, |rule| {
        rule.semantics.missing_backend()
    });
    let target = config
        .service(key)
        .ok_or(Missing)
        .and_then(|service| service.target(number, subset))
        .map_err(|Missing| LocalReply::no_cluster(missing))?;
    // The pod that was dialled gets its own requests; where a route sends them
    // elsewhere, the pod has no say.
    let stays = *key == *frontend.key && number == port.number;
    let direct = pod.filter(|_| stays);
    Ok(Chosen {
        upstream: target.upstream,
        target: Some(Arc::clone(target)),
        backend,
        direct: direct.map(|(pod, port)| (Arc::clone(&pod.endpoint), port)),
    })
}

/// The request as backends get it, without its body.
pub(crate) struct Outbound {
    pub(crate) method: http::Method,
    pub(crate) target: PathAndQuery,
    pub(crate) authority: HeaderValue,
    pub(crate) headers: HeaderMap,
}

impl Outbound {
    fn make(
        head: &Parts,
        checked: &Checked,
        rule: Option<&Rule>,
        chosen: &Chosen<'_>,
        matched: MatchedPath,
        exchange: &Exchange,
    ) -> Result<Self, LocalReply> {
        let mut headers = head.headers.clone();
        headers.remove(HOST);
        let mut authority = checked.authority.clone();
        let mut target = checked.target.clone();
        if checked.te_trailers {
            let trailers = HeaderValue::from_static("trailers");
            headers.insert(http::header::TE, trailers);
        }
        if let Some(rule) = rule {
            for ops in rule.ops_in_order(chosen.backend) {
                ops.apply(&mut headers);
                if let Some(other) = &ops.authority {
                    authority = other.clone();
                }
            }
            let own = chosen
                .backend
                .and_then(|backend| backend.rewrite.as_deref());
            if let Some(rewrite) = own.or(rule.rewrite.as_deref()) {
                if let Some(hostname) = &rewrite.hostname {
                    authority = hostname.clone();
                }
                let path = checked.target.path();
                if let Some(other) = rewrite.apply(path, checked.target.query(), matched) {
                    let original = HeaderValue::from_str(&exchange.path);
                    if let Ok(original) = original {
                        headers.insert(ORIGINAL_PATH, original);
                    }
                    target = other;
                }
            }
        }
        Ok(Self {
            method: head.method.clone(),
            target,
            authority,
            headers,
        })
    }
}

/// What goes into a response besides what the backend said.
fn finish_headers(
    rule: Option<&Rule>,
    chosen: &Chosen<'_>,
    _origin: Option<&HeaderValue>,
    head: &Parts,
    forwarded: &mut Forwarded,
) {
    let upgraded = forwarded.response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = forwarded.response.headers_mut();
    sanitise_response(headers, upgraded);
    if upgraded {
        let value = HeaderValue::from_static("upgrade");
        headers.insert(http::header::CONNECTION, value);
    }
    let Some(rule) = rule else { return };
    if let Some(cors) = &rule.cors
        && let CorsDecision::Actual(actual) = cors.decide(&head.method, &head.headers)
    {
        actual.apply(headers);
    }
    for ops in rule.response_ops_in_order(chosen.backend) {
        ops.apply(headers);
    }
}

fn respond(
    gateway: &Gateway,
    forwarded: Box<Forwarded>,
    mut exchange: Box<Exchange>,
) -> Response<DownBody> {
    let Forwarded {
        response,
        held,
        deadline,
        idle,
    } = *forwarded;
    let (mut head, incoming) = response.into_parts();
    exchange.status = Some(head.status);
    exchange.note_grpc(&head.headers);
    if let Some(time) = exchange.upstream_time {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        head.headers.insert(SERVICE_TIME, HeaderValue::from(millis));
    }
    server(gateway, &mut head.headers);
    head.version = Version::HTTP_11;
    let streaming = incoming.is_end_stream();
    let mut stream = super::exchange::Streaming::new(incoming, exchange, held);
    if streaming {
        stream.finish_now();
        return Response::from_parts(head, DownBody::Empty);
    }
    stream.until(deadline);
    stream.idle(idle);
    Response::from_parts(head, DownBody::Stream(Box::new(stream)))
}

/// An answer of our own, and its record.
fn answer(gateway: &Gateway, reply: LocalReply, mut exchange: Box<Exchange>) -> Response<DownBody> {
    let (close, details, flag) = (reply.close, reply.details.clone(), reply.flag);
    let mut response = reply.into_response(exchange.grpc);
    if let Some(flag) = flag {
        exchange.flag(flag);
    }
    exchange.details = Some(details);
    exchange.status = Some(response.status());
    exchange.note_grpc(response.headers());
    exchange.sent = response.body().size_hint().exact().unwrap_or(0);
    if close && exchange.version != Version::HTTP_2 {
        let value = HeaderValue::from_static("close");
        response
            .headers_mut()
            .insert(http::header::CONNECTION, value);
    }
    server(gateway, response.headers_mut());
    exchange.finish();
    response
}

fn server(gateway: &Gateway, headers: &mut HeaderMap) {
    if let ServerHeader::Overwrite(value) = &gateway.server {
        headers.insert(SERVER, value.clone());
    }
}

impl Exchange {
    fn begin(inner: &Arc<Inner>, head: &Parts) -> Self {
        let text = |name: &str| head.headers.get(name).cloned();
        Self {
            inner: Arc::clone(inner),
            started: tokio::time::Instant::now(),
            wall: std::time::SystemTime::now(),
            method: head.method.clone(),
            version: head.version,
            path: String::new(),
            authority: HeaderValue::from_static("-"),
            user_agent: text("user-agent"),
            forwarded_for: text("x-forwarded-for"),
            request_id: None,
            grpc: is_grpc(&head.headers),
            frontend: None,
            route: None,
            target: None,
            endpoint: None,
            upstream: None,
            flags: smallvec::SmallVec::new(),
            details: None,
            transport_failure: None,
            status: None,
            grpc_status: None,
            received: 0,
            sent: 0,
            attempts: 0,
            upstream_time: None,
        }
    }

    fn checked(&mut self, checked: &Checked) {
        self.path = checked.target.to_string();
        self.authority = checked.authority.clone();
    }

    fn note_grpc(&mut self, headers: &HeaderMap) {
        let status = headers.get(super::reply::GRPC_STATUS);
        let status = status.and_then(|value| value.to_str().ok());
        if let Some(status) = status.and_then(|value| value.parse().ok()) {
            self.grpc_status = Some(status);
        }
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
