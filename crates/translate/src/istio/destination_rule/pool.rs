//! `connectionPool` and `outlierDetection` (3.5, 5.4, 5.5).

use ambit_kube::{
    DrConnectionPool, DrH2Upgrade, DrHttpSettings, DrOutlierDetection, DrTcpSettings, ProtoDuration,
};
use ambit_proto::waypoint::{ConnectionPool, Outlier};

use crate::istio::codes;
use crate::istio::mesh::{MeshDefaults, keep_alive};
use crate::istio::say::{Fault, Say};

/// Defaults of 5.5.
const CONSECUTIVE: u32 = 5;
const INTERVAL_MS: u64 = 10_000;
const BASE_EJECTION_MS: u64 = 30_000;
const MAX_EJECTION_MS: u64 = 300_000;
const MAX_EJECTION_PERCENT: u32 = 10;

/// The message; none where all is as without any.
pub(super) fn connection_pool(
    say: &mut Say,
    written: Option<&DrConnectionPool>,
    path: &str,
    mesh: &MeshDefaults,
) -> Option<ConnectionPool> {
    let mut built = ConnectionPool {
        keepalive: mesh.keepalive,
        upgrade_h2: mesh.upgrade_h2,
        ..ConnectionPool::default()
    };
    if let Some(tcp) = written.and_then(|written| written.tcp.as_ref()) {
        of_connections(say, tcp, &format!("{path}.tcp"), &mut built);
    }
    if let Some(http) = written.and_then(|written| written.http.as_ref()) {
        of_requests(say, http, &format!("{path}.http"), mesh, &mut built);
    }
    (built != ConnectionPool::default()).then_some(built)
}

fn of_connections(say: &mut Say, tcp: &DrTcpSettings, path: &str, built: &mut ConnectionPool) {
    built.max_connections = count(say, tcp.max_connections, path, "maxConnections");
    built.connect_timeout_ms = some_time(tcp.connect_timeout);
    built.max_connection_duration_ms = some_time(tcp.max_connection_duration);
    built.tcp_idle_timeout_ms = tcp.idle_timeout.map(ProtoDuration::as_millis);
    if let Some(keepalive) = &tcp.tcp_keepalive {
        built.keepalive = Some(keep_alive(keepalive));
    }
}

fn of_requests(
    say: &mut Say,
    http: &DrHttpSettings,
    path: &str,
    mesh: &MeshDefaults,
    built: &mut ConnectionPool,
) {
    built.max_pending_requests = count(
        say,
        http.http1_max_pending_requests,
        path,
        "http1MaxPendingRequests",
    );
    built.max_requests = count(say, http.http2_max_requests, path, "http2MaxRequests");
    built.max_requests_per_connection = count(
        say,
        http.max_requests_per_connection,
        path,
        "maxRequestsPerConnection",
    );
    built.max_retries = count(say, http.max_retries, path, "maxRetries");
    built.max_concurrent_streams = count(
        say,
        http.max_concurrent_streams,
        path,
        "maxConcurrentStreams",
    );
    built.http_idle_timeout_ms = http.idle_timeout.map(ProtoDuration::as_millis);
    built.use_client_protocol = http.use_client_protocol.unwrap_or_default();
    built.upgrade_h2 = match http.h2_upgrade_policy {
        Some(DrH2Upgrade::Upgrade) => true,
        Some(DrH2Upgrade::DoNotUpgrade) => false,
        None | Some(DrH2Upgrade::Default) => mesh.upgrade_h2,
    };
    if http.http2_keep_alive.is_some() {
        say.warning(
            codes::RULE_REFUSED,
            Fault {
                field: &format!("{path}.http2KeepAlive"),
                value: "",
                message: "no pings are sent on connections to backends",
                remedy: "use tcpKeepalive; tunnels between proxies are pinged anyway",
            },
        );
    }
}

/// 0 is unset.
fn some_time(written: Option<ProtoDuration>) -> Option<u64> {
    written.map(ProtoDuration::as_millis).filter(|ms| *ms > 0)
}

/// 0 is unset, less than that an error.
fn count(say: &mut Say, written: Option<i32>, path: &str, name: &str) -> Option<u32> {
    let written = written?;
    match u32::try_from(written) {
        Ok(0) => None,
        Ok(number) => Some(number),
        Err(_) => {
            refuse(
                say,
                &format!("{path}.{name}"),
                &written.to_string(),
                "it can't be negative, so there is no bound",
                "write a number above 0, or remove it",
            );
            None
        }
    }
}

fn refuse(say: &mut Say, field: &str, value: &str, message: &str, remedy: &str) {
    say.error(
        codes::RULE_VALUE,
        Fault {
            field,
            value,
            message,
            remedy,
        },
    );
}

/// The message, every default written out.
pub(super) fn outlier(say: &mut Say, written: &DrOutlierDetection, path: &str) -> Outlier {
    let oldest = written.consecutive_errors.map(|errors| {
        say.info(
            codes::RULE_REFUSED,
            Fault {
                field: &format!("{path}.consecutiveErrors"),
                value: &errors.to_string(),
                message: "the field was removed from Istio; it is read as consecutive5xxErrors",
                remedy: "rename it",
            },
        );
        u32::try_from(errors).unwrap_or_default()
    });
    let base = written
        .base_ejection_time
        .and_then(|time| some_time(Some(time)));
    let base = base.unwrap_or(BASE_EJECTION_MS);
    Outlier {
        consecutive_5xx: written
            .consecutive_5xx_errors
            .or(oldest)
            .unwrap_or(CONSECUTIVE),
        consecutive_gateway_errors: written.consecutive_gateway_errors.unwrap_or_default(),
        consecutive_local_failures: written
            .consecutive_local_origin_failures
            .unwrap_or(CONSECUTIVE),
        split_local_errors: written
            .split_external_local_origin_errors
            .unwrap_or_default(),
        interval_ms: some_time(written.interval).unwrap_or(INTERVAL_MS),
        base_ejection_ms: base,
        max_ejection_ms: base.max(MAX_EJECTION_MS),
        max_ejection_percent: percent(
            say,
            written.max_ejection_percent,
            path,
            "maxEjectionPercent",
        )
        .unwrap_or(MAX_EJECTION_PERCENT),
        min_health_percent: percent(say, written.min_health_percent, path, "minHealthPercent")
            .unwrap_or_default(),
    }
}

fn percent(say: &mut Say, written: Option<i32>, path: &str, name: &str) -> Option<u32> {
    let written = written?;
    let found = u32::try_from(written)
        .ok()
        .filter(|percent| *percent <= 100);
    if found.is_none() {
        refuse(
            say,
            &format!("{path}.{name}"),
            &written.to_string(),
            "a percentage is 0 to 100; the default holds",
            "write such a number",
        );
    }
    found
}
