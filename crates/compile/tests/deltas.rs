//! What single changes cost, what they bring along, and what can be asked afterwards.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use ambit_compile::{AddressKind, Compiler, Delta, Settings};
use ambit_kube::{Change, Kind, ObjectKey, Redirection, read_manifest};
use ambit_proto::workload;
use prost::Message;

const SHOP: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, uid: u1, labels: {app: cart}}, spec: {nodeName: n1, serviceAccountName: cart, containers: [{name: c}]}, status: {phase: Running, podIP: 10.1.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, uid: u2, labels: {app: web}}, spec: {nodeName: n2, containers: [{name: c}]}, status: {phase: Running, podIP: 10.1.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: job, namespace: shop, uid: u3}, spec: {nodeName: n2, serviceAccountName: job, containers: [{name: c}]}, status: {phase: Succeeded, podIP: 10.1.0.3}}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.2.0.1, selector: {app: cart}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.2.0.2, selector: {app: web}, ports: [{port: 80}]}}
"#;

fn apply(compiler: &mut Compiler, text: &str) -> Delta {
    let loaded = read_manifest("shop.yaml", text);
    assert_eq!(loaded.problems, []);
    compiler.apply(loaded.objects.into_iter().map(Change::Apply))
}

fn shop() -> Compiler {
    let mut compiler = Compiler::new(Settings::default());
    apply(&mut compiler, SHOP);
    compiler
}

fn names(delta: &Delta) -> Vec<String> {
    let changed = delta
        .addresses
        .changed
        .iter()
        .map(|a| format!("+{}", a.name));
    let removed = delta
        .addresses
        .removed
        .iter()
        .map(|name| format!("-{name}"));
    let policies = delta
        .authorizations
        .changed
        .iter()
        .map(|p| format!("+{}", p.name));
    let gone = delta
        .authorizations
        .removed
        .iter()
        .map(|name| format!("-{name}"));
    changed.chain(removed).chain(policies).chain(gone).collect()
}

#[test]
fn a_change_costs_what_it_touches() {
    let cases = [
        (
            "a node's locality: its pods",
            "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/region: r}}}",
            vec!["+Kubernetes//Pod/shop/cart"],
        ),
        (
            "a service's ports: itself and its members",
            "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.2.0.2, selector: {app: web}, ports: [{port: 81}]}}",
            vec![
                "+Kubernetes//Pod/shop/web",
                "+shop/web.shop.svc.cluster.local",
            ],
        ),
        (
            "a service's address: itself",
            "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.2.0.9, selector: {app: web}, ports: [{port: 80}]}}",
            vec!["+shop/web.shop.svc.cluster.local"],
        ),
        (
            "a namespace's preset: its services",
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop, annotations: {networking.istio.io/traffic-distribution: PreferClose}}}",
            vec![
                "+shop/cart.shop.svc.cluster.local",
                "+shop/web.shop.svc.cluster.local",
            ],
        ),
        (
            "a namespace's enrolment: nothing",
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}",
            vec![],
        ),
        (
            "a policy with a selector: itself and whom it selects",
            "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {selector: {matchLabels: {app: cart}}}}",
            vec!["+Kubernetes//Pod/shop/cart", "+shop/p"],
        ),
        (
            "a policy of the namespace: itself",
            "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {}}",
            vec!["+shop/p"],
        ),
        (
            "an annotation that nobody reads: nothing",
            "{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, uid: u1, labels: {app: cart}, annotations: {a: b}}, spec: {nodeName: n1, serviceAccountName: cart, containers: [{name: c}]}, status: {phase: Running, podIP: 10.1.0.1}}",
            vec![],
        ),
    ];
    for (name, text, want) in cases {
        let mut compiler = shop();
        let delta = apply(&mut compiler, text);
        assert_eq!(names(&delta), want, "{name}");
        assert!(apply(&mut compiler, text).is_empty(), "{name}, again");
    }
}

#[test]
fn enrolment_changes_one_workload_and_leaving_changes_it_back() {
    let mut compiler = shop();
    let report = |state| Change::Redirection {
        namespace: "shop".into(),
        name: "cart".into(),
        uid: "u1".into(),
        state,
    };
    let before = compiler.snapshot();
    let delta = compiler.apply([report(Redirection::Enabled)]);
    assert_eq!(names(&delta), ["+Kubernetes//Pod/shop/cart"]);
    assert!(compiler.apply([report(Redirection::Enabled)]).is_empty());
    let delta = compiler.apply([report(Redirection::None)]);
    assert_eq!(names(&delta), ["+Kubernetes//Pod/shop/cart"]);
    assert_eq!(compiler.snapshot(), before);
}

#[test]
fn members_are_sent_again_when_a_service_begins_to_publish_unready_ones() {
    let mut compiler = shop();
    let text = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.2.0.2, publishNotReadyAddresses: true, selector: {app: web}, ports: [{port: 80}]}}";
    let version = |compiler: &Compiler| {
        let all = compiler.snapshot().addresses;
        all.iter()
            .find(|a| a.name.ends_with("Pod/shop/web"))
            .unwrap()
            .version
    };
    let before = version(&compiler);
    let delta = apply(&mut compiler, text);
    let want = [
        "+Kubernetes//Pod/shop/web",
        "+shop/web.shop.svc.cluster.local",
    ];
    assert_eq!(names(&delta), want);
    assert_eq!(version(&compiler), before);
}

