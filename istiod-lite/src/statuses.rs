//! What the compiler says of objects, as writers of statuses want it (`control-plane-contract` 5.3).

use ambit_cluster::status::{Form, Wanted};
use ambit_compile::Status;
use ambit_kube::{Kind, ObjectKey};
use serde::Serialize;
use serde_json::{Map, Value};

/// Whose election decides who writes the statuses of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concern {
    /// The mesh's own kinds: one writer in the cluster.
    Mesh,
    /// Gateway API's kinds: one writer a revision.
    Gateways,
}

/// Kinds whose statuses are written, by concern.
pub(crate) const MESH_KINDS: &[Kind] = &[
    Kind::Service,
    Kind::ServiceEntry,
    Kind::WorkloadEntry,
    Kind::AuthorizationPolicy,
    Kind::RequestAuthentication,
];
/// See [`MESH_KINDS`].
pub(crate) const GATEWAY_KINDS: &[Kind] = &[
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TcpRoute,
    Kind::TlsRoute,
    Kind::BackendTlsPolicy,
    Kind::XBackendTrafficPolicy,
];

/// Who is asked about a kind; none: its statuses aren't written.
pub(crate) fn concern(kind: Kind) -> Option<Concern> {
    if MESH_KINDS.contains(&kind) {
        Some(Concern::Mesh)
    } else if GATEWAY_KINDS.contains(&kind) {
        Some(Concern::Gateways)
    } else {
        None
    }
}

/// Everything that is to be said of an object, each manager's part complete: what isn't said is taken back.
pub(crate) fn wanted(key: &ObjectKey, status: Option<&Status>) -> Vec<Wanted> {
    let nothing = Status::default();
    let status = status.unwrap_or(&nothing);
    let own = |manager, value| {
        vec![Wanted {
            object: key.clone(),
            manager,
            form: Form::Own(value),
        }]
    };
    match key.kind {
        Kind::Service | Kind::ServiceEntry => own("istio-ambient-service", conditions(status, all)),
        Kind::WorkloadEntry => own("istio-ambient-workloadentry", conditions(status, all)),
        Kind::AuthorizationPolicy => {
            let ztunnel = |kind: &str| kind == "ZtunnelAccepted";
            let mut both = own("istio-ambient-ztunnel-policy", conditions(status, ztunnel));
            let rest = conditions(status, |kind| !ztunnel(kind));
            both.extend(own("istio-ambient-waypoint-policy", rest));
            both
        }
        Kind::RequestAuthentication => {
            own("istio-ambient-waypoint-policy", conditions(status, all))
        }
        // Without a status it isn't ours, and is left alone.
        Kind::Gateway | Kind::GatewayClass if *status == nothing => Vec::new(),
        Kind::Gateway | Kind::GatewayClass => own(CONTROLLER, whole(status)),
        Kind::BackendTlsPolicy | Kind::XBackendTrafficPolicy => {
            vec![shared(key, "ancestors", &status.ancestors)]
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
            vec![shared(key, "parents", &status.parents)]
        }
        _ => Vec::new(),
    }
}

fn all(_: &str) -> bool {
    true
}

fn conditions(status: &Status, of: impl Fn(&str) -> bool) -> Value {
    let conditions = status.conditions.iter().filter(|one| of(one.kind));
    let conditions: Vec<_> = conditions.map(value).collect();
    [("conditions".to_owned(), Value::from(conditions))]
        .into_iter()
        .collect::<Map<_, _>>()
        .into()
}

/// A status with no part that others share.
fn whole(status: &Status) -> Value {
    let mut whole = value(status);
    if let Some(members) = whole.as_object_mut() {
        members.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
    }
    whole
}

fn shared(key: &ObjectKey, list: &'static str, entries: &[impl Serialize]) -> Wanted {
    Wanted {
        object: key.clone(),
        manager: CONTROLLER,
        form: Form::Share {
            list,
            controller: CONTROLLER,
            entries: entries.iter().map(value).collect(),
        },
    }
}

