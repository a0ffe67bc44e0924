//! What a request's tokens make of it (4.9).

use std::borrow::Cow;
use std::sync::Arc;

use ambit_types::NamespacedHostname;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderMap, HeaderName};

use crate::cache::{KeyCache, Known};
use crate::keys::KeySet;
use crate::location::Location;
use crate::model::{Authentication, JwtRule, KeySource, RemoteKeys};
use crate::reject::{Reason, Rejection};
use crate::token::{MAX_TOKEN, Now, Parsed};
use crate::verify::{TokenCache, Verified};

/// Most tokens of one request that are looked at; one more is refused.
const MAX_TOKENS: usize = 8;

/// The rules that hold for one service port, of all objects, by issuer.
#[derive(Debug, Clone, Default)]
pub struct Authenticator {
    rules: Vec<Arc<JwtRule>>,
    places: Vec<Place>,
    /// Headers that only a verified token may fill.
    outputs: Vec<HeaderName>,
}

/// A place where tokens are looked for.
#[derive(Debug, Clone)]
struct Place {
    location: Location,
    /// The rules that look there, by their place in `rules`.
    rules: Vec<usize>,
}

/// The parts of a request that count here, as they came.
#[derive(Debug, Clone, Copy)]
pub struct JwtRequest<'r> {
    /// Method.
    pub method: &'r str,
    /// `http` or `https`, for the realm.
    pub scheme: &'r str,
    /// `Host` or `:authority`.
    pub host: &'r str,
    /// With its query.
    pub path_and_query: &'r str,
    /// Headers.
    pub headers: &'r HeaderMap,
}

/// What is shared by all requests.
#[derive(Debug, Clone, Copy)]
pub struct Context<'c> {
    /// Keys that are fetched.
    pub keys: &'c KeyCache,
    /// Tokens that were good.
    pub tokens: &'c TokenCache,
    /// The present.
    pub now: Now,
}

/// Whether a request can wait for keys that are being fetched for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// [`Outcome::Pending`] is possible.
    May,
    /// It has waited long enough: refuse instead.
    No,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It goes on, with or without an identity.
    Passed(Passed),
    /// Its keys are on their way.
    Pending(Pending),
    /// It is answered here.
    Rejected(Rejection),
}

/// Keys that a request waits for.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Whose; wait no longer than its timeout.
    pub source: Arc<RemoteKeys>,
}

/// A request that goes on.
#[derive(Debug, Default)]
pub struct Passed {
    /// What its token says; absent without a token.
    pub token: Option<Arc<Verified>>,
    /// Where tokens are taken out, by their place in `places`.
    strip: Vec<usize>,
}

