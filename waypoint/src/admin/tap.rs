//! `GET /tap` on the admin port: requests as they end, one JSON object a line,
//! for whoever can read the token that this process left on its disk.
//!
//! Nobody waits for a reader: one that is slow loses entries and is told how
//! many. `filter` is an expression as in access log filters, `max` a number of
//! entries after which the stream ends.

use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::AUTHORIZATION;
use ::http::{HeaderMap, Method, StatusCode};
use ambit_observe::{Expression, Observed, Subscription};
use ambit_runtime::Scope;
use ambit_telemetry::http::{self, Streamed, text};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

use crate::node::Node;

/// Who may read requests: whoever has the token; without one nobody.
#[derive(Clone)]
pub(super) struct Tap {
    token: Option<Arc<str>>,
    node: Arc<Node>,
    scope: Scope,
}

/// A query that can't be followed.
#[derive(Debug, thiserror::Error)]
enum BadQuery {
    #[error("unknown parameter {0:?}; use filter= and max=")]
    Unknown(String),
    #[error("{0} is not percent-encoded UTF-8")]
    Encoding(&'static str),
    #[error("max is not a number: {0:?}")]
    Max(String),
    #[error("filter: {0}")]
    Filter(String),
}

#[derive(Default)]
struct Query {
    filter: Option<Expression>,
    max: Option<u64>,
}

impl Tap {
    pub(super) fn new(token: Option<Arc<str>>, node: &Arc<Node>, scope: &Scope) -> Self {
        Self {
            token,
            node: Arc::clone(node),
            scope: scope.clone(),
        }
    }

    pub(super) fn answer(&self, method: &Method, headers: &HeaderMap, query: &str) -> Streamed {
        let refused = |code, why: String| Streamed::Whole(text(code, why));
        if method != Method::GET {
            return Streamed::Whole(http::status(StatusCode::METHOD_NOT_ALLOWED));
        }
        let Some(token) = &self.token else {
            let why = "there is no token file: set AMBIT_TAP_TOKEN_FILE\n";
            return refused(StatusCode::FORBIDDEN, why.to_owned());
        };
        if !bearer(headers).is_some_and(|said| same(said.as_bytes(), token.as_bytes())) {
            return refused(
                StatusCode::UNAUTHORIZED,
                "a bearer token is needed\n".to_owned(),
            );
        }
        let query = match Query::read(query) {
            Ok(query) => query,
            Err(error) => return refused(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let subscription = match self.node.observer.recorder.subscribe(query.filter) {
            Ok(subscription) => subscription,
            Err(error) => return refused(StatusCode::TOO_MANY_REQUESTS, format!("{error}\n")),
        };
        let (sender, lines) = mpsc::channel(BEHIND);
        let max = query.max.unwrap_or(u64::MAX);
        self.scope.spawn("tap", pump(subscription, sender, max));
        Streamed::Parts("application/x-ndjson", lines)
    }
}

async fn pump(mut subscription: Subscription, sender: mpsc::Sender<Bytes>, mut left: u64) {
    while left > 0 {
        let next = tokio::select! {
            next = subscription.next() => next,
            () = tokio::time::sleep(STILL_THERE) => {
                // A reader that has gone is found out by writing to it.
                if sender.send(Bytes::from_static(b"\n")).await.is_err() {
                    return;
                }
                continue;
            }
            () = sender.closed() => return,
        };
        let line = match next {
            None => return,
            Some(Observed::Request(summary)) => {
                left -= 1;
                serde_json::to_vec(&*summary)
            }
            Some(Observed::Lost(lost)) => serde_json::to_vec(&json!({ "lost": lost })),
        };
        let Ok(mut line) = line else { continue };
        line.push(b'\n');
        if sender.send(line.into()).await.is_err() {
            return;
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    Some(value.strip_prefix("Bearer ")?.trim())
}

/// Compared whole, so that time says nothing of where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    let different = a.iter().zip(b).fold(0, |acc, (a, b)| acc | (a ^ b));
    a.len() == b.len() && different == 0
}

impl Query {
    fn read(text: &str) -> Result<Self, BadQuery> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "filter" => {
                    let filter = decode(value).ok_or(BadQuery::Encoding("filter"))?;
                    let filter = filter.parse::<Expression>();
                    let filter = filter.map_err(|error| BadQuery::Filter(error.to_string()))?;
                    query.filter = Some(filter);
                }
                "max" => {
                    let max = value.parse();
                    query.max = Some(max.map_err(|_| BadQuery::Max(value.to_owned()))?);
                }
                other => return Err(BadQuery::Unknown(other.to_owned())),
            }
        }
        Ok(query)
    }
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high << 4 | low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// Leaves a new token, for our own user alone; an old file is replaced, so that
/// nobody who had it open or linked it keeps a say.
///
/// # Errors
/// The file can't be made, or there is no randomness.
pub(super) fn leave_token(path: &Path) -> io::Result<Arc<str>> {
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let mut token = String::with_capacity(64);
    for byte in random {
        use std::fmt::Write as _;
        // Writing to a string doesn't fail.
        let _ = write!(token, "{byte:02x}");
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(token.as_bytes())?;
    Ok(token.into())
}

/// An empty line is sent where nothing was for so long.
const STILL_THERE: Duration = Duration::from_secs(3);
/// Lines that wait for a reader's socket; the recorder holds as many again.
const BEHIND: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_or_refused_with_what_is_wrong() {
        let query = Query::read("filter=request.method%20%3D%3D+%27GET%27&max=3").unwrap();
        assert!(query.filter.is_some() && query.max == Some(3));
        for (bad, named) in [
            ("max=x", "max"),
            ("filter=%zz", "filter"),
            ("filter=1+%2B", "filter"),
            ("limit=1", "limit"),
        ] {
            let error = Query::read(bad).err().unwrap().to_string();
            assert!(error.contains(named), "{bad}: {error}");
        }
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"abc", b"abc"));
        for (a, b) in [("abc", "abd"), ("abc", "ab"), ("", "a"), ("ab", "abc")] {
            assert!(!same(a.as_bytes(), b.as_bytes()), "{a} {b}");
        }
    }
}
