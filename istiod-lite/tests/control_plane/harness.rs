//! A control plane, its manifests, and callers with tokens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ambit_channel::{ChannelConfig, ControlPlane as Channel, RootSource, TokenSource, connect};
use ambit_proto::workload::{Address, TunnelProtocol, address};
use ambit_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use ambit_runtime::{Readiness, Scope};
use ambit_testkit::token::{Subject, TokenIssuer};
use ambit_xds::{
    ClientConfig, Metadata, NoMetrics, Node, ReceivedResource, Rejection, ResourceSink, TypeSub,
    run_client,
};
use clap::Parser;
use istiod_lite::{Args, ControlPlane};
use parking_lot::Mutex;
use prost::Message;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A control plane and what surrounds it. The directory outlives restarts.
pub(crate) struct Mesh {
    pub(crate) dir: TempDir,
    pub(crate) issuer: TokenIssuer,
    pub(crate) control: Option<ControlPlane>,
    pub(crate) scope: Scope,
    extra: Vec<String>,
}

impl Mesh {
    /// Proxies `zt-N` and agents `agent-N` on nodes `n1` and `n2`; `cart` on
    /// `n1`, `pay` on `n2`.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(extra: &[&str]) -> Self {
        let mesh = Self::prepare(extra);
        mesh.started().await
    }

    pub(crate) fn prepare(extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let issuer = TokenIssuer::new(ISSUER).unwrap();
        issuer.write_jwks(&dir.path().join("jwks.json")).unwrap();
        let mesh = Self {
            dir,
            issuer,
            control: None,
            scope: Scope::new("test"),
            extra: extra.iter().map(ToString::to_string).collect(),
        };
        for node in ["n1", "n2"] {
            mesh.write_pod("istio-system", &format!("zt-{node}"), "ztunnel", node);
            mesh.write_pod("istio-system", &format!("agent-{node}"), "node-agent", node);
        }
        mesh.write_pod("shop", "cart", "cart", "n1");
        mesh.write_pod("shop", "pay", "pay", "n2");
        mesh
    }

    pub(crate) async fn started(mut self) -> Self {
        self.launch().await;
        self
    }

    /// Starts, or starts again over the same state.
    pub(crate) async fn launch(&mut self) {
        self.relaunch_at(0).await;
    }

    /// [`launch`](Self::launch) on a port that clients know.
    pub(crate) async fn relaunch_at(&mut self, port: u16) {
        let listen = format!("127.0.0.1:{port}");
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let (from, state, jwks) = (path("manifests"), path("state"), path("jwks.json"));
        let fixed = [
            "istiod-lite",
            "--from",
            &from,
            "--state-dir",
            &state,
            "--jwks",
            &jwks,
            "--token-issuer",
            ISSUER,
            "--listen",
            &listen,
            "--http",
            "127.0.0.1:0",
        ];
        let all = fixed
            .into_iter()
            .map(str::to_owned)
            .chain(self.extra.clone());
        let control = ControlPlane::start(Args::parse_from(all)).await.unwrap();
        let readiness = control.readiness().clone();
        self.control = Some(control);
        eventually("ready", || readiness.is_ready()).await;
    }

    pub(crate) async fn stop(&mut self) {
        let control = self.control.take().unwrap();
        control.finish(Duration::from_secs(5)).await;
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.manifest(file)).unwrap();
    }

    pub(crate) fn manifest(&self, file: &str) -> PathBuf {
        self.dir.path().join("manifests").join(file)
    }

    pub(crate) fn write_pod(&self, namespace: &str, name: &str, account: &str, node: &str) {
        let host = namespace == "istio-system";
        // Addresses only have to differ.
        let sum: u32 = name.bytes().map(u32::from).sum();
        let ip = format!("10.0.{}.{}", sum / 250 % 250, sum % 250);
        let text = format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}, namespace: {namespace}, uid: uid-{name}, labels: {{app: {name}}}}}\n\
             spec: {{nodeName: {node}, serviceAccountName: {account}, hostNetwork: {host}, containers: [{{name: c, image: c}}]}}\n\
             status:\n  phase: Running\n  podIP: {ip}\n  podIPs: [{{ip: {ip}}}]\n  \
             conditions: [{{type: Ready, status: 'True'}}]\n"
        );
        self.write(&format!("{namespace}-{name}.yaml"), &text);
    }

    fn control(&self) -> &ControlPlane {
        self.control.as_ref().unwrap()
    }

    pub(crate) fn secure(&self) -> SocketAddr {
        self.control().secure_address()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("state/root-cert.pem")
    }

    /// The token of a pod in `istio-system`.
    pub(crate) fn token(&self, account: &str, pod: &str, node: &str) -> String {
        self.issuer.token(&subject(account, pod, node)).unwrap()
    }

    pub(crate) fn channel(&self, token: TokenSource) -> Channel {
        connect(&ChannelConfig {
            address: format!("https://localhost:{}", self.secure().port()),
            root: RootSource::Path(self.root()),
            alt_hostname: None,
            token,
            cluster_id: "Kubernetes".into(),
            headers: Vec::new(),
        })
        .unwrap()
    }

    /// A node proxy's channel.
    pub(crate) fn proxy(&self, node: &str) -> Channel {
        let pod = format!("zt-{node}");
        let token = self.token("ztunnel", &pod, node);
        self.channel(TokenSource::Literal(token))
    }

    pub(crate) fn agent(&self, node: &str) -> Channel {
        let pod = format!("agent-{node}");
        let token = self.token("node-agent", &pod, node);
        self.channel(TokenSource::Literal(token))
    }

    /// Follows the configuration as a node's proxy does.
    pub(crate) async fn follow(&self, node: &str) -> View {
        let view = View::default();
        let readiness = Readiness::new();
        let cfg = ClientConfig {
            node: proxy_node(node),
            types: vec![
                TypeSub::wildcard(ADDRESS_TYPE),
                TypeSub::wildcard(AUTHORIZATION_TYPE),
            ],
            demand: None,
        };
        let scope = self.scope.child("view");
        let client = run_client(
            self.proxy(node),
            cfg,
            Box::new(view.clone()),
            readiness.register("xds"),
            Arc::new(NoMetrics),
            scope.token(),
        );
        scope.spawn("client", client);
        eventually("the client has everything", || readiness.is_ready()).await;
        view
    }

    /// GET from the HTTP server: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let address = self.control().http_address();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// `/debug/statusz` as soon as it says all of this; it follows what nodes
    /// are sent.
    pub(crate) async fn page_with(&self, told: &[&str]) -> serde_json::Value {
        for _ in 0..500 {
            let (status, page) = self.get("/debug/statusz").await;
            assert_eq!(status, 200);
            if told.iter().all(|told| page.contains(told)) {
                return serde_json::from_str(&page).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the page never says {told:?}");
    }

    /// The sum of a metric's samples whose labels contain a text.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let samples = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        });
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

pub(crate) fn subject<'a>(account: &'a str, pod: &'a str, node: &'a str) -> Subject<'a> {
    Subject {
        namespace: "istio-system",
        service_account: account,
        pod,
        // Leaked by a test: a few bytes.
        pod_uid: Box::leak(format!("uid-{pod}").into_boxed_str()),
        node,
    }
}

