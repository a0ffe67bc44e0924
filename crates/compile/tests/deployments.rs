//! What runs for a waypoint, with what users want different of it (`control-plane-contract` 5.4, 5.5).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use ambit_compile::{Compiler, Rendered, Settings, Status};
use ambit_kube::{Change, Kind, ObjectKey, read_manifest};
use serde_json::{Value, json};

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: wp
  namespace: shop
  uid: gw-1
  generation: 2
  labels: {team: a, istio.io/waypoint-for: all}
  annotations: {ANNOTATIONS}
spec:
  gatewayClassName: istio-waypoint
  infrastructure: {INFRASTRUCTURE}
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";
const NO: &str = "note: none";

fn gateway(annotations: &str, infrastructure: &str) -> String {
    let text = GATEWAY.replace("ANNOTATIONS", annotations);
    text.replace("{INFRASTRUCTURE}", infrastructure)
}

fn compiled(text: &str) -> Compiler {
    let mut compiler = Compiler::new(Settings::default());
    apply(&mut compiler, text);
    compiler
}

fn apply(compiler: &mut Compiler, text: &str) {
    let loaded = read_manifest("d.yaml", text);
    assert_eq!(loaded.problems, []);
    compiler.apply(loaded.objects.into_iter().map(Change::Apply));
}

fn rendered(compiler: &Compiler) -> Rendered {
    Rendered::clone(&compiler.rendered()["shop/wp"])
}

fn container(rendered: &Rendered) -> Value {
    let deployment = serde_json::to_value(&rendered.deployment).unwrap();
    deployment
        .pointer("/spec/template/spec/containers/0")
        .unwrap()
        .clone()
}

fn status(compiler: &Compiler) -> Status {
    Status::clone(&compiler.statuses()[&ObjectKey::new(Kind::Gateway, "shop", "wp")])
}

/// Kind, status and reason of a condition of the Gateway.
fn condition(compiler: &Compiler, kind: &str) -> (bool, &'static str, String) {
    let status = status(compiler);
    let found = status.conditions.iter().find(|one| one.kind == kind);
    let found = found.unwrap();
    (found.status, found.reason, found.message.clone())
}

#[test]
fn the_pod_has_everything_that_a_waypoint_needs() {
    let compiler = compiled(&gateway(NO, "{}"));
    let rendered = rendered(&compiler);
    assert_eq!(rendered.owner(), Some("gw-1"));
    let container = container(&rendered);
    assert_eq!(container["image"], "ambit/waypoint:dev");
    assert_eq!(container["args"], json!(["proxy", "waypoint"]));
    let variable = |name: &str| {
        let mut all = container["env"].as_array().unwrap().iter();
        let found = all.find(|one| one["name"] == name);
        found.unwrap_or_else(|| panic!("{name}")).clone()
    };
    for (name, value) in [
        ("XDS_ADDRESS", "https://istiod.istio-system.svc:15012"),
        ("CA_ADDRESS", "https://istiod.istio-system.svc:15012"),
        ("XDS_ROOT_CA", "/var/run/secrets/istio/root-cert.pem"),
        ("AUTH_TOKEN", "/var/run/secrets/tokens/istio-token"),
        ("AMBIT_TAP_TOKEN_FILE", "/var/run/ambit/tap-token"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
    ] {
        assert_eq!(variable(name)["value"], value, "{name}");
    }
    for name in [
        "POD_NAME",
        "POD_NAMESPACE",
        "SERVICE_ACCOUNT",
        "INSTANCE_IP",
        "NODE_NAME",
    ] {
        assert!(
            variable(name)["valueFrom"]["fieldRef"].is_object(),
            "{name}"
        );
    }
    let deployment = serde_json::to_value(&rendered.deployment).unwrap();
    let volumes = deployment.pointer("/spec/template/spec/volumes").unwrap();
    let mounts = container["volumeMounts"].as_array().unwrap();
    for mount in mounts {
        let mut volumes = volumes.as_array().unwrap().iter();
        assert!(
            volumes.any(|volume| volume["name"] == mount["name"]),
            "{mount}"
        );
        // The token for taps is written; nothing else is.
        let writable = mount["readOnly"] != true;
        assert_eq!(writable, mount["name"] == "ambit-run", "{mount}");
    }
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["runAsUser"], 1337);
    let owner = &rendered.service.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((&*owner.kind, owner.controller), ("Gateway", None));
    assert_eq!(rendered.deployment.spec.as_ref().unwrap().replicas, None);
    assert!(rendered.disruption_budget.is_none() && rendered.autoscaler.is_none());
}

