//! The effective configuration as `config_dump` shows it (`ztunnel-contract`
//! 9.2): camelCase keys, durations as `{secs, nanos}`, the token never.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Config, Endpoint, Listen, Mode, Root};
use ambit_types::wire;

impl Config {
    /// Key by key, everything but secrets.
    pub fn dump(&self) -> Value {
        let mut dump = Map::new();
        for section in [
            self.dump_listeners(),
            self.dump_node(),
            self.dump_control_plane(),
        ] {
            dump.extend(section);
        }
        dump.extend(self.dump_behaviour());
        Value::Object(dump)
    }

    fn dump_listeners(&self) -> Map<String, Value> {
        let pod = |port| listen(Listen::Address(self.wildcard(port)));
        object(json!({
            "proxy": self.proxy,
            "dnsProxy": self.dns_proxy,
            "adminAddr": listen(Listen::Localhost(self.pod.ipv6, self.admin_port)),
            "statsAddr": pod(self.stats_port),
            "readinessAddr": pod(wire::READINESS_PORT),
            "inboundAddr": pod(wire::HBONE_PORT),
            "inboundPlaintextAddr": pod(wire::INBOUND_PASSTHROUGH_PORT),
            "outboundAddr": pod(wire::OUTBOUND_PORT),
            "dnsProxyAddr": listen(self.dns_proxy_addr),
            "socks5Addr": self.socks5.then(|| listen(Listen::Localhost(false, wire::SOCKS5_PORT))),
            "illegalPorts": self.illegal_ports(),
        }))
    }

    fn dump_node(&self) -> Map<String, Value> {
        let node = &self.node;
        let own = (&node.pod_name, &node.pod_namespace, &node.service_account);
        let (identity, workload) = match own {
            (Some(pod), Some(namespace), Some(account)) => (
                Some(format!(
                    "spiffe://{}/ns/{namespace}/sa/{account}",
                    node.trust_domain
                )),
                Some(json!({"name": pod, "namespace": namespace, "serviceAccount": account})),
            ),
            _ => (None, None),
        };
        object(json!({
            "network": node.network,
            "localNode": node.name,
            "proxyMode": match self.mode { Mode::Shared => "Shared", Mode::Dedicated => "Dedicated" },
            "proxyWorkloadInformation": null,
            "clusterId": node.cluster_id,
            "clusterDomain": node.cluster_domain,
            "ztunnelIdentity": identity,
            "ztunnelWorkload": workload,
            "proxyMetadata": self.proxy_metadata,
            "proxyArgs": "proxy",
        }))
    }

    fn dump_control_plane(&self) -> Map<String, Value> {
        let (xds, ca) = (self.xds.as_ref(), self.ca.as_ref());
        let alt = |endpoint: Option<&Endpoint>| endpoint.and_then(|e| e.alt_hostname.clone());
        let headers =
            |endpoint: Option<&Endpoint>| endpoint.map_or_else(Vec::new, |e| e.headers.clone());
        object(json!({
            "caAddress": ca.map(|e| &e.address),
            "caRootCert": ca.map(|e| root(&e.root)),
            "altCaHostname": alt(ca),
            "caHeaders": headers(ca),
            "xdsAddress": xds.map(|e| &e.address),
            "xdsRootCert": xds.map(|e| root(&e.root)),
            "altXdsHostname": alt(xds),
            "xdsHeaders": headers(xds),
            "xdsOnDemand": self.xds_on_demand,
            "secretTtl": duration(self.secret_ttl),
            "fakeCa": self.fake_ca,
            "fakeSelfInbound": false,
            "preferedServiceNamespace": self.preferred_service_namespace,
            "crlPath": self.crl_path,
            "dnsResolverCfg": {},
            "dnsResolverOpts": {},
        }))
    }

    fn dump_behaviour(&self) -> Map<String, Value> {
        let (pod, http2, limits) = (&self.pod, &self.http2, &self.limits);
        object(json!({
            "windowSize": http2.stream_window,
            "connectionWindowSize": http2.connection_window,
            "frameSize": http2.frame_size,
            "poolMaxStreamsPerConn": http2.pool_max_streams,
            "poolUnusedReleaseTimeout": duration(http2.pool_unused_release),
            "selfTerminationDeadline": duration(self.drain_deadline),
            "numWorkerThreads": self.worker_threads,
            "requireOriginalSource": pod.original_source,
            "inpodUds": pod.zds_socket,
            "inpodPortReuse": pod.port_reuse,
            "packetMark": pod.mark,
            "socketConfig": {
                "keepaliveTime": duration(pod.keepalive.time),
                "keepaliveInterval": duration(pod.keepalive.interval),
                "keepaliveRetries": pod.keepalive.retries,
                "keepaliveEnabled": pod.keepalive.enabled,
                "userTimeoutEnabled": pod.keepalive.user_timeout,
            },
            "localhostAppTunnel": pod.localhost_app_tunnel,
            "ipv6Enabled": pod.ipv6,
            "enableEnhancedBaggage": pod.response_baggage,
            "tls12Enabled": self.tls12,
            "postQuantum": self.post_quantum,
            "ambitMaxHalfOpen": limits.half_open,
            "ambitHandshakeTimeout": duration(limits.handshake),
            "ambitWorkloadWait": duration(limits.workload),
            "ambitAddCertificateWait": duration(limits.add_certificate),
        }))
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn duration(value: Duration) -> Value {
    json!({"secs": value.as_secs(), "nanos": value.subsec_nanos()})
}

fn listen(value: Listen) -> Value {
    match value {
        Listen::Localhost(ipv6, port) => json!({"Localhost": [ipv6, port]}),
        Listen::Address(address) => json!({"SocketAddr": address.to_string()}),
    }
}

fn root(value: &Root) -> Value {
    match value {
        Root::File(path) => json!({"File": path}),
        Root::System => json!("Default"),
        Root::Inline(pem) => json!({"Static": pem}),
    }
}
