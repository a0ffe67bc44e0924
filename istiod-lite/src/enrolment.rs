//! The enrolment service: node agents report which pods are redirected.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ambit_authn::Caller;
use ambit_kube::Redirection;
use ambit_proto::enrolment::enrolment_server::Enrolment;
use ambit_proto::enrolment::{self as wire, NodeReport, ReportAck};
use ambit_runtime::Scope;
use ambit_types::NamespacedName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::directory::Directory;
use crate::metrics::ControlMetrics;
use crate::node_caller::{Refusal, node_of};
use crate::redirection::{NotCounted, Reported};

/// One node's report on its way to the configuration task.
#[derive(Debug)]
pub(crate) struct Report {
    /// The node, proven.
    pub(crate) node: Arc<str>,
    /// Which of its agent's streams it came by.
    pub(crate) stream: u64,
    /// Everything that its agent knows; none when the stream has ended.
    pub(crate) pods: Option<Vec<Reported>>,
    /// Gets the pods that don't count, once the report is kept and published.
    pub(crate) kept: oneshot::Sender<Vec<(NamespacedName, NotCounted)>>,
}

/// Takes reports from node agents.
#[derive(Clone)]
pub(crate) struct Agents {
    /// Which pods run where.
    pub(crate) directory: Directory,
    /// Accounts of node agents.
    pub(crate) trusted: Vec<NamespacedName>,
    /// To the configuration task.
    pub(crate) reports: mpsc::Sender<Report>,
    /// What is counted.
    pub(crate) metrics: Arc<ControlMetrics>,
    /// Where streams live.
    pub(crate) scope: Scope,
}

#[tonic::async_trait]
impl Enrolment for Agents {
    type ReportStream = ReceiverStream<Result<ReportAck, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let caller = request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("authentication failure"))?;
        let node = self.node(&caller).await?;
        let (acks, stream) = mpsc::channel(ACKS);
        let agents = self.clone();
        self.scope.spawn("agent", async move {
            info!(%node, caller = %caller.id, "agent connected");
            let mut reports = request.into_inner();
            let id = STREAMS.fetch_add(1, Ordering::Relaxed);
            let at = (&node, id);
            if let Err(status) = agents.converse(&caller, at, &mut reports, &acks).await {
                warn!(%node, code = ?status.code(), error = status.message(), "agent lost");
                // An agent that doesn't read misses its status.
                let _ = timeout(FAREWELL, acks.send(Err(status))).await;
            }
            agents.ended(&node, id).await;
            info!(%node, "agent disconnected");
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Agents {
    /// Waits a moment for the agent's own pod to become known.
    async fn node(&self, caller: &Caller) -> Result<Arc<str>, Status> {
        let mut changed = self.directory.watch();
        let until = Instant::now() + PATIENCE;
        loop {
            let refusal = match node_of(caller, &self.trusted, &self.directory) {
                Ok(node) => return Ok(node),
                Err(refusal) => refusal,
            };
            let passing = refusal.may_pass();
            if !passing || !matches!(timeout_at(until, changed.changed()).await, Ok(Ok(()))) {
                self.metrics.agent_refused(refusal.label());
                warn!(caller = %caller.id, reason = %refusal, "agent refused");
                return Err(match refusal {
                    Refusal::NotSynced => Status::unavailable("the configuration isn't loaded yet"),
                    _ => Status::permission_denied("not the agent of a node"),
                });
            }
        }
    }

    async fn converse(
        &self,
        caller: &Caller,
        (node, stream): (&Arc<str>, u64),
        reports: &mut Streaming<NodeReport>,
        acks: &mpsc::Sender<Result<ReportAck, Status>>,
    ) -> Result<(), Status> {
        while let Some(report) = reports.message().await? {
            if report.node != **node {
                return Err(Status::permission_denied("a report about another node"));
            }
            if report.pods.len() > MAX_PODS {
                return Err(Status::invalid_argument("more pods than a node can have"));
            }
            // Its pod may have been deleted, and another taken its place.
            if node_of(caller, &self.trusted, &self.directory).as_ref() != Ok(node) {
                return Err(Status::permission_denied(
                    "no longer the agent of this node",
                ));
            }
            let pods: Vec<Reported> = report.pods.into_iter().map(reported).collect();
            let (kept, outcome) = oneshot::channel();
            let gone = |_| Status::unavailable("shutting down");
            let report_in = Report {
                node: Arc::clone(node),
                stream,
                pods: Some(pods),
                kept,
            };
            self.reports
                .send_timeout(report_in, KEEPING)
                .await
                .map_err(|_| Status::unavailable("too busy for a report"))?;
            let refused = timeout(KEEPING, outcome)
                .await
                .map_err(|_| Status::unavailable("too busy for a report"))?
                .map_err(gone)?;
            for (pod, why) in &refused {
                self.metrics.pod_refused();
                info!(%node, %pod, %why, "reported pod doesn't count");
            }
            let ack = ReportAck {
                sequence: report.sequence,
                refused: refused.iter().map(refusal).collect(),
            };
            if acks.send(Ok(ack)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Agents {
    async fn ended(&self, node: &Arc<str>, stream: u64) {
        let (kept, _) = oneshot::channel();
        let ended = Report {
            node: Arc::clone(node),
            stream,
            pods: None,
            kept,
        };
        // The task that listens is there as long as we are.
        let _ = self.reports.send(ended).await;
    }
}

/// Tells a node's streams apart.
static STREAMS: AtomicU64 = AtomicU64::new(0);

fn reported(pod: wire::PodRedirection) -> Reported {
    let state = match pod.redirection() {
        wire::Redirection::None => Redirection::None,
        wire::Redirection::Pending => Redirection::Pending,
        wire::Redirection::Enabled => Redirection::Enabled,
    };
    Reported {
        pod: NamespacedName::new(pod.namespace, pod.name),
        uid: pod.uid.into(),
        state,
    }
}

fn refusal((pod, why): &(NamespacedName, NotCounted)) -> wire::Refusal {
    wire::Refusal {
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        reason: why.to_string(),
    }
}

const ACKS: usize = 4;
/// Many times what a node can run.
const MAX_PODS: usize = 4096;
/// How long a pod may take from a node to our directory.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long keeping a report may take.
const KEEPING: Duration = Duration::from_secs(20);
const FAREWELL: Duration = Duration::from_secs(5);
