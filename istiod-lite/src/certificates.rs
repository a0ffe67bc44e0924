//! The certificate service (`control-plane-contract` 7).

use std::sync::Arc;
use std::time::Duration;

use ambit_authn::Caller;
use ambit_ca::{CertificateAuthority, Issued};
use ambit_proto::auth::istio_certificate_service_server::IstioCertificateService;
use ambit_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use ambit_types::{NamespacedName, SpiffeId};
use prost_types::value::Kind;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};

use crate::directory::Directory;
use crate::metrics::ControlMetrics;
use crate::node_caller::{Refusal, may_impersonate};

/// Signs for callers themselves, and for node proxies on behalf of the pods of
/// their node.
pub(crate) struct Certificates {
    /// Who signs.
    pub(crate) authority: Arc<CertificateAuthority>,
    /// Which pods run where.
    pub(crate) directory: Directory,
    /// Ours.
    pub(crate) trust_domain: Arc<str>,
    /// Accounts that may impersonate.
    pub(crate) trusted: Vec<NamespacedName>,
    /// What is counted.
    pub(crate) metrics: Arc<ControlMetrics>,
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.csr();
        let caller = request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| {
                self.metrics.no_identity();
                opaque()
            })?;
        let request = request.into_inner();
        let id = match impersonated(&request) {
            None => caller.id.clone(),
            Some(wanted) => self.impersonate(&caller, wanted).await?,
        };
        let ttl = u64::try_from(request.validity_duration)
            .map_err(|_| Status::invalid_argument("a negative lifetime"))?;
        let ttl = Some(Duration::from_secs(ttl));
        match self.authority.issue(&request.csr, &id, ttl) {
            Ok(issued) => {
                self.metrics.issued();
                audit(&caller, &id, &issued);
                Ok(Response::new(IstioCertificateResponse {
                    cert_chain: issued.chain,
                }))
            }
            Err(refusal) if refusal.is_callers_fault() => {
                self.metrics.csr_rejected();
                info!(caller = %caller.id, %id, error = %refusal, "certificate request refused");
                Err(Status::invalid_argument(refusal.to_string()))
            }
            Err(failure) => {
                self.metrics.sign_failed();
                error!(%id, error = %failure, "certificate not issued");
                Err(Status::internal("the certificate authority can't sign"))
            }
        }
    }
}

impl Certificates {
    /// Waits a moment for a pod that its node knows before we do.
    async fn impersonate(&self, caller: &Caller, wanted: &str) -> Result<SpiffeId, Status> {
        let mut changed = self.directory.watch();
        let until = Instant::now() + PATIENCE;
        loop {
            let outcome = may_impersonate(
                caller,
                wanted,
                &self.trust_domain,
                &self.trusted,
                &self.directory,
            );
            let refusal = match outcome {
                Ok(id) => {
                    self.metrics.impersonation("granted");
                    return Ok(id);
                }
                Err(refusal) => refusal,
            };
            let passing = refusal.may_pass();
            if !passing || !matches!(timeout_at(until, changed.changed()).await, Ok(Ok(()))) {
                return Err(self.refuse(caller, wanted, refusal));
            }
        }
    }

    fn refuse(&self, caller: &Caller, wanted: &str, refusal: Refusal) -> Status {
        self.metrics.impersonation(refusal.label());
        self.metrics.ca_unauthenticated();
        let pod = caller.pod.as_ref().map_or("", |pod| pod.name.as_str());
        warn!(caller = %caller.id, pod, wanted, reason = %refusal, "impersonation refused");
        opaque()
    }
}

/// One line for each certificate, in a target of its own so that it can be kept
/// apart: who asked, for whom, and what was given. No key, token or certificate.
fn audit(caller: &Caller, id: &SpiffeId, issued: &Issued) {
    info!(
        target: "audit",
        caller = %caller.id,
        via = ?caller.via,
        pod = caller.pod.as_ref().map(|pod| pod.name.as_str()),
        pod_uid = caller.pod.as_ref().map(|pod| pod.uid.as_str()),
        identity = %id,
        serial = issued.serial,
        expires = %humantime::format_rfc3339_seconds(issued.not_after),
        "certificate issued"
    );
}

/// One text for every refusal: no oracle.
fn opaque() -> Status {
    Status::unauthenticated("request authenticate failure")
}

fn impersonated(request: &IstioCertificateRequest) -> Option<&str> {
    let fields = &request.metadata.as_ref()?.fields;
    match fields.get("ImpersonatedIdentity")?.kind.as_ref()? {
        Kind::StringValue(id) if !id.is_empty() => Some(id),
        Kind::StringValue(_) => None,
        // Present and not a text: refused as an identity, never ignored.
        _ => Some("(not a string)"),
    }
}

/// How long a pod may take from its node's proxy to our directory.
const PATIENCE: Duration = Duration::from_secs(2);
