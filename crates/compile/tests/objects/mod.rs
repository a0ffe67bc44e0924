//! Random objects from a small world: two namespaces, a root namespace, few names, so that everything refers to
//! everything.

mod others;
mod waypoints;

use std::sync::Arc;

use ambit_kube::{Change, Kind, Located, Object, Origin, Redirection};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Apply(Box<Value>, usize),
    Delete(Kind, &'static str, &'static str),
    /// Of what an earlier event applied.
    Gone(Box<Self>),
    Report(&'static str, &'static str, &'static str, Redirection),
}

impl Event {
    pub(crate) fn change(&self) -> Change {
        match self {
            Self::Apply(value, line) => {
                let object = object(value);
                let file: Arc<str> = format!("{}.yaml", object.key()).into();
                let origin = Origin {
                    file,
                    document: 1,
                    line: *line,
                };
                Change::Apply(Located::new(object, origin))
            }
            Self::Delete(kind, namespace, name) => {
                let namespace = if kind.is_namespaced() { namespace } else { "" };
                Change::Delete(ambit_kube::ObjectKey::new(*kind, namespace, *name))
            }
            Self::Gone(event) => event.end(),
            Self::Report(namespace, name, uid, state) => Change::Redirection {
                namespace: (*namespace).into(),
                name: (*name).into(),
                uid: (*uid).into(),
                state: *state,
            },
        }
    }

    /// What undoes it.
    pub(crate) fn end(&self) -> Change {
        match self.change() {
            Change::Apply(object) => Change::Delete(object.object.key()),
            other => other,
        }
    }
}

/// What may happen: something new, or something to an object that came before.
#[derive(Debug, Clone)]
enum Step {
    New(Event),
    /// Gone.
    Gone(Index),
    /// As it was once, after whatever happened meanwhile.
    Again(Index),
}

/// A history; half of them begin in a mesh that discovers some of its namespaces only.
pub(crate) fn events(most: usize) -> impl Strategy<Value = Vec<Event>> {
    let step = || {
        prop_oneof![
            6 => event().prop_map(Step::New),
            2 => any::<Index>().prop_map(Step::Gone),
            1 => any::<Index>().prop_map(Step::Again),
        ]
    };
    let history = || vec(step(), 1..most).prop_map(happened);
    prop_oneof![
        history(),
        (selective(), history()).prop_map(|(setup, history)| [setup, history].concat()),
    ]
}

fn happened(steps: Vec<Step>) -> Vec<Event> {
    let mut applied: Vec<Event> = Vec::new();
    let mut events = Vec::new();
    for step in steps {
        let event = match step {
            Step::New(event) => event,
            Step::Gone(_) | Step::Again(_) if applied.is_empty() => continue,
            Step::Gone(at) => Event::Gone(Box::new(at.get(&applied).clone())),
            Step::Again(at) => at.get(&applied).clone(),
        };
        if matches!(event, Event::Apply(..)) {
            applied.push(event.clone());
        }
        events.push(event);
    }
    events
}

fn selective() -> impl Strategy<Value = Vec<Event>> {
    vec(any::<bool>(), 3).prop_map(|discovered| {
        let spec = json!({"discoverySelectors": [{"matchLabels": {"app": "x"}}]});
        let config = json!({"kind": "MeshConfig", "metadata": {"name": "istio", "namespace": "istio-system"}, "spec": spec});
        let names = ["shop", "data", "istio-system"].iter().zip(discovered);
        let namespaces = names.filter(|(_, discovered)| *discovered).map(|(name, _)| {
            json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"app": "x"}}})
        });
        let all = std::iter::once(config).chain(namespaces);
        all.map(|value| Event::Apply(Box::new(value), 1)).collect()
    })
}

fn event() -> impl Strategy<Value = Event> {
    let apply =
        (anything(), 1_usize..4).prop_map(|(value, line)| Event::Apply(Box::new(value), line));
    let delete = (select(Kind::ALL), namespace(), select(&NAMES[..]))
        .prop_map(|(kind, namespace, name)| Event::Delete(kind, namespace, name));
    let states = [
        Redirection::None,
        Redirection::Pending,
        Redirection::Enabled,
    ];
    let report = (namespace(), name(), uid(), select(states.to_vec()))
        .prop_map(|(namespace, name, uid, state)| Event::Report(namespace, name, uid, state));
    prop_oneof![24 => apply, 1 => delete, 2 => report]
}

