//! The state table of issue 4, item 1: for each state of a waypoint that a service asks for, and each way to reach the
//! service, the outcome, as node proxies decide it (`ztunnel-contract` 3.2, 3.4) on what the compiler sends.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "tests"
)]

use std::net::SocketAddr;

use ambit_compile::{Compiler, Settings, Snapshot};
use ambit_kube::{Change, Kind, ObjectKey, read_manifest};
use ambit_policy::{Attrs, Verdict, evaluate};
use ambit_proto::workload::{
    Address, GatewayAddress, Service, Workload, WorkloadStatus, address, gateway_address,
};
use ambit_state::{StateConfig, StateReader};
use ambit_types::SpiffeId;
use prost::Message;

const GATEWAY: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: shop}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}";
const ITS_SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: shop, labels: {gateway.istio.io/managed: istio.io-mesh-controller}}, spec: {clusterIP: 10.2.9.1, selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{name: mesh, port: 15008}]}}";
const ITS_POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: wp-1, namespace: shop, uid: w1, labels: {gateway.networking.k8s.io/gateway-name: wp}}, spec: {serviceAccountName: wp, containers: [{name: c}]}, status: {phase: Running, podIP: 10.1.9.1, conditions: [{type: Ready, status: 'True'}]}}";
const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, uid: u1, labels: {app: cart}}, spec: {serviceAccountName: cart, containers: [{name: c}]}, status: {phase: Running, podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}}";
const POLICY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: cart}], action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}}";

#[derive(Debug, Clone, Copy)]
enum State {
    NoGateway,
    NotReady,
    Ready,
    NoPods,
    Deleted,
    Misspelt,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    MeshClient,
    PlainClient,
    PodIp,
    OtherNamespace,
}

fn apply(compiler: &mut Compiler, text: &str) {
    let loaded = read_manifest("state.yaml", text);
    assert_eq!(loaded.problems, []);
    compiler.apply(loaded.objects.into_iter().map(Change::Apply));
}

fn compiled(state: State, policy: bool, bypass: bool) -> Compiler {
    let mut compiler = Compiler::new(Settings::default());
    let name = if matches!(state, State::Misspelt) {
        "wq"
    } else {
        "wp"
    };
    let annotation = if bypass { "allow" } else { "deny" };
    apply(
        &mut compiler,
        &format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: cart, namespace: shop, labels: {{istio.io/use-waypoint: {name}}}, annotations: {{ambit.mesh/waypoint-bypass: {annotation}}}}}, spec: {{clusterIP: 10.2.0.1, selector: {{app: cart}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}"
        ),
    );
    apply(&mut compiler, POD);
    if policy {
        apply(&mut compiler, POLICY);
    }
    if matches!(state, State::NoGateway) {
        return compiler;
    }
    apply(&mut compiler, GATEWAY);
    apply(&mut compiler, ITS_SERVICE);
    if matches!(state, State::NotReady) {
        apply(&mut compiler, &ITS_POD.replace("'True'", "'False'"));
        return compiler;
    }
    apply(&mut compiler, ITS_POD);
    let gone = |kind, name| Change::Delete(ObjectKey::new(kind, "shop", name));
    match state {
        State::NoPods => {
            compiler.apply([gone(Kind::Pod, "wp-1")]);
        }
        State::Deleted => {
            let all = [
                (Kind::Gateway, "wp"),
                (Kind::Service, "wp"),
                (Kind::Pod, "wp-1"),
            ];
            compiler.apply(all.map(|(kind, name)| gone(kind, name)));
        }
        State::NoGateway | State::NotReady | State::Ready | State::Misspelt => {}
    }
    compiler
}

/// What a node proxy makes of a snapshot.
struct Proxy {
    services: Vec<Service>,
    workloads: Vec<Workload>,
    reader: StateReader,
}

impl Proxy {
    fn new(snapshot: &Snapshot) -> Self {
        let (mut writer, reader) = ambit_state::new(StateConfig::default());
        let policies = snapshot.authorizations.iter();
        let policies = policies.map(|policy| (policy.name.to_string(), policy.body.clone()));
        assert_eq!(
            writer.apply_authorizations_encoded(policies.collect(), &[]),
            []
        );
        let addresses = snapshot.addresses.iter();
        let addresses = addresses.map(|address| (address.name.to_string(), address.body.clone()));
        assert_eq!(writer.apply_addresses_encoded(addresses.collect(), &[]), []);
        let (mut services, mut workloads) = (Vec::new(), Vec::new());
        for resource in &snapshot.addresses {
            match Address::decode(resource.body.clone())
                .unwrap()
                .r#type
                .unwrap()
            {
                address::Type::Service(service) => services.push(service),
                address::Type::Workload(workload) => workloads.push(workload),
            }
        }
        Self {
            services,
            workloads,
            reader,
        }
    }

