//! Who asks for what, as policies, token rules, routes and limits see it: the
//! second half of `waypoint-contract` 1.11, up to the route.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ambit_jwt::{Context, JwtRequest, Outcome, Passed, Verified, Wait};
use ambit_observe::Tag;
use ambit_policy::http::{HttpAttrs, HttpPolicies, HttpRequest, HttpVerdict, RequestAuth, Shadow};
use ambit_upstream::{LimitRequest, LimitVerdict};
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::head::Checked;
use super::reply::{Flag, LocalReply};
use super::server::Inner;
use crate::config::Gateway;
use crate::destination::Found;

/// A request's asker, once its head has been checked.
pub(crate) struct Subject<'r> {
    pub(crate) inner: &'r Arc<Inner>,
    pub(crate) port: u16,
    pub(crate) remote_ip: Option<IpAddr>,
    pub(crate) token: Option<Arc<Verified>>,
}

impl<'r> Subject<'r> {
    /// Before anything is known of tokens.
    pub(crate) fn new(
        gateway: &Gateway,
        inner: &'r Arc<Inner>,
        found: &Found<'_>,
        headers: &HeaderMap,
    ) -> Self {
        Self {
            inner,
            port: found.service_port(),
            remote_ip: remote_ip(headers, gateway.trusted_proxies),
            token: None,
        }
    }

    /// What policies see.
    pub(crate) fn attrs<'a>(&'a self, head: &'a Parts, checked: &'a Checked) -> HttpAttrs<'a> {
        HttpAttrs {
            source_ip: self.inner.source.ip(),
            remote_ip: self.remote_ip,
            peer: Some(&self.inner.peer),
            destination_ip: self.inner.dialled.ip(),
            destination_port: self.port,
            sni: None,
            http: Some(HttpRequest {
                method: head.method.as_str(),
                host: checked.authority.to_str().unwrap_or_default(),
                path: checked.target.path(),
                headers: &head.headers,
                auth: self.token.as_deref().map(|token| RequestAuth {
                    issuer: &token.issuer,
                    subject: &token.subject,
                    audiences: &token.audiences,
                    presenter: token.presenter.as_deref(),
                    claims: &token.claims,
                }),
            }),
        }
    }

    /// Verifies tokens, takes them out where that is said, and adds what they
    /// say where that is said.
    ///
    /// # Errors
    /// 401 or 403 for a bad token.
    pub(crate) async fn authenticate(
        &mut self,
        found: &Found<'_>,
        head: &mut Parts,
        checked: &mut Checked,
    ) -> Result<(), LocalReply> {
        let authenticator = match found {
            Found::Service { port, .. } => &port.authenticator,
            Found::Workload { pod, .. } => &pod.authenticator,
        };
        if authenticator.is_empty() {
            return Ok(());
        }
        let passed = self.verify(authenticator, head, checked).await?;
        let target = checked.target.as_str().to_owned();
        if let Some(other) = authenticator.apply(&passed, &mut head.headers, &target)
            && let Ok(other) = PathAndQuery::try_from(other)
        {
            checked.target = other;
        }
        self.token = passed.token;
        Ok(())
    }

    async fn verify(
        &self,
        authenticator: &ambit_jwt::Authenticator,
        head: &Parts,
        checked: &Checked,
    ) -> Result<Passed, LocalReply> {
        let keys = &self.inner.worker.node.keys;
        let mut waiting_until = None;
        loop {
            let mut changed = keys.changed();
            let request = JwtRequest {
                method: head.method.as_str(),
                scheme: "http",
                host: checked.authority.to_str().unwrap_or_default(),
                path_and_query: checked.target.as_str(),
                headers: &head.headers,
            };
            let late = waiting_until.is_some_and(|at| tokio::time::Instant::now() >= at);
            let wait = if late { Wait::No } else { Wait::May };
            let context = Context {
                keys: &keys.cache,
                tokens: &keys.tokens,
                now: now(),
            };
            match authenticator.authenticate(&request, context, wait) {
                Outcome::Passed(passed) => return Ok(passed),
                Outcome::Rejected(rejection) => {
                    if rejection.refetch {
                        keys.wake();
                    }
                    return Err(rejected(&rejection));
                }
                Outcome::Pending(pending) => {
                    let bound = pending.source.timeout;
                    let until =
                        *waiting_until.get_or_insert_with(|| tokio::time::Instant::now() + bound);
                    // Late is what the next turn finds out.
                    let _ = tokio::time::timeout_at(until, changed.changed()).await;
                }
            }
        }
    }

    /// AUDIT, DENY, ALLOW; and what dry-run policies say, as tags of the span.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn authorize(
        &self,
        policies: &HttpPolicies,
        head: &Parts,
        checked: &Checked,
    ) -> Result<Vec<Tag>, LocalReply> {
        if policies.is_empty() {
            return Ok(Vec::new());
        }
        let attrs = self.attrs(head, checked);
        let decision = policies.evaluate(&attrs);
        judge(decision.verdict)?;
        Ok(dry_run(&decision.shadow))
    }

    /// The policies that stand in for those of the workload that was picked.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn authorize_workload(
        &self,
        policies: &HttpPolicies,
        uid: &str,
        head: &Parts,
        checked: &Checked,
    ) -> Result<(), LocalReply> {
        if !policies.asks_workload() {
            return Ok(());
        }
        let attrs = self.attrs(head, checked);
        judge(policies.evaluate_workload(uid, &attrs).verdict)
    }

    /// Claims, as routes match them.
    pub(crate) fn claims(&self) -> Option<Value> {
        let token = self.token.as_ref()?;
        Some(Value::Object(token.claims.clone()))
    }

    /// Local rate limits; the headers that the response is to get.
    ///
    /// # Errors
    /// 429.
    pub(crate) fn limit(
        &self,
        limits: &[Arc<ambit_upstream::RateLimit>],
        headers: &HeaderMap,
        told: &mut Vec<(HeaderName, HeaderValue)>,
    ) -> Result<(), LocalReply> {
        if limits.is_empty() {
            return Ok(());
        }
        let principal = self.inner.peer.principal().to_string();
        let request = LimitRequest {
            principal: Some(&principal),
            headers,
        };
        for limit in limits {
            match limit.check(&request, Instant::now(), &mut rand::rng()) {
                LimitVerdict::Allowed(standing) => {
                    told.extend(standing.iter().flat_map(|standing| standing.headers()));
                }
                LimitVerdict::Limited(limited) => {
                    let mut reply = LocalReply::new(
                        StatusCode::TOO_MANY_REQUESTS,
                        "local_rate_limited",
                        Flag::RateLimited,
                        format!("local_rate_limited{{{}}}", limited.rule),
                    );
                    reply.grpc_status = Some(u32::from(limited.grpc_status));
                    let yes = HeaderValue::from_static("true");
                    reply.headers.insert(RATE_LIMITED, yes);
                    let standing = limited.standing.iter();
                    reply
                        .headers
                        .extend(standing.flat_map(|standing| standing.headers()));
                    return Err(reply);
                }
            }
        }
        Ok(())
    }
}

