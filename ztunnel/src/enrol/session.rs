//! The conversation with the node agent: connect, hello, serve its requests,
//! connect again (`ztunnel-contract` 4.5).

use std::path::Path;
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_redirect::zds::{ZdsClient, ZdsError, ZdsFault, ZdsRequest};
use ambit_runtime::{Backoff, DrainWatch, ReadyGuard};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{debug, info, warn};

use super::{Enrolment, Pod, Proxies};

/// Why there are no further conversations.
#[derive(Debug)]
pub enum End {
    /// The process is going away.
    Drained,
    /// The agent broke the protocol in a way after which nobody knows which
    /// pods are ours: the process ends with status 1.
    Broken(ZdsError),
}

/// Serves the agent's requests until the drain starts. Ready while the agent
/// is connected, its snapshot is complete and nothing is pending.
pub async fn run<P: Proxies<Ns = NetNs>>(
    socket: &Path,
    mut enrolment: Enrolment<P>,
    ready: ReadyGuard,
    drain: DrainWatch,
) -> End {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX).jitter(0.2);
    loop {
        let mut session = Session {
            enrolment: &mut enrolment,
            ready: &ready,
            drain: &drain,
            complete: false,
        };
        let error = match session.hold(socket).await {
            Ok(()) => return End::Drained,
            Err(error) => error,
        };
        if session.complete {
            backoff.reset();
        }
        ready.not_ready();
        enrolment.on_disconnected();
        match error.fault() {
            ZdsFault::RefuseAndExit => return End::Broken(error),
            ZdsFault::Reconnect | ZdsFault::RefuseAndReconnect => {}
        }
        let wait = backoff.next_wait();
        warn!(error = %Chain(&error), retry_in = ?wait, "no node agent: proxies that run go on");
        tokio::select! {
            biased;
            _ = drain.started() => return End::Drained,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

struct Session<'a, P: Proxies> {
    enrolment: &'a mut Enrolment<P>,
    ready: &'a ReadyGuard,
    drain: &'a DrainWatch,
    /// The snapshot came to its end.
    complete: bool,
}

impl<P: Proxies<Ns = NetNs>> Session<'_, P> {
    /// One conversation. `Ok` is a drain.
    async fn hold(&mut self, socket: &Path) -> Result<(), ZdsError> {
        let mut agent = ZdsClient::connect(socket).await?;
        agent.hello().await?;
        info!(socket = %socket.display(), "connected to the node agent");
        self.enrolment.on_connected();
        let mut retry = interval_at(Instant::now() + RETRY, RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Drain first: what hasn't been read is the next proxy's business.
            let request = tokio::select! {
                biased;
                _ = self.drain.started() => return Ok(()),
                request = agent.next() => request,
                _ = retry.tick(), if self.enrolment.has_pending() => {
                    self.enrolment.retry_pending().await;
                    self.say_ready();
                    continue;
                }
            };
            match request {
                Ok(request) => self.on_request(request, &mut agent).await?,
                Err(error) => {
                    if error.fault() != ZdsFault::Reconnect {
                        let why = Chain(&error).to_string();
                        // The agent may be gone as well; the fault decides what follows.
                        let _ = agent.ack(Some(&why)).await;
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn on_request(
        &mut self,
        request: ZdsRequest,
        agent: &mut ZdsClient,
    ) -> Result<(), ZdsError> {
        debug!(?request, "node agent");
        let mut refusal = None;
        match request {
            ZdsRequest::Add { uid, info, netns } => {
                let pod = Pod {
                    uid,
                    info,
                    ns: netns,
                };
                let uid = pod.uid.clone();
                if let Err(error) = self.enrolment.on_add(pod).await {
                    let why = Chain(&error).to_string();
                    warn!(
                        uid,
                        error = why,
                        "the pod's proxy does not start; tried again every 5 s"
                    );
                    refusal = Some(format!("proxy of {uid}: {why}"));
                }
            }
            ZdsRequest::Keep { uid } => self.enrolment.on_keep(uid),
            ZdsRequest::Del { uid } => self.enrolment.on_del(&uid),
            ZdsRequest::SnapshotSent => {
                self.enrolment.on_snapshot_sent();
                self.complete = true;
            }
        }
        self.say_ready();
        agent.ack(refusal.as_deref()).await
    }

    fn say_ready(&self) {
        if self.enrolment.is_ready() {
            self.ready.ready();
        } else {
            self.ready.not_ready();
        }
    }
}

/// An error with its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Between two attempts to start what didn't come up.
const RETRY: Duration = Duration::from_secs(5);
