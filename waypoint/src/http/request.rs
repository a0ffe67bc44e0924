//! The steps of one request, in the order of `waypoint-contract` 1.11: who
//! asks, may they, which rule, which backend; then `forward` sends it. Each
//! step is one call; what ends a request early is a [`LocalReply`].

use std::sync::Arc;
use std::time::SystemTime;

use ambit_route::{CorsDecision, Head, Matched, MatchedPath, Rule};
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use serde_json::Value;

use super::body::{DownBody, Replay};
use super::choose::{answered, choose};
use super::exchange::Exchange;
use super::forward::{self, Call, Forwarded};
use super::head::{self, Checked, XFCC};
use super::outbound::Outbound;
use super::reply::{Flag, LocalReply};
use super::respond::{Decor, answer, respond};
use super::server::Inner;
use super::subject::Subject;
use super::{ext_authz, mirror, upgrade};
use crate::config::{Config, Gateway};
use crate::destination::Found;

/// Answers one request.
pub(crate) async fn handle(inner: Arc<Inner>, request: Request<Incoming>) -> Response<DownBody> {
    let config = inner.worker.node.config.load_full();
    let departed = config.departed(&inner.destination);
    let leaves = departed.is_some();
    let config = departed.unwrap_or(config);
    let (mut head, body) = request.into_parts();
    let http1 = head.version == Version::HTTP_11;
    let offered = head::offers_upgrade(&head);
    let mut client = upgrade::take(&mut head);
    let mut exchange = Box::new(Exchange::begin(&inner, &head));
    let done = steps(&config, &inner, &mut head, body, &mut client, &mut exchange).await;
    exchange.request_headers = std::mem::take(&mut head.headers);
    upgrade::let_go(&inner, client);
    let mut response = match done {
        Ok(forwarded) => respond(&config.gateway, forwarded, exchange),
        Err(reply) => answer(&config.gateway, *reply, exchange),
    };
    if (offered || leaves && http1) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // What the client sends after a refused upgrade isn't HTTP for sure; and
        // there is another way to what left this waypoint.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

async fn steps(
    config: &Arc<Config>,
    inner: &Arc<Inner>,
    head: &mut Parts,
    body: Incoming,
    client: &mut Option<OnUpgrade>,
    exchange: &mut Exchange,
) -> Result<Box<Forwarded>, Box<LocalReply>> {
    let gateway = &config.gateway;
    let mut checked = head::check(head, &gateway.limits, gateway.normalization)?;
    exchange.checked(&checked);
    identify(gateway, inner, head, &checked)?;
    let found = inner
        .destination
        .find(config)
        .ok_or_else(LocalReply::no_route)?;
    exchange.found(gateway, &found, head);

    let replay = replayed(body, exchange);
    let mut subject = Subject::new(gateway, inner, &found, &head.headers);
    let mut decor = Decor::default();
    let policies = found.policies();
    if policies.asks_providers() {
        let asked = ext_authz::Asking {
            config,
            subject: &subject,
            policies,
            replay: replay.as_ref(),
        };
        ext_authz::ask(asked, head, &checked, &mut decor).await?;
    }
    subject.authenticate(&found, head, &mut checked).await?;
    exchange.dry_run = subject.authorize(policies, head, &checked)?;
    let claims = subject.claims();
    let matched = find_rule(inner, &found, head, &checked, claims.as_ref())?;
    let path = matched.as_ref().map_or(MatchedPath::Whole, |one| one.path);
    let rule = match &matched {
        Some(matched) => {
            exchange.routed(matched);
            Some(&**matched.rule)
        }
        None => default_rule(config, &found),
    };
    let limits = found.limits(matched.as_ref());
    subject.limit(&limits, &head.headers, &mut decor.headers)?;
    let routed = rule.filter(|_| matched.is_some());
    if let Some(rule) = rule {
        fault(rule, exchange).await?;
        preflight(rule, head)?;
    }
    if let Some(answer) = routed.and_then(|rule| rule.answer.as_ref()) {
        return Err(Box::new(answered(answer, &found, &checked, path)));
    }
    let chosen = choose(config, &found, routed, &checked, path)?;
    exchange.target.clone_from(&chosen.target);
    let mut outbound = Outbound::make(head, &checked, rule, &chosen, path);
    exchange.outgoing(&mut outbound.headers, None);
    keep(replay.as_ref(), rule, gateway);
    if let Some(rule) = rule {
        let port = found.service_port();
        mirror::send(config, inner, rule, port, &outbound, replay.as_ref());
    }
    let call = Call {
        config,
        inner,
        rule,
        chosen: &chosen,
        path,
        outbound,
        span: None,
        deadline: None,
        replay,
        head,
        checked: &checked,
        subject: &subject,
        policies,
    };
    let mut forwarded = forward::send(call, exchange, &mut decor).await?;
    if forwarded.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        upgrade::join(inner, &mut forwarded, &checked, client)?;
    }
    decor.apply(rule, &chosen, head, &mut forwarded);
    Ok(Box::new(forwarded))
}

