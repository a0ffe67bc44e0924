//! A real Envoy in the place of a waypoint: its configuration and certificates.
//!
//! The configuration is what `waypoint-contract` 1.1 describes, written down
//! statically: HBONE terminated on 15008, an HTTP connection manager behind an
//! internal listener, HBONE originated to each backend. Authorization and
//! telemetry are left off, which is in Envoy's favour.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ambit_types::SpiffeId;
use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::peer::authority;

/// Where an Envoy stands and what it serves.
pub(super) struct Place<'a> {
    /// The program.
    pub(super) program: &'a Path,
    /// A directory of its own.
    pub(super) dir: &'a Path,
    /// The control plane's state: its authority signs.
    pub(super) authority: &'a Path,
    /// Who it is.
    pub(super) identity: &'a str,
    /// Applications behind HBONE, as `address:port` of the pod.
    pub(super) backends: &'a [SocketAddr],
    /// Worker threads.
    pub(super) threads: usize,
}

/// Writes an Envoy's files and gives the command that starts it.
///
/// # Errors
/// If a certificate can't be signed or a file can't be written.
pub(super) fn command(place: &Place<'_>) -> Result<Command> {
    std::fs::create_dir_all(place.dir)?;
    write_credentials(place)?;
    let config = place.dir.join("envoy.json");
    std::fs::write(
        &config,
        serde_json::to_string_pretty(&configuration(place))?,
    )?;
    let mut command = Command::new(place.program);
    command
        .arg("-c")
        .arg(config)
        .args(["--disable-hot-restart", "--log-level", "warning"])
        .args(["--concurrency", &place.threads.to_string()]);
    Ok(command)
}

fn write_credentials(place: &Place<'_>) -> Result<()> {
    let id: SpiffeId = place.identity.parse()?;
    let ca = authority(place.authority, id.trust_domain())?;
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default()
        .serialize_request(&key)?
        .pem()?;
    let chain = ca.sign(&csr, &id, Some(Duration::from_secs(24 * 3600)))?;
    let (roots, sent) = chain.split_last().context("a chain ends with its roots")?;
    std::fs::write(place.dir.join("cert.pem"), sent.concat())?;
    std::fs::write(place.dir.join("root.pem"), roots)?;
    std::fs::write(place.dir.join("key.pem"), key.serialize_pem())?;
    Ok(())
}

fn configuration(place: &Place<'_>) -> Value {
    let numbered = || place.backends.iter().enumerate();
    let mut listeners = vec![terminate(place), inner(), readiness()];
    listeners.extend(numbered().map(|(at, to)| originate(at, *to)));
    let endpoints: Vec<_> = numbered()
        .map(|(at, _)| internal_endpoint(&originate_name(at), Some(at)))
        .collect();
    let mut clusters = vec![
        internal_cluster("main_internal", &[internal_endpoint("main_internal", None)]),
        internal_cluster("inbound-vip", &endpoints),
    ];
    clusters.extend(numbered().map(|(at, to)| hbone(place, at, to.ip())));
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": typed("bootstrap.internal_listener.v3.InternalListener", json!({})),
        }],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn typed(name: &str, fields: Value) -> Value {
    let mut all = json!({"@type": format!("type.googleapis.com/envoy.extensions.{name}")});
    if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
        all.extend(fields);
    }
    all
}

fn tls(place: &Place<'_>) -> Value {
    let file = |name: &str| -> PathBuf { place.dir.join(name) };
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": {"filename": file("cert.pem")},
            "private_key": {"filename": file("key.pem")},
        }],
        "validation_context": {
            "trusted_ca": {"filename": file("root.pem")},
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}},
            ],
        },
    })
}

fn manager(prefix: &str, routes: Value, more: Value) -> Value {
    let router = typed("filters.http.router.v3.Router", json!({}));
    let mut fields = json!({
        "stat_prefix": prefix,
        "codec_type": "AUTO",
        "stream_idle_timeout": "0s",
        "http_filters": [{"name": "router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": prefix, "domains": ["*"], "routes": routes}]},
    });
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    let name = "filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({"name": "hcm", "typed_config": typed(name, fields)})
}

fn terminate(place: &Place<'_>) -> Value {
    let connect = json!([{"upgrade_type": "CONNECT", "connect_config": {}}]);
    let routes = json!([{
        "match": {"connect_matcher": {}},
        "route": {"cluster": "main_internal", "upgrade_configs": connect, "timeout": "0s"},
    }]);
    let more = json!({
        "http2_protocol_options": {"allow_connect": true, "max_concurrent_streams": 100},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
    });
    let context = json!({"require_client_certificate": true, "common_tls_context": tls(place)});
    let socket = typed("transport_sockets.tls.v3.DownstreamTlsContext", context);
    json!({
        "name": "connect_terminate",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15008}},
        "enable_reuse_port": true,
        "filter_chains": [{
            "transport_socket": {"name": "tls", "typed_config": socket},
            "filters": [manager("terminate", routes, more)],
        }],
    })
}

fn inner() -> Value {
    let retry = json!({
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled",
        "num_retries": 2,
    });
    let routes = json!([{
        "match": {"prefix": "/"},
        "route": {"cluster": "inbound-vip", "timeout": "0s", "retry_policy": retry},
    }]);
    let more = json!({"normalize_path": true});
    json!({
        "name": "main_internal",
        "internal_listener": {},
        "filter_chains": [{"filters": [manager("inner", routes, more)]}],
    })
}

/// What the kubelet asks.
fn readiness() -> Value {
    let routes = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]);
    json!({
        "name": "readiness",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15021}},
        "filter_chains": [{"filters": [manager("readiness", routes, json!({}))]}],
    })
}

fn originate_name(at: usize) -> String {
    format!("connect_originate_{at}")
}

fn originate(at: usize, to: SocketAddr) -> Value {
    let proxy = json!({
        "stat_prefix": "originate",
        "cluster": format!("hbone_{at}"),
        "tunneling_config": {"hostname": to.to_string()},
    });
    let proxy = typed("filters.network.tcp_proxy.v3.TcpProxy", proxy);
    json!({
        "name": originate_name(at),
        "internal_listener": {},
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
    })
}

fn internal_endpoint(listener: &str, id: Option<usize>) -> Value {
    let mut address = json!({"server_listener_name": listener});
    if let (Some(address), Some(id)) = (address.as_object_mut(), id) {
        address.insert("endpoint_id".to_owned(), json!(id.to_string()));
    }
    json!({"endpoint": {"address": {"envoy_internal_address": address}}})
}

fn internal_cluster(name: &str, endpoints: &[Value]) -> Value {
    let raw = typed("transport_sockets.raw_buffer.v3.RawBuffer", json!({}));
    let inner = json!({"transport_socket": {"name": "raw", "typed_config": raw}});
    let socket = typed(
        "transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        inner,
    );
    json!({
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "transport_socket": {"name": "internal", "typed_config": socket},
    })
}

fn hbone(place: &Place<'_>, at: usize, to: IpAddr) -> Value {
    let name = format!("hbone_{at}");
    let context = json!({"common_tls_context": tls(place)});
    let socket = typed("transport_sockets.tls.v3.UpstreamTlsContext", context);
    let address = json!({"socket_address": {"address": to, "port_value": 15008}});
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "typed_extension_protocol_options": {
            options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": {"http2_protocol_options": {"allow_connect": true}},
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "transport_socket": {"name": "tls", "typed_config": socket},
    })
}
