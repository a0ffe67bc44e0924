//! A token that is good, and the memory of which ones were.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::keys::{Checked, KeySet};
use crate::model::JwtRule;
use crate::reject::Reason;
use crate::token::{Now, Parsed, Times};

/// What a good token says. Shared by the requests that carry it.
#[derive(Debug)]
pub struct Verified {
    /// Claim `iss`.
    pub issuer: String,
    /// Claim `sub`; empty where it is absent or not a text.
    pub subject: String,
    /// Every element of `aud`.
    pub audiences: Vec<String>,
    /// Claim `azp`.
    pub presenter: Option<String>,
    /// All claims; space-delimited ones are lists of strings.
    pub claims: Map<String, Value>,
    /// Headers that the rule asks for.
    pub(crate) outputs: Vec<(HeaderName, HeaderValue)>,
    times: Times,
}

impl Verified {
    /// `iss/sub`, absent if either is empty (4.9).
    pub fn principal(&self) -> Option<String> {
        let whole = !self.issuer.is_empty() && !self.subject.is_empty();
        whole.then(|| format!("{}/{}", self.issuer, self.subject))
    }

    fn new(rule: &JwtRule, parsed: Parsed<'_>, times: Times) -> Result<Self, Reason> {
        let audiences = parsed.audiences()?;
        if !rule.audiences.is_empty() && !rule.audiences.iter().any(|one| audiences.contains(one)) {
            return Err(Reason::Audience);
        }
        let text = |name: &str| parsed.claims.get(name).and_then(Value::as_str);
        let outputs = outputs(rule, &parsed);
        Ok(Self {
            issuer: parsed.issuer().to_owned(),
            subject: text("sub").unwrap_or_default().to_owned(),
            presenter: text("azp").map(str::to_owned),
            audiences,
            outputs,
            claims: split_words(parsed.claims, &rule.space_delimited),
            times,
        })
    }
}

fn split_words(mut claims: Map<String, Value>, delimited: &[String]) -> Map<String, Value> {
    for name in delimited {
        if let Some(value) = claims.get_mut(name)
            && let Some(text) = value.as_str()
        {
            *value = text.split_ascii_whitespace().map(Value::from).collect();
        }
    }
    claims
}

fn outputs(rule: &JwtRule, parsed: &Parsed<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut outputs = Vec::new();
    if let Some(name) = &rule.payload_header
        && let Ok(value) = HeaderValue::from_str(parsed.payload)
    {
        outputs.push((name.clone(), value));
    }
    for one in &rule.claim_headers {
        let text = match claim_at(&parsed.claims, &one.claim) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(yes)) => yes.to_string(),
            Some(Value::Number(number)) => number.to_string(),
            _ => continue,
        };
        if let Ok(value) = HeaderValue::from_str(&text) {
            outputs.push((one.header.clone(), value));
        }
    }
    outputs
}

/// A claim of that very name, else by its path.
fn claim_at<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    claims.get(name).or_else(|| {
        let mut path = name.split('.');
        let first = claims.get(path.next()?)?;
        path.try_fold(first, |value, key| value.as_object()?.get(key))
    })
}

/// Good tokens, by their digest, so that a signature is checked once while the
/// rule and its keys stay. Two generations of `capacity` each bound it.
#[derive(Debug)]
pub struct TokenCache {
    capacity: usize,
    generations: Mutex<Generations>,
}

/// Digest of the token, rule, key document.
type CacheKey = ([u8; 32], u64, u64);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<CacheKey, Arc<Verified>>,
    old: HashMap<CacheKey, Arc<Verified>>,
}

impl TokenCache {
    /// Room for at least `capacity` tokens, at most twice as many.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            generations: Mutex::default(),
        }
    }

    /// How many tokens are kept.
    pub fn len(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.len() + generations.old.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn get(&self, key: &CacheKey) -> Option<Arc<Verified>> {
        let mut generations = self.generations.lock();
        if let Some(known) = generations.young.get(key) {
            return Some(Arc::clone(known));
        }
        let known = generations.old.remove(key)?;
        generations.put(self.capacity, *key, Arc::clone(&known));
        Some(known)
    }

    fn put(&self, key: CacheKey, verified: Arc<Verified>) {
        self.generations.lock().put(self.capacity, key, verified);
    }

    fn forget(&self, key: &CacheKey) {
        let mut generations = self.generations.lock();
        generations.young.remove(key);
        generations.old.remove(key);
    }

    /// What a rule with these keys says of a token.
    pub(crate) fn verify(
        &self,
        rule: &JwtRule,
        keys: &KeySet,
        token: &str,
        now: Now,
    ) -> Result<Arc<Verified>, Reason> {
        let key = (sha256(token), rule.id, keys.id);
        if let Some(known) = self.get(&key) {
            return match known.times.check(now.unix) {
                Ok(()) => Ok(known),
                Err(reason) => {
                    self.forget(&key);
                    Err(reason)
                }
            };
        }
        let parsed = Parsed::parse(token)?;
        if parsed.issuer() != rule.issuer {
            return Err(Reason::Issuer);
        }
        let times = parsed.times()?;
        times.check(now.unix)?;
        let kid = parsed.kid.as_deref();
        let checked = keys.check(parsed.alg, kid, parsed.signed, &parsed.signature);
        match checked {
            Checked::NoKey => return Err(Reason::NoKey),
            Checked::Bad => return Err(Reason::Signature),
            Checked::Good => {}
        }
        let verified = Arc::new(Verified::new(rule, parsed, times)?);
        self.put(key, Arc::clone(&verified));
        Ok(verified)
    }
}

impl Generations {
    fn put(&mut self, capacity: usize, key: CacheKey, verified: Arc<Verified>) {
        if self.young.len() >= capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, verified);
    }
}

fn sha256(token: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes
        .iter_mut()
        .zip(digest(&SHA256, token.as_bytes()).as_ref())
    {
        *to = *from;
    }
    bytes
}
