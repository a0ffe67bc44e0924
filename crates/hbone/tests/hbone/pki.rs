//! A small authority that can also make what a real one must not.

use std::time::{Duration, SystemTime};

use ambit_identity::{Svid, csr};
use ambit_types::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account).unwrap()
}

pub(crate) struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { root }
    }

    pub(crate) fn svid(&self, id: &SpiffeId) -> Svid {
        let now = SystemTime::now();
        self.svid_between(id, now - DAY, now + DAY, self)
    }

    /// Signed here, but believing another authority.
    pub(crate) fn svid_trusting(&self, id: &SpiffeId, other: &Self) -> Svid {
        let now = SystemTime::now();
        self.svid_between(id, now - DAY, now + DAY, other)
    }

    /// Good for a short while only.
    pub(crate) fn svid_for(&self, id: &SpiffeId, life: Duration) -> Svid {
        let now = SystemTime::now();
        self.svid_between(id, now - DAY, now + life, self)
    }

    pub(crate) fn expired_svid(&self, id: &SpiffeId) -> Svid {
        let now = SystemTime::now();
        self.svid_between(id, now - 2 * DAY, now - DAY, self)
    }

    fn svid_between(
        &self,
        id: &SpiffeId,
        from: SystemTime,
        until: SystemTime,
        trusts: &Self,
    ) -> Svid {
        let (request, key) = csr(id).unwrap();
        let request = CertificateSigningRequestParams::from_pem(&request).unwrap();
        let leaf = leaf(id, from, until)
            .signed_by(&request.public_key, &self.root)
            .unwrap();
        Svid::from_pem(&[leaf.pem(), trusts.root.pem()], key.as_pkcs8(), id).unwrap()
    }

    /// Trusts this authority but vouches for itself.
    pub(crate) fn self_signed_svid(&self, id: &SpiffeId) -> Svid {
        let key = KeyPair::generate().unwrap();
        let now = SystemTime::now();
        let leaf = leaf(id, now - DAY, now + DAY).self_signed(&key).unwrap();
        Svid::from_pem(&[leaf.pem(), self.root.pem()], &key.serialize_der(), id).unwrap()
    }
}

fn leaf(id: &SpiffeId, from: SystemTime, until: SystemTime) -> CertificateParams {
    let epoch = |at: SystemTime| {
        date_time_ymd(1970, 1, 1) + at.duration_since(SystemTime::UNIX_EPOCH).unwrap()
    };
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.to_string().as_str().try_into().unwrap())];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = epoch(from);
    params.not_after = epoch(until);
    params
}
