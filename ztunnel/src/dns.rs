//! Names of pods: what redirection brings from port 53 (`ztunnel-contract` 8.4).
//!
//! Owns the port 15053 of each pod: hosts of the mesh are answered from the
//! view, everything else by the node proxy's own DNS servers. A step of its
//! own, beside the paths of connections: nothing of a flow is known here.
//! `message` says what is in answers, `names` what a name means, `forward` asks
//! others, `metrics` counts.

mod forward;
mod message;
mod metrics;
mod names;

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_net::{
    BoundDatagrams, BoundListener, Datagrams, ListenError, ListenOptions, Listener, PodSockets,
};
use ambit_redirect::zds::WorkloadInfo;
use hickory_proto::rr::RecordType;
use rand::seq::SliceRandom;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::accept::{accept_loop, handed_over};
use crate::config::{Config, Listen};
use crate::enrol::session::Chain;
use crate::pod::PodProxy;
use forward::{Servers, Transport, read_framed, write_framed};
use message::Query;
use metrics::{DnsMetrics, Labels};
use names::{Asked, Client};

/// How names are answered; the same for every pod.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    servers: Servers,
    domain: Arc<str>,
    ipv6: bool,
    at: Listen,
    pub(crate) metrics: DnsMetrics,
}

impl Settings {
    /// What the process was told; `None` if it leaves names alone.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        if !config.dns_proxy {
            return None;
        }
        let path = &config.resolv_conf;
        let servers = Servers::read(path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "the DNS servers can't be read");
            Servers::default()
        });
        if servers.is_empty() {
            warn!(path = %path.display(), "no DNS server: only hosts of the mesh are answered");
        }
        Some(Self {
            servers,
            domain: config.node.cluster_domain.as_str().into(),
            ipv6: config.pod.ipv6,
            at: config.dns_proxy_addr,
            metrics: DnsMetrics::default(),
        })
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        match self.at {
            Listen::Localhost(ipv6, port) => {
                let both = [
                    SocketAddr::from(([127, 0, 0, 1], port)),
                    SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)),
                ];
                both.into_iter().filter(|at| at.is_ipv4() || ipv6).collect()
            }
            Listen::Address(addr) => vec![addr],
        }
    }

    /// Binds the ports of a pod. What can't be bound is left out: the pod's
    /// connections are served all the same.
    pub(crate) fn bind(&self, sockets: &PodSockets, pod: &WorkloadInfo) -> BoundPorts {
        let mut bound = BoundPorts::default();
        for addr in self.addresses() {
            match bind(sockets, addr) {
                Ok((udp, tcp)) => {
                    bound.udp.push(udp);
                    bound.tcp.push(tcp);
                }
                Err(ListenError::Bind { source, .. })
                    if addr.ip() == Ipv6Addr::LOCALHOST
                        && source.kind() == ErrorKind::AddrNotAvailable =>
                {
                    debug!(pod = pod.name, %addr, "the pod has no such loopback");
                }
                Err(error) => warn!(
                    pod = pod.name,
                    namespace = pod.namespace,
                    %addr,
                    error = %Chain(&error),
                    "the pod's names aren't answered here: they are refused if the node agent \
                     captures DNS, and go where they went if it doesn't"
                ),
            }
        }
        bound
    }
}

/// Both transports of an address, or none.
fn bind(
    sockets: &PodSockets,
    addr: SocketAddr,
) -> Result<(BoundDatagrams, BoundListener), ListenError> {
    let options = ListenOptions {
        ip: Some(addr.ip()),
        transparent: false,
        ..ListenOptions::default()
    };
    Ok((
        sockets.bind_datagrams(addr)?,
        sockets.bind(addr.port(), options)?,
    ))
}

/// Bound, and on no thread yet.
#[derive(Default)]
pub(crate) struct BoundPorts {
    udp: Vec<BoundDatagrams>,
    tcp: Vec<BoundListener>,
}

