//! An API server for tests, on no socket: every request goes to a function.

use std::future::Future;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// What a request asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
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
                query: head.uri.query().unwrap_or_default().to_owned(),
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
