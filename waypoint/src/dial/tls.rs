//! TLS that the waypoint originates towards an endpoint, as a DestinationRule
//! or a BackendTLSPolicy says (`waypoint-contract` 1.4, 2.7, 3.5).
//!
//! The certificate is verified against the roots that were named, and its
//! names against what was asked for: the subject names if there are any, else
//! the host name. Without roots nothing is believed, unless verification was
//! switched off by name.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ambit_identity::provider;
use ambit_proto::waypoint as pb;
use pb::string_match::Kind;
use rustls::SignatureScheme;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use webpki::EndEntityCert;

/// What a connection offers by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Alpn {
    /// Nothing: opaque bytes.
    None,
    Http1,
    Http2,
}

/// Settings that make no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsOriginError {
    #[error("tls.hostname {0:?} is no server name")]
    Name(String),
    #[error("tls.{field} holds no usable certificate")]
    Certificates { field: &'static str },
    #[error("tls.privateKey is no usable key")]
    Key,
    #[error("tls: neither CA certificates nor the system's are to be believed")]
    NoRoots,
    #[error("tls: {0} can't be read: {1}")]
    File(String, io::Error),
    #[error("tls: {0}")]
    Tls(rustls::Error),
    #[error("tls.subjectAltNames: {0}")]
    Names(&'static str),
}

/// A TLS client's configuration, shared by all connections of a backend.
pub(crate) struct TlsOrigin {
    name: ServerName<'static>,
    plain: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl std::fmt::Debug for TlsOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsOrigin").field(&self.name).finish()
    }
}

