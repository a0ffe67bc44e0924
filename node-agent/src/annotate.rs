//! Tells the cluster which pods are redirected, by the annotation that
//! upstream's control plane reads (`control-plane-contract` 1.1).
//!
//! Level-triggered: what the board says is compared with what the API server
//! is known to hold, so an annotation that somebody took away comes back, and
//! one that was left by a predecessor, or by the node before its reboot, goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_cluster::node::{AnnotateError, Annotated, annotate_pod};
use ambit_compile::enrolment::REDIRECTION;
use ambit_kube::Redirection;
use ambit_runtime::{Backoff, sleep_maybe};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::agent::Agent;
use crate::board::{Audience, Board};
use crate::inventory::{Observed, PodId, PodName};

/// Writes an annotation of a pod, or takes it away.
pub(crate) trait PodWriter: Send + Sync {
    fn annotate<'a>(
        &'a self,
        pod: &'a PodName,
        uid: &'a str,
        value: Option<&'static str>,
    ) -> BoxFuture<'a, Result<Annotated, AnnotateError>>;
}

/// Writes to the API server.
pub(crate) struct ApiServer(pub(crate) ambit_cluster::Connection);

impl PodWriter for ApiServer {
    fn annotate<'a>(
        &'a self,
        pod: &'a PodName,
        uid: &'a str,
        value: Option<&'static str>,
    ) -> BoxFuture<'a, Result<Annotated, AnnotateError>> {
        let pod = (&*pod.namespace, &*pod.name, uid);
        Box::pin(annotate_pod(&self.0.client, pod, REDIRECTION, value))
    }
}

/// Writes until it's dropped.
pub(crate) async fn run(writer: Arc<dyn PodWriter>, agent: Agent, board: Board) {
    let mut backoff = Backoff::new(FIRST_RETRY, MAX_RETRY).jitter(0.2);
    let (mut posted, mut applied) = (board.changes(), agent.applied());
    let mut sent = Sent::default();
    loop {
        posted.mark_unchanged();
        applied.mark_unchanged();
        let (version, pods) = board.all();
        let wanted = |id: &PodId| pods.get(id).map_or(Redirection::None, |s| s.redirection);
        let due = sent.due(agent.annotated(), wanted, Instant::now());
        let writes: Vec<_> = due
            .into_iter()
            .map(|(observed, value)| write(Arc::clone(&writer), observed, value))
            .collect();
        let mut writes = futures::stream::iter(writes).buffer_unordered(AT_ONCE);
        let mut failed = false;
        while let Some((observed, value, written)) = writes.next().await {
            match written {
                Ok(written) => {
                    debug!(pod = %observed.pod, value, ?written, "annotated");
                    sent.note(observed, value, Instant::now());
                }
                Err(error) => {
                    failed = true;
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    let forbidden = error.forbidden;
                    warn!(%error, source, forbidden, "peers may not know yet; trying again");
                }
            }
        }
        drop(writes);
        if failed {
            sleep(backoff.next_wait()).await;
            continue;
        }
        backoff.reset();
        board.acknowledge(Audience::Annotations, version);
        // All arms are cancel safe.
        let told = tokio::select! {
            told = posted.changed() => told,
            told = applied.changed() => told,
            () = sleep_maybe(sent.overdue()) => Ok(()),
        };
        if told.is_err() {
            return;
        }
    }
}

async fn write(
    writer: Arc<dyn PodWriter>,
    observed: Observed,
    value: Option<&'static str>,
) -> (
    Observed,
    Option<&'static str>,
    Result<Annotated, AnnotateError>,
) {
    let written = writer.annotate(&observed.pod, &observed.id, value).await;
    (observed, value, written)
}

/// What was written and hasn't come back from the API server yet.
#[derive(Debug, Default)]
struct Sent(HashMap<PodId, Write>);

#[derive(Debug)]
struct Write {
    /// The pod's, as it was seen when this was written.
    version: Arc<str>,
    value: Option<&'static str>,
    at: Instant,
}

impl Sent {
    /// The pods whose annotation isn't what is wanted, with what is.
    fn due(
        &mut self,
        observed: Vec<Observed>,
        wanted: impl Fn(&PodId) -> Redirection,
        now: Instant,
    ) -> Vec<(Observed, Option<&'static str>)> {
        let mut before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for observed in observed {
            let value = text(wanted(&observed.id));
            let on_its_way = before.remove(&observed.id);
            match on_its_way {
                // Seen as it was when this was written: that's no news yet.
                Some(write) if write.version == observed.version && now < write.overdue() => {
                    if write.value == value {
                        self.0.insert(observed.id, write);
                    } else {
                        due.push((observed, value));
                    }
                }
                _ if observed.redirection.as_deref() != value => due.push((observed, value)),
                _ => {}
            }
        }
        due
    }

