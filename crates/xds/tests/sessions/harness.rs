//! A server and clients on in-memory links that can be cut, under tokio's
//! paused clock: nothing here waits for a real second.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_runtime::{Readiness, Scope};
use ambit_xds::{
    Admission, Admitted, AdsServer, Batch, ClientConfig, ClientMetrics, DemandQueue, Metadata,
    Node, NodeInfo, Publisher, ReceivedResource, Rejection, ResourceSink, ServerObserver,
    Termination, TypeDelta, TypeSub, Update, run_client,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Extensions, Status};

pub(crate) const POLICY: &str = "type.googleapis.com/test.Policy";
pub(crate) const ADDRESS: &str = "type.googleapis.com/test.Address";

/// Name to body, a type each.
pub(crate) type Contents = BTreeMap<String, BTreeMap<String, String>>;

/// A control plane and the wire to it.
pub(crate) struct World {
    pub(crate) publisher: Publisher,
    pub(crate) server: AdsServer,
    pub(crate) counted: Arc<Counted>,
    pub(crate) scope: Scope,
    links: Mutex<Scope>,
    down: Arc<std::sync::atomic::AtomicBool>,
    dial: mpsc::Sender<DuplexStream>,
}

/// What the observers saw.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) rejected: AtomicUsize,
    pub(crate) resources: AtomicUsize,
    pub(crate) opened: AtomicUsize,
    pub(crate) closed: AtomicUsize,
    pub(crate) converged: AtomicUsize,
    pub(crate) terminated: Mutex<Vec<Termination>>,
    pub(crate) messages: AtomicUsize,
}

impl ServerObserver for Counted {
    fn opened(&self, _: &NodeInfo) {
        self.opened.fetch_add(1, Ordering::SeqCst);
    }
    fn closed(&self, _: &NodeInfo) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
    fn pushed(&self, _: &str, resources: usize, _: usize) {
        self.resources.fetch_add(resources, Ordering::SeqCst);
    }
    fn rejected(&self, _: &NodeInfo, _: &str, _: &str) {
        self.rejected.fetch_add(1, Ordering::SeqCst);
    }
    fn converged(&self, _: Duration) {
        self.converged.fetch_add(1, Ordering::SeqCst);
    }
}

impl ClientMetrics for Counted {
    fn terminated(&self, reason: Termination) {
        self.terminated.lock().push(reason);
    }
    fn message(&self, _: &str, _: usize) {
        self.messages.fetch_add(1, Ordering::SeqCst);
    }
}

struct OnlyZtunnels;

impl Admission for OnlyZtunnels {
    fn admit(&self, _: &Extensions, node: &NodeInfo) -> Result<Admitted, Status> {
        match node.metadata("NAMESPACE") {
            Some("istio-system") => Ok(Admitted::everything("test")),
            _ => Err(Status::permission_denied("not in istio-system")),
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let scope = Scope::new("world");
        let publisher = Publisher::new([POLICY, ADDRESS]);
        let counted = Arc::new(Counted::default());
        let observer = Arc::clone(&counted) as Arc<dyn ServerObserver>;
        let server = AdsServer::new(publisher.clone(), Arc::new(OnlyZtunnels), observer, &scope);
        let (dial, mut accepted) = mpsc::channel::<DuplexStream>(16);
        let incoming = futures::stream::poll_fn(move |cx| {
            accepted
                .poll_recv(cx)
                .map(|stream| stream.map(io::Result::Ok))
        });
        let serving = Server::builder()
            .add_service(server.clone())
            .serve_with_incoming(incoming);
        scope.spawn("server", async move {
            let _ = serving.await;
        });
        Self {
            links: Mutex::new(scope.child("links")),
            down: Arc::default(),
            publisher,
            server,
            counted,
            scope,
            dial,
        }
    }

    /// Ends every connection without a word.
    pub(crate) fn cut(&self) {
        let mut links = self.links.lock();
        links.cancel();
        *links = self.scope.child("links");
    }

    /// While down, no connection can be made.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
        if down {
            self.cut();
        }
    }

    pub(crate) fn channel(self: &Arc<Self>) -> Channel {
        let world = Arc::clone(self);
        let connector = tower::service_fn(move |_: Uri| {
            let world = Arc::clone(&world);
            async move {
                if world.down.load(Ordering::SeqCst) {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                }
                let (near, mut left) = tokio::io::duplex(4096);
                let (mut right, far) = tokio::io::duplex(4096);
                world.links.lock().spawn("link", async move {
                    let _ = tokio::io::copy_bidirectional(&mut left, &mut right).await;
                });
                let _ = world.dial.send(far).await;
                Ok(TokioIo::new(near))
            }
        });
        Endpoint::from_static("http://control-plane").connect_with_connector_lazy(connector)
    }

