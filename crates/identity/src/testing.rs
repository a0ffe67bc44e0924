//! A small authority for this crate's tests, able to make what a real one
//! must not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_types::SpiffeId;
use async_trait::async_trait;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKey,
    SanType, date_time_ymd,
};

use crate::csr::csr;
use crate::provider::TlsOptions;
use crate::signer::{CertificateSigner, SignError};
use crate::svid::Svid;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn id(name: &str) -> SpiffeId {
    name.parse()
        .or_else(|_| SpiffeId::new("cluster.local", "shop", name))
        .unwrap()
}

/// What a leaf looks like.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) from: SystemTime,
    pub(crate) until: SystemTime,
}

impl Leaf {
    pub(crate) fn of(id: &SpiffeId) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![id.to_string()],
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            from: now - Duration::from_secs(120),
            until: now + DAY,
        }
    }
}

/// A root with one intermediate that signs.
pub(crate) struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let root = CertifiedIssuer::self_signed(ca(name), KeyPair::generate().unwrap()).unwrap();
        let signs = ca(&format!("{name} intermediate"));
        let intermediate =
            CertifiedIssuer::signed_by(signs, KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, intermediate }
    }

    pub(crate) fn root_pem(&self) -> String {
        self.root.pem()
    }

    pub(crate) fn chain(&self, csr_pem: &str, leaf: &Leaf) -> Vec<String> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let key: PublicKey = request.public_key;
        let signed = leaf_params(leaf)
            .signed_by(&key, &self.intermediate)
            .unwrap();
        vec![signed.pem(), self.intermediate.pem(), self.root.pem()]
    }

    pub(crate) fn svid(&self, id: &SpiffeId) -> Svid {
        self.svid_of(id, &Leaf::of(id), TlsOptions::default())
    }

    pub(crate) fn svid_of(&self, id: &SpiffeId, leaf: &Leaf, tls: TlsOptions) -> Svid {
        let (request, key) = csr(id).unwrap();
        Svid::from_pem_with(&self.chain(&request, leaf), key.as_pkcs8(), id, tls).unwrap()
    }

    /// An SVID that signs itself but carries this authority's roots.
    pub(crate) fn self_signed_svid(&self, id: &SpiffeId) -> Svid {
        let key = KeyPair::generate().unwrap();
        let leaf = leaf_params(&Leaf::of(id)).self_signed(&key).unwrap();
        Svid::from_pem(&[leaf.pem(), self.root.pem()], &key.serialize_der(), id).unwrap()
    }
}

#[async_trait]
impl CertificateSigner for Authority {
    async fn sign(
        &self,
        id: &SpiffeId,
        csr_pem: &str,
        ttl: Duration,
    ) -> Result<Vec<String>, SignError> {
        let until = SystemTime::now() + ttl;
        let leaf = Leaf {
            until,
            ..Leaf::of(id)
        };
        Ok(self.chain(csr_pem, &leaf))
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn leaf_params(leaf: &Leaf) -> CertificateParams {
    let since_epoch = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = (leaf.uris.iter())
        .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
        .collect();
    params.extended_key_usages = leaf.usages.clone();
    params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(leaf.from);
    params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(leaf.until);
    params
}

/// Shorthand for tests that share one authority.
pub(crate) fn authority() -> Arc<Authority> {
    Arc::new(Authority::new("cluster.local"))
}
