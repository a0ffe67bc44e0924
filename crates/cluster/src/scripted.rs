//! Clients for tests: of the test kit's API server, on a socket or on none, and of a function that answers every
//! request.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ambit_testkit::apiserver::ApiServer;
use ambit_testkit::eventually_within;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::{Client, Config};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A client of a server on a port.
pub(crate) fn connect(api: &ApiServer) -> Client {
    Client::try_from(Config::new(api.url().parse().unwrap())).unwrap()
}

/// A client of a server that needs no port, for tests in which time stands still.
pub(crate) fn unbound(api: &ApiServer) -> Client {
    let api = api.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let api = api.clone();
        async move { api.answer(request).await }
    });
    Client::new(service, "default")
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let attempt = async || {
        holds()
            .then_some(())
            .ok_or_else(|| anyhow::Error::msg("not yet"))
    };
    eventually_within(MINUTE, what, attempt).await.unwrap();
}

/// History goes on without anybody who watches these paths, and is forgotten: their watches end as they should, and
/// none goes on from where it was. For tests in which time stands still.
pub(crate) async fn forget_history(api: &ApiServer, watched: &[&str], change: impl FnOnce()) {
    for _ in 0..5 {
        tokio::time::sleep(MINUTE).await;
        watched.iter().for_each(|path| api.bookmark(path));
    }
    api.end_watches();
    change();
    api.compact();
}

/// Nobody answers for a while, in which something changes of which no watch will ever tell.
pub(crate) async fn be_away(api: &ApiServer, change: impl FnOnce()) {
    api.set_down(true);
    tokio::time::sleep(MINUTE).await;
    change();
    api.set_down(false);
}

const MINUTE: Duration = Duration::from_secs(60);

/// What a request asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// Requests so far.
pub(crate) type Log = Arc<Mutex<Vec<Asked>>>;

/// A client whose requests `answer` answers, and what it has asked.
pub(crate) fn client<F, R>(answer: F) -> (Client, Log)
where
    F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = (u16, Value)> + Send + 'static,
{
    let log = Log::default();
    let kept = Arc::clone(&log);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answer, log) = (answer.clone(), Arc::clone(&kept));
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let asked = Asked {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                body: serde_json::from_slice(&bytes).unwrap_or_default(),
            };
            log.lock().push(asked.clone());
            let (status, body) = answer(asked).await;
            if status == 0 {
                return Err(kube::Error::Service("connection refused".into()));
            }
            let status = StatusCode::from_u16(status).unwrap();
            let body = serde_json::to_vec(&body).unwrap();
            Ok::<_, kube::Error>(
                Response::builder()
                    .status(status)
                    .body(Body::from(body))
                    .unwrap(),
            )
        }
    });
    (Client::new(service, "default"), log)
}

/// A status of the API server.
pub(crate) fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    (code, status)
}