#[test]
fn annotations_and_infrastructure_name_and_mark_what_is_made() {
    let annotations = "gateway.istio.io/name-override: other, gateway.istio.io/service-account: acc, networking.istio.io/service-type: NodePort, ambit.mesh/replicas: '3', ambit.mesh/waypoint-image: 'mine:1'";
    let compiler = compiled(&gateway(
        annotations,
        "{labels: {cost: b}, annotations: {note: c}}",
    ));
    let rendered = rendered(&compiler);
    assert_eq!(rendered.service.metadata.name.as_deref(), Some("other"));
    assert_eq!(rendered.deployment.metadata.name.as_deref(), Some("other"));
    assert_eq!(
        rendered.service_account.metadata.name.as_deref(),
        Some("acc")
    );
    let spec = rendered.service.spec.as_ref().unwrap();
    assert_eq!(spec.type_.as_deref(), Some("NodePort"));
    let labels = rendered.deployment.metadata.labels.clone().unwrap();
    assert_eq!(labels.get("cost").map(String::as_str), Some("b"));
    assert_eq!(labels.get("team"), None);
    assert_eq!(rendered.deployment.spec.as_ref().unwrap().replicas, Some(3));
    assert!(rendered.disruption_budget.is_some());
    assert_eq!(container(&rendered)["image"], "mine:1");
}

const OVERLAYS: &str = "
---
apiVersion: v1
kind: ConfigMap
metadata: {name: mine, namespace: shop}
data:
  deployment: |
    metadata: {name: stolen, labels: {extra: yes-it-is, gateway.istio.io/managed: no-one}}
    spec:
      replicas: 2
      template:
        spec:
          containers:
          - name: istio-proxy
            env: [{name: RUST_LOG, value: debug}]
            resources: {limits: {cpu: null, memory: 2Gi}}
          tolerations: [{key: dedicated, operator: Exists}]
  horizontalPodAutoscaler: |
    spec: {minReplicas: 2, maxReplicas: 7}
  podDisruptionBudget: |
    spec: {minAvailable: 1}
";
const DEFAULTS: &str = "
---
apiVersion: v1
kind: ConfigMap
metadata: {name: young, namespace: istio-system, creationTimestamp: 2026-02-01T00:00:00Z, labels: {gateway.istio.io/defaults-for-class: istio-waypoint}}
data: {service: '{spec: {externalTrafficPolicy: Cluster}}'}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: old, namespace: istio-system, creationTimestamp: 2026-01-01T00:00:00Z, labels: {gateway.istio.io/defaults-for-class: istio-waypoint}}
data:
  deployment: |
    spec: {replicas: 9, minReadySeconds: 5}
";
const REFERS: &str = "{parametersRef: {group: '', kind: ConfigMap, name: mine}}";

#[test]
fn overlays_are_laid_on_the_defaults_of_the_class_first() {
    let text = format!("{}{OVERLAYS}{DEFAULTS}", gateway(NO, REFERS));
    let compiler = compiled(&text);
    let rendered = rendered(&compiler);
    let deployment = serde_json::to_value(&rendered.deployment).unwrap();
    for (pointer, value) in [
        ("/metadata/name", json!("wp")),
        ("/metadata/labels/extra", json!("yes-it-is")),
        (
            "/metadata/labels/gateway.istio.io~1managed",
            json!("istio.io-mesh-controller"),
        ),
        ("/spec/replicas", json!(2)),
        ("/spec/minReadySeconds", json!(5)),
        ("/spec/template/spec/tolerations/0/key", json!("dedicated")),
        (
            "/spec/template/spec/containers/0/resources/limits",
            json!({"memory": "2Gi"}),
        ),
    ] {
        assert_eq!(deployment.pointer(pointer), Some(&value), "{pointer}");
    }
    let env = container(&rendered)["env"].as_array().unwrap().clone();
    assert!(env.iter().any(|one| one["name"] == "RUST_LOG"));
    assert!(env.iter().any(|one| one["name"] == "POD_NAME"));
    let scaler = rendered.autoscaler.unwrap().spec.unwrap();
    assert_eq!((scaler.min_replicas, scaler.max_replicas), (Some(2), 7));
    assert_eq!(scaler.scale_target_ref.name, "wp");
    let budget = serde_json::to_value(rendered.disruption_budget.unwrap()).unwrap();
    assert_eq!(budget["spec"]["minAvailable"], 1);
    assert!(budget["spec"]["selector"]["matchLabels"].is_object());
    // The older of the defaults holds alone.
    let spec = rendered.service.spec.as_ref().unwrap();
    assert_eq!(spec.external_traffic_policy, None);
    assert_eq!(
        condition(&compiler, "Accepted"),
        (true, "Accepted", "Resource accepted".into())
    );
}

