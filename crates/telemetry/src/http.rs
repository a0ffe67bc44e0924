//! The small HTTP/1.1 servers of a program: admin, metrics, readiness
//! (`ztunnel-contract` 1.1): half-close allowed, 2 s for a request's head,
//! 8 KiB for it, 404 without a body for an unknown path.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ambit_runtime::{Readiness, Scope};
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::Metrics;

/// What a handler answers.
pub type Answer = Response<Full<Bytes>>;
type Handling = Pin<Box<dyn Future<Output = Response<Page>> + Send>>;
type Handler = Arc<dyn Fn(Request<Incoming>) -> Handling + Send + Sync>;

const HEAD_DEADLINE: Duration = Duration::from_secs(2);
const HEAD_BYTES: usize = 8 * 1024;
/// Connections of one server at a time; a further one waits in the backlog.
const MAX_CONNECTIONS: usize = 256;

/// What a handler of [`Routes::stream`] answers.
#[derive(Debug)]
pub enum Streamed {
    /// An answer like any other.
    Whole(Answer),
    /// 200 with this content type and parts as they come, until the sender is
    /// gone. The channel's bound is what a slow reader may be behind; a reader
    /// that has gone closes it.
    Parts(&'static str, mpsc::Receiver<Bytes>),
}

/// A body of either kind.
enum Page {
    Whole(Full<Bytes>),
    Parts(mpsc::Receiver<Bytes>),
}

impl Body for Page {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Parts(parts) => parts.poll_recv(cx).map(|part| Some(Ok(Frame::data(part?)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Parts(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Parts(_) => SizeHint::default(),
        }
    }
}

/// Paths and what answers them.
#[derive(Clone, Default)]
pub struct Routes {
    routes: BTreeMap<&'static str, Handler>,
    fallback: Option<Handler>,
}

impl Routes {
    /// No paths: every request is a 404.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers a path (exactly, without its query).
    #[must_use]
    pub fn route<F, R>(mut self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        self.routes.insert(path, whole(handler));
        self
    }

    /// Answers a path with a body that may have no end.
    #[must_use]
    pub fn stream<F, R>(mut self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Streamed> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| {
            let handling = handler(request);
            Box::pin(async move {
                match handling.await {
                    Streamed::Whole(answer) => answer.map(Page::Whole),
                    Streamed::Parts(content_type, parts) => {
                        let head = typed(StatusCode::OK, content_type, "");
                        head.map(|_| Page::Parts(parts))
                    }
                }
            })
        });
        self.routes.insert(path, handler);
        self
    }

    /// Answers what no path matches.
    #[must_use]
    pub fn fallback<F, R>(mut self, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        self.fallback = Some(whole(handler));
        self
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Page>, Infallible> {
        let handler = self
            .routes
            .get(request.uri().path())
            .or(self.fallback.as_ref());
        Ok(match handler {
            Some(handler) => handler(request).await,
            None => status(StatusCode::NOT_FOUND).map(Page::Whole),
        })
    }
}

fn whole<F, R>(handler: F) -> Handler
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    Arc::new(move |request| {
        let handling = handler(request);
        Box::pin(async move { handling.await.map(Page::Whole) })
    })
}

/// Serves until the scope is cancelled.
pub async fn serve(listener: TcpListener, routes: Routes, scope: &Scope) {
    let permits = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let routes = Arc::new(routes);
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "accept on an HTTP server");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let routes = Arc::clone(&routes);
        scope.spawn("http", async move {
            let _permit = permit;
            let service = service_fn(|request| routes.answer(request));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .half_close(true)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                debug!(%error, "an HTTP connection ended");
            }
        });
    }
}

/// An answer without a body.
pub fn status(code: StatusCode) -> Answer {
    text(code, "")
}

/// A plain-text answer.
pub fn text(code: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(code, "text/plain; charset=utf-8", body)
}

/// An answer of a content type.
pub fn typed(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// A pretty-printed JSON answer; a value that can't be written is a 500.
pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => typed(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The readiness endpoint: 200 "ready", or 500 with what is pending.
pub fn readiness(method: &Method, readiness: &Readiness) -> Answer {
    if method != Method::GET {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let pending = readiness.pending();
    if pending.is_empty() {
        return text(StatusCode::OK, "ready");
    }
    let body = format!("not ready, pending: {}", pending.join(", "));
    text(StatusCode::INTERNAL_SERVER_ERROR, body)
}

/// The metrics endpoint: content type and encoding as the client accepts them.
pub fn metrics(headers: &HeaderMap, metrics: &Metrics) -> Answer {
    let body = match metrics.encode() {
        Ok(body) => body,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let content_type = if accepts(headers, &ACCEPT, "application/openmetrics-text") {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; charset=utf-8"
    };
    let encoding = Encoding::ALL
        .into_iter()
        .find(|encoding| accepts(headers, &ACCEPT_ENCODING, encoding.name()));
    let Some(encoding) = encoding else {
        return typed(StatusCode::OK, content_type, body);
    };
    match encoding.compress(body.as_bytes()) {
        Ok(compressed) => {
            let mut answer = typed(StatusCode::OK, content_type, compressed);
            let name = HeaderValue::from_static(encoding.name());
            answer.headers_mut().insert(CONTENT_ENCODING, name);
            answer
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// True if a list header names the token, and not with `q=0`.
fn accepts(headers: &HeaderMap, name: &http::HeaderName, token: &str) -> bool {
    let lines = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|value| value.eq_ignore_ascii_case(token));
        named && !parts.any(|p| matches!(p, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Zstd,
    Br,
    Gzip,
    Deflate,
}

impl Encoding {
    /// In our order of preference.
    const ALL: [Self; 4] = [Self::Zstd, Self::Br, Self::Gzip, Self::Deflate];

    fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn compress(self, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(body.len() / 8);
        match self {
            Self::Zstd => zstd::stream::copy_encode(body, &mut out, 1)?,
            Self::Br => {
                let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 3, 18);
                encoder.write_all(body)?;
                encoder.flush()?;
            }
            Self::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(&mut out, level);
                encoder.write_all(body)?;
                encoder.finish()?;
            }
            Self::Deflate => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::ZlibEncoder::new(&mut out, level);
                encoder.write_all(body)?;
                encoder.finish()?;
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
