//! The async shell of the client: streams, waiters, backoff.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::{Code, Streaming};
use tracing::{debug, info, warn};

use ambit_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use ambit_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use ambit_runtime::{Backoff, CancellationToken, ReadyGuard};

use super::demand::Wanted;
use super::{ClientConfig, ClientMetrics, DemandQueue, ResourceSink, Session, Termination};

type StdError = Box<dyn std::error::Error + Send + Sync>;

/// Holds one stream to the control plane until cancelled, opening it again
/// whenever it ends, and feeds the sink. `ready` becomes ready after the first
/// ACK of every wildcard type and stays so: what is held serves on while the
/// control plane is away.
///
/// # Cancel safety
/// Dropping it ends the stream; what the sink has been given stays.
pub async fn run_client<C>(
    channel: C,
    cfg: ClientConfig,
    sink: Box<dyn ResourceSink>,
    ready: ReadyGuard,
    metrics: Arc<dyn ClientMetrics>,
    token: CancellationToken,
) where
    C: GrpcService<Body> + Clone + Send,
    C::Error: Into<StdError>,
    C::Future: Send,
    C::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    let mut client = AggregatedDiscoveryServiceClient::new(channel)
        .max_decoding_message_size(MAX_RESPONSE)
        .max_encoding_message_size(usize::MAX);
    let mut conversation = Conversation {
        session: Session::new(cfg.node, cfg.types),
        sink,
        ready,
        metrics,
        demand: cfg.demand,
        waiting: HashMap::new(),
        heard: false,
    };
    let mut backoff = Backoff::new(BACKOFF_INITIAL, BACKOFF_MAX).jitter(0.2);
    let forever = async {
        loop {
            let (requests, queued) = conversation.open().await;
            let opened = client
                .delta_aggregated_resources(ReceiverStream::new(queued))
                .await;
            let ended = match opened {
                Ok(responses) => {
                    info!("stream to the control plane is open");
                    conversation.hold(requests, responses.into_inner()).await
                }
                Err(status) => Ended::not_opened(&status),
            };
            conversation.metrics.terminated(ended.reason);
            if conversation.heard || ended.reset {
                backoff.reset();
            }
            if !(ended.at_once && conversation.heard) {
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    };
    token.run_until_cancelled(forever).await;
}

struct Conversation {
    session: Session,
    sink: Box<dyn ResourceSink>,
    ready: ReadyGuard,
    metrics: Arc<dyn ClientMetrics>,
    demand: Option<DemandQueue>,
    waiting: HashMap<String, Vec<oneshot::Sender<()>>>,
    /// A response came on the current stream.
    heard: bool,
}

type Requests = mpsc::Sender<DeltaDiscoveryRequest>;

impl Conversation {
    /// The first requests, queued: some servers answer nothing, not even
    /// headers, before they have seen one.
    async fn open(&mut self) -> (Requests, mpsc::Receiver<DeltaDiscoveryRequest>) {
        self.heard = false;
        let first = self.session.on_open();
        let (requests, queued) = mpsc::channel(first.len() + REQUESTS);
        for request in first {
            // Can't fail or wait: the receiver is here and there is room.
            let _ = requests.send(request).await;
        }
        (requests, queued)
    }

    async fn hold(
        &mut self,
        requests: Requests,
        mut responses: Streaming<DeltaDiscoveryResponse>,
    ) -> Ended {
        loop {
            let request = tokio::select! {
                response = responses.next() => match response {
                    Some(Ok(response)) => Some(self.on_response(response)),
                    Some(Err(status)) => return Ended::failed(&status),
                    None => return Ended::cleanly(),
                },
                Some(wanted) = next_wanted(&mut self.demand) => self.on_wanted(wanted),
            };
            let Some(request) = request else { continue };
            if requests.send(request).await.is_err() {
                return Ended::cleanly(); // the stream is gone; its status is lost with it
            }
        }
    }

    fn on_response(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        self.heard = true;
        self.metrics
            .message(&response.type_url, response.encoded_len());
        let reply = self.session.on_response(response, self.sink.as_mut());
        for name in &reply.settled {
            for done in self.waiting.remove(name).into_iter().flatten() {
                let _ = done.send(()); // its caller may have stopped waiting
            }
        }
        if self.session.is_ready() {
            self.ready.ready();
        }
        reply.request
    }

    fn on_wanted(&mut self, wanted: Wanted) -> Option<DeltaDiscoveryRequest> {
        if self.waiting.len() >= WANTED {
            self.waiting
                .retain(|_, all| all.iter().any(|done| !done.is_closed()));
            if self.waiting.len() >= WANTED {
                return None; // drops `done`: its caller goes on without an answer
            }
        }
        let request = self.session.on_demand(&wanted.type_url, &wanted.name);
        let waiting = self.waiting.entry(wanted.name).or_default();
        waiting.retain(|done| !done.is_closed());
        waiting.push(wanted.done);
        request
    }
}

async fn next_wanted(queue: &mut Option<DemandQueue>) -> Option<Wanted> {
    match queue {
        Some(DemandQueue(receiver)) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// How a stream ended, and what that means for the next one.
struct Ended {
    reason: Termination,
    /// The wait starts over at its shortest.
    reset: bool,
    /// No wait at all, if anything was heard.
    at_once: bool,
}

impl Ended {
    fn not_opened(status: &tonic::Status) -> Self {
        warn!(
            code = ?status.code(),
            error = %with_causes(status),
            "control plane unreachable; what is held serves on"
        );
        Self {
            reason: Termination::ConnectionError,
            reset: is_transient(status),
            at_once: false,
        }
    }

    fn failed(status: &tonic::Status) -> Self {
        let going_away = status.message().contains(PRIOR_GOAWAY);
        let reason = if going_away {
            Termination::Reconnect
        } else {
            Termination::Error
        };
        warn!(
            code = ?status.code(),
            error = %with_causes(status),
            "stream to the control plane failed; what is held serves on"
        );
        Self {
            reason,
            reset: is_transient(status),
            at_once: false,
        }
    }

    fn cleanly() -> Self {
        debug!("stream to the control plane ended");
        Self {
            reason: Termination::Complete,
            reset: true,
            at_once: true,
        }
    }
}

/// Ends of a connection rather than refusals (contract 4.1, Backoff).
fn is_transient(status: &tonic::Status) -> bool {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded => true,
        Code::Unknown => true,
        Code::Unavailable => {
            let message = status.message();
            message.contains("transport is closing") || message.contains(PRIOR_GOAWAY)
        }
        _ => false,
    }
}

fn with_causes(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

const PRIOR_GOAWAY: &str = "received prior goaway";
const BACKOFF_INITIAL: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Largest response taken: 200 MiB.
const MAX_RESPONSE: usize = 200 << 20;
/// Room for requests that the transport hasn't taken yet.
const REQUESTS: usize = 16;
/// Names that may be waited for at once.
const WANTED: usize = 16_384;