/// Where names are asked in one pod.
pub(crate) struct Ports {
    udp: Vec<Datagrams>,
    tcp: Vec<Listener>,
}

impl BoundPorts {
    /// Hands them to the current runtime.
    ///
    /// # Errors
    /// It can't take them.
    pub(crate) fn register(self) -> std::io::Result<Ports> {
        Ok(Ports {
            udp: self
                .udp
                .into_iter()
                .map(BoundDatagrams::register)
                .collect::<Result<_, _>>()?,
            tcp: self
                .tcp
                .into_iter()
                .map(BoundListener::register)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Answers names of a pod; its tasks belong to the pod's connections.
pub(crate) fn serve(proxy: &Arc<PodProxy>, ports: Ports) {
    let Some(settings) = proxy.node.dns.clone() else {
        return;
    };
    let resolver = Arc::new(Resolver {
        proxy: Arc::clone(proxy),
        settings,
        questions: Arc::new(Semaphore::new(QUESTIONS)),
    });
    for udp in ports.udp {
        let task = Arc::clone(&resolver).datagrams(Arc::new(udp));
        proxy.connections.spawn("names", task);
    }
    for tcp in ports.tcp {
        let resolver = Arc::clone(&resolver);
        let serve = move |stream, _| {
            let task = Arc::clone(&resolver).stream(stream);
            resolver.proxy.connections.spawn("names", task);
        };
        let accept = accept_loop(tcp, OURS, proxy.closing.clone(), serve);
        proxy.connections.spawn("accept", accept);
    }
}

/// The names of one pod.
struct Resolver {
    proxy: Arc<PodProxy>,
    settings: Settings,
    /// Bounds what one pod may have open at once.
    questions: Arc<Semaphore>,
}

impl Resolver {
    /// Until the drain starts; then a successor gets the questions, and what
    /// has come already is still answered.
    async fn datagrams(self: Arc<Self>, socket: Arc<Datagrams>) {
        let drain = self.proxy.closing.clone();
        let mut closing = std::pin::pin!(handed_over(drain, || socket.hand_over(OURS)));
        loop {
            let received = tokio::select! {
                biased;
                () = &mut closing => break,
                received = socket.receive(LONGEST_QUESTION) => received,
            };
            match received {
                Ok((message, from)) => self.datagram(&socket, message, from).await,
                Err(error) => {
                    debug!(%error, "a question couldn't be read");
                    tokio::time::sleep(AFTER_AN_ERROR).await;
                }
            }
        }
    }

    /// Answers at once what is known here. The rest waits for a server, in a
    /// task of its own.
    async fn datagram(self: &Arc<Self>, socket: &Arc<Datagrams>, message: Vec<u8>, to: SocketAddr) {
        let query = match self.answer_here(&message, Transport::Udp) {
            Step::Answer(answer) => return send(socket, &answer, to).await,
            Step::Nothing => return,
            Step::Ask(query) => query,
        };
        // One too many: its client asks again.
        let Ok(permit) = Arc::clone(&self.questions).try_acquire_owned() else {
            return;
        };
        let (resolver, socket) = (Arc::clone(self), Arc::clone(socket));
        self.proxy.connections.spawn("name", async move {
            let answer = resolver.ask(&query, &message, Transport::Udp).await;
            if let Some(answer) = answer {
                send(&socket, &answer, to).await;
            }
            drop(permit);
        });
    }

    /// The questions of one TCP connection, one after the other.
    async fn stream(self: Arc<Self>, mut stream: TcpStream) {
        let Ok(_permit) = self.questions.try_acquire() else {
            return;
        };
        let exchange = async {
            while let Some(message) = timeout(IDLE, read_framed(&mut stream)).await?? {
                let answer = match self.answer_here(&message, Transport::Tcp) {
                    Step::Answer(answer) => Some(answer),
                    Step::Nothing => None,
                    Step::Ask(query) => self.ask(&query, &message, Transport::Tcp).await,
                };
                let Some(answer) = answer else {
                    break;
                };
                timeout(IDLE, write_framed(&mut stream, &answer)).await??;
            }
            Ok::<_, std::io::Error>(())
        };
        if let Err(error) = exchange.await {
            debug!(%error, "a TCP connection for names ended");
        }
    }

    /// As far as it goes without others.
    fn answer_here(&self, message: &[u8], via: Transport) -> Step {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(refusal) => return refusal.map_or(Step::Nothing, Step::Answer),
        };
        let labels = self.labels(&query, via);
        self.settings.metrics.asked(&labels);
        self.of_the_mesh(&query, via)
            .map_or(Step::Ask(query), Step::Answer)
    }

    fn of_the_mesh(&self, query: &Query, via: Transport) -> Option<Vec<u8>> {
        if !query.is_for_addresses() {
            return None;
        }
        let asked = match query.kind() {
            RecordType::A => Asked::V4,
            _ if self.settings.ipv6 => Asked::V6,
            _ => Asked::Nothing,
        };
        let client = Client {
            namespace: &self.proxy.pod.namespace,
            network: &self.proxy.node.network,
            domain: &self.settings.domain,
        };
        let view = self.proxy.node.state.view();
        let mut records = client.resolve(&view, query.name(), asked)?;
        records.ips.shuffle(&mut rand::rng());
        let limit = match via {
            Transport::Udp => query.datagram_limit(),
            Transport::Tcp => u16::MAX,
        };
        query.answer(&records, limit)
    }

    /// A DNS server's answer, or that there is none.
    async fn ask(&self, query: &Query, message: &[u8], via: Transport) -> Option<Vec<u8>> {
        let Settings {
            servers, metrics, ..
        } = &self.settings;
        let since = Instant::now();
        let asked = servers.ask(&self.proxy.sockets, query, message, via).await;
        let labels = self.labels(query, via);
        metrics.forwarded(&labels, asked.is_ok(), since.elapsed());
        match asked {
            Ok(mut answer) => {
                query.pass_on(&mut answer);
                Some(answer)
            }
            Err(error) => {
                debug!(name = query.name(), %error, "a name that nobody answers");
                query.failure()
            }
        }
    }

    fn labels(&self, query: &Query, via: Transport) -> Labels {
        Labels::new(query.kind(), via, self.proxy.local_now().as_deref())
    }
}

/// What is next for a question.
enum Step {
    Answer(Vec<u8>),
    /// It is no name of the mesh.
    Ask(Query),
    /// It is no message at all.
    Nothing,
}

async fn send(socket: &Datagrams, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send(answer, to).await {
        debug!(%error, "an answer that nobody took");
    }
}

/// This process has one socket of each address.
const OURS: u32 = 1;
/// Questions that wait for others, and connections, of one pod at once.
const QUESTIONS: usize = 256;
/// A question has one name and an OPT record; cookies are short.
const LONGEST_QUESTION: usize = 4096;
/// How long a TCP connection may say nothing.
const IDLE: Duration = Duration::from_secs(5);
/// A socket that is broken must not keep a thread busy.
const AFTER_AN_ERROR: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn size<S, F>(_: impl Fn(Arc<Resolver>, S) -> F) -> usize {
        size_of::<F>()
    }

    /// What a pod costs that asks for nothing, and what a name that others are
    /// asked for, beside their sockets.
    #[test]
    fn questions_are_small() {
        let ask = async |resolver: Arc<Resolver>, query: Query| {
            resolver.ask(&query, &[], Transport::Udp).await
        };
        let sizes = [
            ("port", size(Resolver::datagrams), 1280),
            ("stream", size(Resolver::stream), 1792),
            ("question", size(ask), 1536),
        ];
        for (what, size, limit) in sizes {
            assert!(size <= limit, "{what}: {size} bytes");
        }
    }
}
