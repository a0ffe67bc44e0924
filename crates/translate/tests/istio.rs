//! VirtualServices and DestinationRules: what becomes of requests, and what a
//! service's Backend says (`waypoint-contract` section 3).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod table;
mod world;

use ambit_proto::waypoint::{Gateway, PathNormalization};
use ambit_translate::{World, istio};

const BASE: &str = include_str!("fixtures/istio/base.yaml");
const SUBSETS: &str = include_str!("fixtures/istio/subsets.yaml");

#[test]
fn virtual_services() {
    let base = format!("{BASE}\n{SUBSETS}");
    table::run(&base, include_str!("fixtures/istio/virtual_service.yaml"));
}

#[test]
fn destination_rules() {
    table::run(BASE, include_str!("fixtures/istio/destination_rule.yaml"));
}

/// 3.3, 4.7, 1.9, 1.7, 1.5: what a gateway takes from the mesh's settings.
#[test]
fn gateways_take_the_meshs_routing() {
    let settings = |text: &str| {
        let config = text
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>();
        let map = format!(
            "{BASE}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{config}"
        );
        let world = world::TestWorld::from_yaml(&map);
        let mut gateway = Gateway::default();
        let problems = istio::mesh_routing(world.mesh(), &mut gateway);
        (gateway, problems)
    };
    let (plain, problems) = settings("trustDomain: cluster.local");
    assert!(problems.is_empty(), "{problems:?}");
    let retry = plain.default_retry.unwrap();
    assert_eq!(
        (retry.attempts, retry.backoff_base_ms, retry.backoff_max_ms),
        (2, 25, 250)
    );
    assert_eq!(retry.on.unwrap().grpc, [14, 1]);
    assert_eq!(plain.path_normalization, PathNormalization::Base as i32);
    assert_eq!(
        (plain.connect_timeout_ms, plain.protocol_detection_ms),
        (10_000, None)
    );
    assert_eq!((plain.trusted_proxies, &*plain.server_header), (0, ""));

    let (set, problems) = settings(
        "defaultHttpRetryPolicy: {attempts: 4, retryOn: 5xx}\n\
         pathNormalization: {normalization: MERGE_SLASHES}\n\
         connectTimeout: 3s\n\
         protocolDetectionTimeout: 150ms\n\
         defaultConfig:\n  gatewayTopology: {numTrustedProxies: 2}\n  proxyHeaders: {server: {disabled: true}, preserveHttp1HeaderCase: true}",
    );
    assert!(problems.is_empty(), "{problems:?}");
    let retry = set.default_retry.unwrap();
    assert!(retry.attempts == 4 && retry.on.unwrap().status_5xx);
    assert_eq!(
        set.path_normalization,
        PathNormalization::MergeSlashes as i32
    );
    assert_eq!(
        (set.connect_timeout_ms, set.protocol_detection_ms),
        (3_000, Some(150))
    );
    assert_eq!((set.trusted_proxies, &*set.server_header), (2, "-"));
    assert!(set.preserve_header_case);

    let (off, _) = settings("defaultHttpRetryPolicy: {attempts: 0}");
    assert_eq!(off.default_retry.unwrap().attempts, 0);
    let (odd, problems) = settings("pathNormalization: {normalization: SOME}");
    assert_eq!(
        odd.path_normalization,
        PathNormalization::DecodeAndMergeSlashes as i32
    );
    assert_eq!(problems.first().unwrap().code.as_str(), "AMB0455");
}

/// Settings that upstream's proxies have and ours don't are never dropped in silence.
#[test]
fn settings_of_envoy_and_sidecars_are_answered() {
    let told = |config: &str| {
        let lines = config.lines().map(|line| format!("    {line}\n"));
        let map = format!(
            "{BASE}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{}",
            lines.collect::<String>()
        );
        let world = world::TestWorld::from_yaml(&map);
        let problems = istio::unused_settings(world.mesh());
        assert!(problems.iter().all(|problem| problem.remedy.is_some()));
        let said = problems.iter().map(|problem| {
            let field = problem.field.as_deref().unwrap_or_default();
            format!("{} {} {field}", problem.severity, problem.code)
        });
        said.collect::<Vec<_>>()
    };
    assert!(told("enableAutoMtls: true\noutboundTrafficPolicy: {mode: ALLOW_ANY}").is_empty());
    assert_eq!(
        told(
            "enableAutoMtls: false\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\ndefaultConfig:\n  concurrency: 2\n  proxyHeaders: {server: {value: x}, requestId: {disabled: true}}"
        ),
        [
            "Warning AMB0456 outboundTrafficPolicy.mode",
            "Warning AMB0456 enableAutoMtls",
            "Info AMB0456 defaultConfig.concurrency",
            "Info AMB0456 defaultConfig.proxyHeaders.requestId",
        ]
    );
}
