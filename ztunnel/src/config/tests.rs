use ambit_runtime::MapEnv;

use super::*;

const CORES: usize = 8;

/// A host without the files that defaults name.
fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env: MapEnv = pairs.iter().copied().collect();
    Config::build(&env, None, CORES)
}

fn system_roots(pairs: &[(&str, &str)]) -> Config {
    let mut all = vec![("XDS_ROOT_CA", "SYSTEM"), ("CA_ROOT_CA", "SYSTEM")];
    all.extend_from_slice(pairs);
    read(&all).unwrap()
}

#[test]
fn defaults_are_the_contracts() {
    let config = system_roots(&[]);
    assert_eq!(config.mode, Mode::Shared);
    assert_eq!(
        config.xds.as_ref().unwrap().address,
        "https://localhost:15012"
    );
    assert_eq!(
        config.ca.as_ref().unwrap().address,
        "https://localhost:15012"
    );
    assert_eq!(config.node.cluster_id, "Kubernetes");
    assert_eq!(config.node.trust_domain, "cluster.local");
    assert_eq!(config.node.instance_ip.to_string(), "1.1.1.1");
    assert_eq!(config.secret_ttl, Duration::from_secs(86_400));
    assert_eq!(config.pod.mark, 1337);
    assert_eq!(
        config.pod.zds_socket.to_str(),
        Some("/var/run/ztunnel/ztunnel.sock")
    );
    assert_eq!(config.http2.stream_window, 4_194_304);
    assert_eq!(config.http2.connection_window, 16_777_216);
    assert_eq!(config.http2.frame_size, 1_048_576);
    assert_eq!(config.http2.pool_max_streams, 100);
    assert_eq!(config.drain_deadline, Duration::from_secs(5));
    assert_eq!(config.illegal_ports(), [15001, 15006, 15008]);
    assert!(config.dns_proxy && config.left_out().is_empty());
}

#[test]
fn every_bad_value_is_reported_at_once() {
    let error = read(&[
        ("XDS_ROOT_CA", "SYSTEM"),
        ("CA_ROOT_CA", "SYSTEM"),
        ("SECRET_TTL", "24"),
        ("IPV6_ENABLED", "yes"),
        ("PACKET_MARK", "-1"),
        ("ISTIO_METAJSON_LABELS", "{"),
        ("PROXY_MODE", "dedicated"),
    ])
    .unwrap_err();
    let keys: Vec<_> = error.problems.iter().map(|p| p.key.as_str()).collect();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "IPV6_ENABLED",
            "ISTIO_METAJSON_LABELS",
            "PACKET_MARK",
            "PROXY_MODE",
            "SECRET_TTL"
        ]
    );
    assert!(error.to_string().contains("SECRET_TTL=\"24\""), "{error}");
}

#[test]
fn single_values_and_their_rules() {
    let bad = [
        ("KEEPALIVE_RETRIES", "many"),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "0"),
        ("HTTP2_STREAM_WINDOW_SIZE", "16777216"),
        ("ZTUNNEL_WORKER_THREADS", "half"),
        ("ZTUNNEL_RESOURCE_CPU_LIMIT", "2 cpus"),
        ("CONNECTION_TERMINATION_DEADLINE", "5"),
        ("INSTANCE_IP", "node-1"),
        ("ENABLE_ORIG_SRC", "auto"),
        ("FAKE_CA", "true"),
        ("XDS_ON_DEMAND", "true"),
        ("CRL_PATH", "/crl"),
        ("ENABLE_PROXY", "false"),
        ("PROXY_MODE", "both"),
        ("AMBIT_UNKNOWN_POLICY", "allow"),
        ("CA_ROOT_CA", "/does/not/exist"),
        ("PROXY_CONFIG", "{}"),
        ("PROXY_CONFIG", "concurrency: {"),
        ("ISTIO_META_DNS_PROXY_ADDR", "nowhere"),
    ];
    for pair in bad {
        let env = [("XDS_ROOT_CA", "SYSTEM"), pair];
        assert!(read(&env).is_err(), "{pair:?} must be refused");
    }
}

#[test]
fn control_plane_addresses() {
    type Case = (
        &'static [(&'static str, &'static str)],
        Option<&'static str>,
        Option<&'static str>,
    );
    let cases: [Case; 5] = [
        (
            &[("KUBERNETES_SERVICE_HOST", "10.0.0.1")],
            Some("https://istiod.istio-system.svc:15012"),
            Some("https://istiod.istio-system.svc:15012"),
        ),
        (
            &[("XDS_ADDRESS", ""), ("LOCAL_XDS", "workloads: []")],
            None,
            Some("https://localhost:15012"),
        ),
        (
            &[(
                "PROXY_CONFIG",
                "{discoveryAddress: 'istiod.x:15012', proxyMetadata: {}}",
            )],
            Some("https://istiod.x:15012"),
            Some("https://localhost:15012"),
        ),
        (
            &[("XDS_ADDRESS", "http://a:1"), ("CA_ADDRESS", "b:2")],
            Some("http://a:1"),
            Some("https://b:2"),
        ),
        (&[("CA_ADDRESS", "")], Some("https://localhost:15012"), None),
    ];
    for (env, xds, ca) in cases {
        let config = system_roots(env);
        assert_eq!(
            config.xds.as_ref().map(|e| e.address.as_str()),
            xds,
            "{env:?}"
        );
        assert_eq!(
            config.ca.as_ref().map(|e| e.address.as_str()),
            ca,
            "{env:?}"
        );
    }
    let nothing = read(&[("XDS_ADDRESS", ""), ("CA_ROOT_CA", "SYSTEM")]);
    assert!(nothing.unwrap_err().to_string().contains("LOCAL_XDS_PATH"));
}