/// Statuses are made of texts, numbers and lists: there is nothing that JSON can't have.
fn value(of: &(impl Serialize + ?Sized)) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// Our name as a controller, and as the manager of what a controller writes.
pub(crate) const CONTROLLER: &str = "istio.io/gateway-controller";

#[cfg(test)]
mod tests {
    use ambit_compile::{Compiler, Settings};
    use ambit_kube::Change;
    use serde_json::json;

    use super::*;

    fn statuses(text: &str) -> Vec<Wanted> {
        let loaded = ambit_kube::read_manifest("s.yaml", text);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        let mut compiler = Compiler::new(Settings::default());
        let changes = loaded.objects.into_iter().map(Change::Apply);
        compiler.apply(changes.chain([Change::Synced]).collect::<Vec<_>>());
        let statuses = compiler.statuses().iter();
        statuses
            .flat_map(|(key, status)| wanted(key, Some(&**status)))
            .collect()
    }

    #[test]
    fn each_manager_has_its_conditions_and_each_kind_its_form() {
        let wanted = statuses(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop, generation: 4}
spec: {rules: [{}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop, generation: 7, labels: {istio.io/use-waypoint: wp}}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio-waypoint, generation: 1}
spec: {controllerName: istio.io/mesh-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop, generation: 5}
spec:
  parentRefs: [{kind: Service, group: '', name: cart, port: 80}]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
",
        );
        let of = |kind, manager: &str| {
            let mut all = wanted.iter();
            let found = all.find(|one| one.object.kind == kind && one.manager == manager);
            found.map(|one| &one.form)
        };
        let Some(Form::Own(policy)) = of(Kind::AuthorizationPolicy, "istio-ambient-ztunnel-policy")
        else {
            panic!("{wanted:?}");
        };
        assert_eq!(
            policy.pointer("/conditions/0/observedGeneration"),
            Some(&json!("4"))
        );
        let waypoint = of(Kind::AuthorizationPolicy, "istio-ambient-waypoint-policy");
        assert_eq!(waypoint, Some(&Form::Own(json!({"conditions": []}))));
        let Some(Form::Own(service)) = of(Kind::Service, "istio-ambient-service") else {
            panic!("{wanted:?}");
        };
        let bound = service.pointer("/conditions/0").unwrap();
        assert_eq!(bound["type"], "istio.io/WaypointBound");
        assert_eq!(bound["reason"], "WaypointIsNotReady");
        assert_eq!(bound["message"], "waypoint \"shop/wp\" is not ready");
        assert_eq!(bound.get("observedGeneration"), None);
        let Some(Form::Own(class)) = of(Kind::GatewayClass, CONTROLLER) else {
            panic!("{wanted:?}");
        };
        assert_eq!(
            class.pointer("/conditions/0/observedGeneration"),
            Some(&json!(1))
        );
        let Some(Form::Share { list, entries, .. }) = of(Kind::HttpRoute, CONTROLLER) else {
            panic!("{wanted:?}");
        };
        assert_eq!(*list, "parents");
        assert_eq!(entries[0]["parentRef"]["name"], "cart");
        let kinds = entries[0]["conditions"].as_array().unwrap().iter();
        let kinds: Vec<_> = kinds.map(|one| one["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Accepted", "ResolvedRefs", "ResolvedWaypoints"]);
        assert_eq!(entries[0]["conditions"][0]["observedGeneration"], 5);
    }

    #[test]
    fn what_nothing_is_said_of_is_given_up_but_for_gateways_of_others() {
        let of = |kind| wanted(&ObjectKey::new(kind, "shop", "x"), None);
        assert_eq!(of(Kind::AuthorizationPolicy).len(), 2);
        assert_eq!(
            of(Kind::Service)[0].form,
            Form::Own(json!({"conditions": []}))
        );
        assert!(of(Kind::Gateway).is_empty());
        assert!(of(Kind::Pod).is_empty());
        for kind in MESH_KINDS {
            assert!(!of(*kind).is_empty(), "{kind}");
        }
    }
}