/// Of objects, namespaces and nodes alike, so that deletions hit.
const NAMES: [&str; 6] = ["a", "b", "c", "shop", "data", "istio-system"];

fn name() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c"])
}

fn namespace() -> impl Strategy<Value = &'static str> {
    select(vec!["shop", "shop", "data", "istio-system"])
}

fn uid() -> impl Strategy<Value = &'static str> {
    select(vec!["u1", "u1", "u1", "u2"])
}

fn labels() -> impl Strategy<Value = Value> {
    (option::of(select(vec!["x", "y"])), option::of(Just("1"))).prop_map(|(app, tier)| {
        let mut labels = serde_json::Map::new();
        labels.extend(app.map(|app| ("app".to_owned(), json!(app))));
        labels.extend(tier.map(|tier| ("tier".to_owned(), json!(tier))));
        Value::Object(labels)
    })
}

fn created() -> impl Strategy<Value = Value> {
    select(vec![
        Value::Null,
        json!("2020-01-01T00:00:00Z"),
        json!("2021-01-01T00:00:00Z"),
    ])
}

pub(crate) fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => mesh_config(),
        2 => namespace_object(),
        1 => node(),
        5 => pod(),
        4 => service(),
        3 => slice(),
        4 => service_entry(),
        2 => workload_entry(),
        4 => authorization_policy(),
        4 => peer_authentication(),
        14 => waypoints::anything(),
        7 => others::anything(),
    ]
}

fn mesh_config() -> impl Strategy<Value = Value> {
    let specs = vec![
        json!({}),
        json!({"trustDomain": "td.test"}),
        json!({"rootNamespace": "data"}),
        json!({"discoverySelectors": [{"matchLabels": {"app": "x"}}]}),
        json!({"serviceEntryVisibility": {"default": "NAMESPACE", "policies": [{"rules": [{"namespaceSelector": {"app": "x"}}], "visibility": "NONE"}]}}),
    ];
    (select(specs), name()).prop_map(|(spec, name)| {
        json!({"kind": "MeshConfig", "metadata": {"name": name, "namespace": "istio-system"}, "spec": spec})
    })
}