/// The body, if there is one.
fn replayed(body: Incoming, exchange: &Exchange) -> Option<Replay> {
    let replay = (!body.is_end_stream()).then(|| Replay::new(body, 0, exchange.grpc))?;
    if exchange.web.as_ref().is_some_and(|web| web.text) {
        replay.decode();
    }
    Some(replay)
}

/// Keeps of the body what another attempt would need.
fn keep(replay: Option<&Replay>, rule: Option<&Rule>, gateway: &Gateway) {
    let retry = rule.and_then(|rule| rule.retry.as_deref());
    let retry = retry.unwrap_or(&gateway.default_retry);
    if let Some(replay) = replay.filter(|_| retry.attempts > 0) {
        replay.keep_at_least(u64::try_from(retry.body_limit).unwrap_or(u64::MAX));
    }
}

/// Adds what says who asks (1.5, 1.6).
///
/// # Errors
/// 503 while memory is short, 403 for an upgrade that isn't passed on.
fn identify(
    gateway: &Gateway,
    inner: &Inner,
    head: &mut Parts,
    checked: &Checked,
) -> Result<(), LocalReply> {
    if inner.worker.node.memory.is_full() {
        return Err(LocalReply::overloaded());
    }
    if let Some(protocol) = &checked.upgrade
        && !inner.worker.node.settings.upgrades_to(protocol.as_bytes())
    {
        let status = StatusCode::FORBIDDEN;
        return Err(LocalReply::new(status, "", None, "upgrade_failed"));
    }
    let headers = &mut head.headers;
    if gateway.message.xfcc_client_identity {
        let (by, uri) = (&inner.worker.node.id, &inner.peer);
        if let Ok(value) = HeaderValue::from_str(&format!("By={by};URI={uri}")) {
            headers.insert(HeaderName::from_static(XFCC), value);
        }
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    Ok(())
}

/// The rule of the request; none: to the service itself.
fn find_rule<'c>(
    inner: &Inner,
    found: &Found<'c>,
    head: &Parts,
    checked: &Checked,
    claims: Option<&Value>,
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
        claims,
    };
    match frontend.routes.find(&lookup) {
        ambit_route::Found::Rule(matched) => Ok(Some(matched)),
        ambit_route::Found::Service => Ok(None),
        ambit_route::Found::NoMatch => Err(LocalReply::no_route()),
    }
}

/// What the service itself says of requests that no route takes.
fn default_rule<'c>(config: &'c Config, found: &Found<'_>) -> Option<&'c Rule> {
    let Found::Service { frontend, .. } = found else {
        return None;
    };
    config.service(&frontend.key)?.default_rule.as_ref()
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
    let aborted = |status| {
        LocalReply::new(
            status,
            "fault filter abort",
            Flag::FaultInjected,
            "fault_filter_abort",
        )
    };
    match drawn.abort {
        None => Ok(()),
        Some(ambit_route::Abort::Status(status)) => Err(aborted(status)),
        Some(ambit_route::Abort::Grpc(status)) => {
            let mut reply = aborted(StatusCode::OK);
            reply.grpc_status = Some(u32::from(status));
            Err(reply)
        }
    }
}

fn preflight(rule: &Rule, head: &Parts) -> Result<(), LocalReply> {
    let Some(cors) = &rule.cors else {
        return Ok(());
    };
    match cors.decide(&head.method, &head.headers) {
        CorsDecision::Preflight(headers) => {
            let mut reply = LocalReply::new(StatusCode::OK, "", None, "cors_preflight");
            *reply.headers = headers;
            Err(reply)
        }
        CorsDecision::None | CorsDecision::Forward | CorsDecision::Actual(_) => Ok(()),
    }
}

impl Exchange {
    fn begin(inner: &Arc<Inner>, head: &Parts) -> Self {
        Self::new(inner, head, tokio::time::Instant::now(), SystemTime::now())
    }
}

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