    /// Rows 3 and 8: whether the waypoint resolves to a service with an endpoint.
    fn via(&self, waypoint: &GatewayAddress) -> &'static str {
        let Some(gateway_address::Destination::Hostname(name)) = &waypoint.destination else {
            panic!("waypoints are given by name here");
        };
        let known = self.services.iter().any(|service| {
            service.hostname == name.hostname && service.namespace == name.namespace
        });
        let key = format!("{}/{}", name.namespace, name.hostname);
        let serves = self.workloads.iter().any(|workload| {
            workload.services.contains_key(&key) && workload.status() == WorkloadStatus::Healthy
        });
        if known && serves {
            "waypoint"
        } else {
            "refused"
        }
    }

    /// What the destination says to a peer.
    fn admits(&self, peer: Option<&str>) -> &'static str {
        let view = self.reader.view();
        let workload = view.workload("Kubernetes//Pod/shop/cart").unwrap();
        let peer: Option<SpiffeId> = peer.map(|peer| peer.parse().unwrap());
        let attrs = Attrs {
            source_ip: [10, 9, 9, 9].into(),
            destination: SocketAddr::from(([10, 1, 0, 1], 8080)),
            peer: peer.as_ref(),
        };
        match evaluate(&view.policies_for(workload), &attrs) {
            Verdict::Allow(_) => "direct",
            Verdict::Deny(_) => "denied",
        }
    }

    fn outcome(&self, way: Way) -> &'static str {
        let service = self
            .services
            .iter()
            .find(|service| service.name == "cart")
            .unwrap();
        let pod = self
            .workloads
            .iter()
            .find(|workload| workload.name == "cart")
            .unwrap();
        let (waypoint, client) = match way {
            Way::PlainClient => return self.admits(None),
            Way::MeshClient => (&service.waypoint, "spiffe://cluster.local/ns/shop/sa/web"),
            Way::OtherNamespace => (&service.waypoint, "spiffe://cluster.local/ns/far/sa/web"),
            Way::PodIp => (&pod.waypoint, "spiffe://cluster.local/ns/shop/sa/web"),
        };
        let Some(waypoint) = waypoint else {
            return self.admits(Some(client));
        };
        match self.via(waypoint) {
            // The destination must let it in.
            "waypoint" => match self.admits(Some("spiffe://cluster.local/ns/shop/sa/wp")) {
                "direct" => "waypoint",
                other => other,
            },
            other => other,
        }
    }
}

#[test]
fn every_cell_of_the_state_table() {
    // Of a service call from the mesh, from elsewhere in it, of a plain client, and of a call to the pod's address.
    let table = [
        (
            State::NoGateway,
            false,
            ["refused", "refused", "direct", "direct"],
        ),
        (
            State::NoGateway,
            true,
            ["refused", "refused", "denied", "denied"],
        ),
        (
            State::NotReady,
            false,
            ["refused", "refused", "direct", "direct"],
        ),
        (
            State::NotReady,
            true,
            ["refused", "refused", "denied", "denied"],
        ),
        (
            State::Ready,
            false,
            ["waypoint", "waypoint", "direct", "direct"],
        ),
        (
            State::Ready,
            true,
            ["waypoint", "waypoint", "denied", "denied"],
        ),
        (
            State::NoPods,
            false,
            ["refused", "refused", "direct", "direct"],
        ),
        (
            State::NoPods,
            true,
            ["refused", "refused", "denied", "denied"],
        ),
        (
            State::Deleted,
            false,
            ["refused", "refused", "direct", "direct"],
        ),
        (
            State::Deleted,
            true,
            ["refused", "refused", "denied", "denied"],
        ),
        (
            State::Misspelt,
            false,
            ["refused", "refused", "direct", "direct"],
        ),
        (
            State::Misspelt,
            true,
            ["refused", "refused", "denied", "denied"],
        ),
    ];
    // As upstream: open until a waypoint first serves, closed when it has gone since.
    let allowed = [
        (State::NoGateway, ["direct", "direct", "direct", "direct"]),
        (State::NotReady, ["direct", "direct", "direct", "direct"]),
        (State::Ready, ["waypoint", "waypoint", "direct", "direct"]),
        (State::NoPods, ["refused", "refused", "direct", "direct"]),
        (State::Deleted, ["direct", "direct", "direct", "direct"]),
        (State::Misspelt, ["direct", "direct", "direct", "direct"]),
    ];
    let open = allowed
        .into_iter()
        .flat_map(|(state, want)| [(state, false, want), (state, true, want)]);
    let rows = table
        .into_iter()
        .map(|row| (row, false))
        .chain(open.map(|row| (row, true)));
    let ways = [
        Way::MeshClient,
        Way::OtherNamespace,
        Way::PlainClient,
        Way::PodIp,
    ];
    for ((state, policy, want), bypass) in rows {
        let proxy = Proxy::new(&compiled(state, policy, bypass).snapshot());
        let got = ways.map(|way| proxy.outcome(way));
        assert_eq!(got, want, "{state:?}, policy {policy}, bypass {bypass}");
    }
}