#[test]
fn a_policy_comes_and_goes_with_the_references_to_it() {
    let mut compiler = shop();
    let strict = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: shop}, spec: {mtls: {mode: STRICT}}}";
    let delta = apply(&mut compiler, strict);
    let pods = ["+Kubernetes//Pod/shop/cart", "+Kubernetes//Pod/shop/web"];
    let policy = "istio-system/istio_converted_static_strict";
    assert_eq!(
        names(&delta),
        [pods[0].into(), pods[1].into(), format!("+{policy}")]
    );
    let AddressKind::Workload { policies, .. } = &delta.addresses.changed[0].kind else {
        unreachable!("a pod");
    };
    assert_eq!(&*policies[0], policy);
    let key = ObjectKey::new(Kind::PeerAuthentication, "shop", "default");
    let delta = compiler.apply([Change::Delete(key)]);
    assert_eq!(
        names(&delta),
        [pods[0].into(), pods[1].into(), format!("-{policy}")]
    );
}

#[test]
fn the_older_type_carries_the_workload_alone() {
    let compiler = shop();
    for address in compiler.snapshot().addresses {
        let message = workload::Address::decode(address.body.clone()).unwrap();
        match message.r#type.unwrap() {
            workload::address::Type::Workload(inner) => {
                let body = address.workload_body().unwrap();
                assert_eq!(workload::Workload::decode(body).unwrap(), inner);
                assert_eq!(
                    *address.aliases,
                    [format!("/{}", ip(&inner.addresses[0])).into()]
                );
            }
            workload::address::Type::Service(_) => assert_eq!(address.workload_body(), None),
        }
    }
}

fn ip(bytes: &[u8]) -> std::net::Ipv4Addr {
    <[u8; 4]>::try_from(bytes).unwrap().into()
}

#[test]
fn pods_and_identities_can_be_asked_for() {
    let mut compiler = shop();
    let cart = compiler.pod("shop", "cart").unwrap();
    assert_eq!(
        (&*cart.uid, &*cart.service_account, &*cart.node),
        ("u1", "cart", "n1")
    );
    assert_eq!(
        &*compiler.pod("shop", "web").unwrap().service_account,
        "default"
    );
    assert!(compiler.pod("shop", "gone").is_none());
    let cases = [
        ("cart", "n1", true),
        ("cart", "n2", false),
        ("default", "n2", true),
        ("job", "n2", false),
    ];
    for (account, node, want) in cases {
        assert_eq!(
            compiler.identity_runs_on_node("shop", account, node),
            want,
            "{account} {node}"
        );
    }
    compiler.apply([Change::Delete(ObjectKey::new(Kind::Pod, "shop", "cart"))]);
    assert!(!compiler.identity_runs_on_node("shop", "cart", "n1"));
    let moved = "{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop}, spec: {nodeName: n2, serviceAccountName: cart, containers: [{name: c}]}}";
    apply(&mut compiler, moved);
    assert!(!compiler.identity_runs_on_node("shop", "cart", "n1"));
    assert!(compiler.identity_runs_on_node("shop", "cart", "n2"));
}

#[test]
fn what_a_namespace_decides_elsewhere_follows_its_discovery() {
    const WORLD: &str = r#"
{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: "discoverySelectors: [{matchLabels: {mesh: in}}]"}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: istio-system, labels: {mesh: in}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: store, labels: {mesh: in}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: data}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pg, namespace: store, uid: u1}, spec: {containers: [{name: c}]}, status: {podIP: 10.1.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: data, labels: {app: x}}, spec: {containers: [{name: c}]}, status: {podIP: 10.1.0.2}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: data}, spec: {clusterIP: 10.2.0.1, ports: [{name: sql, port: 5432}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-1, namespace: data, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{name: sql, port: 5432}], endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, namespace: store, name: pg, uid: u1}}]}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: istio-system}, spec: {selector: {matchLabels: {app: x}}}}
"#;
    let discovered =
        "{apiVersion: v1, kind: Namespace, metadata: {name: data, labels: {mesh: in}}}";
    let mut compiler = Compiler::new(Settings::default());
    apply(&mut compiler, WORLD);
    assert_eq!(
        compiler.diagnostics().len(),
        1,
        "the policy selects nothing that is there"
    );
    let delta = apply(&mut compiler, discovered);
    let pods = ["+Kubernetes//Pod/data/x", "+Kubernetes//Pod/store/pg"];
    assert_eq!(
        names(&delta),
        [pods[0], pods[1], "+data/db.data.svc.cluster.local"]
    );
    assert_eq!(compiler.diagnostics(), []);
    let delta = apply(
        &mut compiler,
        "{apiVersion: v1, kind: Namespace, metadata: {name: data}}",
    );
    let gone = ["-Kubernetes//Pod/data/x", "-data/db.data.svc.cluster.local"];
    assert_eq!(names(&delta), [pods[1], gone[0], gone[1]]);
    assert_eq!(compiler.diagnostics().len(), 1);
}

#[test]
fn a_host_that_a_service_gives_up_goes_to_the_entry_with_its_endpoints() {
    let mut compiler = shop();
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: shop}, spec: {hosts: [web.shop.svc.cluster.local], resolution: STATIC, ports: [{number: 80, name: h, protocol: HTTP}], endpoints: [{address: 192.0.2.1}]}}";
    assert!(names(&apply(&mut compiler, entry)).is_empty());
    assert_eq!(compiler.diagnostics().len(), 1);
    let service = ObjectKey::new(Kind::Service, "shop", "web");
    let delta = compiler.apply([Change::Delete(service)]);
    let endpoint = "+Kubernetes/networking.istio.io/ServiceEntry/shop/e/192.0.2.1";
    let want = [
        "+Kubernetes//Pod/shop/web",
        endpoint,
        "+shop/web.shop.svc.cluster.local",
    ];
    assert_eq!(names(&delta), want);
    assert_eq!(compiler.diagnostics(), []);
}
