//! Holds a pod that starts until it's enrolled (`ztunnel-contract` 7.4): the
//! CNI plugin asks over a Unix socket, and any answer but 200 keeps the pod
//! from starting.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ambit_kube::Redirection;
use ambit_runtime::Scope;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use crate::agent::Agent;
use crate::board::{Phase, PodStatus};
use crate::inventory::{Admission, PodId, PodName, SandboxPlace};
use crate::metrics::AgentMetrics;

/// What the plugin says of a pod.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PluginRequest {
    #[serde(default)]
    netns: String,
    pod_name: String,
    pod_namespace: String,
    #[serde(default, rename = "IPs")]
    ips: Vec<PluginAddress>,
    /// Our plugin's only: `K8S_POD_UID`, which tells a pod from one of the same
    /// name before it.
    #[serde(default, rename = "PodUID")]
    uid: Option<Box<str>>,
    /// Our plugin's only: `CNI_CONTAINERID`.
    #[serde(default, rename = "ContainerID")]
    container: Option<Box<str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PluginAddress {
    /// With or without a prefix length.
    #[serde(default)]
    address: AddressText,
}

/// Go writes an `IPNet` as an object, other plugins write text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum AddressText {
    Text(String),
    Net {
        #[serde(rename = "IP")]
        ip: String,
    },
}

impl Default for AddressText {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl AddressText {
    fn ip(&self) -> Option<IpAddr> {
        let (Self::Text(text) | Self::Net { ip: text }) = self;
        text.split('/').next()?.parse().ok()
    }
}

/// Listens on a path, for root alone; a socket that was left there goes.
///
/// # Errors
/// If the path can't be bound.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the scope is cancelled.
pub(crate) async fn serve(
    listener: UnixListener,
    agent: Agent,
    metrics: AgentMetrics,
    scope: Scope,
) {
    let slots = Arc::new(Semaphore::new(MAX_REQUESTS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "accepting the CNI plugin");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (agent, metrics) = (agent.clone(), metrics.clone());
        scope.spawn("cni", async move {
            let service = service_fn(|request| {
                let (agent, metrics) = (agent.clone(), metrics.clone());
                async move {
                    let answer = answer(&agent, request).await;
                    metrics.answered_plugin(answer.status().as_u16());
                    Ok::<_, Infallible>(answer)
                }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(DEADLINE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                debug!(%error, "a connection of the CNI plugin ended");
            }
            drop(slot);
        });
    }
}

async fn answer(agent: &Agent, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let deadline = Instant::now() + DEADLINE;
    let path = request.uri().path().to_owned();
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "POST only");
    }
    if !["/cmdadd", "/cmdcheck", "/cmddel"].contains(&&*path) {
        let known = "paths are /cmdadd, /cmdcheck and /cmddel";
        return text(StatusCode::NOT_FOUND, known);
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = match timeout_at(deadline, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("body: {error}")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body didn't come"),
    };
    let request: PluginRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("body: {error}")),
    };
    let pod = PodName {
        namespace: request.pod_namespace.as_str().into(),
        name: request.pod_name.as_str().into(),
    };
    if path == "/cmddel" {
        agent.sandbox_removed(&pod, request.container.as_deref());
        return text(StatusCode::OK, "");
    }
    if path == "/cmdcheck" {
        return checked(agent, &pod, request.uid.as_deref());
    }
    match added(agent, &pod, request, deadline).await {
        Ok(()) => text(StatusCode::OK, ""),
        Err(why) => {
            warn!(%pod, why, "a pod may not start");
            text(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
    }
}

/// Whether a pod that runs is as it must be; nothing is changed.
fn checked(agent: &Agent, pod: &PodName, uid: Option<&str>) -> Response<Full<Bytes>> {
    let (admission, id) = agent.admission(pod, uid);
    let enrolled = id
        .and_then(|id| agent.status(&id))
        .is_some_and(|s| is_enrolled(&s));
    match admission {
        Admission::Enrolled if !enrolled => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("pod {pod} must be redirected, and isn't"),
        ),
        Admission::Enrolled | Admission::NotEnrolled => text(StatusCode::OK, ""),
        Admission::Unknown => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("pod {pod} isn't known to the agent of this node"),
        ),
    }
}

async fn added(
    agent: &Agent,
    pod: &PodName,
    request: PluginRequest,
    deadline: Instant,
) -> Result<(), String> {
    let Some(id) = admission(agent, pod, request.uid.as_deref()).await? else {
        return Ok(());
    };
    if request.netns.is_empty() {
        return Err(format!(
            "pod {pod} is enrolled, and the request names no Netns"
        ));
    }
    let ips = request
        .ips
        .iter()
        .filter_map(|ip| ip.address.ip())
        .collect();
    let place = SandboxPlace {
        netns: PathBuf::from(request.netns),
        ips,
        container: request.container,
    };
    agent.sandbox_added(pod, place);
    match timeout_at(deadline, agent.until(&id, is_enrolled)).await {
        Ok(()) => {
            info!(%pod, "a pod that starts is enrolled");
            Ok(())
        }
        Err(_) => {
            let status = agent.status(&id);
            let phase = status.as_ref().map_or("unknown", |s| s.phase.as_str());
            let why = status.and_then(|s| s.trouble);
            let why = why.unwrap_or_else(|| "it takes longer".to_owned());
            Err(format!(
                "pod {pod} isn't enrolled within {DEADLINE:?}: {phase}, {why}"
            ))
        }
    }
}

/// The pod's id if it must be held. Its object may come a moment later than
/// the plugin's request.
async fn admission(
    agent: &Agent,
    pod: &PodName,
    uid: Option<&str>,
) -> Result<Option<PodId>, String> {
    for _ in 0..TRIES {
        match agent.admission(pod, uid) {
            (Admission::Enrolled, id) => return Ok(id),
            (Admission::NotEnrolled, _) => return Ok(None),
            (Admission::Unknown, _) => sleep(BETWEEN_TRIES).await,
        }
    }
    Err(format!("pod {pod} isn't known to the agent of this node"))
}

fn is_enrolled(status: &PodStatus) -> bool {
    status.phase == Phase::Redirected && status.redirection == Redirection::Enabled
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    answer
}

/// The plugin itself waits 5 s; it should read why.
const DEADLINE: Duration = Duration::from_millis(4500);
/// Upstream tries 10 times; a directory's change needs a moment to be read.
const TRIES: u32 = 200;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const MAX_BODY: usize = 64 * 1024;
const MAX_REQUESTS: usize = 256;
