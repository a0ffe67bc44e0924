//! An API server for tests of clients: objects in memory, on a loopback port or without one, and faults on request.
//!
//! Speaks what Ambit's own clients use: get, list in pages, watch, create, replace, apply, merge patches and delete with
//! their preconditions, selectors, resource versions, generations, the `status` subresource and field ownership. It
//! knows no kinds: no schema, no defaults, no admission. What real servers do is for the tests on one.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

mod apply;
mod asked;
mod state;
mod watching;

use asked::Asked;
pub use state::Snapshot;
use state::State;
use watching::Watch;
pub use watching::{bookmark, event};

/// A server; it ends when the last clone is gone.
#[derive(Clone)]
pub struct ApiServer {
    address: Option<SocketAddr>,
    shared: Arc<Shared>,
    _serving: Option<Arc<Serving>>,
}

struct Serving(tokio::task::AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    faults: Mutex<Faults>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Faults {
    always: Option<Fault>,
    /// By verb and the end of the path; each comes once.
    next: VecDeque<(&'static str, &'static str, Trouble)>,
    down: bool,
}

type Fault = Box<dyn FnMut(&str, &str) -> Option<Trouble> + Send>;

/// One request that was served.
#[derive(Debug, Clone)]
pub struct Served {
    /// `PATCH`, or `APPLY` for a patch that applies; `GET` for one object, `LIST` and `WATCH` for many.
    pub verb: String,
    /// Without the query.
    pub path: String,
    /// Of what was sent.
    pub body: Value,
    /// Of the answer.
    pub code: u16,
}

/// Whether a verb changes anything.
pub fn is_write(verb: &str) -> bool {
    !matches!(verb, "GET" | "LIST" | "WATCH")
}

/// What happens to a request instead of, or before, its being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// This answer, and nothing else is done.
    Refuse(u16),
    /// The same, in these words.
    Say(u16, &'static str),
    /// It is done, and this is answered all the same.
    LoseAnswer(u16),
    /// It is done after this long.
    Delay(Duration),
    /// It is done, and the connection ends in the middle of the answer.
    Cut,
    /// A list that lacks everything.
    Empty,
}

/// What an answer consists of.
pub type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

impl ApiServer {
    /// One on no port, for clients that [ask](Self::answer) it directly.
    pub fn unbound() -> Self {
        Self {
            address: None,
            shared: Arc::default(),
            _serving: None,
        }
    }

    /// Starts one on a free port.
    ///
    /// # Errors
    /// No port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let unbound = Self::unbound();
        let served = unbound.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "aborted when the server is dropped"
        )]
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let served = served.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let served = served.clone();
                        async move { served.answer(request).await }
                    });
                    let builder = Builder::new();
                    let stream = TokioIo::new(stream);
                    let _ = builder.serve_connection(stream, service).await;
                });
            }
        });
        Ok(Self {
            address: Some(address),
            _serving: Some(Arc::new(Serving(task.abort_handle()))),
            ..unbound
        })
    }

    /// Where it is, for a client; nowhere if it is on no port.
    pub fn url(&self) -> String {
        let address = self.address.map(|address| format!("http://{address}"));
        address.unwrap_or_default()
    }

    /// From now on each request is shown to this (verb and path), which may make trouble.
    pub fn trouble(&self, fault: impl FnMut(&str, &str) -> Option<Trouble> + Send + 'static) {
        self.shared.faults().always = Some(Box::new(fault));
    }

    /// The next request with this verb whose path ends so meets trouble.
    pub fn trouble_once(&self, verb: &'static str, path: &'static str, trouble: Trouble) {
        self.shared.faults().next.push_back((verb, path, trouble));
    }

    /// No more trouble.
    pub fn calm(&self) {
        let mut faults = self.shared.faults();
        faults.always = None;
        faults.next.clear();
    }

    /// From now on nobody answers, or somebody does again. Watches end.
    pub fn set_down(&self, down: bool) {
        self.shared.faults().down = down;
        if down {
            self.end_watches();
        }
    }

    /// What it holds at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.shared.lock().get(path)
    }

    /// Every path that it holds.
    pub fn paths(&self) -> Vec<String> {
        self.shared.lock().paths()
    }

    /// Puts an object there as somebody else would; it gets its uid and versions.
    pub fn put(&self, path: &str, object: Value) {
        self.shared.lock().put(path, object);
    }

    /// Puts an object into a collection, or that of its namespace; its version.
    pub fn add(&self, collection: &str, object: Value) -> u64 {
        let of = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let (namespace, name) = (of("/metadata/namespace"), of("/metadata/name"));
        let path = path(
            collection,
            namespace.unwrap_or_default(),
            name.unwrap_or_default(),
        );
        self.shared.lock().put(&path, object)
    }

    /// Deletes an object as somebody else would.
    pub fn delete(&self, path: &str) {
        self.shared.lock().delete(path);
    }

    /// Deletes an object of a collection, or of that of its namespace.
    pub fn remove(&self, collection: &str, namespace: &str, name: &str) {
        self.delete(&path(collection, namespace, name));
    }

    /// What was asked, in order.
    pub fn served(&self) -> Vec<Served> {
        self.shared.lock().served.clone()
    }

    /// What was asked since the last call of this.
    pub fn take_served(&self) -> Vec<Served> {
        std::mem::take(&mut self.shared.lock().served)
    }

    /// How often a path was asked for with a verb.
    pub fn count(&self, verb: &str, path: &str) -> usize {
        let state = self.shared.lock();
        let asked = state.served.iter();
        asked
            .filter(|one| one.verb == verb && one.path == path)
            .count()
    }

    /// Objects a page, whatever is asked for.
    pub fn page(&self, size: usize) {
        self.shared.lock().page = Some(size);
    }

    /// Ends every watch, as a server does that restarts or rolls its connections.
    pub fn end_watches(&self) {
        self.shared.lock().end_watches();
    }

    /// Forgets all history.
    pub fn compact(&self) {
        self.shared.lock().compact();
    }

    /// A line for whoever watches the path now.
    pub fn inject(&self, path: &str, line: &str) {
        self.shared.lock().inject(path, line);
    }

    /// A sign of life, with the newest version, for whoever watches the path now.
    pub fn bookmark(&self, path: &str) {
        let line = bookmark(self.shared.lock().version);
        self.inject(path, &line);
    }

    /// Everything as it is, for a later [`restore`](Self::restore).
    pub fn snapshot(&self) -> Snapshot {
        self.shared.lock().snapshot()
    }

    /// As after a restore from an older snapshot: everything is as it was, versions go on from there, and watches hear
    /// nothing of it.
    pub fn restore(&self, old: &Snapshot) {
        self.shared.lock().restore(old);
    }

    /// The next change gets a version after this one.
    pub fn skip_to(&self, version: u64) {
        self.shared.lock().version = version;
    }

    /// Answers a request.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn answer<B>(&self, request: Request<B>) -> io::Result<Response<AnswerBody>>
    where
        B: Body,
    {
        let asked = Asked::read(request).await;
        let trouble = self.shared.faults().meets(&asked)?;
        if let Some(Trouble::Delay(wait)) = trouble {
            tokio::time::sleep(wait).await;
        }
        let (code, body) = match trouble {
            Some(Trouble::Refuse(code)) => refusal(code, &format!("the test says {code}")),
            Some(Trouble::Say(code, why)) => refusal(code, why),
            Some(Trouble::LoseAnswer(code)) => {
                let _ = self.shared.lock().answer(&asked);
                refusal(code, "the answer is lost")
            }
            Some(Trouble::Empty) => {
                let version = self.shared.lock().version.to_string();
                (
                    200,
                    json!({"metadata": {"resourceVersion": version}, "items": []}),
                )
            }
            _ => {
                let answered = self.shared.lock().answer(&asked);
                answered.unwrap_or_else(|code| refusal(code, "the server's own judgement"))
            }
        };
        let watches = asked.verb == "WATCH" && code == 200;
        let body = match (watches, trouble) {
            (true, _) => watched(Watch::new(&self.shared, &asked)),
            (false, Some(Trouble::Cut)) => cut(&body.to_string()),
            (false, _) => Full::<Bytes>::from(body.to_string())
                .map_err(|never| match never {})
                .boxed_unsync(),
        };
        self.shared.lock().served.push(Served {
            verb: asked.verb,
            path: asked.path,
            body: asked.body,
            code,
        });
        Response::builder()
            .status(code)
            .header("content-type", "application/json")
            .body(body)
            .map_err(io::Error::other)
    }
}

