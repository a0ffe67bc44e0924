//! Tells the control plane which pods are redirected (docs/adr/0004).
//!
//! Each report holds everything; the last one that was acknowledged is the
//! truth of this node, so a lost message or a restart of either side heals.

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_kube::Redirection;
use ambit_proto::enrolment::enrolment_client::EnrolmentClient;
use ambit_proto::enrolment::{self as proto, NodeReport, PodRedirection, ReportAck};
use ambit_runtime::Backoff;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::{Interceptor, interceptor::InterceptedService};
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use crate::board::{Audience, Board};

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("the control plane can't be reached or refuses: {}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("the control plane ended the stream")]
    Ended,
    #[error("the control plane didn't answer within {DEADLINE:?}")]
    Deadline,
    #[error("answer to report {got}, where {want} was sent")]
    Order { got: u64, want: u64 },
}

/// Reports until it's dropped.
pub(crate) async fn run<I>(channel: InterceptedService<Channel, I>, node: String, board: Board)
where
    I: Interceptor + Clone + Send + Sync + 'static,
{
    let mut backoff = Backoff::new(FIRST_RETRY, MAX_RETRY).jitter(0.2);
    loop {
        let mut reported = false;
        let ended = stream(&channel, &node, &board, &mut reported).await;
        if reported {
            backoff.reset();
        }
        let Err(error) = ended else { return };
        let wait = backoff.next_wait();
        warn!(%error, ?wait, "reporting to the control plane; trying again");
        sleep(wait).await;
    }
}

async fn stream<I>(
    channel: &InterceptedService<Channel, I>,
    node: &str,
    board: &Board,
    reported: &mut bool,
) -> Result<(), ReportError>
where
    I: Interceptor + Clone + Send + Sync + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    let mut client = EnrolmentClient::new(channel.clone());
    let mut changes = board.changes();
    let mut last: Option<Vec<PodRedirection>> = None;
    let mut answers = None;
    let mut receiver = Some(receiver);
    let mut refused = BTreeMap::new();
    let mut sequence = 0;
    loop {
        changes.mark_unchanged();
        let (version, pods) = report(board);
        if last.as_ref() != Some(&pods) {
            sequence += 1;
            let message = NodeReport {
                node: node.to_owned(),
                sequence,
                pods: pods.clone(),
            };
            sender.send(message).await.map_err(|_| ReportError::Ended)?;
            if let Some(receiver) = receiver.take() {
                let opened = client.report(ReceiverStream::new(receiver));
                let opened = timeout(DEADLINE, opened).await;
                answers = Some(opened.map_err(|_| ReportError::Deadline)??.into_inner());
            }
            let Some(answers) = answers.as_mut() else {
                return Err(ReportError::Ended);
            };
            let answer = timeout(DEADLINE, answers.message()).await;
            let answer = answer.map_err(|_| ReportError::Deadline)??;
            let answer = answer.ok_or(ReportError::Ended)?;
            if answer.sequence != sequence {
                let (got, want) = (answer.sequence, sequence);
                return Err(ReportError::Order { got, want });
            }
            if !*reported {
                info!(
                    pods = pods.len(),
                    "the control plane takes this node's reports"
                );
            }
            *reported = true;
            log_refusals(&answer, &mut refused);
            debug!(sequence, pods = pods.len(), "report acknowledged");
            last = Some(pods);
        }
        board.acknowledge(Audience::ControlPlane, version);
        let Some(answers) = answers.as_mut() else {
            return Err(ReportError::Ended);
        };
        // Both arms are cancel safe.
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            message = answers.message() => match message? {
                // Nothing was sent that it could answer.
                Some(answer) => return Err(ReportError::Order { got: answer.sequence, want: 0 }),
                None => return Err(ReportError::Ended),
            },
        }
    }
}

/// Every pod that is redirected; absence says that it isn't.
fn report(board: &Board) -> (u64, Vec<PodRedirection>) {
    let (version, pods) = board.all();
    let redirected = |redirection| match redirection {
        Redirection::None => None,
        Redirection::Pending => Some(proto::Redirection::Pending),
        Redirection::Enabled => Some(proto::Redirection::Enabled),
    };
    let pods = pods.values().filter_map(|status| {
        Some(PodRedirection {
            namespace: status.pod.namespace.to_string(),
            name: status.pod.name.to_string(),
            uid: status.uid.to_string(),
            redirection: redirected(status.redirection)?.into(),
        })
    });
    (version, pods.collect())
}

fn log_refusals(answer: &ReportAck, before: &mut BTreeMap<(String, String), String>) {
    let mut now = BTreeMap::new();
    for refusal in &answer.refused {
        let pod = (refusal.namespace.clone(), refusal.name.clone());
        if before.get(&pod) != Some(&refusal.reason) {
            let (pod, reason) = (format!("{}/{}", pod.0, pod.1), &refusal.reason);
            warn!(pod, reason, "the control plane refuses the report on a pod");
        }
        now.insert(pod, refusal.reason.clone());
    }
    *before = now;
}

const DEADLINE: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(5);
