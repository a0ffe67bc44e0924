//! Copies of requests: sent and forgotten. A copy never holds its original up,
//! never affects it, and is given up where it would.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_route::{BackendRef, Rule};
use ambit_upstream::PickContext;
use http_body_util::BodyExt;
use tracing::debug;

use super::body::{Replay, UpBody};
use super::outbound::Outbound;
use super::reach::{connection_to, hop_to, send_on};
use super::server::Inner;
use crate::config::{Config, Target, Upstream};
use crate::dial::Version;
use crate::node::Worker;

/// Sends the copies that the rule asks for.
pub(crate) fn send(
    config: &Config,
    inner: &Arc<Inner>,
    rule: &Rule,
    port: u16,
    outbound: &Outbound,
    replay: Option<&Replay>,
) {
    if rule.mirrors.is_empty() {
        return;
    }
    for backend in rule.mirrors(&mut rand::rng()) {
        let Some(target) = target(config, backend, port) else {
            continue;
        };
        if inner.worker.background.active() > MAX_COPIES {
            debug!("too much in the background: a copy is left out");
            return;
        }
        let body = replay.map_or(UpBody::Empty, Replay::copy);
        let mut outbound = outbound.clone();
        backend.request_headers.apply(&mut outbound.headers);
        outbound.headers.remove(http::header::UPGRADE);
        let worker = Arc::clone(&inner.worker);
        let connect = config.gateway.connect_timeout;
        let copying = async move {
            let done = one(&worker, &target, outbound, body, connect);
            if tokio::time::timeout(PATIENCE, done).await.is_err() {
                debug!(cluster = %target.name, "a copy took too long");
            }
        };
        inner.worker.background.spawn("mirror", copying);
    }
}

fn target(config: &Config, backend: &BackendRef, port: u16) -> Option<Arc<Target>> {
    let number = if backend.port == 0 {
        port
    } else {
        backend.port
    };
    let service = config.service(&backend.service)?;
    service.target(number, &backend.subset).ok().cloned()
}

async fn one(
    worker: &Worker,
    target: &Target,
    mut outbound: Outbound,
    body: UpBody,
    connect: Duration,
) {
    let context = PickContext::default();
    let Ok(pick) = target
        .cluster
        .pick(&context, &mut rand::rng(), Instant::now())
    else {
        return;
    };
    let settings = target.cluster.settings();
    let version = match target.upstream {
        Upstream::Http2 => Version::Http2,
        Upstream::Http1 | Upstream::SameAsClient => Version::Http1,
    };
    let place = (&**pick.endpoint(), pick.target_port());
    let Ok(mut hop) = hop_to(Some(target), &settings, place, version) else {
        return;
    };
    hop.connect_timeout = settings.policy.pool.connect_timeout.unwrap_or(connect);
    let Some(request) = outbound.request(version, hop.tls.is_some(), body) else {
        return;
    };
    let opened = connection_to(worker, Some(target), &settings, &hop, version).await;
    let Ok((sender, key, limits, _)) = opened else {
        return;
    };
    if let Ok((response, sender)) = send_on(sender, request).await {
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        if let crate::dial::Sender::Http1(connection) = sender {
            worker.conns.give_back(&key, connection, limits);
        }
    }
}

/// Of one copy, whole.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tasks in the background of one process beyond which copies are left out.
const MAX_COPIES: usize = 4096;
