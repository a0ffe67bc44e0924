//! The authenticated caller, and callers with a client certificate.

use ambit_identity::uri_names;
use ambit_types::SpiffeId;
use rustls_pki_types::CertificateDer;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its identity.
    pub id: SpiffeId,
    /// The pod that a token is bound to; a certificate names none.
    pub pod: Option<PodClaims>,
    /// How it proved who it is.
    pub via: Via,
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaims {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Node of the pod, where the token says so.
    pub node: Option<String>,
}

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A service-account token.
    Token,
    /// A TLS client certificate.
    ClientCertificate,
}

/// The caller isn't bound to a pod: a certificate, or a token without pod claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller is not bound to a pod")]
pub struct NotBoundToPod;

impl Caller {
    /// The pod facts, without which nobody may impersonate.
    ///
    /// # Errors
    /// There are none.
    pub fn require_pod(&self) -> Result<&PodClaims, NotBoundToPod> {
        self.pod.as_ref().ok_or(NotBoundToPod)
    }
}

/// Why a client certificate names no caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// None, or several, URI names.
    #[error("the certificate has {0} URI names, exactly one is needed")]
    NameCount(usize),
    /// The name isn't a workload identity.
    #[error("the certificate's name {0:?} is not a SPIFFE workload identity")]
    NotSpiffe(String),
    /// Somebody of another mesh.
    #[error("{id} is not in the trust domain {wanted}")]
    WrongTrustDomain {
        /// Who it is.
        id: SpiffeId,
        /// Our trust domain.
        wanted: String,
    },
}

/// The caller behind a client certificate that was verified in the handshake:
/// exactly one URI name, in our trust domain.
///
/// # Errors
/// The certificate names nobody, several, or somebody of another trust domain.
pub fn caller_from_certificate(
    certs: &[CertificateDer<'_>],
    trust_domain: &str,
) -> Result<Caller, CallerError> {
    let names = uri_names(certs);
    let [name] = names.as_slice() else {
        return Err(CallerError::NameCount(names.len()));
    };
    let Ok(id) = name.parse::<SpiffeId>() else {
        return Err(CallerError::NotSpiffe(name.clone()));
    };
    if **id.trust_domain() != *trust_domain {
        return Err(CallerError::WrongTrustDomain {
            id,
            wanted: trust_domain.to_owned(),
        });
    }
    Ok(Caller {
        id,
        pod: None,
        via: Via::ClientCertificate,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["ignored.example".to_owned()]).unwrap();
        let uris = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .into()
    }

    #[test]
    fn exactly_one_name_of_our_trust_domain_is_a_caller() {
        let ztunnel = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";
        let caller = caller_from_certificate(&[certificate(&[ztunnel])], "cluster.local").unwrap();
        assert_eq!(caller.id.to_string(), ztunnel);
        assert_eq!(caller.via, Via::ClientCertificate);
        assert_eq!(caller.require_pod(), Err(NotBoundToPod));

        let refused = |uris: &[&str], td| caller_from_certificate(&[certificate(uris)], td);
        assert_eq!(
            refused(&[], "cluster.local"),
            Err(CallerError::NameCount(0))
        );
        let two = [ztunnel, "https://other.example/"];
        assert_eq!(
            refused(&two, "cluster.local"),
            Err(CallerError::NameCount(2))
        );
        assert!(matches!(
            refused(&["https://other.example/"], "cluster.local"),
            Err(CallerError::NotSpiffe(_))
        ));
        assert!(matches!(
            refused(&[ztunnel], "cluster"),
            Err(CallerError::WrongTrustDomain { .. })
        ));
        assert_eq!(
            caller_from_certificate(&[], "cluster.local"),
            Err(CallerError::NameCount(0))
        );
        let junk = CertificateDer::from(b"junk".to_vec());
        assert_eq!(
            caller_from_certificate(&[junk], "cluster.local"),
            Err(CallerError::NameCount(0))
        );
    }
}
