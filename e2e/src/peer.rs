//! An HBONE client that doesn't play by the rules: any certificate or none,
//! any authority, any bytes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ambit_ca::CertificateAuthority;
use ambit_netns::NetNs;
use ambit_testkit::client;
use ambit_types::SpiffeId;
use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const DEADLINE: Duration = Duration::from_secs(10);

/// What the client presents.
pub enum Credential {
    /// No certificate.
    None,
    /// A chain and its key.
    Chain(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
}

impl Credential {
    /// A certificate that an authority signs for any identity and life.
    ///
    /// # Errors
    /// If it can't be signed.
    pub fn signed(ca: &CertificateAuthority, id: &str, life: Duration) -> Result<Self> {
        let id: SpiffeId = id.parse()?;
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default()
            .serialize_request(&key)?
            .pem()?;
        let chain = ca.sign(&csr, &id, Some(life))?;
        // The last element is the root bundle, which nobody sends.
        let sent = chain.split_last().map_or(&[][..], |(_, sent)| sent);
        let certificates = sent
            .iter()
            .flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Self::Chain(certificates, key.into()))
    }
}

/// The authority of a running control plane, by its state directory.
///
/// # Errors
/// If it has none.
pub fn authority(state: &Path, trust_domain: &str) -> Result<CertificateAuthority> {
    Ok(CertificateAuthority::self_signed(state, trust_domain)?)
}

/// Sends one CONNECT to an HBONE port and returns the status of the answer.
///
/// # Errors
/// If TLS or HTTP/2 fails, which is what most of these clients want.
pub async fn connect_status(
    ns: &NetNs,
    to: SocketAddr,
    credential: &Credential,
    authority: &str,
) -> Result<u16> {
    let exchange = async {
        let tls = tls(ns, to, credential).await?;
        let (sender, connection) = h2::client::handshake(tls).await.context("HTTP/2")?;
        tokio::pin!(connection);
        let answer = async {
            let mut sender = sender.ready().await?;
            let request = http::Request::connect(authority).body(())?;
            let (response, _body) = sender.send_request(request, false)?;
            Ok::<_, anyhow::Error>(response.await?.status().as_u16())
        };
        tokio::select! {
            answer = answer => answer,
            ended = &mut connection => {
                ended.context("the connection ended")?;
                anyhow::bail!("the connection ended without an answer")
            }
        }
    };
    timeout(DEADLINE, exchange).await.context("no answer")?
}

/// A TLS connection to an HBONE port, its handshake done as far as the client
/// can tell.
///
/// # Errors
/// If TCP or TLS fails.
pub async fn tls(
    ns: &NetNs,
    to: SocketAddr,
    credential: &Credential,
) -> Result<TlsStream<TcpStream>> {
    let config = config(credential)?;
    let stream = client::connect(ns, to).await?;
    let name = ServerName::IpAddress(to.ip().into());
    let connecting = TlsConnector::from(config).connect(name, stream);
    timeout(DEADLINE, connecting)
        .await
        .context("no TLS")?
        .context("TLS")
}

fn config(credential: &Credential) -> Result<Arc<ClientConfig>> {
    let provider = ambit_identity::provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut config = match credential {
        Credential::None => builder.with_no_client_auth(),
        Credential::Chain(chain, key) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Believes every server: what is tested is whether the server believes us.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