#[test]
fn parameters_that_cannot_be_used_are_said_and_what_runs_is_left() {
    let mut compiler = compiled(&gateway(NO, REFERS));
    let (ok, reason, message) = condition(&compiler, "Accepted");
    assert_eq!((ok, reason), (false, "InvalidParameters"));
    assert!(message.contains("mine"), "{message}");
    assert!(!compiler.rendered().contains_key("shop/wp"));
    // It comes, and everything is well.
    apply(&mut compiler, OVERLAYS);
    assert!(condition(&compiler, "Accepted").0);
    assert!(compiler.rendered().contains_key("shop/wp"));
    for broken in [
        "deployment: '{spec: {replicas: many}}'",
        "service: '[1]'",
        "deployment: '{a: ['",
    ] {
        let text = format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: mine, namespace: shop}}\ndata:\n  {broken}\n"
        );
        apply(&mut compiler, &text);
        let (ok, reason, message) = condition(&compiler, "Accepted");
        assert_eq!((ok, reason), (false, "InvalidParameters"), "{message}");
    }
    let secret = "{parametersRef: {group: '', kind: Secret, name: mine}}";
    apply(&mut compiler, &gateway(NO, secret));
    assert_eq!(condition(&compiler, "Accepted").1, "InvalidParameters");
}

#[test]
fn another_controllers_gateway_is_not_deployed() {
    for (version, ours) in [
        ("'5'", true),
        ("'4'", true),
        ("'6'", false),
        ("next", false),
    ] {
        let annotation = format!("gateway.istio.io/controller-version: {version}");
        let compiler = compiled(&gateway(&annotation, "{}"));
        assert_eq!(
            compiler.rendered().contains_key("shop/wp"),
            ours,
            "{version}"
        );
    }
}

const SERVICE: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: wp, namespace: shop, labels: {gateway.istio.io/managed: istio.io-mesh-controller}}
spec: {clusterIP: 10.2.0.9, selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{name: mesh, port: 15008}]}
";

fn pod(ready: &str) -> String {
    format!("
---
apiVersion: v1
kind: Pod
metadata: {{name: wp-1, namespace: shop, uid: u9, labels: {{gateway.networking.k8s.io/gateway-name: wp}}}}
spec: {{nodeName: n1, serviceAccountName: wp, containers: [{{name: c}}]}}
status: {{phase: Running, podIP: 10.1.0.9, conditions: [{{type: Ready, status: '{ready}'}}]}}
")
}

#[test]
fn an_address_stays_when_the_pods_go_but_nothing_is_programmed_then() {
    let mut compiler = compiled(&format!("{}{SERVICE}{}", gateway(NO, "{}"), pod("False")));
    let (ok, reason, message) = condition(&compiler, "Programmed");
    assert_eq!((ok, reason), (false, "AddressNotAssigned"));
    assert!(message.contains("no instances found for hostname \"wp.shop.svc.cluster.local\""));
    assert!(status(&compiler).addresses.is_empty());
    apply(&mut compiler, &pod("True"));
    assert!(condition(&compiler, "Programmed").0);
    let addresses = status(&compiler).addresses;
    let shown: Vec<_> = addresses
        .iter()
        .map(|one| (one.kind, &*one.value))
        .collect();
    let both = [
        ("Hostname", "wp.shop.svc.cluster.local"),
        ("IPAddress", "10.2.0.9"),
    ];
    assert_eq!(shown, both);
    apply(&mut compiler, &pod("False"));
    assert!(!condition(&compiler, "Programmed").0);
    assert_eq!(status(&compiler).addresses, addresses);
    // Another replica knows them from the Gateway itself.
    let written = serde_json::to_string(&addresses).unwrap();
    let known = format!("{}status: {{addresses: {written}}}\n", gateway(NO, "{}"));
    let compiler = compiled(&format!("{known}{SERVICE}{}", pod("False")));
    assert_eq!(status(&compiler).addresses, addresses);
    assert!(!condition(&compiler, "Programmed").0);
    assert_eq!(status(&compiler).listeners[0].conditions.len(), 4);
}
