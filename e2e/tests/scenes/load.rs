//! Clients that keep their connections, as applications do, and count what
//! fails, over HTTP/1.1 or HTTP/2. A connection that the server ended between two requests, or said it
//! would end, is opened again and is no failure; nor is a request that never
//! left because its connection had ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_testkit::client;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) answered: usize,
    /// Connections that were opened.
    pub(crate) opened: usize,
    pub(crate) failures: Vec<String>,
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: JoinSet<Outcome>,
}

impl Load {
    /// Starts clients in a namespace, each with one connection.
    pub(crate) fn start(ns: &NetNs, to: SocketAddr, clients: usize, h2: bool) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            done: Arc::default(),
            clients: JoinSet::new(),
        };
        for _ in 0..clients {
            let (ns, stop, done) = (ns.clone(), Arc::clone(&load.stop), Arc::clone(&load.done));
            load.clients.spawn(client(ns, to, h2, stop, done));
        }
        load
    }

    /// Waits until so many more requests are answered.
    pub(crate) async fn more(&self, requests: usize) -> Result<()> {
        let wanted = self.done.load(Ordering::Relaxed) + requests;
        let reached = async {
            while self.done.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), reached)
            .await
            .context("the load stands still")
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        while let Some(one) = self.clients.join_next().await {
            let one = one?;
            all.answered += one.answered;
            all.opened += one.opened;
            all.failures.extend(one.failures);
        }
        Ok(all)
    }
}

/// The sending end of a connection.
enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    async fn open(
        ns: &NetNs,
        to: SocketAddr,
        h2: bool,
        connections: &mut JoinSet<()>,
    ) -> Result<Self> {
        let io = TokioIo::new(client::connect(ns, to).await?);
        Ok(if h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            connections.spawn(async move {
                let _ = connection.await;
            });
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            connections.spawn(async move {
                let _ = connection.await;
            });
            Self::Http1(sender)
        })
    }

    /// Whether another request can be sent on it.
    async fn goes_on(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self) -> Result<http::Response<Incoming>> {
        let request = Request::get("http://echo/");
        Ok(match self {
            Self::Http1(sender) => {
                let request = Request::get("/")
                    .header("host", "echo")
                    .body(Empty::new())?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => sender.send_request(request.body(Empty::new())?).await?,
        })
    }
}

/// hyper's word for a request that it gives back unsent.
fn never_left(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<hyper::Error>();
    error.is_some_and(hyper::Error::is_canceled)
}

async fn client(
    ns: NetNs,
    to: SocketAddr,
    h2: bool,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut connections = JoinSet::new();
    let mut kept: Option<Sender> = None;
    while !stop.load(Ordering::Relaxed) {
        // An end between two requests shows here.
        if let Some(sender) = &mut kept
            && !sender.goes_on().await
        {
            kept = None;
        }
        let kept_one = kept.take();
        let exchange = async {
            let mut sender = match kept_one {
                Some(sender) => sender,
                None => {
                    outcome.opened += 1;
                    Sender::open(&ns, to, h2, &mut connections).await?
                }
            };
            let response = match sender.send().await {
                Err(error) if never_left(&error) => {
                    outcome.opened += 1;
                    sender = Sender::open(&ns, to, h2, &mut connections).await?;
                    sender.send().await
                }
                sent => sent,
            };
            let response = response.context("no answer")?;
            let status = response.status();
            let ends = response
                .headers()
                .get("connection")
                .is_some_and(|value| value == "close");
            response.into_body().collect().await.context("body")?;
            ensure!(status == 200, "status {status}");
            Ok((!ends).then_some(sender))
        };
        match timeout(Duration::from_secs(10), exchange).await {
            Ok(Ok(sender)) => {
                kept = sender;
                outcome.answered += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Err(error)) => outcome.failures.push(format!("{error:#}")),
            Err(_) => outcome.failures.push("no answer in 10 s".to_owned()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    outcome
}
