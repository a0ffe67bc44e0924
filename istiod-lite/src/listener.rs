//! The TLS listener of 15012: handshakes of our own, so that TLS is configured
//! in one place of the workspace and a stalled handshake stalls nobody else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ambit_ca::CertificateAuthority;
use ambit_identity::{TlsOptions, TlsVersions, provider};
use ambit_runtime::Scope;
use ambit_types::wire;
use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::{debug, info};

use crate::metrics::ControlMetrics;

/// The other end of a connection; in the extensions of each call.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Where it calls from.
    pub(crate) address: SocketAddr,
    /// Its certificates, verified; empty if it showed none.
    pub(crate) certificates: Arc<[CertificateDer<'static>]>,
}

/// The names on our certificate.
#[derive(Debug, Clone)]
pub(crate) struct ServerNames {
    /// DNS names.
    pub(crate) dns: Vec<String>,
    /// Addresses.
    pub(crate) ips: Vec<std::net::IpAddr>,
}

impl ServerNames {
    /// The usual names of a control plane of a revision in a namespace
    /// (`control-plane-contract` 7.6), those configured, and the address that is
    /// listened on.
    pub(crate) fn new(
        configured: &[String],
        listen: SocketAddr,
        (namespace, revision): (&str, &str),
    ) -> Self {
        let mut services = vec![
            "istiod".to_owned(),
            "istiod-remote".to_owned(),
            "istio-pilot".to_owned(),
        ];
        if !matches!(revision, "" | "default") {
            services.push(format!("istiod-{revision}"));
        }
        let usual = services.into_iter().flat_map(|service| {
            let short = format!("{service}.{namespace}.svc");
            let long = format!("{short}.cluster.local");
            [short, long]
        });
        let usual = usual.chain(["localhost".to_owned()]);
        let configured = configured.iter().cloned();
        let (ips, dns): (Vec<_>, Vec<_>) = usual
            .chain(configured)
            .partition(|name| name.parse::<std::net::IpAddr>().is_ok());
        let mut ips: Vec<_> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        ips.push(std::net::Ipv4Addr::LOCALHOST.into());
        ips.push(std::net::Ipv6Addr::LOCALHOST.into());
        if !listen.ip().is_unspecified() {
            ips.push(listen.ip());
        }
        let mut names = Self { dns, ips };
        names.dns.sort();
        names.dns.dedup();
        names.ips.sort();
        names.ips.dedup();
        names
    }
}

/// The TLS configuration in force; replaced when the root is renewed.
pub(crate) struct ServerTls {
    authority: Arc<CertificateAuthority>,
    names: ServerNames,
    current: ArcSwap<Configs>,
}

/// One certificate, for two kinds of clients.
struct Configs {
    /// Proxies and agents: HTTP/2, certificates verified where they are shown.
    grpc: Arc<ServerConfig>,
    /// API servers: HTTP/1.1; they are asked for no certificate.
    webhook: Arc<ServerConfig>,
}

impl ServerTls {
    /// A new certificate of our own CA.
    ///
    /// # Errors
    /// The CA can't sign, or its roots make no verifier.
    pub(crate) fn new(
        authority: Arc<CertificateAuthority>,
        names: ServerNames,
    ) -> anyhow::Result<Self> {
        let current = ArcSwap::from_pointee(server_config(&authority, &names)?);
        Ok(Self {
            authority,
            names,
            current,
        })
    }

    /// For the webhook's listener.
    pub(crate) fn for_webhook(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().webhook)
    }

    fn for_grpc(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().grpc)
    }

    /// A new certificate and verifier, for connections from now on.
    ///
    /// # Errors
    /// As for [`new`](Self::new); the old ones stay in force.
    pub(crate) fn renew(&self) -> anyhow::Result<()> {
        let config = server_config(&self.authority, &self.names)?;
        self.current.store(Arc::new(config));
        Ok(())
    }
}

fn server_config(authority: &CertificateAuthority, names: &ServerNames) -> anyhow::Result<Configs> {
    let (chain, key) = authority
        .server_certificate(&names.dns, &names.ips)
        .context("sign the server certificate")?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority.roots_pem().as_bytes()) {
        roots.add(root.context("read the root bundle")?)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .context("verifier of client certificates")?;
    let options = TlsOptions {
        versions: TlsVersions::Tls12And13,
        ..TlsOptions::default()
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(options.protocol_versions())?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), key.clone_key())?;
    config.alpn_protocols = vec![wire::ALPN_H2.to_vec()];
    let mut webhook = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(options.protocol_versions())?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    webhook.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Configs {
        grpc: Arc::new(config),
        webhook: Arc::new(webhook),
    })
}

/// Accepts until the scope is cancelled; what has finished its handshake comes
/// out of the channel.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    metrics: Arc<ControlMetrics>,
    scope: &Scope,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, incoming) = mpsc::channel(READY);
    let children = scope.clone();
    scope.spawn("accept", async move {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let (Ok(shaking), Ok(place)) = (
                Arc::clone(&handshakes).acquire_owned().await,
                Arc::clone(&connections).acquire_owned().await,
            ) else {
                return;
            };
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    info!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(tls.for_grpc());
            let (ready, metrics) = (ready.clone(), Arc::clone(&metrics));
            children.spawn("handshake", async move {
                match handshake(acceptor, stream, address, place).await {
                    Ok(connection) => {
                        drop(shaking);
                        // Closed when we are going away.
                        let _ = ready.send(Ok(connection)).await;
                    }
                    Err(reason) => {
                        metrics.handshake_failed(reason);
                        debug!(%address, reason, "handshake failed");
                    }
                }
            });
        }
    });
    incoming
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
) -> Result<Connection, &'static str> {
    // Only a matter of latency.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(ambit_identity::classify_io(&error).as_str()),
        Err(_) => return Err("timeout"),
    };
    let (_, session) = stream.get_ref();
    let certificates = session.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().cloned().collect();
    Ok(Connection {
        stream,
        peer: Peer {
            address,
            certificates,
        },
        _place: place,
    })
}

/// One connection, past its handshake.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time; further connections wait in the kernel's backlog.
const HANDSHAKES: usize = 256;
/// Connections at a time: many times the nodes of a large cluster.
const CONNECTIONS: usize = 20_000;
const READY: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_usual_ones_the_configured_and_the_listeners() {
        let configured = ["mesh.example".to_owned(), "192.0.2.1".to_owned()];
        let listen = "10.0.0.5:15012".parse().unwrap();
        let names = ServerNames::new(&configured, listen, ("mesh", "canary"));
        for name in [
            "istiod.mesh.svc",
            "istiod.mesh.svc.cluster.local",
            "istiod-remote.mesh.svc",
            "istio-pilot.mesh.svc",
            "istiod-canary.mesh.svc",
            "localhost",
            "mesh.example",
        ] {
            assert!(names.dns.iter().any(|n| n == name), "{name}");
        }
        for ip in ["127.0.0.1", "::1", "192.0.2.1", "10.0.0.5"] {
            assert!(names.ips.contains(&ip.parse().unwrap()), "{ip}");
        }
        let own = ("istio-system", "default");
        let any = ServerNames::new(&[], "0.0.0.0:15012".parse().unwrap(), own);
        assert!(any.dns.contains(&"istiod.istio-system.svc".to_owned()));
        assert!(!any.dns.iter().any(|name| name.contains("istiod-default")));
        assert!(!any.ips.iter().any(std::net::IpAddr::is_unspecified));
    }
}
