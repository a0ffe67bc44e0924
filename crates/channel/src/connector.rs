//! TCP and TLS to the control plane, under tonic's reconnecting channel.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::Service;

use ambit_identity::{TlsOptions, TlsVersions, provider};
use ambit_types::wire;

use crate::config::{ChannelConfig, ChannelError, RootSource};
use crate::credentials::Credentials;

/// A cloneable gRPC service that reaches the control plane.
pub type ControlPlane = InterceptedService<Channel, Credentials>;

/// A channel to the control plane. Nothing is dialled before the first call; a
/// lost connection is made again by the next. Must be called on a tokio
/// runtime, on which the connection then lives.
///
/// # Errors
/// The configuration isn't usable. An unreachable control plane is an error of
/// each call instead.
pub fn connect(cfg: &ChannelConfig) -> Result<ControlPlane, ChannelError> {
    let invalid = || ChannelError::Address {
        address: cfg.address.clone(),
    };
    let uri: Uri = cfg.address.parse().map_err(|_| invalid())?;
    if uri.scheme_str() != Some("https") {
        let address = cfg.address.clone();
        return Err(ChannelError::NotHttps { address });
    }
    let host = uri.host().ok_or_else(invalid)?;
    let connector = Connector {
        target: Arc::new(Target {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(DEFAULT_PORT),
            name: server_name(host.trim_matches(['[', ']']))?,
            alternative: cfg.alt_hostname.as_deref().map(server_name).transpose()?,
            root: cfg.root.clone(),
        }),
    };
    let credentials = Credentials::new(cfg)?;
    let channel = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector_lazy(connector);
    Ok(InterceptedService::new(channel, credentials))
}

fn server_name(name: &str) -> Result<ServerName<'static>, ChannelError> {
    ServerName::try_from(name.to_owned()).map_err(|_| ChannelError::ServerName {
        name: name.to_owned(),
    })
}

/// A connection that couldn't be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The root certificates can't be had.
    #[error("root certificates of the control plane: {from}")]
    Roots {
        /// The file, or what else was to give them.
        from: String,
        /// Why, if there is more to say.
        source: Option<io::Error>,
    },
    /// No TCP connection.
    #[error("connect to {host}:{port}")]
    Tcp {
        /// As in the address.
        host: String,
        /// As in the address.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The roots or the provider don't make a TLS configuration.
    #[error("TLS configuration: {0}")]
    Tls(String),
    /// No TLS session: the server isn't who it should be, or isn't TLS.
    #[error("TLS with {host}")]
    Handshake {
        /// As in the address.
        host: String,
        /// Why.
        source: io::Error,
    },
}

struct Target {
    host: String,
    port: u16,
    name: ServerName<'static>,
    alternative: Option<ServerName<'static>>,
    root: RootSource,
}

#[derive(Clone)]
struct Connector {
    target: Arc<Target>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let target = Arc::clone(&self.target);
        // The endpoint's connect timeout bounds the whole of it.
        Box::pin(async move { target.dial().await.map(TokioIo::new) })
    }
}

impl Target {
    async fn dial(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let roots = self.roots().await?;
        let config = client_config(roots, self.alternative.clone())?;
        let stream = self.tcp().await.map_err(|source| ConnectError::Tcp {
            host: self.host.clone(),
            port: self.port,
            source,
        })?;
        TlsConnector::from(Arc::new(config))
            .connect(self.name.clone(), stream)
            .await
            .map_err(|source| ConnectError::Handshake {
                host: self.host.clone(),
                source,
            })
    }

    async fn tcp(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(300))
            .with_interval(Duration::from_secs(75))
            .with_retries(9);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }

    async fn roots(&self) -> Result<RootCertStore, ConnectError> {
        let missing = |from: String, source| ConnectError::Roots { from, source };
        let (from, certificates) = match &self.root {
            RootSource::System => {
                let found = rustls_native_certs::load_native_certs();
                ("the system's store".to_owned(), found.certs)
            }
            RootSource::Inline(pem) => ("inline PEM".to_owned(), from_pem(pem.as_bytes())),
            RootSource::Path(path) => {
                let from = path.display().to_string();
                let pem = tokio::fs::read(path)
                    .await
                    .map_err(|error| missing(from.clone(), Some(error)))?;
                (from, from_pem(&pem))
            }
        };
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(missing(format!("{from} holds no certificate"), None));
        }
        Ok(store)
    }
}

/// What can't be read is left out, as in every trust bundle: one odd root must
/// not take the others away.
fn from_pem(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).flatten().collect()
}

fn client_config(
    roots: RootCertStore,
    alternative: Option<ServerName<'static>>,
) -> Result<ClientConfig, ConnectError> {
    let options = TlsOptions {
        versions: TlsVersions::Tls12And13,
        ..TlsOptions::default()
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| ConnectError::Tls(error.to_string()))?;
    let verifier = NameOrAlternative {
        inner: verifier,
        alternative,
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(options.protocol_versions())
        .map_err(|error| ConnectError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![wire::ALPN_H2.to_vec()];
    Ok(config)
}

/// The usual verification, where a second name is as good as the first.
#[derive(Debug)]
struct NameOrAlternative {
    inner: Arc<WebPkiServerVerifier>,
    alternative: Option<ServerName<'static>>,
}

impl ServerCertVerifier for NameOrAlternative {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let first = self
            .inner
            .verify_server_cert(end_entity, intermediates, name, ocsp, now);
        match (&first, &self.alternative) {
            (Err(error), Some(alternative)) if is_wrong_name(error) => self
                .inner
                .verify_server_cert(end_entity, intermediates, alternative, ocsp, now),
            _ => first,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_wrong_name(error: &rustls::Error) -> bool {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(
        error,
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })
    )
}

const DEFAULT_PORT: u16 = 443;
/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A first response can be many MiB: don't make it wait for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