    /// Starts a client; its types are policies and addresses, asked for in the
    /// order in which ztunnel asks.
    pub(crate) fn client(
        self: &Arc<Self>,
        types: Vec<TypeSub>,
        queue: Option<DemandQueue>,
    ) -> Client {
        let node = Node {
            id: "ztunnel~10.0.0.1~zt.istio-system~x".into(),
            metadata: Some(
                Metadata::new()
                    .string("NAMESPACE", "istio-system")
                    .string("NODE_NAME", "n1")
                    .into_struct(),
            ),
            ..Node::default()
        };
        let readiness = Readiness::new();
        let seen = Seen::default();
        let cfg = ClientConfig {
            node,
            types,
            demand: queue,
        };
        let task = run_client(
            self.channel(),
            cfg,
            Box::new(seen.clone()),
            readiness.register("xds"),
            Arc::clone(&self.counted) as Arc<dyn ClientMetrics>,
            self.scope.token(),
        );
        self.scope.spawn("client", task);
        Client { seen, readiness }
    }

    pub(crate) fn publish(&self, types: Vec<TypeDelta>) {
        self.publisher.publish(Batch { types });
    }
}

pub(crate) fn both() -> Vec<TypeSub> {
    vec![TypeSub::wildcard(ADDRESS), TypeSub::wildcard(POLICY)]
}

/// A delta of name and body; the body is its own version.
pub(crate) fn delta(type_url: &str, changed: &[(&str, &str)], removed: &[&str]) -> TypeDelta {
    let changed = changed.iter().map(|(name, body)| update(name, body));
    TypeDelta {
        type_url: type_url.into(),
        changed: changed.collect(),
        removed: removed.iter().map(ToString::to_string).collect(),
    }
}

pub(crate) fn update(name: &str, body: &str) -> Update {
    Update {
        name: name.into(),
        version: body.into(),
        body: body.as_bytes().to_vec().into(),
        ..Update::default()
    }
}

pub(crate) struct Client {
    pub(crate) seen: Seen,
    pub(crate) readiness: Readiness,
}

/// The sink: what is held, and every breach of the order of delivery.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    held: Contents,
    breaches: Vec<String>,
    log: VecDeque<String>,
}

impl Seen {
    pub(crate) fn held(&self, type_url: &str) -> BTreeMap<String, String> {
        self.0
            .lock()
            .held
            .get(type_url)
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn breaches(&self) -> Vec<String> {
        self.0.lock().breaches.clone()
    }

    /// Names applied since the last call, `name` or `-name`.
    pub(crate) fn take_log(&self) -> Vec<String> {
        self.0.lock().log.drain(..).collect()
    }
}

impl State {
    /// An address's body lists the policies that it needs after a `:`.
    fn check(&mut self) {
        let empty = BTreeMap::new();
        let policies = self.held.get(POLICY).unwrap_or(&empty);
        let addresses = self.held.get(ADDRESS).unwrap_or(&empty);
        for (name, body) in addresses {
            let needs = body.split_once(':').map_or("", |(_, needs)| needs);
            for policy in needs.split(',').filter(|p| !p.is_empty()) {
                if !policies.contains_key(policy) {
                    self.breaches.push(format!("{name} without {policy}"));
                }
            }
        }
    }
}

impl ResourceSink for Seen {
    fn apply(
        &mut self,
        type_url: &str,
        changed: Vec<ReceivedResource>,
        removed: Vec<String>,
    ) -> Vec<Rejection> {
        let mut state = self.0.lock();
        let mut rejected = Vec::new();
        for name in removed {
            state.log.push_back(format!("-{name}"));
            state.held.entry(type_url.into()).or_default().remove(&name);
        }
        for resource in changed {
            let body = String::from_utf8(resource.body.to_vec()).unwrap();
            state.log.push_back(resource.name.clone());
            if body.starts_with("bad") {
                rejected.push(Rejection {
                    name: resource.name,
                    reason: "as the test wants".into(),
                });
                continue;
            }
            let held = state.held.entry(type_url.into()).or_default();
            held.insert(resource.name, body);
        }
        state.check();
        rejected
    }
}

/// Polls, on the paused clock, until it is so; fails after ten of its minutes.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
