use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ambit_netns::{NamedNetNs, NetNs, Netlink};
use ambit_proto::enrolment::enrolment_server::{Enrolment, EnrolmentServer};
use ambit_proto::enrolment::{NodeReport, Redirection, ReportAck};
use ambit_redirect::zds::{ZdsClient, ZdsRequest};
use ambit_redirect::{Capture, Found, Redirector, RuleSet};
use ambit_runtime::Scope;
use ambit_source::DirSource;
use clap::Parser;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_stream::{Stream, StreamExt};
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use crate::Args;
use crate::annotate::PodWriter;

pub(crate) const NODE: &str = "worker-1";
const DEADLINE: Duration = Duration::from_secs(10);

/// What happened, in its order.
pub(crate) type Journal = Arc<Mutex<Vec<String>>>;

/// One node: manifests, a control plane, an agent, and proxies as wanted.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) journal: Journal,
    pub(crate) control_plane: ControlPlane,
    pub(crate) drain_bound: &'static str,
    /// Whether the control plane is told.
    pub(crate) reports: bool,
    /// Who writes annotations.
    pub(crate) writer: Option<Arc<dyn PodWriter>>,
    control_plane_scope: Scope,
    address: String,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let journal = Journal::default();
        let control_plane = ControlPlane {
            journal: Arc::clone(&journal),
            last: watch::Sender::new(None),
            answers: watch::Sender::new(true),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let control_plane_scope = Scope::new("control plane");
        let service = EnrolmentServer::new(control_plane.clone());
        control_plane_scope.spawn("server", async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            dir,
            journal,
            control_plane,
            drain_bound: "1h",
            reports: true,
            writer: None,
            control_plane_scope,
            address,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts an agent; it ends with the returned scope.
    pub(crate) async fn agent(&self) -> Running {
        let path = |name: &str| self.path(name).into_os_string().into_string().unwrap();
        let (from, zds, cni) = (path("manifests"), path("zds.sock"), path("cni.sock"));
        let args = Args::parse_from([
            "node-agent",
            "--from",
            &from,
            "--node",
            NODE,
            "--zds-socket",
            &zds,
            "--cni-socket",
            &cni,
            "--control-plane",
            "https://unused.invalid",
            "--root-ca",
            "unused",
            "--token-file",
            "unused",
            "--http",
            "127.0.0.1:0",
            "--drain-bound",
            self.drain_bound,
        ]);
        let endpoint = tonic::transport::Endpoint::from_shared(self.address.clone()).unwrap();
        let bearer = |request: Request<()>| Ok(request);
        let channel = InterceptedService::new(endpoint.connect_lazy(), bearer);
        let scope = Scope::new("agent");
        let source = crate::Source::Directory(DirSource::new(self.path("manifests")));
        let outward = crate::Outward {
            channel: self.reports.then_some(channel),
            annotations: self.writer.clone(),
            source,
        };
        crate::start(args, outward, &scope).await.unwrap();
        Running(scope)
    }

    /// A proxy that accepts every pod, unless its uid is refused.
    pub(crate) fn proxy(&self) -> Proxy {
        let proxy = Proxy {
            scope: Scope::new("proxy"),
            pods: watch::Sender::new(BTreeMap::new()),
            refuse: watch::Sender::new(BTreeSet::new()),
            hold: watch::Sender::new(false),
        };
        let (path, journal) = (self.path("zds.sock"), Arc::clone(&self.journal));
        let (pods, refuse) = (proxy.pods.clone(), proxy.refuse.clone());
        let hold = proxy.hold.clone();
        proxy.scope.spawn("proxy", async move {
            let mut client = loop {
                match ZdsClient::connect(&path).await {
                    Ok(client) => break client,
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            };
            client.hello().await.unwrap();
            while let Ok(request) = client.next().await {
                let mut held = hold.subscribe();
                held.wait_for(|held| !held).await.unwrap();
                let mut error = None;
                match request {
                    ZdsRequest::Add { uid, netns, .. } => {
                        note(&journal, format!("add {uid}"));
                        if refuse.borrow().contains(&uid) {
                            error = Some("port 15001 is taken");
                        } else {
                            pods.send_modify(|pods| drop(pods.insert(uid, netns)));
                        }
                    }
                    ZdsRequest::Keep { uid } => note(&journal, format!("keep {uid}")),
                    ZdsRequest::Del { uid } => {
                        note(&journal, format!("del {uid}"));
                        pods.send_modify(|pods| drop(pods.remove(&uid)));
                    }
                    ZdsRequest::SnapshotSent => note(&journal, "snapshot".into()),
                }
                if client.ack(error).await.is_err() {
                    return;
                }
            }
        });
        proxy
    }

    /// Writes a file of manifests, whole.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let temporary = self.path(&format!("{name}.tmp"));
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.path("manifests").join(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path("manifests").join(name)).unwrap();
    }

    pub(crate) fn namespace(&self, labels: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n"
        );
        self.write("namespace.yaml", &text);
    }

    pub(crate) fn pod(&self, name: &str, netns: Option<&NamedNetNs>, more: &str) {
        let netns = netns.map(|ns| format!("ambit.mesh/netns: {}", ns.path().display()));
        let annotations: Vec<_> = netns.into_iter().chain([more.to_owned()]).collect();
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: uid-{name}, \
             annotations: {{{}}}}}\nspec: {{nodeName: {NODE}, serviceAccountName: {name}, \
             containers: [{{name: main, image: none}}]}}\nstatus: {{phase: Running, podIP: 10.1.2.3}}\n",
            annotations.join(", ").trim_end_matches(", "),
        );
        self.write(&format!("{name}.yaml"), &text);
    }

    pub(crate) fn take_journal(&self) -> Vec<String> {
        std::mem::take(&mut *self.journal.lock().unwrap())
    }

    pub(crate) async fn until_reported(&self, want: &[(&str, Redirection)]) {
        let want: BTreeMap<_, _> = want
            .iter()
            .map(|(pod, r)| (format!("shop/{pod}"), *r))
            .collect();
        let mut last = self.control_plane.last.subscribe();
        let reached = last.wait_for(|last| last.as_ref() == Some(&want));
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        if reached.is_err() {
            panic!(
                "reported is {:?}, wanted {want:?}",
                self.control_plane.last.borrow()
            );
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.control_plane_scope.cancel();
    }
}