impl Authenticator {
    /// The rules of those objects that hold for a service port, or without a
    /// service for an address. `workload` is the one that the client addressed
    /// itself, if it did.
    pub fn bind<'a>(
        objects: impl IntoIterator<Item = &'a Arc<Authentication>>,
        frontend: Option<&NamespacedHostname>,
        port: u16,
        workload: Option<&str>,
    ) -> Self {
        let held = objects
            .into_iter()
            .filter(|object| object.holds_for(frontend, port, workload));
        let mut rules: Vec<_> = held
            .flat_map(|object| object.rules.iter().cloned())
            .collect();
        rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        let (mut places, mut outputs) = (Vec::<Place>::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            for location in &rule.locations {
                match places.iter_mut().find(|place| place.location == *location) {
                    Some(place) => place.rules.push(index),
                    None => places.push(Place {
                        location: location.clone(),
                        rules: vec![index],
                    }),
                }
            }
            outputs.extend(rule.payload_header.clone());
            outputs.extend(rule.claim_headers.iter().map(|one| one.header.clone()));
        }
        Self {
            rules,
            places,
            outputs,
        }
    }

    /// True if nothing needs to be asked.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The sources that its rules need, for [`KeyCache::retain`].
    pub fn sources(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.rules.iter().filter_map(|rule| match &rule.keys {
            KeySource::Remote(source) => Some(source),
            KeySource::Inline(_) | KeySource::Unusable(_) => None,
        })
    }

    /// Looks for tokens and verifies every one.
    pub fn authenticate(&self, request: &JwtRequest<'_>, ctx: Context<'_>, wait: Wait) -> Outcome {
        if self.rules.is_empty() || is_preflight(request) {
            return Outcome::Passed(Passed::default());
        }
        let mut refetch = false;
        match self.verify_all(request, ctx, wait, &mut refetch) {
            Ok(outcome) => outcome,
            Err(reason) => Outcome::Rejected(Rejection {
                refetch,
                ..Rejection::new(reason, request.scheme, request.host, request.path_and_query)
            }),
        }
    }

    fn verify_all(
        &self,
        request: &JwtRequest<'_>,
        ctx: Context<'_>,
        wait: Wait,
        refetch: &mut bool,
    ) -> Result<Outcome, Reason> {
        let mut found: Vec<(usize, Cow<'_, str>)> = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            place
                .location
                .find(request.headers, request.path_and_query, &mut |token| {
                    // The same token in the same place twice is one.
                    if !found.iter().any(|(at, one)| *at == index && *one == token) {
                        found.push((index, token));
                    }
                });
        }
        if found.len() > MAX_TOKENS {
            return Err(Reason::Ambiguous);
        }
        let mut passed = Passed::default();
        for (index, token) in &found {
            let (rule, verified) = match self.verify(*index, token, ctx, &mut *refetch) {
                Err(Missing::Coming(source)) if wait == Wait::May => {
                    return Ok(Outcome::Pending(Pending { source }));
                }
                Err(Missing::Coming(_)) => return Err(Reason::KeysUnavailable),
                Err(Missing::Bad(reason)) => return Err(reason),
                Ok(verified) => verified,
            };
            match &passed.token {
                Some(first) if !same_principal(first, &verified) => return Err(Reason::Ambiguous),
                Some(_) => {}
                None => passed.token = Some(verified),
            }
            if !rule.forward {
                passed.strip.push(*index);
            }
        }
        Ok(Outcome::Passed(passed))
    }

    /// Any rule that looks there and knows the issuer may accept the token.
    fn verify(
        &self,
        place: usize,
        token: &str,
        ctx: Context<'_>,
        refetch: &mut bool,
    ) -> Result<(&JwtRule, Arc<Verified>), Missing> {
        if token.len() > MAX_TOKEN {
            return Err(Missing::Bad(Reason::TooLarge));
        }
        let looking = self.places.get(place).map_or(&[][..], |place| &place.rules);
        let mut worst = None;
        for rule in looking.iter().filter_map(|at| self.rules.get(*at)) {
            match verify_with(rule, token, ctx, refetch) {
                Ok(verified) => return Ok((rule, verified)),
                // Says less than any other reason: another rule is meant.
                Err(Missing::Bad(Reason::Issuer)) => {}
                Err(why) => worst = worst.or(Some(why)),
            }
        }
        Err(worst.unwrap_or(Missing::Bad(Reason::Issuer)))
    }

    /// Prepares a request that goes on: takes tokens out, removes what a client
    /// forged, adds what rules ask for. To be called for **every** passed
    /// request, before authorization. Returns the new path and query if it changed.
    pub fn apply(
        &self,
        passed: &Passed,
        headers: &mut HeaderMap,
        path_and_query: &str,
    ) -> Option<String> {
        for name in &self.outputs {
            headers.remove(name);
        }
        let mut path = Cow::Borrowed(path_and_query);
        for place in passed.strip.iter().filter_map(|at| self.places.get(*at)) {
            place.location.strip(headers, &mut path);
        }
        if let Some(token) = &passed.token {
            for (name, value) in &token.outputs {
                headers.append(name, value.clone());
            }
        }
        match path {
            Cow::Borrowed(_) => None,
            Cow::Owned(path) => Some(path),
        }
    }
}

/// Why there is no verified token.
enum Missing {
    Bad(Reason),
    Coming(Arc<RemoteKeys>),
}

fn verify_with(
    rule: &JwtRule,
    token: &str,
    ctx: Context<'_>,
    refetch: &mut bool,
) -> Result<Arc<Verified>, Missing> {
    let verify = |keys: &KeySet| ctx.tokens.verify(rule, keys, token, ctx.now);
    let source = match &rule.keys {
        KeySource::Inline(keys) => return verify(keys).map_err(Missing::Bad),
        KeySource::Unusable(_) => {
            return Err(Missing::Bad(without_keys(rule, token, ctx.now)));
        }
        KeySource::Remote(source) => source,
    };
    let failed = match ctx.keys.known(source) {
        Known::Keys(keys) => match verify(&keys) {
            Ok(verified) => return Ok(verified),
            Err(Reason::NoKey) => Reason::NoKey,
            Err(reason) => return Err(Missing::Bad(reason)),
        },
        Known::Coming | Known::Failed => match without_keys(rule, token, ctx.now) {
            Reason::KeysUnavailable => Reason::KeysUnavailable,
            // Bad in any case: nobody waits for keys because of it.
            reason => return Err(Missing::Bad(reason)),
        },
    };
    if failed == Reason::KeysUnavailable && matches!(ctx.keys.known(source), Known::Coming) {
        return Err(Missing::Coming(Arc::clone(source)));
    }
    *refetch |= ctx.keys.ask(source, ctx.now.mono);
    Err(Missing::Bad(failed))
}

/// What is wrong with a token that no key is known for.
fn without_keys(rule: &JwtRule, token: &str, now: Now) -> Reason {
    let checked = Parsed::parse(token).and_then(|parsed| {
        if parsed.issuer() != rule.issuer {
            return Err(Reason::Issuer);
        }
        parsed.times()?.check(now.unix)
    });
    checked.err().unwrap_or(Reason::KeysUnavailable)
}

fn same_principal(a: &Verified, b: &Verified) -> bool {
    a.issuer == b.issuer && a.subject == b.subject
}

/// CORS preflights carry no credentials (1.11).
fn is_preflight(request: &JwtRequest<'_>) -> bool {
    request.method == "OPTIONS"
        && request.headers.contains_key(ORIGIN)
        && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}
