//! CUSTOM authorization: a provider is asked before anything else is decided
//! (`waypoint-contract` 4.5, 1.11 row 2). A provider that can't be asked
//! refuses, unless it was said to be let go.

mod grpc;
mod message;
mod plain;

use std::sync::Arc;
use std::time::Instant;

use ambit_policy::http::HttpPolicies;
use ambit_upstream::PickContext;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use smallvec::SmallVec;
use tracing::warn;

use super::body::{Replay, UpBody};
use super::head::Checked;
use super::reach::{connection_to, hop_to, send_on};
use super::reply::{Flag, LocalReply};
use super::respond::Decor;
use super::server::Inner;
use super::subject::Subject;
use crate::config::{Config, Provider, ProviderKind};
use crate::dial::{Sender, Version};
use crate::node::Worker;

/// What is asked.
pub(crate) struct Asking<'a> {
    pub(crate) config: &'a Config,
    pub(crate) subject: &'a Subject<'a>,
    pub(crate) policies: &'a HttpPolicies,
    pub(crate) replay: Option<&'a Replay>,
}

/// What a provider said.
pub(super) enum Verdict {
    Allow(Changes),
    Deny(Box<LocalReply>),
}

/// What an allowance brings along.
#[derive(Default)]
pub(super) struct Changes {
    /// To the request.
    set: Vec<(HeaderName, HeaderValue)>,
    append: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
    /// To the response.
    response: Vec<(HeaderName, HeaderValue)>,
}

/// Why a provider couldn't be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("no such provider, or its service is unknown")]
    Unknown,
    #[error("no endpoint")]
    NoEndpoint,
    #[error("not reached: {0}")]
    Unreachable(String),
    #[error("no answer in time")]
    Late,
    #[error("answer: {0}")]
    Answer(String),
}

/// Asks every provider whose policies match; the first refusal counts.
///
/// # Errors
/// The provider's refusal, or ours where it couldn't be asked.
pub(crate) async fn ask(
    asking: Asking<'_>,
    head: &mut Parts,
    checked: &Checked,
    decor: &mut Decor,
) -> Result<(), LocalReply> {
    let names: SmallVec<[Box<str>; 2]> = {
        let attrs = asking.subject.attrs(head, checked);
        let asked = asking.policies.custom(&attrs);
        asked.iter().map(|one| Box::from(one.provider)).collect()
    };
    for name in names {
        let provider = asking.config.gateway.providers.get(&*name).cloned();
        let Some(provider) = provider else {
            warn!(
                provider = &*name,
                "CUSTOM names a provider that there isn't"
            );
            return Err(error(None));
        };
        let seen = peek(&provider, asking.replay).await?;
        let asked = one(&asking, &provider, head, checked, seen);
        let verdict = match tokio::time::timeout(provider.timeout, asked).await {
            Ok(verdict) => verdict,
            Err(_) => Err(Trouble::Late),
        };
        match verdict {
            Ok(Verdict::Allow(changes)) => changes.apply(&mut head.headers, decor),
            Ok(Verdict::Deny(reply)) => return Err(*reply),
            Err(trouble) => {
                warn!(provider = &*name, %trouble, "authorization provider");
                if !provider.message.fail_open {
                    return Err(error(Some(&provider)));
                }
            }
        }
    }
    Ok(())
}

async fn one(
    asking: &Asking<'_>,
    provider: &Arc<Provider>,
    head: &Parts,
    checked: &Checked,
    seen: Seen,
) -> Result<Verdict, Trouble> {
    match provider.kind {
        ProviderKind::Grpc => grpc::ask(asking, provider, head, checked, seen).await,
        ProviderKind::Http => plain::ask(asking, provider, head, checked, seen).await,
        ProviderKind::Invalid => Err(Trouble::Unknown),
    }
}

/// The part of the body that the provider gets.
#[derive(Default)]
pub(super) struct Seen {
    body: Vec<u8>,
}

async fn peek(provider: &Provider, replay: Option<&Replay>) -> Result<Seen, LocalReply> {
    let limit = provider.message.body_limit;
    let Some(replay) = replay.filter(|_| limit > 0) else {
        return Ok(Seen::default());
    };
    // What was looked at must still be sendable.
    replay.keep_at_least(limit.saturating_add(PEEK_SLACK));
    match replay.peek(limit).await {
        Ok((body, whole)) if whole || provider.message.allow_partial_body => Ok(Seen { body }),
        Ok(_) => Err(LocalReply::payload_too_large()),
        Err(_) => Err(LocalReply::bad_request("request_body_broken")),
    }
}