/// The tags of 4.8.
fn dry_run(shadow: &Shadow<'_>) -> Vec<Tag> {
    let mut tags: Vec<Tag> = Vec::new();
    let kinds = [
        (DRY_RUN_DENY, shadow.deny, shadow.deny_result()),
        (DRY_RUN_ALLOW, shadow.allow, shadow.allow_result()),
    ];
    for ([name, result], hit, said) in kinds {
        let Some(said) = said else { continue };
        if let Some(Some(rule)) = hit {
            tags.push((name.into(), rule.to_string()));
        }
        tags.push((result.into(), said.to_owned()));
    }
    tags
}

const DRY_RUN_DENY: [&str; 2] = [
    "istio.authorization.dry_run.deny_policy.name",
    "istio.authorization.dry_run.deny_policy.result",
];
const DRY_RUN_ALLOW: [&str; 2] = [
    "istio.authorization.dry_run.allow_policy.name",
    "istio.authorization.dry_run.allow_policy.result",
];

fn judge(verdict: HttpVerdict<'_>) -> Result<(), LocalReply> {
    match verdict {
        HttpVerdict::Allow(_) => Ok(()),
        HttpVerdict::Deny(by) => Err(LocalReply::denied(by.to_string())),
    }
}

fn rejected(rejection: &ambit_jwt::Rejection) -> LocalReply {
    let status = StatusCode::from_u16(rejection.status());
    let mut reply = LocalReply::new(
        status.unwrap_or(StatusCode::UNAUTHORIZED),
        rejection.text(),
        None,
        rejection.details(),
    );
    let value = rejection.www_authenticate.clone();
    reply.headers.insert(WWW_AUTHENTICATE, value);
    reply
}

fn now() -> ambit_jwt::Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    ambit_jwt::Now {
        mono: Instant::now(),
        unix: unix.unwrap_or(Duration::ZERO),
    }
}

/// The client's address by the right-most trusted hops of `x-forwarded-for`
/// (1.7).
fn remote_ip(headers: &HeaderMap, trusted: usize) -> Option<IpAddr> {
    if trusted == 0 {
        return None;
    }
    let lines = headers.get_all("x-forwarded-for").iter();
    let lines: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
    let hops: Vec<&str> = lines
        .iter()
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .collect();
    let at = hops.len().checked_sub(trusted)?;
    hops.get(at)?.parse().ok()
}

const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_hops_count() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "1.1.1.1, 2.2.2.2".parse().unwrap());
        headers.append("x-forwarded-for", "3.3.3.3".parse().unwrap());
        let of = |trusted| remote_ip(&headers, trusted).map(|ip| ip.to_string());
        assert_eq!(of(0), None);
        assert_eq!(of(1).as_deref(), Some("3.3.3.3"));
        assert_eq!(of(3).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(4), None);
    }
}