impl TlsOrigin {
    /// A configuration from its message; files are read once, here.
    ///
    /// # Errors
    /// See [`TlsOriginError`].
    pub(crate) fn decode(message: &pb::BackendTls) -> Result<Self, TlsOriginError> {
        let bad_name = || TlsOriginError::Name(message.hostname.clone());
        let sni = !message.hostname.is_empty();
        let name = if sni {
            ServerName::try_from(message.hostname.clone()).map_err(|_| bad_name())?
        } else {
            // Never sent, and never compared: names come from elsewhere then.
            ServerName::try_from("backend.invalid").map_err(|_| bad_name())?
        };
        let verifier = verifier(message)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsOriginError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match client_certificate(message)? {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(TlsOriginError::Tls)?,
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = sni;
        let with = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Ok(Self {
            name,
            http1: with(b"http/1.1"),
            http2: with(b"h2"),
            plain: Arc::new(config),
        })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The peer isn't whom it should be, or the connection broke.
    pub(crate) async fn connect<IO>(&self, alpn: Alpn, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = match alpn {
            Alpn::None => &self.plain,
            Alpn::Http1 => &self.http1,
            Alpn::Http2 => &self.http2,
        };
        TlsConnector::from(Arc::clone(config))
            .connect(self.name.clone(), io)
            .await
    }
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(
    message: &pb::BackendTls,
) -> Result<Option<ClientCertificate>, TlsOriginError> {
    let chain = text_or_file(&message.certificate_pem, &message.certificate_file)?;
    let key = text_or_file(&message.private_key_pem, &message.private_key_file)?;
    if chain.is_empty() && key.is_empty() {
        return Ok(None);
    }
    let chain = certificates(&chain, "clientCertificate")?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| TlsOriginError::Key)?;
    Ok(Some((chain, key)))
}

fn text_or_file(text: &str, file: &str) -> Result<Vec<u8>, TlsOriginError> {
    if !text.is_empty() || file.is_empty() {
        return Ok(text.as_bytes().to_vec());
    }
    std::fs::read(Path::new(file)).map_err(|error| TlsOriginError::File(file.to_owned(), error))
}

fn certificates(
    pem: &[u8],
    field: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsOriginError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).flatten().collect();
    if all.is_empty() {
        return Err(TlsOriginError::Certificates { field });
    }
    Ok(all)
}

fn verifier(message: &pb::BackendTls) -> Result<NamesVerifier, TlsOriginError> {
    let names = Names::decode(message)?;
    if message.insecure_skip_verify {
        return Ok(NamesVerifier { chain: None, names });
    }
    let mut roots = RootCertStore::empty();
    let pem = text_or_file(&message.ca_pem, &message.ca_file)?;
    if !pem.is_empty() {
        roots.add_parsable_certificates(certificates(&pem, "caCertificates")?);
    } else if message.system_roots {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(TlsOriginError::NoRoots);
    }
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    if !message.crl_pem.is_empty() {
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(message.crl_pem.as_bytes()).collect();
        let lists = lists.map_err(|_| TlsOriginError::Certificates { field: "crl" })?;
        builder = builder
            .with_crls(lists)
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation();
    }
    let chain = builder
        .build()
        .map_err(|error| TlsOriginError::Tls(rustls::Error::General(error.to_string())))?;
    Ok(NamesVerifier {
        chain: Some(chain),
        names,
    })
}

/// Which names a certificate must have one of.
#[derive(Debug)]
enum Names {
    /// The server name of the handshake.
    Host,
    /// One of these, DNS name or URI.
    OneOf {
        dns: Vec<NamePattern>,
        uris: Vec<String>,
    },
    /// Any: there is neither a host name nor a list.
    Any,
}

#[derive(Debug)]
enum NamePattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

impl Names {
    fn decode(message: &pb::BackendTls) -> Result<Self, TlsOriginError> {
        if message.dns_names.is_empty() && message.uris.is_empty() {
            return Ok(if message.hostname.is_empty() {
                Self::Any
            } else {
                Self::Host
            });
        }
        let pattern = |name: &pb::StringMatch| match &name.kind {
            Some(Kind::Exact(text)) => Ok(NamePattern::Exact(text.to_ascii_lowercase())),
            Some(Kind::Prefix(text)) => Ok(NamePattern::Prefix(text.to_ascii_lowercase())),
            Some(Kind::Suffix(text)) => Ok(NamePattern::Suffix(text.to_ascii_lowercase())),
            _ => Err(TlsOriginError::Names(
                "only exact names, prefixes and suffixes",
            )),
        };
        let dns: Result<Vec<_>, _> = message.dns_names.iter().map(pattern).collect();
        Ok(Self::OneOf {
            dns: dns?,
            uris: message.uris.clone(),
        })
    }

    fn admit(&self, leaf: &CertificateDer<'_>) -> bool {
        let Self::OneOf { dns, uris } = self else {
            return matches!(self, Self::Any);
        };
        let Ok(leaf) = EndEntityCert::try_from(leaf) else {
            return false;
        };
        let by_name = leaf.valid_dns_names().any(|name| {
            let name = name.to_ascii_lowercase();
            dns.iter().any(|pattern| pattern.matches(&name))
        });
        by_name
            || leaf
                .valid_uri_names()
                .any(|uri| uris.iter().any(|want| want == uri))
    }
}

impl NamePattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            // A certificate's own wildcard stands for one label.
            Self::Exact(want) => {
                name == want
                    || name.strip_prefix("*.").is_some_and(|rest| {
                        want.split_once('.').is_some_and(|(_, tail)| tail == rest)
                    })
            }
            Self::Prefix(want) => name.starts_with(want.as_str()),
            Self::Suffix(want) => name.ends_with(want.as_str()),
        }
    }
}

/// Chain first, then names. No chain verifier: verification was switched off.
#[derive(Debug)]
struct NamesVerifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    names: Names,
}

impl ServerCertVerifier for NamesVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = chain.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        if matches!(self.names, Names::Host) {
            return verified;
        }
        // The chain is judged before the name: a wrong name alone means that
        // the chain is good.
        match verified {
            Err(error) if !is_wrong_name(&error) => Err(error),
            _ if self.names.admit(end_entity) => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn is_wrong_name(error: &rustls::Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(
        error,
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })
    )
}