fn error(provider: Option<&Provider>) -> LocalReply {
    let status = provider.map_or(0, |provider| provider.message.status_on_error);
    let status = u16::try_from(status).ok().filter(|status| *status >= 200);
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::FORBIDDEN);
    LocalReply::new(status, "", Flag::ExtAuthz, "ext_authz_error")
}

impl Asking<'_> {
    fn place(&self) -> (&Config, &Worker) {
        (self.config, &self.subject.inner.worker)
    }
}

impl Changes {
    fn apply(self, headers: &mut HeaderMap, decor: &mut Decor) {
        for name in self.remove {
            headers.remove(name);
        }
        for (name, value) in self.set {
            headers.insert(name, value);
        }
        for (name, value) in self.append {
            headers.append(name, value);
        }
        decor.headers.extend(self.response);
    }
}

/// Asks every provider whose policies match an opaque connection (4.6): those
/// that speak gRPC; another can't be asked about bytes, which is a refusal.
///
/// # Errors
/// What the log says of the refusal.
pub(crate) async fn ask_tcp(
    config: &Config,
    inner: &Inner,
    names: &[Box<str>],
) -> Result<(), &'static str> {
    for name in names {
        let provider = config.gateway.providers.get(name);
        let provider = provider.filter(|provider| provider.kind == ProviderKind::Grpc);
        let Some(provider) = provider else {
            warn!(
                provider = &**name,
                "CUSTOM of TCP needs a provider over gRPC"
            );
            return Err("ext_authz_not_for_tcp");
        };
        let asked = grpc::ask_tcp(config, inner, provider);
        let verdict = match tokio::time::timeout(provider.timeout, asked).await {
            Ok(verdict) => verdict,
            Err(_) => Err(Trouble::Late),
        };
        match verdict {
            Ok(Verdict::Allow(_)) => {}
            Ok(Verdict::Deny(_)) => return Err("ext_authz_denied"),
            Err(trouble) => {
                warn!(provider = &**name, %trouble, "authorization provider");
                if !provider.message.fail_open {
                    return Err("ext_authz_error");
                }
            }
        }
    }
    Ok(())
}

/// Sends a question to the provider's service and reads the whole answer.
pub(super) async fn exchange(
    (config, worker): (&Config, &Worker),
    provider: &Provider,
    version: Version,
    question: Request<UpBody>,
) -> Result<Response<(Bytes, Option<HeaderMap>)>, Trouble> {
    let port = u16::try_from(provider.message.port).map_err(|_| Trouble::Unknown)?;
    let service = config.service(&provider.message.service);
    let target = service.and_then(|service| service.target(port, "").ok());
    let target = Arc::clone(target.ok_or(Trouble::Unknown)?);
    let settings = target.cluster.settings();
    let context = PickContext::default();
    let pick = target
        .cluster
        .pick(&context, &mut rand::rng(), Instant::now())
        .map_err(|_| Trouble::NoEndpoint)?;
    let place = (&**pick.endpoint(), pick.target_port());
    let hop = hop_to(Some(&target), &settings, place, version).map_err(Trouble::Unreachable)?;
    let unreachable = |error: &dyn std::fmt::Display| Trouble::Unreachable(error.to_string());
    let (sender, key, limits, _) = connection_to(worker, Some(&target), &settings, &hop, version)
        .await
        .map_err(|error| unreachable(&error))?;
    let sent = send_on(sender, question).await;
    let (response, sender) = sent.map_err(|error| unreachable(&error))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| Trouble::Answer(error.to_string()))?;
    if let Sender::Http1(connection) = sender {
        worker.conns.give_back(&key, connection, limits);
    }
    let trailers = body.trailers().cloned();
    Ok(Response::from_parts(head, (body.to_bytes(), trailers)))
}

/// Of a provider's answer, body included.
const MAX_ANSWER: usize = 1 << 20;
/// Read beyond what a provider sees, at most: one frame.
const PEEK_SLACK: u64 = 64 << 10;
