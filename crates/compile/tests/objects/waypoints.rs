//! Random Gateways, routes and policies of waypoints, in the same small world.

use ambit_kube::Object;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::{created, labels, name, namespace, read, selector, versioned};

/// Labels of objects that ask for a waypoint, or are pods of one.
pub(super) fn asks() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({}),
        json!({"istio.io/use-waypoint": "a"}),
        json!({"istio.io/use-waypoint": "b", "istio.io/use-waypoint-namespace": "data"}),
        json!({"istio.io/use-waypoint": "none"}),
        json!({"istio.io/use-waypoint": "a", "istio.io/use-waypoint-canary": "b"}),
        json!({"gateway.networking.k8s.io/gateway-name": "a"}),
        json!({"gateway.istio.io/managed": "istio.io-mesh-controller"}),
    ])
}

/// What a policy attaches to.
pub(super) fn targets() -> impl Strategy<Value = Value> {
    let kinds = select(vec![
        ("", "Service"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("networking.istio.io", "ServiceEntry"),
        ("gateway.networking.k8s.io", "GatewayClass"),
    ]);
    (kinds, name()).prop_map(|((group, kind), name)| {
        let name = if kind == "GatewayClass" {
            "istio-waypoint"
        } else {
            name
        };
        json!([{"group": group, "kind": kind, "name": name}])
    })
}

pub(super) fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        5 => gateway(),
        1 => class(),
        4 => route(),
        3 => virtual_service(),
        3 => destination_rule(),
        2 => request_authentication(),
        1 => grant(),
        1 => rate_limit(),
    ]
}

fn gateway() -> impl Strategy<Value = Value> {
    let class = select(vec!["istio-waypoint", "ambit-waypoint", "istio", "own"]);
    let scope = select(vec![
        Value::Null,
        json!({"namespaces": {"from": "All"}}),
        json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"app": "x"}}}}),
    ]);
    let traffic = select(vec![
        Value::Null,
        json!("all"),
        json!("workload"),
        json!("none"),
    ]);
    let account = option::of(name());
    let address = option::of(select(vec!["192.0.2.77", "wp.test"]));
    ((namespace(), name()), class, scope, traffic, account, address).prop_map(
        |((namespace, name), class, scope, traffic, account, address)| {
            let address = address.map(|value| {
                let kind = if value == "wp.test" { "Hostname" } else { "IPAddress" };
                json!({"addresses": [{"type": kind, "value": value}]})
            });
            json!({
                "kind": "Gateway",
                "metadata": {
                    "name": name, "namespace": namespace, "labels": {"istio.io/waypoint-for": traffic},
                    "annotations": {"istio.io/for-service-account": account},
                },
                "spec": {
                    "gatewayClassName": class,
                    "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE", "allowedRoutes": scope}],
                },
                "status": address,
            })
        },
    )
}

fn class() -> impl Strategy<Value = Value> {
    let controller = select(vec!["istio.io/mesh-controller", "example.com/other"]);
    let name = select(vec!["own", "istio-waypoint"]);
    let traffic = select(vec![Value::Null, json!("all")]);
    (name, controller, traffic).prop_map(|(name, controller, traffic)| {
        json!({
            "kind": "GatewayClass",
            "metadata": {"name": name, "labels": {"istio.io/waypoint-for": traffic}},
            "spec": {"controllerName": controller},
        })
    })
}

fn route() -> impl Strategy<Value = Value> {
    let parent = (name(), option::of(namespace()), option::of(Just(80))).prop_map(
        |(name, namespace, port)| {
            json!({"group": "", "kind": "Service", "name": name, "namespace": namespace, "port": port})
        },
    );
    let backend = (name(), option::of(namespace()))
        .prop_map(|(name, namespace)| json!({"name": name, "namespace": namespace, "port": 80}));
    (namespace(), name(), parent, backend, created()).prop_map(
        |(namespace, name, parent, backend, created)| {
            json!({
                "kind": "HTTPRoute",
                "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created},
                "spec": {"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]},
            })
        },
    )
}

fn host() -> impl Strategy<Value = &'static str> {
    select(vec![
        "a",
        "a.shop.svc.cluster.local",
        "b.data.svc.cluster.local",
        "x.test",
        "*.test",
    ])
}

fn virtual_service() -> impl Strategy<Value = Value> {
    let subset = option::of(select(vec!["v1", "v2"]));
    let delegate = option::of(name());
    (namespace(), name(), host(), host(), subset, delegate).prop_map(
        |(namespace, name, host, to, subset, delegate)| {
            let rule = match delegate {
                Some(delegate) => json!({"delegate": {"name": delegate}}),
                None => json!({"route": [{"destination": {"host": to, "subset": subset}}]}),
            };
            json!({
                "kind": "VirtualService",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"hosts": [host], "http": [rule]},
            })
        },
    )
}

fn destination_rule() -> impl Strategy<Value = Value> {
    let subset = option::of(labels());
    (namespace(), name(), host(), subset, created()).prop_map(
        |(namespace, name, host, subset, created)| {
            let subsets: Vec<_> = subset
                .iter()
                .map(|labels| json!({"name": "v1", "labels": labels}))
                .collect();
            json!({
                "kind": "DestinationRule",
                "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created},
                "spec": {"host": host, "subsets": subsets},
            })
        },
    )
}

fn request_authentication() -> impl Strategy<Value = Value> {
    let targets = option::of(targets());
    (namespace(), name(), targets, selector()).prop_map(|(namespace, name, targets, selector)| {
        let selector = if targets.is_some() { Value::Null } else { selector };
        json!({
            "kind": "RequestAuthentication",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "targetRefs": targets,
                "selector": selector,
                "jwtRules": [{"issuer": "https://issuer.test", "jwksUri": "https://issuer.test/keys"}],
            },
        })
    })
}

fn grant() -> impl Strategy<Value = Value> {
    (namespace(), name(), namespace()).prop_map(|(namespace, name, from)| {
        json!({
            "kind": "ReferenceGrant",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from}],
                "to": [{"group": "", "kind": "Service"}],
            },
        })
    })
}

fn rate_limit() -> impl Strategy<Value = Value> {
    (namespace(), name(), name()).prop_map(|(namespace, name, of)| {
        json!({
            "kind": "LocalRateLimit",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": of}],
                "limits": [{"requests": 10}],
            },
        })
    })
}

/// The object, through the same deserialisation that a watch uses.
pub(super) fn object(value: &Value) -> Object {
    let kind = value["kind"].as_str().unwrap();
    let networking = "networking.istio.io/v1";
    let gateway = "gateway.networking.k8s.io/v1";
    match kind {
        "Gateway" => Object::Gateway(read(&versioned(value, gateway))),
        "GatewayClass" => Object::GatewayClass(read(&versioned(value, gateway))),
        "HTTPRoute" => Object::HttpRoute(read(&versioned(value, gateway))),
        "ReferenceGrant" => Object::ReferenceGrant(read(&versioned(value, gateway))),
        "VirtualService" => Object::VirtualService(read(&versioned(value, networking))),
        "DestinationRule" => Object::DestinationRule(read(&versioned(value, networking))),
        "RequestAuthentication" => {
            Object::RequestAuthentication(read(&versioned(value, "security.istio.io/v1")))
        }
        "LocalRateLimit" => Object::LocalRateLimit(read(&versioned(value, "ambit.mesh/v1alpha1"))),
        other => panic!("no such kind here: {other}"),
    }
}
