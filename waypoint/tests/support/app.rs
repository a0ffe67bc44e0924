//! Applications: one that says what it got, and ones that misbehave.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_ca::CertificateAuthority;
use ambit_hbone::{HandshakeGate, HboneConfig, serve_tls};
use ambit_net::{DuplexIo, Meter, relay};
use ambit_runtime::Scope;
use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

/// How an application answers.
pub(crate) type Handler =
    Arc<dyn Fn(Request<Incoming>, usize) -> Answering + Send + Sync + 'static>;
pub(crate) type Answering =
    std::pin::Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send + 'static>>;

/// A running application.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) open: Arc<AtomicUsize>,
}

impl App {
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections that haven't ended.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// Says in JSON what it got: method, path, headers, body, version, its name.
pub(crate) async fn echo(scope: &Scope, ip: IpAddr, name: &'static str) -> Result<App> {
    let handler = move |request: Request<Incoming>, _| -> Answering {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            let headers: serde_json::Map<String, serde_json::Value> = head
                .headers
                .iter()
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    (name.to_string(), value.into())
                })
                .collect();
            let host = head.uri.authority().map(ToString::to_string);
            let said = serde_json::json!({
                "app": name,
                "method": head.method.as_str(),
                "path": head.uri.path_and_query().map(ToString::to_string),
                "version": format!("{:?}", head.version),
                "authority": host,
                "headers": headers,
                "body": String::from_utf8_lossy(&body.unwrap_or_default()),
            });
            Response::new(Full::new(said.to_string().into()))
        })
    };
    serve(scope, ip, Arc::new(handler)).await
}

/// Any behaviour, over HTTP/1.1 and HTTP/2 as the client likes.
pub(crate) async fn serve(scope: &Scope, ip: IpAddr, handler: Handler) -> Result<App> {
    let listener = TcpListener::bind((ip, 8080)).await?;
    let app = App {
        address: listener.local_addr()?,
        requests: Arc::default(),
        connections: Arc::default(),
        open: Arc::default(),
    };
    let (tasks, counted) = (scope.clone(), app.clone());
    scope.spawn("app", async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.connections.fetch_add(1, Ordering::SeqCst);
            counted.open.fetch_add(1, Ordering::SeqCst);
            let (handler, requests) = (Arc::clone(&handler), Arc::clone(&counted.requests));
            let open = Arc::clone(&counted.open);
            tasks.spawn("app connection", async move {
                let service = service_fn(move |request| {
                    let number = requests.fetch_add(1, Ordering::SeqCst);
                    let answering = handler(request, number);
                    async move { Ok::<_, Infallible>(answering.await) }
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Ok(app)
}

/// Puts a node proxy in front of an address: HBONE on port 15008 to whatever
/// port of it is asked for.
pub(crate) fn hbone(
    scope: &Scope,
    authority: &CertificateAuthority,
    ip: IpAddr,
    id: &str,
) -> Result<()> {
    let svid = super::svid(authority, id)?;
    let listener = std::net::TcpListener::bind((ip, 15008))?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let tasks = scope.clone();
    scope.spawn("node proxy", async move {
        let gate = HandshakeGate::new(64);
        while let Ok((stream, _)) = listener.accept().await {
            let (svid, gate, own) = (Arc::clone(&svid), gate.clone(), tasks.clone());
            tasks.spawn("node proxy connection", async move {
                let config = HboneConfig::default();
                let Ok(mut connection) = serve_tls(stream, &svid, &config, &gate).await else {
                    return;
                };
                while let Some(next) = connection.next().await {
                    let Ok(stream) = next else { continue };
                    own.spawn("node proxy stream", async move {
                        let to = stream.authority.to_string();
                        let Ok(app) = TcpStream::connect(to).await else {
                            stream.reject(503);
                            return;
                        };
                        let Ok(tunnel) = stream.accept(None) else {
                            return;
                        };
                        let _ = relay(tunnel, app, &Meter::default()).await;
                    });
                }
            });
        }
    });
    Ok(())
}

/// Unused by some tests.
pub(crate) fn io(tunnel: ambit_hbone::Tunnel) -> TokioIo<DuplexIo<ambit_hbone::Tunnel>> {
    TokioIo::new(DuplexIo::new(tunnel))
}
