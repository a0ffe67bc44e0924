//! Random objects of all further kinds, in the same small world.

use ambit_kube::{Kind, Object, read_manifest};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::waypoints::targets;
use super::{labels, name, namespace};

pub(super) fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => route("GRPCRoute", "v1"),
        2 => route("TCPRoute", "v1alpha2"),
        2 => route("TLSRoute", "v1alpha3"),
        3 => telemetry(),
        2 => backend_tls_policy(),
        1 => backend_traffic_policy(),
        2 => config_map(),
        2 => secret(),
        2 => service_profile(),
        1 => server(),
        1 => http_local_rate_limit(),
        2 => traffic_split(),
        1 => route_group(),
        1 => reported(),
    ]
}

fn meta(namespace: &str, name: &str) -> Value {
    json!({"name": name, "namespace": namespace})
}

fn route(kind: &'static str, version: &'static str) -> impl Strategy<Value = Value> {
    let parent = (name(), option::of(namespace()), option::of(Just(80)));
    let backend = (name(), option::of(namespace()));
    (namespace(), name(), parent, backend).prop_map(move |(namespace, name, parent, backend)| {
        let (of, of_namespace, port) = parent;
        let mut spec = json!({
            "parentRefs": [{"group": "", "kind": "Service", "name": of, "namespace": of_namespace, "port": port}],
            "rules": [{"backendRefs": [{"name": backend.0, "namespace": backend.1, "port": 80}]}],
        });
        if kind == "TLSRoute" {
            spec["hostnames"] = json!(["x.test"]);
        }
        json!({"apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": kind, "metadata": meta(namespace, name), "spec": spec})
    })
}

fn telemetry() -> impl Strategy<Value = Value> {
    let targets = option::of(targets());
    let specs = select(vec![
        json!({"accessLogging": [{"providers": [{"name": "envoy"}]}]}),
        json!({"metrics": [{"overrides": [{"disabled": true}]}]}),
        json!({"tracing": [{"randomSamplingPercentage": 5, "providers": [{"name": "otel"}]}]}),
    ]);
    (namespace(), name(), targets, specs).prop_map(|(namespace, name, targets, spec)| {
        let mut spec = spec;
        spec["targetRefs"] = json!(targets);
        json!({"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry", "metadata": meta(namespace, name), "spec": spec})
    })
}

fn backend_tls_policy() -> impl Strategy<Value = Value> {
    let authority = select(vec![
        json!({"hostname": "x.test", "wellKnownCACertificates": "System"}),
        json!({"hostname": "x.test", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "a"}]}),
    ]);
    (namespace(), name(), name(), authority).prop_map(|(namespace, name, of, validation)| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": meta(namespace, name),
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": of}], "validation": validation},
        })
    })
}

fn backend_traffic_policy() -> impl Strategy<Value = Value> {
    (namespace(), name(), name()).prop_map(|(namespace, name, of)| {
        json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
            "metadata": meta(namespace, name),
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": of}],
                "retryConstraint": {"budget": {"percent": 20, "interval": "10s"}, "minRetryRate": {"count": 10, "interval": "1s"}},
            },
        })
    })
}

fn config_map() -> impl Strategy<Value = Value> {
    let text = select(vec!["one", "two"]);
    (namespace(), name(), text).prop_map(|(namespace, name, text)| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(namespace, name), "data": {"ca.crt": text}})
    })
}

fn secret() -> impl Strategy<Value = Value> {
    let text = select(vec!["b25l", "dHdv"]);
    (namespace(), name(), text).prop_map(|(namespace, name, text)| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta(namespace, name), "data": {"ca.crt": text}})
    })
}

fn service_profile() -> impl Strategy<Value = Value> {
    (namespace(), select(vec!["a.shop.svc.cluster.local", "b.data.svc.cluster.local"])).prop_map(
        |(namespace, host)| {
            json!({
                "apiVersion": "linkerd.io/v1alpha2", "kind": "ServiceProfile", "metadata": meta(namespace, host),
                "spec": {"routes": [{"name": "get", "condition": {"method": "GET", "pathRegex": "/a"}}]},
            })
        },
    )
}

fn server() -> impl Strategy<Value = Value> {
    (namespace(), name(), labels()).prop_map(|(namespace, name, labels)| {
        json!({
            "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server", "metadata": meta(namespace, name),
            "spec": {"podSelector": {"matchLabels": labels}, "port": 80, "proxyProtocol": "HTTP/1"},
        })
    })
}

fn http_local_rate_limit() -> impl Strategy<Value = Value> {
    (namespace(), name(), name()).prop_map(|(namespace, name, of)| {
        json!({
            "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "HTTPLocalRateLimitPolicy",
            "metadata": meta(namespace, name),
            "spec": {"targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": of}, "total": {"requestsPerSecond": 10}},
        })
    })
}

fn traffic_split() -> impl Strategy<Value = Value> {
    (namespace(), name(), name(), name()).prop_map(|(namespace, name, of, to)| {
        json!({
            "apiVersion": "split.smi-spec.io/v1alpha2", "kind": "TrafficSplit", "metadata": meta(namespace, name),
            "spec": {"service": of, "backends": [{"service": of, "weight": 90}, {"service": to, "weight": 10}]},
        })
    })
}

fn route_group() -> impl Strategy<Value = Value> {
    (namespace(), name()).prop_map(|(namespace, name)| {
        json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": meta(namespace, name),
            "spec": {"matches": [{"name": "m", "pathRegex": "/a", "methods": ["GET"]}]},
        })
    })
}

/// Of kinds that are only told about.
fn reported() -> impl Strategy<Value = Value> {
    let kinds: Vec<_> = Kind::ALL
        .iter()
        .filter(|kind| kind.is_reported_only())
        .collect();
    (namespace(), name(), select(kinds)).prop_map(|(namespace, name, kind)| {
        let version = format!("{}/{}", kind.group(), kind.versions()[0]);
        json!({"apiVersion": version, "kind": kind.as_str(), "metadata": meta(namespace, name), "spec": {}})
    })
}

/// The object, as it is read from a manifest.
pub(super) fn object(value: &Value) -> Object {
    let loaded = read_manifest("other.yaml", &super::without_nulls(value).to_string());
    let object = loaded.objects.into_iter().next();
    object
        .unwrap_or_else(|| panic!("{value}: {:?}", loaded.problems))
        .object
}