pub(crate) fn proxy_node(node: &str) -> Node {
    Node {
        id: format!("ztunnel~10.0.0.1~zt-{node}.istio-system~istio-system.svc.cluster.local"),
        metadata: Some(
            Metadata::new()
                .string("NAMESPACE", "istio-system")
                .string("NODE_NAME", node)
                .into_struct(),
        ),
        ..Node::default()
    }
}

/// What a node proxy holds, and in which order it came.
#[derive(Clone, Default)]
pub(crate) struct View(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    resources: BTreeMap<String, BTreeMap<String, ReceivedResource>>,
    log: Vec<String>,
    /// Resources with this in their name can't be used.
    refused: Option<String>,
}

impl View {
    /// Resource names in the order of arrival, removals with a `-`.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().log)
    }

    pub(crate) fn names(&self, type_url: &str) -> Vec<String> {
        let held = self.0.lock();
        let resources = held.resources.get(type_url);
        resources.map_or(Vec::new(), |r| r.keys().cloned().collect())
    }

    /// From now on resources with this in their name are refused; what there is
    /// of them stays.
    pub(crate) fn refuse(&self, name: &str) {
        self.0.lock().refused = Some(name.to_owned());
    }

    /// The version of a resource that is held.
    pub(crate) fn version(&self, type_url: &str, name: &str) -> Option<String> {
        let held = self.0.lock();
        Some(held.resources.get(type_url)?.get(name)?.version.clone())
    }

    /// Whether a pod is reached over HBONE; `None` if it isn't known.
    pub(crate) fn is_hbone(&self, pod: &str) -> Option<bool> {
        let held = self.0.lock();
        let body = &held.resources.get(ADDRESS_TYPE)?.get(&uid(pod))?.body;
        let address = Address::decode(body.clone()).unwrap();
        let Some(address::Type::Workload(workload)) = address.r#type else {
            panic!("{pod} is not a workload");
        };
        Some(workload.tunnel_protocol() == TunnelProtocol::Hbone)
    }
}

/// The uid of a pod of `shop`.
pub(crate) fn uid(pod: &str) -> String {
    format!("Kubernetes//Pod/shop/{pod}")
}

impl ResourceSink for View {
    fn apply(
        &mut self,
        type_url: &str,
        changed: Vec<ReceivedResource>,
        removed: Vec<String>,
    ) -> Vec<Rejection> {
        let mut held = self.0.lock();
        for name in removed {
            held.log.push(format!("-{name}"));
            held.resources
                .entry(type_url.into())
                .or_default()
                .remove(&name);
        }
        let refused = held.refused.clone();
        let bad = |name: &str| refused.as_ref().is_some_and(|bad| name.contains(bad));
        let (refused, changed): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .partition(|resource| bad(&resource.name));
        for resource in changed {
            held.log.push(resource.name.clone());
            let of_type = held.resources.entry(type_url.into()).or_default();
            of_type.insert(resource.name.clone(), resource);
        }
        let refusal = |resource: ReceivedResource| Rejection {
            name: resource.name,
            reason: "rules[0]: not for this test".into(),
        };
        refused.into_iter().map(refusal).collect()
    }
}

/// Polls until it is so; fails after 20 s.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
