//! The certificate service's client (`ztunnel-contract` 4.6).

use std::time::Duration;

use async_trait::async_trait;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::{Code, Request, Status};

use ambit_identity::{CertificateSigner, SignError};
use ambit_proto::auth::IstioCertificateRequest;
use ambit_proto::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use ambit_types::SpiffeId;

use crate::connector::ControlPlane;

/// Whose certificates are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFor {
    /// The pods of our node: each request says which identity (shared mode).
    Impersonated,
    /// Ourselves: the control plane takes the identity from our credentials
    /// (dedicated mode).
    Caller,
}

/// Asks istiod, or anything that speaks its protocol, for certificates.
#[derive(Debug, Clone)]
pub struct CaClient {
    client: IstioCertificateServiceClient<ControlPlane>,
    subject: CertificateFor,
}

impl CaClient {
    /// A client on a channel.
    pub fn new(channel: ControlPlane, subject: CertificateFor) -> Self {
        Self {
            client: IstioCertificateServiceClient::new(channel),
            subject,
        }
    }

    fn request(&self, id: &SpiffeId, csr: &str, ttl: Duration) -> IstioCertificateRequest {
        let metadata = match self.subject {
            CertificateFor::Caller => None,
            CertificateFor::Impersonated => {
                let kind = Some(Kind::StringValue(id.to_string()));
                let fields = [(IMPERSONATED.to_owned(), Value { kind })];
                let fields = fields.into_iter().collect();
                Some(Struct { fields })
            }
        };
        IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata,
        }
    }
}

#[async_trait]
impl CertificateSigner for CaClient {
    async fn sign(
        &self,
        id: &SpiffeId,
        csr_pem: &str,
        ttl: Duration,
    ) -> Result<Vec<String>, SignError> {
        let request = Request::new(self.request(id, csr_pem, ttl));
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(DEADLINE, client.create_certificate(request))
            .await
            .map_err(|_| SignError::Timeout(DEADLINE))?
            .map_err(|status| refused(&status))?;
        let chain = answer.into_inner().cert_chain;
        if chain.len() < 2 {
            let detail = format!("{} certificates, wanted a leaf and the roots", chain.len());
            return Err(SignError::BadAnswer { detail });
        }
        Ok(chain)
    }
}

fn refused(status: &Status) -> SignError {
    let mut detail = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    let from_transport = cause.is_some();
    while let Some(error) = cause {
        detail = format!("{detail}: {error}");
        cause = error.source();
    }
    match status.code() {
        Code::DeadlineExceeded => SignError::Timeout(DEADLINE),
        _ if from_transport => SignError::Unreachable { detail },
        Code::Unavailable => SignError::Unreachable { detail },
        code => SignError::Refused {
            code: code_name(code),
            detail,
        },
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Key of the request's metadata that names the identity asked for.
const IMPERSONATED: &str = "ImpersonatedIdentity";
/// Of one call, connecting included.
const DEADLINE: Duration = Duration::from_secs(10);
