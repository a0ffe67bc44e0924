//! HTTPS for API servers: HTTP/1.1, one path, bounded bodies, a deadline.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ambit_compile::Settings;
use ambit_runtime::Scope;
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info};

use super::review::{API_VERSION, Answer, KIND, Request, Review};
use super::verdict::{Verdict, judge};
use super::{Preview, Previews};
use crate::listener::ServerTls;
use crate::metrics::ControlMetrics;

/// Judges objects for API servers.
pub(crate) struct Webhook {
    settings: Settings,
    previews: Previews,
    metrics: Arc<ControlMetrics>,
    /// Bodies that are held at a time.
    bodies: Semaphore,
}

impl Webhook {
    /// A webhook of a mesh with these settings, which asks the configuration task.
    pub(crate) fn new(
        settings: Settings,
        previews: Previews,
        metrics: Arc<ControlMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            previews,
            metrics,
            bodies: Semaphore::new(BODIES),
        })
    }

    async fn answer(self: Arc<Self>, request: http::Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if path != PATH {
            return self.problem(StatusCode::NOT_FOUND, "no such path");
        }
        if request.method() != Method::POST {
            return self.problem(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview");
        }
        let answering = Arc::clone(&self).review(request);
        match timeout(DEADLINE, answering).await {
            Ok(Ok(answer)) => answer,
            Ok(Err((status, why))) => self.problem(status, why),
            Err(_) => self.problem(StatusCode::SERVICE_UNAVAILABLE, "no time left"),
        }
    }

    async fn review(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, (StatusCode, &'static str)> {
        let stopped = (StatusCode::SERVICE_UNAVAILABLE, "shutting down");
        let _place = self.bodies.acquire().await.map_err(|_| stopped)?;
        let body = Limited::new(request.into_body(), MOST).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "a review of this size isn't read",
            ),
            false => (StatusCode::BAD_REQUEST, "the body broke off"),
        })?;
        let body = body.to_bytes();
        let webhook = Arc::clone(&self);
        // Reading and judging take a while for large objects; a panic in them ends nothing but this.
        let judged = tokio::task::spawn_blocking(move || webhook.judge(&body)).await;
        let (request, mut verdict) = match judged {
            Ok(judged) => judged?,
            Err(panic) => {
                error!(%panic, "judging an object");
                return Err((
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "this is a bug in the webhook",
                ));
            }
        };
        self.preview(&mut verdict).await;
        let allowed = verdict.refusals.is_empty();
        let of = &request.resource;
        let of = (of.group.as_str(), of.version.as_str(), of.resource.as_str());
        self.metrics
            .validated(of, (!allowed).then_some(verdict.reason));
        let Verdict {
            refusals, warnings, ..
        } = verdict;
        let answer = if allowed {
            Answer::allowed(request.uid, warnings)
        } else {
            let name = request
                .object
                .pointer("/metadata/name")
                .and_then(|name| name.as_str());
            info!(
                kind = request.kind.kind,
                namespace = request.namespace,
                name,
                why = refusals.first().map(String::as_str),
                "object refused"
            );
            Answer::refused(request.uid, &refusals.join("; "), warnings)
        };
        let body = serde_json::to_vec(&answer)
            .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "no answer"))?;
        let mut response = Response::new(Full::new(Bytes::from(body)));
        let json = http::HeaderValue::from_static("application/json");
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, json);
        Ok(response)
    }

    fn judge(&self, body: &[u8]) -> Result<(Request, Verdict), (StatusCode, &'static str)> {
        let bad = |why| (StatusCode::BAD_REQUEST, why);
        let review: Review =
            serde_json::from_slice(body).map_err(|_| bad("not an AdmissionReview"))?;
        if review.api_version != API_VERSION || review.kind != KIND {
            return Err(bad("not an AdmissionReview of admission.k8s.io/v1"));
        }
        let request = review
            .request
            .ok_or_else(|| bad("a review without a request"))?;
        let verdict = judge(&self.settings, &request);
        Ok((request, verdict))
    }

    /// Asks the configuration task, if it has time.
    async fn preview(&self, verdict: &mut Verdict) {
        let Some(object) = verdict.object.take() else {
            return;
        };
        if !verdict.refusals.is_empty() {
            return;
        }
        let (said, answer) = oneshot::channel();
        if self.previews.try_send(Preview { object, said }).is_err() {
            return;
        }
        if let Ok(Ok(said)) = timeout(PREVIEW, answer).await {
            verdict.preview(&said);
        }
    }

    fn problem(&self, status: StatusCode, why: &'static str) -> Response<Full<Bytes>> {
        self.metrics.validation_http_error(status.as_u16());
        debug!(%status, why, "admission request");
        let mut response = Response::new(Full::new(Bytes::from_static(why.as_bytes())));
        *response.status_mut() = status;
        response
    }
}

/// Serves until the scope is cancelled.
pub(crate) fn serve(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    webhook: Arc<Webhook>,
    scope: &Scope,
) {
    let children = scope.clone();
    scope.spawn("webhook", async move {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    info!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (tls, webhook) = (Arc::clone(&tls), Arc::clone(&webhook));
            children.spawn("admission", async move {
                if let Err(error) = converse(stream, &tls, webhook).await {
                    debug!(%error, "admission connection");
                }
                drop(place);
            });
        }
    });
}

async fn converse(stream: TcpStream, tls: &ServerTls, webhook: Arc<Webhook>) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(tls.for_webhook());
    let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let service = service_fn(move |request| {
        let answering = Arc::clone(&webhook).answer(request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

const PATH: &str = "/validate";
/// A review has the object twice; etcd takes 1.5 MiB, requests end at 3 MiB.
const MOST: usize = 8 << 20;
/// At a time: together the most memory that reviews may take.
const BODIES: usize = 8;
const CONNECTIONS: usize = 128;
/// API servers wait for 10 s.
const DEADLINE: Duration = Duration::from_secs(8);
/// What the configuration task says is worth that much, and no more.
const PREVIEW: Duration = Duration::from_secs(1);
const HANDSHAKE: Duration = Duration::from_secs(5);
/// API servers keep connections.
const IDLE: Duration = Duration::from_secs(120);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
