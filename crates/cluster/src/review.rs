//! Who a bearer token belongs to, by asking the API server: TokenReview
//! (`control-plane-contract` 7.2).
//!
//! An answer is remembered for 30 s at most and never beyond the token's
//! own end, so a token that was revoked, or whose pod was deleted, is good for
//! that long; whoever lets a caller impersonate looks at its pod besides. Without
//! an answer nobody is accepted. Tokens are remembered by their hash, and no
//! error and no log repeats one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Asks one API server about tokens. Clones share what is remembered.
#[derive(Clone)]
pub struct TokenReviewer {
    shared: Arc<Shared>,
}

struct Shared {
    api: Api<TokenReview>,
    audiences: Vec<String>,
    limits: ReviewLimits,
    asking: Semaphore,
    known: Mutex<Known>,
}

/// Bounds of a [`TokenReviewer`].
#[derive(Debug, Clone, Copy)]
pub struct ReviewLimits {
    /// Reviews at a time; further ones wait within their deadline.
    pub concurrency: usize,
    /// For one question, waiting included.
    pub deadline: Duration,
    /// How long a good answer is remembered, at most.
    pub remember: Duration,
    /// How long a refusal is remembered, so that one client with a bad token
    /// doesn't occupy the API server.
    pub remember_refusal: Duration,
}

impl Default for ReviewLimits {
    fn default() -> Self {
        Self {
            concurrency: 32,
            deadline: Duration::from_secs(5),
            remember: REMEMBER,
            remember_refusal: Duration::from_secs(2),
        }
    }
}

/// The service account behind a token, as the API server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewed {
    /// Namespace of the account.
    pub namespace: String,
    /// Name of the account.
    pub account: String,
    /// The pod that the token is bound to.
    pub pod: Option<ReviewedPod>,
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewedPod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its node, where the API server says so.
    pub node: Option<String>,
}

/// Why a token isn't accepted. None of these repeats any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ReviewError {
    /// Longer than any service-account token, or empty.
    #[error("not the size of a service-account token")]
    Size,
    /// The API server doesn't know it: expired, revoked, of a deleted object, or forged.
    #[error("the API server refuses the token")]
    Unauthenticated,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    WrongAudience,
    /// It is no service account's.
    #[error("the token's user is not a service account")]
    NotServiceAccount,
    /// The API server gave no answer that could be used, in time.
    #[error("the API server gave no answer")]
    Unavailable(Unavailable),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unavailable {
    /// Too many questions before this one, or a slow answer.
    TimedOut,
    /// No connection, or it broke.
    Connection,
    /// It answered with an error: above all, that we may not ask.
    Refused,
}

impl ReviewError {
    /// A stable name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "token_size",
            Self::Unauthenticated => "review_unauthenticated",
            Self::WrongAudience => "wrong_audience",
            Self::NotServiceAccount => "not_service_account",
            Self::Unavailable(Unavailable::TimedOut) => "review_timed_out",
            Self::Unavailable(Unavailable::Connection) => "review_connection",
            Self::Unavailable(Unavailable::Refused) => "review_refused",
        }
    }

    /// Whether the same token may be good on the next attempt.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

type Answer = Result<Arc<Reviewed>, ReviewError>;
type Hash = [u8; 32];

/// Answers by the hash of their token.
#[derive(Default)]
struct Known {
    answers: HashMap<Hash, (Answer, Instant)>,
    /// Questions under way: who asks the same waits for the answer.
    asking: HashMap<Hash, Arc<tokio::sync::Mutex<()>>>,
}

