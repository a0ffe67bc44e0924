//! What ties a request to an endpoint: a session that it brought, or what is
//! hashed of it; and what the response says so that the next one comes back.

use std::sync::Arc;
use std::time::SystemTime;

use ambit_route::SessionPersistence;
use ambit_upstream::Settings;
use http::header::SET_COOKIE;

use super::forward::Call;
use super::respond::Decor;

/// The ties of one request.
pub(crate) struct Affinity {
    pub(crate) hash: Option<u64>,
    /// Uid of the session's endpoint.
    pub(crate) session: Option<String>,
    /// Retries go elsewhere.
    pub(crate) avoids: bool,
    pub(crate) other_locality: bool,
}

impl Affinity {
    pub(crate) fn find(call: &Call<'_>, settings: &Settings, decor: &mut Decor) -> Self {
        let retry = call.rule.and_then(|rule| rule.retry.as_deref());
        let retry = retry.unwrap_or(&call.config.gateway.default_retry);
        let mut found = Self {
            hash: None,
            session: None,
            avoids: retry.avoid_previous_hosts,
            other_locality: retry.remote_localities,
        };
        let headers = &call.head.headers;
        if let Some(policy) = &settings.policy.balancer.hash {
            let source = call.inner.source.ip();
            let query = call.checked.target.query();
            let key = policy.key(headers, query, source, &mut rand::rng());
            found.hash = key.hash;
            decor.cookies.extend(key.set_cookie);
        }
        if let Some(persistence) = persistence(call) {
            let token = persistence.read(headers);
            let token = token.filter(|token| !persistence.expired(token, now_ms()));
            found.session = token.map(|token| token.endpoint);
        }
        found
    }

    /// Writes the session, where there is none yet or its endpoint is another.
    pub(crate) fn finish(&self, call: &Call<'_>, uid: &Arc<str>, decor: &mut Decor) {
        let Some(persistence) = persistence(call) else {
            return;
        };
        if self.session.as_deref() == Some(&**uid) {
            return;
        }
        if let Some((name, value)) = persistence.write(uid, now_ms()) {
            if name == SET_COOKIE {
                decor.cookies.push(value);
            } else {
                decor.headers.push((name, value));
            }
        }
    }
}

fn persistence<'c>(call: &Call<'c>) -> Option<&'c SessionPersistence> {
    call.rule.and_then(|rule| rule.session.as_deref())
}

fn now_ms() -> u64 {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    unix.map_or(0, |unix| {
        u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
    })
}