impl Faults {
    /// The trouble that a request meets, if it is answered at all.
    fn meets(&mut self, asked: &Asked) -> io::Result<Option<Trouble>> {
        if self.down {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let always = self.always.as_mut();
        let always = always.and_then(|fault| fault(&asked.verb, &asked.path));
        Ok(always.or_else(|| {
            let at = self
                .next
                .iter()
                .position(|(verb, path, _)| asked.verb == *verb && asked.path.ends_with(path));
            Some(self.next.remove(at?)?.2)
        }))
    }
}

fn watched(watch: Watch) -> AnswerBody {
    let lines = stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((io::Result::Ok(Frame::data(Bytes::from(lines))), watch))
    });
    StreamBody::new(lines).boxed_unsync()
}

fn cut(text: &str) -> AnswerBody {
    let half = text.as_bytes().iter().take(text.len() / 2);
    let frames: [io::Result<Frame<Bytes>>; 2] = [
        Ok(Frame::data(half.copied().collect())),
        Err(io::ErrorKind::ConnectionReset.into()),
    ];
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

/// Of an object in a collection.
fn path(collection: &str, namespace: &str, name: &str) -> String {
    match collection.rsplit_once('/') {
        Some((parent, plural)) if !namespace.is_empty() && !parent.contains("/namespaces/") => {
            format!("{parent}/namespaces/{namespace}/{plural}/{name}")
        }
        _ => format!("{collection}/{name}"),
    }
}

fn refusal(code: u16, why: &str) -> (u16, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "InternalError",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": why, "reason": reason, "code": code,
    });
    (code, body)
}

#[cfg(test)]
mod tests;
