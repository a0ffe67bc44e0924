//! A server pod: accepts HBONE and acts by the host name of each CONNECT.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_hbone::{
    Authority, ConnectionError, HandshakeGate, HboneConfig, InboundStream, RequestError,
    ServerConnection, Tunnel, serve_tls,
};
use ambit_identity::Svid;
use ambit_runtime::Scope;
use ambit_types::FlowReason;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::app;

#[derive(Default)]
pub(crate) struct Seen {
    /// Connections that came through their handshake.
    pub(crate) connections: AtomicUsize,
    /// Those that are open.
    pub(crate) open: AtomicUsize,
    pub(crate) refusals: Mutex<Vec<FlowReason>>,
    pub(crate) refusal_texts: Mutex<Vec<String>>,
    pub(crate) bad_requests: Mutex<Vec<RequestError>>,
    pub(crate) ping_timeouts: AtomicUsize,
    /// Identity, authority, baggage's namespace, forwarded, trace of streams.
    pub(crate) heads: Mutex<Vec<String>>,
    held: Mutex<Vec<InboundStream>>,
    stalled: Mutex<Vec<Tunnel>>,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) gate: HandshakeGate,
    pub(crate) seen: Arc<Seen>,
    drain: Arc<Notify>,
    config: HboneConfig,
    scope: Scope,
}

impl Server {
    pub(crate) async fn start(svid: Arc<Svid>, config: HboneConfig, scope: &Scope) -> Self {
        Self::gated(svid, config, scope, 1024).await
    }

    /// With a bound on unfinished handshakes.
    pub(crate) async fn gated(
        svid: Arc<Svid>,
        config: HboneConfig,
        scope: &Scope,
        gate: usize,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let server = Self {
            addr: listener.local_addr().unwrap(),
            gate: HandshakeGate::new(gate),
            seen: Arc::default(),
            drain: Arc::default(),
            config,
            scope: scope.clone(),
        };
        let accepting = server.clone();
        scope.spawn("accept", async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (server, svid) = (accepting.clone(), Arc::clone(&svid));
                accepting.scope.spawn("connection", async move {
                    server.connection(tcp, &svid).await;
                });
            }
        });
        server
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// GOAWAY on every open connection.
    pub(crate) fn drain(&self) {
        self.drain.notify_waiters();
    }

    async fn connection(&self, tcp: TcpStream, svid: &Svid) {
        let mut connection = match serve_tls(tcp, svid, &self.config, &self.gate).await {
            Ok(connection) => connection,
            Err(error) => {
                self.seen.refusals.lock().push(error.reason());
                self.seen.refusal_texts.lock().push(error.to_string());
                return;
            }
        };
        self.seen.connections.fetch_add(1, Ordering::SeqCst);
        self.seen.open.fetch_add(1, Ordering::SeqCst);
        self.streams(&mut connection).await;
        self.seen.open.fetch_sub(1, Ordering::SeqCst);
        if let Some(ConnectionError::PingTimeout) = connection.failure() {
            self.seen.ping_timeouts.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn streams(&self, connection: &mut ServerConnection) {
        loop {
            let drained = self.drain.notified();
            tokio::select! {
                next = connection.next() => match next {
                    Some(Ok(stream)) => {
                        let server = self.clone();
                        self.scope.spawn("stream", async move { server.stream(stream).await });
                    }
                    Some(Err(bad)) => self.seen.bad_requests.lock().push(bad),
                    None => return,
                },
                () = drained => connection.drain(),
            }
        }
    }

    async fn stream(&self, stream: InboundStream) {
        let head = format!(
            "{} {} {:?} {:?} {:?}",
            stream.peer(),
            stream.authority,
            stream.baggage.as_ref().map(|b| b.namespace.clone()),
            stream.forwarded.as_ref().map(ToString::to_string),
            stream.traceparent.as_ref().map(ToString::to_string),
        );
        self.seen.heads.lock().push(head);
        let act = match &stream.authority {
            Authority::Host { host, .. } => host.clone(),
            Authority::Addr(_) => "echo".to_owned(),
        };
        match act.as_str() {
            "never" => self.seen.held.lock().push(stream),
            "drop" => drop(stream),
            status if status.parse::<u16>().is_ok() => stream.reject(status.parse().unwrap()),
            "stall" => {
                let tunnel = stream.accept(None).unwrap();
                self.seen.stalled.lock().push(tunnel);
            }
            _ => {
                let tunnel = stream.accept(Some("k8s.namespace.name=there")).unwrap();
                let (app, _) = app(&self.scope, tunnel).await;
                application(&act, app).await;
            }
        }
    }
}

/// What the application behind the proxy does.
async fn application(act: &str, mut app: TcpStream) {
    match act {
        "greet" => {
            app.write_all(b"220 hello\r\n").await.unwrap();
            let mut rest = Vec::new();
            let _ = app.read_to_end(&mut rest).await;
        }
        // Ends its own direction first, then reads to the end.
        "fin-first" => {
            app.write_all(b"done").await.unwrap();
            app.shutdown().await.unwrap();
            let mut rest = Vec::new();
            app.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"late");
        }
        "reset" => {
            let mut byte = [0];
            app.read_exact(&mut byte).await.unwrap();
            ambit_net::Duplex::abort(&mut app);
        }
        _ => {
            let (mut read, mut write) = app.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    }
}