fn namespace_object() -> impl Strategy<Value = Value> {
    let more = vec![
        json!({}),
        json!({"topology.istio.io/network": "n"}),
        json!({"istio.io/use-waypoint": "w", "istio.io/dataplane-mode": "ambient"}),
        json!({"istio.io/use-waypoint": "a"}),
        json!({"istio.io/use-waypoint": "b", "istio.io/use-waypoint-namespace": "data"}),
        json!({"istio.io/dataplane-mode": "ambient", "dataplane-mode": "none"}),
    ];
    let distribution = option::of(select(vec!["PreferClose", "Any"]));
    (namespace(), labels(), select(more), distribution).prop_map(
        |(name, labels, more, distribution)| {
            let mut all = labels.as_object().cloned().unwrap_or_default();
            all.extend(more.as_object().cloned().unwrap_or_default());
            json!({"kind": "Namespace", "metadata": {"name": name, "labels": all, "annotations":
            distribution.map(|value| json!({"networking.istio.io/traffic-distribution": value}))}})
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    (name(), option::of(select(vec!["r1", "r2"]))).prop_map(|(name, region)| {
        let labels = region.map(|region| json!({"topology.kubernetes.io/region": region}));
        json!({"kind": "Node", "metadata": {"name": name, "labels": labels}})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let phase = select(vec!["Pending", "Running", "Running", "Succeeded"]);
    let ip = select(vec![
        json!("10.1.0.1"),
        json!("10.1.0.2"),
        json!("nonsense"),
        Value::Null,
    ]);
    let port = option::of(select(vec![8080, 9090]));
    let node = option::of(name());
    let asks = waypoints::asks();
    ((namespace(), name(), uid()), (labels(), asks), (phase, ip, port, node)).prop_map(
        |((namespace, name, uid), (mut labels, asks), (phase, ip, port, node))| {
            let more = asks.as_object().cloned().unwrap_or_default();
            labels.as_object_mut().unwrap().extend(more);
            let ports: Vec<_> = port.iter().map(|port| json!({"name": "web", "containerPort": port})).collect();
            json!({
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "uid": uid, "labels": labels},
                "spec": {"nodeName": node, "serviceAccountName": name, "containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": phase, "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
            })
        },
    )
}

fn service() -> impl Strategy<Value = Value> {
    let vip = select(vec!["None", "10.2.0.1", "10.2.0.2"]);
    let target = select(vec![json!(80), json!("web")]);
    let kind = select(vec!["ClusterIP", "ClusterIP", "ClusterIP", "ExternalName"]);
    let selector = prop_oneof![Just(json!({})), labels()];
    let port = select(vec![80, 81]);
    ((namespace(), name()), selector, (vip, port, target, kind, (any::<bool>(), waypoints::asks()))).prop_map(
        |((namespace, name), selector, (vip, port, target, kind, (unready, asks)))| {
            json!({
                "kind": "Service",
                "metadata": {"name": name, "namespace": namespace, "labels": asks},
                "spec": {
                    "type": kind, "clusterIP": vip, "selector": selector, "publishNotReadyAddresses": unready,
                    "ports": [{"name": "web", "port": port, "targetPort": target}],
                },
            })
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    let pod = (namespace(), name(), uid()).prop_map(|(namespace, name, uid)| {
        json!({"addresses": ["10.1.0.1"], "targetRef": {"kind": "Pod", "namespace": namespace, "name": name, "uid": uid}})
    });
    let plain = select(vec!["192.0.2.1", "192.0.2.2"]).prop_map(|ip| json!({"addresses": [ip]}));
    let endpoints = vec(prop_oneof![3 => pod, 1 => plain], 0..4);
    (namespace(), name(), name(), endpoints).prop_map(|(namespace, name, of, endpoints)| {
        json!({
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": of}},
            "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}],
            "endpoints": endpoints,
        })
    })
}

fn service_entry() -> impl Strategy<Value = Value> {
    let hosts = vec(
        select(vec![
            "x.test",
            "y.test",
            "a.shop.svc.cluster.local",
            "*.test",
        ]),
        1..3,
    );
    let addresses = vec(select(vec!["10.2.0.1", "192.0.2.0/24", "nonsense"]), 0..2);
    let address = select(vec!["192.0.2.1", "db.test", "unix:///x"]);
    let endpoints = vec((address, waypoints::asks()), 0..2);
    let allocated = option::of(select(vec!["240.240.0.1", "240.240.0.2", "nonsense"]));
    let resolution = select(vec!["NONE", "STATIC", "DNS"]);
    let asks = waypoints::asks();
    ((namespace(), name(), created()), (hosts, addresses, endpoints), (resolution, allocated), option::of(labels()), (labels(), asks))
        .prop_map(|((namespace, name, created), (hosts, addresses, endpoints), (resolution, allocated), selector, (mut labels, asks))| {
            let endpoints: Vec<_> = endpoints.iter().map(|(address, labels)| json!({"address": address, "labels": labels})).collect();
            let allocated: Vec<_> = allocated.iter().map(|ip| json!({"value": ip, "host": hosts[0]})).collect();
            labels.as_object_mut().unwrap().extend(asks.as_object().cloned().unwrap_or_default());
            json!({
                "kind": "ServiceEntry",
                "metadata": {"name": name, "namespace": namespace, "labels": labels, "creationTimestamp": created},
                "spec": {
                    "hosts": hosts, "addresses": addresses, "endpoints": endpoints, "resolution": resolution,
                    "ports": [{"number": 80, "name": "web", "protocol": "HTTP"}],
                    "workloadSelector": selector.map(|labels| json!({"labels": labels})),
                },
                "status": {"addresses": allocated},
            })
        })
}

fn workload_entry() -> impl Strategy<Value = Value> {
    let address = select(vec!["192.0.2.8", "vm.test", "10.0.0.0/8"]);
    let state = option::of(select(vec!["enabled", "pending"]));
    ((namespace(), name()), labels(), waypoints::asks(), address, state).prop_map(
        |((namespace, name), labels, asks, address, state)| {
            let annotations = state.map(|state| json!({"ambient.istio.io/redirection": state}));
            json!({
                "kind": "WorkloadEntry",
                "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
                "spec": {"address": address, "labels": asks, "serviceAccount": name},
            })
        },
    )
}

fn selector() -> impl Strategy<Value = Value> {
    option::of(labels())
        .prop_map(|labels| labels.map_or(Value::Null, |labels| json!({"matchLabels": labels})))
}

fn authorization_policy() -> impl Strategy<Value = Value> {
    let rules = select(vec![
        json!([{}]),
        json!([{"from": [{"source": {"namespaces": ["shop"]}}]}]),
        json!([{"to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}]}]),
        json!([{"when": [{"key": "source.ip", "values": ["10.0.0.0/8"]}]}]),
    ]);
    let action = select(vec!["ALLOW", "DENY", "AUDIT", "CUSTOM"]);
    let rev = option::of(Just("other"));
    let targets = option::of(waypoints::targets());
    (namespace(), name(), selector(), rules, action, (rev, targets)).prop_map(|(namespace, name, selector, rules, action, (rev, targets))| {
        let selector = if targets.is_some() { Value::Null } else { selector };
        json!({
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": namespace, "labels": rev.map(|rev| json!({"istio.io/rev": rev}))},
            "spec": {"selector": selector, "targetRefs": targets, "rules": rules, "action": action, "provider": (action == "CUSTOM").then(|| json!({"name": "opa"}))},
        })
    })
}

fn peer_authentication() -> impl Strategy<Value = Value> {
    let mode = || select(vec!["UNSET", "PERMISSIVE", "DISABLE", "STRICT"]);
    let ports = option::of(mode());
    (namespace(), name(), selector(), mode(), ports, created()).prop_map(
        |(namespace, name, selector, mode, port, created)| {
            let selects = selector["matchLabels"]
                .as_object()
                .is_some_and(|labels| !labels.is_empty());
            let ports = port
                .filter(|_| selects)
                .map_or(json!({}), |port| json!({"80": {"mode": port}}));
            json!({
                "kind": "PeerAuthentication",
                "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created},
                "spec": {"selector": selector, "mtls": {"mode": mode}, "portLevelMtls": ports},
            })
        },
    )
}

/// The object, through the same deserialisation that a watch uses.
pub(crate) fn object(value: &Value) -> Object {
    if value["apiVersion"].is_string() {
        return others::object(value);
    }
    match value["kind"].as_str().unwrap() {
        "MeshConfig" => Object::MeshConfig(read(value)),
        "Namespace" => Object::Namespace(read(&versioned(value, "v1"))),
        "Node" => Object::Node(read(&versioned(value, "v1"))),
        "Pod" => Object::Pod(read(&versioned(value, "v1"))),
        "Service" => Object::Service(read(&versioned(value, "v1"))),
        "EndpointSlice" => Object::EndpointSlice(read(&versioned(value, "discovery.k8s.io/v1"))),
        "ServiceEntry" => Object::ServiceEntry(read(&versioned(value, "networking.istio.io/v1"))),
        "WorkloadEntry" => Object::WorkloadEntry(read(&versioned(value, "networking.istio.io/v1"))),
        "AuthorizationPolicy" => {
            Object::AuthorizationPolicy(read(&versioned(value, "security.istio.io/v1")))
        }
        "PeerAuthentication" => {
            Object::PeerAuthentication(read(&versioned(value, "security.istio.io/v1")))
        }
        _ => waypoints::object(value),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Arc<T> {
    Arc::new(serde_json::from_value(without_nulls(value)).unwrap())
}

fn versioned(value: &Value, version: &str) -> Value {
    let mut value = value.clone();
    value["apiVersion"] = json!(version);
    value
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                kept.map(|(key, value)| (key.clone(), without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}