/// An agent that runs.
pub(crate) struct Running(Scope);

impl Running {
    pub(crate) async fn stop(self) {
        self.0.finish(Duration::ZERO).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A proxy as the agent sees one.
pub(crate) struct Proxy {
    scope: Scope,
    pub(crate) pods: watch::Sender<BTreeMap<String, NetNs>>,
    pub(crate) refuse: watch::Sender<BTreeSet<String>>,
    /// While true, nothing is answered.
    pub(crate) hold: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn stop(self) {
        self.scope.finish(Duration::ZERO).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

/// Takes reports and keeps the last.
#[derive(Clone)]
pub(crate) struct ControlPlane {
    journal: Journal,
    pub(crate) last: watch::Sender<Option<BTreeMap<String, Redirection>>>,
    /// While false, reports aren't acknowledged.
    pub(crate) answers: watch::Sender<bool>,
}

#[tonic::async_trait]
impl Enrolment for ControlPlane {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<ReportAck, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let plane = self.clone();
        let acks = request.into_inner().then(move |report| {
            let plane = plane.clone();
            async move {
                let report = report?;
                assert_eq!(report.node, NODE);
                let pods: BTreeMap<_, _> = report
                    .pods
                    .iter()
                    .map(|p| (format!("{}/{}", p.namespace, p.name), p.redirection()))
                    .collect();
                note(
                    &plane.journal,
                    format!("report {:?}", pods.keys().collect::<Vec<_>>()),
                );
                plane.last.send_replace(Some(pods));
                let mut answers = plane.answers.subscribe();
                let _ = answers.wait_for(|answers| *answers).await;
                let sequence = report.sequence;
                Ok(ReportAck {
                    sequence,
                    refused: Vec::new(),
                })
            }
        });
        Ok(Response::new(Box::pin(acks)))
    }
}

fn note(journal: &Journal, what: String) {
    journal.lock().unwrap().push(what);
}

/// A pod's namespace, with its loopback up.
pub(crate) async fn pod_namespace() -> NamedNetNs {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir = std::env::temp_dir().join("ambit-node-agent-tests");
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let pid = name.split('-').next().unwrap();
        if !std::path::Path::new("/proc").join(pid).exists() {
            NamedNetNs::remove_stale(&dir, &name);
        }
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let ns = NamedNetNs::create(&dir, &format!("{}-{count}", std::process::id())).unwrap();
    Netlink::in_ns(ns.ns())
        .unwrap()
        .link_up("lo")
        .await
        .unwrap();
    ns
}

/// What the kernel holds there, with the handles of the rules.
pub(crate) fn ruleset(ns: &NetNs) -> String {
    let list = || {
        std::process::Command::new("nft")
            .args(["-a", "list", "ruleset"])
            .output()
    };
    let output = ns.run(list).unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) async fn captured(ns: &NetNs) -> bool {
    let wanted = RuleSet::Capture(Capture::default());
    Redirector::new().look(ns, &wanted).await.unwrap() == Found::Wanted
}

pub(crate) async fn draining(ns: &NetNs) -> bool {
    Redirector::new().look(ns, &RuleSet::Drain).await.unwrap() == Found::Wanted
}

pub(crate) async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !reached().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