#[test]
fn worker_threads_follow_the_note() {
    let cases: [(&[(&str, &str)], usize); 11] = [
        (&[], 2),
        (&[("ZTUNNEL_CPU_LIMIT", "16")], 4),
        (&[("ZTUNNEL_RESOURCE_CPU_REQUEST", "3")], 3),
        (&[("ZTUNNEL_RESOURCE_CPU_LIMIT", "500m")], 1),
        (
            &[
                ("ZTUNNEL_RESOURCE_CPU_LIMIT", "1500m"),
                ("ZTUNNEL_RESOURCE_CPU_REQUEST", "4"),
            ],
            4,
        ),
        (
            &[("PROXY_CONFIG", "{concurrency: 0, proxyMetadata: {}}")],
            8,
        ),
        (
            &[("PROXY_CONFIG", "{concurrency: 5, proxyMetadata: {}}")],
            5,
        ),
        (&[("ZTUNNEL_WORKER_THREADS", "1")], 1),
        (&[("ZTUNNEL_WORKER_THREADS", "0")], 8),
        (&[("ZTUNNEL_WORKER_THREADS", "30%")], 3),
        (&[("ZTUNNEL_WORKER_THREADS", "1%")], 1),
    ];
    for (env, threads) in cases {
        assert_eq!(system_roots(env).worker_threads, threads, "{env:?}");
    }
}

#[test]
fn drain_deadline_is_derived_from_the_grace_period() {
    let cases: [(&[(&str, &str)], u64); 5] = [
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "30")], 25),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "10")], 9),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "1")], 1),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "0")], 1),
        (
            &[
                ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
                ("CONNECTION_TERMINATION_DEADLINE", "7s"),
            ],
            7,
        ),
    ];
    for (env, seconds) in cases {
        assert_eq!(
            system_roots(env).drain_deadline,
            Duration::from_secs(seconds),
            "{env:?}"
        );
    }
}

#[test]
fn metadata_merges_in_the_contracts_order() {
    let env: MapEnv = [
        ("XDS_ROOT_CA", "SYSTEM"),
        ("CA_ROOT_CA", "SYSTEM"),
        (
            "PROXY_CONFIG",
            "{proxyMetadata: {ISTIO_META_A: doc, B: doc, DNS_CAPTURE: 'FALSE'}}",
        ),
        ("ISTIO_META_B", "env"),
        ("ISTIO_METAJSON_C", "{\"x\": 1}"),
        ("ISTIO_META_CLUSTER_ID", "east"),
        ("CLUSTER_ID", "ignored"),
    ]
    .into_iter()
    .collect();
    let mesh = "defaultConfig: {proxyMetadata: {A: mesh, D: mesh}, statsPort: 1}\nother: 1";
    let config = Config::build(&env, Some(mesh), CORES).unwrap();
    let of = |key: &str| config.proxy_metadata.get(key).cloned();
    assert_eq!(of("A"), Some("doc".into()));
    assert_eq!(of("B"), Some("env".into()));
    assert_eq!(of("C"), Some(serde_json::json!({"x": 1})));
    assert_eq!(of("D"), Some("mesh".into()));
    assert_eq!(config.node.cluster_id, "east");
    assert_eq!(config.stats_port, 1);
    assert!(!config.dns_proxy);
}

#[test]
fn the_dump_has_every_key_and_no_token() {
    let config = system_roots(&[("AUTH_TOKEN", "s3cret"), ("XDS_HEADER_a", "b")]);
    let dump = config.dump();
    for key in DUMP_KEYS {
        assert!(dump.get(key).is_some(), "config_dump lacks {key}");
    }
    let text = dump.to_string();
    assert!(!text.contains("s3cret"));
    assert!(!format!("{config:?}").contains("s3cret"));
    assert_eq!(dump["xdsHeaders"], serde_json::json!([["a", "b"]]));
    assert_eq!(
        dump["adminAddr"],
        serde_json::json!({"Localhost": [true, 15000]})
    );
    assert_eq!(
        dump["statsAddr"],
        serde_json::json!({"SocketAddr": "[::]:15020"})
    );
    assert_eq!(
        dump["secretTtl"],
        serde_json::json!({"secs": 86400, "nanos": 0})
    );
}

const DUMP_KEYS: [&str; 48] = [
    "proxy",
    "dnsProxy",
    "windowSize",
    "connectionWindowSize",
    "frameSize",
    "poolMaxStreamsPerConn",
    "poolUnusedReleaseTimeout",
    "socks5Addr",
    "adminAddr",
    "statsAddr",
    "readinessAddr",
    "inboundAddr",
    "inboundPlaintextAddr",
    "outboundAddr",
    "dnsProxyAddr",
    "illegalPorts",
    "network",
    "localNode",
    "proxyMode",
    "proxyWorkloadInformation",
    "clusterId",
    "clusterDomain",
    "caAddress",
    "caRootCert",
    "altCaHostname",
    "xdsAddress",
    "xdsRootCert",
    "altXdsHostname",
    "preferedServiceNamespace",
    "secretTtl",
    "xdsOnDemand",
    "fakeCa",
    "fakeSelfInbound",
    "selfTerminationDeadline",
    "proxyMetadata",
    "numWorkerThreads",
    "requireOriginalSource",
    "proxyArgs",
    "dnsResolverCfg",
    "dnsResolverOpts",
    "inpodUds",
    "inpodPortReuse",
    "packetMark",
    "socketConfig",
    "xdsHeaders",
    "caHeaders",
    "localhostAppTunnel",
    "ipv6Enabled",
];
