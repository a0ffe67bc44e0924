//! The mesh's settings about routing: who sees what by default, what holds for
//! all backends, and a gateway's share of them.

use ambit_kube::{DrKeepalive, DrLocalityLb, Kind, ObjectKey, Origin, Problem, ProtoDuration};
use ambit_proto::waypoint::{Gateway, KeepAlive, PathNormalization};

use super::say::{Fault, Say};
use super::{codes, retry, virtual_service};
use crate::MeshInfo;

/// Who sees a VirtualService without `exportTo`.
pub(super) fn virtual_service_export(mesh: &MeshInfo) -> &[String] {
    &mesh.config.default_virtual_service_export_to
}

/// Who sees a DestinationRule without `exportTo`.
pub(super) fn destination_rule_export(mesh: &MeshInfo) -> &[String] {
    &mesh.config.default_destination_rule_export_to
}

/// What holds for backends where their DestinationRule says nothing.
#[derive(Debug, Default)]
pub(super) struct MeshDefaults {
    pub(super) keepalive: Option<KeepAlive>,
    pub(super) upgrade_h2: bool,
    pub(super) locality: Option<DrLocalityLb>,
}

impl MeshDefaults {
    pub(super) fn of(mesh: &MeshInfo) -> Self {
        let config = &mesh.config;
        Self {
            keepalive: config.tcp_keepalive.as_ref().map(keep_alive),
            upgrade_h2: config.h2_upgrade_policy.as_deref() == Some("UPGRADE"),
            locality: config.locality_lb_setting.clone(),
        }
    }
}

/// TCP keepalive as it is on the wire; 0 is the system's.
pub(super) fn keep_alive(written: &DrKeepalive) -> KeepAlive {
    KeepAlive {
        probes: written.probes.unwrap_or_default(),
        time_ms: written.time.map_or(0, ProtoDuration::as_millis),
        interval_ms: written.interval.map_or(0, ProtoDuration::as_millis),
    }
}

/// Fills in what the mesh's settings say about routing: the default retry
/// policy (3.3), path normalisation (4.7), connect timeout and sniffing (1.9),
/// trusted proxies (1.7), `server` header and header case (1.5).
pub fn mesh_routing(mesh: &MeshInfo, gateway: &mut Gateway) -> Vec<Problem> {
    let config = &mesh.config;
    let key = ObjectKey::new(Kind::MeshConfig, mesh.root_namespace.clone(), "istio");
    let origin = Origin {
        file: "mesh".into(),
        document: 0,
        line: 0,
    };
    let mut say = Say::at(key, origin);
    gateway.default_retry = Some(
        config
            .default_http_retry_policy
            .as_ref()
            .map_or_else(retry::default_policy, |policy| {
                virtual_service::retries(&mut say, policy, "defaultHttpRetryPolicy", false)
            }),
    );
    let written = config.path_normalization.as_ref();
    let written = written.and_then(|path| path.normalization.as_deref());
    gateway.path_normalization = normalization(&mut say, written.unwrap_or_default()).into();
    gateway.connect_timeout_ms = config
        .connect_timeout
        .map(ProtoDuration::as_millis)
        .filter(|ms| *ms > 0)
        .unwrap_or(CONNECT_TIMEOUT_MS);
    gateway.protocol_detection_ms = config
        .protocol_detection_timeout
        .map(ProtoDuration::as_millis);
    let proxies = config.default_config.as_ref();
    let topology = proxies.and_then(|config| config.gateway_topology.as_ref());
    gateway.trusted_proxies = topology
        .and_then(|topology| topology.num_trusted_proxies)
        .unwrap_or_default();
    let headers = proxies.and_then(|config| config.proxy_headers.as_ref());
    let server = headers.and_then(|headers| headers.server.as_ref());
    gateway.server_header = server.map_or_else(String::new, |server| {
        if server.disabled == Some(true) {
            "-".to_owned()
        } else {
            server.value.clone().unwrap_or_default()
        }
    });
    gateway.preserve_header_case = headers
        .and_then(|headers| headers.preserve_http1_header_case)
        .unwrap_or_default();
    say.into_problems()
}

/// Of a connection to a backend (1.9).
const CONNECT_TIMEOUT_MS: u64 = 10_000;

fn normalization(say: &mut Say, written: &str) -> PathNormalization {
    match written {
        "" | "DEFAULT" | "BASE" => PathNormalization::Base,
        "NONE" => PathNormalization::None,
        "MERGE_SLASHES" => PathNormalization::MergeSlashes,
        "DECODE_AND_MERGE_SLASHES" => PathNormalization::DecodeAndMergeSlashes,
        other => {
            say.error(
                codes::MESH_VALUE,
                Fault {
                    field: "pathNormalization.normalization",
                    value: other,
                    message: "no such normalisation; DECODE_AND_MERGE_SLASHES, the strictest, holds",
                    remedy: "write NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES",
                },
            );
            PathNormalization::DecodeAndMergeSlashes
        }
    }
}
