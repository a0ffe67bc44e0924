//! The HTTP server of 15014: readiness, metrics, what is going on.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_ca::CertificateAuthority;
use ambit_runtime::Readiness;
use ambit_telemetry::Metrics;
use ambit_telemetry::http::{self, Routes};
use ambit_xds::{AdsServer, ConnectionStatus};
use serde::Serialize;

use crate::metrics::ControlMetrics;
use crate::page::{Contents, Page};
use crate::watching::{Shown, Watching};
use crate::waypoints::Waypoints;

/// What the server shows.
pub(crate) struct Views {
    /// `/ready`.
    pub(crate) readiness: Readiness,
    /// `/metrics`.
    pub(crate) registry: Metrics,
    /// Refreshed for each scrape.
    pub(crate) metrics: Arc<ControlMetrics>,
    /// Its end is a metric.
    pub(crate) authority: Arc<CertificateAuthority>,
    /// `/debug/statusz`.
    pub(crate) page: Page,
    /// A part of it, and of the metrics; none of a directory.
    pub(crate) watching: Watching,
    /// `/debug/waypoints`.
    pub(crate) waypoints: Waypoints,
    /// `/debug/syncz`.
    pub(crate) streams: AdsServer,
}

/// The paths and what answers them.
pub(crate) fn routes(views: Views) -> Routes {
    let Views {
        readiness,
        registry,
        metrics,
        authority,
        page,
        watching,
        waypoints,
        streams,
    } = views;
    let registry = Arc::new(registry);
    let watching = Arc::new(watching);
    let watched = Arc::clone(&watching);
    Routes::new()
        .route("/ready", move |request| {
            let answer = http::readiness(request.method(), &readiness);
            async move { answer }
        })
        .route("/metrics", move |request| {
            let roots_end = authority.roots_end();
            metrics.refresh(
                roots_end.unwrap_or_else(|| authority.not_after()),
                authority.chain_ends(),
            );
            watched.refresh();
            let answer = http::metrics(request.headers(), &registry);
            async move { answer }
        })
        .route("/version", |_| async {
            http::text(::http::StatusCode::OK, env!("CARGO_PKG_VERSION"))
        })
        .route("/debug/statusz", move |_| {
            let answer = http::json(&Statusz {
                page: page.contents(),
                watches: watching.shown(),
            });
            async move { answer }
        })
        .route("/debug/waypoints", move |_| {
            let answer = http::json(&waypoints.all());
            async move { answer }
        })
        .route("/debug/syncz", move |_| {
            let all: Vec<Stream> = streams.connections().into_iter().map(stream).collect();
            let answer = http::json(&all);
            async move { answer }
        })
}

/// `/debug/statusz`.
#[derive(Serialize)]
struct Statusz {
    #[serde(flatten)]
    page: Contents,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    watches: Vec<Shown>,
}

#[derive(Serialize)]
struct Stream {
    connection: u64,
    node: Arc<str>,
    caller: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<Arc<str>>,
    since: String,
    types: BTreeMap<Arc<str>, Type>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Type {
    status: &'static str,
    wildcard: bool,
    sent_nonce: String,
    acked_nonce: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn stream(connection: ConnectionStatus) -> Stream {
    let types = connection.types.into_iter().map(|t| {
        let shown = Type {
            status: t.sync.label(),
            wildcard: t.wildcard,
            sent_nonce: t.sent_nonce,
            acked_nonce: t.acked_nonce,
            error: t.error,
        };
        (t.type_url, shown)
    });
    Stream {
        connection: connection.id,
        node: connection.node,
        caller: connection.caller,
        waypoint: connection.audience,
        since: humantime::format_rfc3339_seconds(connection.since).to_string(),
        types: types.collect(),
    }
}
