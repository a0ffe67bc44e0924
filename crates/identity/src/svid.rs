//! A workload's certificate with its key, its roots, and the TLS
//! configurations that follow from them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_types::{SpiffeId, wire};
use parking_lot::Mutex;
use rcgen::{KeyPair, PublicKeyData};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use tracing::warn;
use webpki::anchor_from_trusted_cert;
use zeroize::Zeroizing;

use crate::provider::{TlsOptions, provider_with};
use crate::verify::{PeerRule, PeerVerifier, uri_names};

/// Why a chain and a key don't make an SVID.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The answer has a leaf only; without roots nobody could be verified.
    #[error("{0} chain elements, at least a leaf and a root bundle are needed")]
    TooShort(usize),
    /// An element isn't PEM with at least one certificate.
    #[error("chain element {index} holds no certificate")]
    Pem {
        /// Position in the answer, from 0.
        index: usize,
    },
    /// A certificate can't be parsed.
    #[error("the leaf is not a valid X.509 certificate")]
    Leaf,
    /// The leaf's first URI name isn't the identity that was asked for.
    #[error("the leaf is for {got:?}, wanted {want}")]
    WrongIdentity {
        /// What was asked for.
        want: SpiffeId,
        /// The leaf's first URI name.
        got: Option<String>,
    },
    /// No root can serve as a trust anchor; this is the last one's error.
    #[error("root {index} is not usable as a trust anchor: {source}")]
    Root {
        /// Position in the bundle, from 0.
        index: usize,
        /// What is wrong with it.
        source: webpki::Error,
    },
    /// The private key isn't PKCS#8 of a kind that is supported.
    #[error("private key format")]
    KeyFormat(#[source] rcgen::Error),
    /// The certificate is for another key.
    #[error("the leaf's public key is not that of our private key")]
    KeyMismatch,
    /// The provider doesn't take the key.
    #[error("private key")]
    Key(#[source] rustls::Error),
    /// No TLS configuration can be made of it.
    #[error("TLS configuration")]
    Config(#[source] rustls::Error),
}

/// A workload's X.509 identity document. The key lives in the crypto library
/// only; `Debug` shows the identity and the lifetime.
pub struct Svid {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
    provider: Arc<CryptoProvider>,
    anchors: Arc<[TrustAnchor<'static>]>,
    server: Arc<ServerConfig>,
    /// Template of every client configuration; it trusts nobody.
    client: ClientConfig,
    clients: Mutex<VecDeque<CachedClient>>,
    /// How [`server`](Self::server) was made, to make another.
    tls: TlsOptions,
    aliased: Mutex<Option<CachedServer>>,
}

/// With the aliases that it is for.
type CachedServer = (Arc<[Arc<str>]>, Arc<ServerConfig>);
type CachedClient = (Arc<[SpiffeId]>, Arc<ClientConfig>);

impl Svid {
    /// An SVID from a CA's answer (leaf, intermediates, roots last) and the
    /// PKCS#8 key, with the default TLS options.
    ///
    /// # Errors
    /// The answer or the key can't be used, or is for somebody else.
    pub fn from_pem(
        chain_pem: &[String],
        key_pkcs8_der: &[u8],
        expected: &SpiffeId,
    ) -> Result<Self, SvidError> {
        Self::from_pem_with(chain_pem, key_pkcs8_der, expected, TlsOptions::default())
    }

    /// [`Svid::from_pem`] with TLS options.
    ///
    /// # Errors
    /// The answer or the key can't be used, or is for somebody else.
    pub fn from_pem_with(
        chain_pem: &[String],
        key_pkcs8_der: &[u8],
        expected: &SpiffeId,
        tls: TlsOptions,
    ) -> Result<Self, SvidError> {
        let (chain, roots) = split_chain(chain_pem)?;
        let got = uri_names(&chain).into_iter().next();
        if got.as_deref() != Some(expected.to_string().as_str()) {
            return Err(SvidError::WrongIdentity {
                want: expected.clone(),
                got,
            });
        }
        let (not_before, not_after) = validity(&chain)?;
        let anchors = anchors(&roots)?;
        let provider = provider_with(tls.key_exchange);
        let certified = certify(chain.clone(), key_pkcs8_der, &provider)?;
        let rule = PeerRule::TrustDomains(Arc::from([Arc::clone(expected.trust_domain())]));
        let verifier = PeerVerifier::new(Arc::clone(&anchors), &provider, rule);
        let server = server_config(
            &provider,
            tls,
            verifier,
            Arc::<SingleCertAndKey>::clone(&certified),
        )?;
        let nobody = PeerRule::OneOf(Arc::from([]));
        let verifier = PeerVerifier::new(Arc::clone(&anchors), &provider, nobody);
        let client = client_config(&provider, tls, verifier, certified)?;
        Ok(Self {
            id: expected.clone(),
            chain,
            roots,
            not_before,
            not_after,
            provider,
            anchors,
            server: Arc::new(server),
            client,
            clients: Mutex::new(VecDeque::new()),
            tls,
            aliased: Mutex::new(None),
        })
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The leaf and the intermediates, as sent in handshakes.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The mesh's roots as they came with this certificate.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Start of the leaf's validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether the leaf is past its end.
    pub fn expired_at(&self, now: SystemTime) -> bool {
        now > self.not_after
    }

    /// The acceptor's configuration: a client certificate of our trust domain is
    /// mandatory, ALPN `h2`, no resumption.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// [`Svid::server_config`] that also takes clients of these trust domains,
    /// aliases of ours. They are verified against our own roots.
    pub fn server_config_for(&self, aliases: &Arc<[Arc<str>]>) -> Arc<ServerConfig> {
        if aliases.is_empty() {
            return self.server_config();
        }
        let mut cached = self.aliased.lock();
        if let Some((known, config)) = &*cached
            && known == aliases
        {
            return Arc::clone(config);
        }
        let own = std::iter::once(self.id.trust_domain());
        let domains = own.chain(aliases.iter()).cloned().collect();
        let rule = PeerRule::TrustDomains(domains);
        let verifier = PeerVerifier::new(Arc::clone(&self.anchors), &self.provider, rule);
        let certified = Arc::clone(&self.server.cert_resolver);
        let config = match server_config(&self.provider, self.tls, verifier, certified) {
            Ok(config) => Arc::new(config),
            Err(error) => {
                // The same parts made a configuration before.
                warn!(%error, "aliases of the trust domain are not taken");
                return self.server_config();
            }
        };
        *cached = Some((Arc::clone(aliases), Arc::clone(&config)));
        config
    }

    /// The dialer's configuration for a peer that must be one of `expected`. It
    /// sends no SNI, whatever server name the dialer passes.
    pub fn client_config(&self, expected: &[SpiffeId]) -> Arc<ClientConfig> {
        let mut clients = self.clients.lock();
        let found = clients.iter().position(|(ids, _)| **ids == *expected);
        // The most recently used come first; the last one is dropped.
        let entry = match found.and_then(|at| clients.remove(at)) {
            Some(entry) => entry,
            None => (expected.into(), Arc::new(self.expecting(expected))),
        };
        let config = Arc::clone(&entry.1);
        clients.push_front(entry);
        clients.truncate(CLIENT_CONFIGS);
        config
    }

    fn expecting(&self, expected: &[SpiffeId]) -> ClientConfig {
        let rule = PeerRule::OneOf(expected.iter().map(SpiffeId::to_string).collect());
        let verifier = PeerVerifier::new(Arc::clone(&self.anchors), &self.provider, rule);
        let mut config = self.client.clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(verifier));
        config
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

type Certificates = Vec<CertificateDer<'static>>;

/// Splits a CA's answer into what is sent in handshakes and the trust bundle.
fn split_chain(chain_pem: &[String]) -> Result<(Certificates, Certificates), SvidError> {
    let [own @ .., bundle] = chain_pem else {
        return Err(SvidError::TooShort(0));
    };
    if own.is_empty() {
        return Err(SvidError::TooShort(1));
    }
    let mut chain = Vec::with_capacity(own.len());
    for (index, pem) in own.iter().enumerate() {
        chain.extend(certificates(pem, index)?);
    }
    Ok((chain, certificates(bundle, own.len())?))
}

fn certificates(pem: &str, index: usize) -> Result<Certificates, SvidError> {
    let parsed: Result<Certificates, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match parsed {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        Ok(_) | Err(_) => Err(SvidError::Pem { index }),
    }
}

fn validity(chain: &[CertificateDer<'_>]) -> Result<(SystemTime, SystemTime), SvidError> {
    let leaf = chain.first().ok_or(SvidError::Leaf)?;
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|_| SvidError::Leaf)?;
    let time = |at: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(at.timestamp()).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    let validity = leaf.validity();
    Ok((time(validity.not_before), time(validity.not_after)))
}

/// One odd root must not cost the others, but there must be one.
fn anchors(roots: &[CertificateDer<'static>]) -> Result<Arc<[TrustAnchor<'static>]>, SvidError> {
    let mut usable = Vec::with_capacity(roots.len());
    let mut refused = None;
    for (index, root) in roots.iter().enumerate() {
        match anchor_from_trusted_cert(root) {
            Ok(anchor) => usable.push(anchor.to_owned()),
            Err(source) => {
                warn!(index, error = %source, "a root of the bundle is not usable");
                refused = Some(SvidError::Root { index, source });
            }
        }
    }
    match refused {
        Some(error) if usable.is_empty() => Err(error),
        Some(_) | None => Ok(usable.into()),
    }
}

fn certify(
    chain: Certificates,
    key_pkcs8_der: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<SingleCertAndKey>, SvidError> {
    belongs_to(key_pkcs8_der, &chain)?;
    let key = load_key(key_pkcs8_der, provider).map_err(SvidError::Key)?;
    Ok(Arc::new(CertifiedKey::new(chain, key).into()))
}

/// Not every provider tells a key's public half, so it is compared here.
fn belongs_to(key_pkcs8_der: &[u8], chain: &[CertificateDer<'_>]) -> Result<(), SvidError> {
    let key = KeyPair::try_from(key_pkcs8_der).map_err(SvidError::KeyFormat)?;
    let key = Zeroizing::new(key);
    let leaf = chain.first().ok_or(SvidError::Leaf)?;
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|_| SvidError::Leaf)?;
    if leaf.public_key().raw == key.subject_public_key_info() {
        Ok(())
    } else {
        Err(SvidError::KeyMismatch)
    }
}

#[cfg(not(feature = "boring"))]
fn load_key(
    pkcs8_der: &[u8],
    _provider: &CryptoProvider,
) -> Result<Arc<dyn SigningKey>, rustls::Error> {
    // Borrowed: no copy of the key is left behind outside the library.
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8_der));
    rustls::crypto::aws_lc_rs::sign::any_supported_type(&der)
}

#[cfg(feature = "boring")]
fn load_key(
    pkcs8_der: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<dyn SigningKey>, rustls::Error> {
    // This provider takes the key by value and doesn't wipe that copy.
    let der = PrivatePkcs8KeyDer::from(pkcs8_der.to_vec());
    provider
        .key_provider
        .load_private_key(PrivateKeyDer::Pkcs8(der))
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    tls: TlsOptions,
    verifier: PeerVerifier,
    certified: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, SvidError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(tls.protocol_versions())
        .map_err(SvidError::Config)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certified);
    config.alpn_protocols = vec![wire::ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    tls: TlsOptions,
    verifier: PeerVerifier,
    certified: Arc<SingleCertAndKey>,
) -> Result<ClientConfig, SvidError> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(tls.protocol_versions())
        .map_err(SvidError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(certified);
    config.alpn_protocols = vec![wire::ALPN_H2.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Client configurations kept per SVID: about one per service that a workload
/// talks to. More only cost a rebuild.
const CLIENT_CONFIGS: usize = 64;

#[cfg(test)]
mod tests;