    fn note(&mut self, observed: Observed, value: Option<&'static str>, at: Instant) {
        let version = observed.version;
        let write = Write { version, value, at };
        self.0.insert(observed.id, write);
    }

    /// When the first of them should have come back.
    fn overdue(&self) -> Option<Instant> {
        self.0.values().map(Write::overdue).min()
    }
}

impl Write {
    /// From when on it's taken for lost: etcd may have been restored to just before it.
    fn overdue(&self) -> Instant {
        self.at + COMES_BACK_WITHIN
    }
}

fn text(redirection: Redirection) -> Option<&'static str> {
    match redirection {
        Redirection::None => None,
        Redirection::Pending => Some("pending"),
        Redirection::Enabled => Some("enabled"),
    }
}

const AT_ONCE: usize = 8;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(5);
const COMES_BACK_WITHIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(version: &str, redirection: Option<&str>) -> Observed {
        Observed {
            id: "u".into(),
            pod: PodName {
                namespace: "shop".into(),
                name: "web".into(),
            },
            version: version.into(),
            redirection: redirection.map(str::to_owned),
        }
    }

    fn due(sent: &mut Sent, seen: &Observed, wanted: Redirection) -> Option<Option<&'static str>> {
        let mut due = sent.due(vec![seen.clone()], |_| wanted, Instant::now());
        assert!(due.len() <= 1);
        due.pop().map(|(_, value)| value)
    }

    #[test]
    fn only_what_differs_is_written_and_once() {
        let mut sent = Sent::default();
        let fresh = observed("1", None);
        assert_eq!(due(&mut sent, &fresh, Redirection::None), None);
        assert_eq!(
            due(&mut sent, &fresh, Redirection::Enabled),
            Some(Some("enabled"))
        );
        sent.note(fresh.clone(), Some("enabled"), Instant::now());
        // The API server hasn't told of it yet.
        assert_eq!(due(&mut sent, &fresh, Redirection::Enabled), None);
        assert_eq!(due(&mut sent, &fresh, Redirection::Enabled), None);
        let written = observed("2", Some("enabled"));
        assert_eq!(due(&mut sent, &written, Redirection::Enabled), None);
        // Somebody took it away.
        let stripped = observed("3", None);
        assert_eq!(
            due(&mut sent, &stripped, Redirection::Enabled),
            Some(Some("enabled"))
        );
    }

    #[test]
    fn a_change_of_mind_is_written_before_the_first_one_came_back() {
        let mut sent = Sent::default();
        let fresh = observed("1", None);
        sent.note(fresh.clone(), Some("enabled"), Instant::now());
        assert_eq!(due(&mut sent, &fresh, Redirection::None), Some(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_a_restored_etcd_never_had_is_written_again() {
        let mut sent = Sent::default();
        let restored = observed("1", None);
        sent.note(restored.clone(), Some("enabled"), Instant::now());
        assert_eq!(due(&mut sent, &restored, Redirection::Enabled), None);
        sleep_maybe(sent.overdue()).await;
        let again = due(&mut sent, &restored, Redirection::Enabled);
        assert_eq!(again, Some(Some("enabled")));
        assert_eq!(sent.overdue(), None);
    }

    #[test]
    fn what_was_left_from_before_a_reboot_goes() {
        let mut sent = Sent::default();
        let stale = observed("1", Some("enabled"));
        assert_eq!(due(&mut sent, &stale, Redirection::None), Some(None));
        assert_eq!(
            due(&mut sent, &stale, Redirection::Pending),
            Some(Some("pending"))
        );
        let odd = observed("1", Some("maybe"));
        assert_eq!(due(&mut sent, &odd, Redirection::None), Some(None));
    }

    #[test]
    fn a_pod_that_is_gone_is_forgotten() {
        let mut sent = Sent::default();
        sent.note(observed("1", None), Some("enabled"), Instant::now());
        let none = sent.due(Vec::new(), |_| Redirection::None, Instant::now());
        assert!(none.is_empty());
        assert!(sent.0.is_empty());
    }
}