impl TokenReviewer {
    /// A reviewer of tokens for one of the audiences.
    pub fn new(client: Client, audiences: Vec<String>, limits: ReviewLimits) -> Self {
        let shared = Shared {
            api: Api::all(client),
            audiences,
            asking: Semaphore::new(limits.concurrency.max(1)),
            limits,
            known: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The account behind a bearer token (without `Bearer `).
    ///
    /// # Errors
    /// The token isn't acceptable, or nobody could say.
    pub async fn review(&self, bearer: &str) -> Result<Arc<Reviewed>, ReviewError> {
        if bearer.is_empty() || bearer.len() > MAX_TOKEN {
            return Err(ReviewError::Size);
        }
        let hash = hash(bearer);
        if let Some(answer) = self.shared.remembered(&hash) {
            return answer;
        }
        let until = Instant::now() + self.shared.limits.deadline;
        let late = |_| ReviewError::Unavailable(Unavailable::TimedOut);
        timeout_at(until, self.shared.ask(bearer, hash))
            .await
            .map_err(late)?
    }
}

impl Shared {
    fn remembered(&self, hash: &Hash) -> Option<Answer> {
        let known = self.known.lock();
        let (answer, until) = known.answers.get(hash)?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    async fn ask(&self, bearer: &str, hash: Hash) -> Answer {
        let turn = self.turn(hash);
        let _mine = turn.lock().await;
        let _forget = Forget { shared: self, hash };
        // Somebody else's question may have been this one.
        if let Some(answer) = self.remembered(&hash) {
            return answer;
        }
        let Ok(_place) = self.asking.acquire().await else {
            return Err(ReviewError::Unavailable(Unavailable::TimedOut));
        };
        let asked = Instant::now();
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(bearer.to_owned()),
                audiences: Some(self.audiences.clone()),
            },
            ..TokenReview::default()
        };
        let answer = match self.api.create(&PostParams::default(), &review).await {
            Ok(review) => judge(review.status.unwrap_or_default(), &self.audiences),
            Err(error) => {
                let why = unavailable(&error);
                tracing::warn!(error = %without_token(&error), "token review");
                return Err(ReviewError::Unavailable(why));
            }
        };
        self.remember(hash, &answer, asked, ends_in(bearer));
        answer
    }

    fn turn(&self, hash: Hash) -> Arc<tokio::sync::Mutex<()>> {
        let mut known = self.known.lock();
        Arc::clone(known.asking.entry(hash).or_default())
    }

    /// From the moment of the question, not of the answer: that may have been slow.
    fn remember(&self, hash: Hash, answer: &Answer, asked: Instant, left: Option<Duration>) {
        let longest = match answer {
            Ok(_) => self.limits.remember.min(left.unwrap_or(Duration::ZERO)),
            Err(_) => self.limits.remember_refusal,
        };
        let mut known = self.known.lock();
        if known.answers.len() >= MOST {
            let now = Instant::now();
            known.answers.retain(|_, (_, until)| now < *until);
        }
        if known.answers.len() >= MOST {
            // All of them fresh: a flood. Forgetting costs only questions.
            known.answers.clear();
        }
        known
            .answers
            .insert(hash, (answer.clone(), asked + longest));
    }
}

/// Ends a question also when its asker has gone.
struct Forget<'a> {
    shared: &'a Shared,
    hash: Hash,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.known.lock().asking.remove(&self.hash);
    }
}

fn judge(status: TokenReviewStatus, audiences: &[String]) -> Answer {
    if status.authenticated != Some(true) {
        return Err(ReviewError::Unauthenticated);
    }
    // A server that names none doesn't look at audiences: the token may be anyone's.
    let named = status.audiences.unwrap_or_default();
    if !named.iter().any(|named| audiences.contains(named)) {
        return Err(ReviewError::WrongAudience);
    }
    let user = status.user.ok_or(ReviewError::NotServiceAccount)?;
    let groups = user.groups.unwrap_or_default();
    if !groups.iter().any(|group| group == ACCOUNTS) {
        return Err(ReviewError::NotServiceAccount);
    }
    let name = user.username.unwrap_or_default();
    let parts: Vec<&str> = name.split(':').collect();
    let ["system", "serviceaccount", namespace, account] = parts.as_slice() else {
        return Err(ReviewError::NotServiceAccount);
    };
    if namespace.is_empty() || account.is_empty() {
        return Err(ReviewError::NotServiceAccount);
    }
    let extra = user.extra.unwrap_or_default();
    let fact = |key: &str| {
        let values = extra.get(&format!("authentication.kubernetes.io/{key}"));
        let value = match values.map(Vec::as_slice) {
            Some([only]) => Some(only.clone()),
            // Several would leave open which of them holds.
            Some(_) | None => None,
        };
        value.filter(|value| !value.is_empty())
    };
    let pod = fact("pod-name").zip(fact("pod-uid"));
    Ok(Arc::new(Reviewed {
        namespace: (*namespace).to_owned(),
        account: (*account).to_owned(),
        pod: pod.map(|(name, uid)| ReviewedPod {
            name,
            uid,
            node: fact("node-name"),
        }),
    }))
}

fn unavailable(error: &kube::Error) -> Unavailable {
    match error {
        kube::Error::Api(_) | kube::Error::SerdeError(_) => Unavailable::Refused,
        _ => Unavailable::Connection,
    }
}

/// An error as the log may have it: a status of the API server may repeat what
/// it was sent.
fn without_token(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.reason),
        other => other.to_string(),
    }
}

fn hash(bearer: &str) -> Hash {
    let digest = digest(&SHA256, bearer.as_bytes());
    let mut hash = Hash::default();
    for (to, from) in hash.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    hash
}

/// How long the token says that it lives; only ever makes an answer forgotten
/// earlier, so that nothing depends on its signature here.
fn ends_in(bearer: &str) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Ends {
        exp: u64,
    }
    let claims = bearer.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let ends: Ends = serde_json::from_slice(&claims).ok()?;
    let ends = UNIX_EPOCH.checked_add(Duration::from_secs(ends.exp))?;
    ends.duration_since(SystemTime::now()).ok()
}

/// How long a token's answer is remembered: short enough that a deleted pod's
/// token is soon worth nothing, long enough that the burst of a node that
/// starts is one question.
const REMEMBER: Duration = Duration::from_secs(30);
const ACCOUNTS: &str = "system:serviceaccounts";
/// Real tokens are below 2 KiB.
const MAX_TOKEN: usize = 16 * 1024;
/// Answers that are remembered: many times the proxies of a large cluster.
const MOST: usize = 20_000;

#[cfg(test)]
mod tests;
