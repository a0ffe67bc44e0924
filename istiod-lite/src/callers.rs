//! Who calls: authentication of every call, and admission to discovery
//! (`control-plane-contract` 6.5, 7.2).

use std::sync::Arc;

use ambit_authn::{Caller, TokenVerifier, caller_from_certificate};
use ambit_proto::waypoint::TYPES as WAYPOINT_TYPES;
use ambit_types::NamespacedName;
use ambit_xds::{Admission, Admitted, NodeInfo, NodeKind};
use tonic::service::Interceptor;
use tonic::{Extensions, Request, Status};
use tracing::{debug, info};

use crate::audience::waypoint_of;
use crate::directory::Directory;
use crate::listener::Peer;
use crate::metrics::ControlMetrics;
use crate::node_caller::account;

/// Puts the [`Caller`] into each call's extensions, or ends the call.
#[derive(Clone)]
pub(crate) struct Authenticator {
    shared: Arc<Shared>,
    service: &'static str,
}

struct Shared {
    tokens: Option<TokenVerifier>,
    trust_domain: Arc<str>,
    cluster_id: String,
    metrics: Arc<ControlMetrics>,
}

impl Authenticator {
    /// For one mesh and one cluster.
    pub(crate) fn new(
        tokens: Option<TokenVerifier>,
        trust_domain: Arc<str>,
        cluster_id: String,
        metrics: Arc<ControlMetrics>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                tokens,
                trust_domain,
                cluster_id,
                metrics,
            }),
            service: "",
        }
    }

    /// The same, under the name that failures are counted by.
    #[must_use]
    pub(crate) fn of(&self, service: &'static str) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            service,
        }
    }

    fn caller(&self, request: &Request<()>) -> Result<Caller, &'static str> {
        let cluster = request.metadata().get("clusterid");
        let foreign = |id: &[u8]| !id.is_empty() && id != self.shared.cluster_id.as_bytes();
        if cluster.is_some_and(|id| foreign(id.as_bytes())) {
            return Err("unknown_cluster");
        }
        if let Some(peer) = request.extensions().get::<Peer>()
            && !peer.certificates.is_empty()
        {
            match caller_from_certificate(&peer.certificates, &self.shared.trust_domain) {
                Ok(caller) => return Ok(caller),
                // The token may still say who it is.
                Err(error) => debug!(%error, "client certificate names no caller"),
            }
        }
        let header = request
            .metadata()
            .get("authorization")
            .ok_or("no_credentials")?;
        let header = header.to_str().map_err(|_| "malformed")?;
        let (scheme, token) = header.split_once(' ').ok_or("malformed")?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err("malformed");
        }
        let tokens = self.shared.tokens.as_ref().ok_or("no_token_issuer")?;
        let verified = tokens.verify(token.trim());
        verified.map_err(ambit_authn::TokenError::as_str)
    }
}

impl Interceptor for Authenticator {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        match self.caller(&request) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Ok(request)
            }
            Err(reason) => {
                self.shared.metrics.unauthenticated(self.service, reason);
                let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
                info!(
                    service = self.service,
                    ?peer,
                    reason,
                    "caller not authenticated"
                );
                Err(Status::unauthenticated("authentication failure"))
            }
        }
    }
}

/// Who may read the configuration.
pub(crate) struct Readers {
    /// Accounts of node proxies.
    pub(crate) trusted: Vec<NamespacedName>,
    /// Whoever is authenticated may.
    pub(crate) open: bool,
    /// Which pods are a waypoint's.
    pub(crate) directory: Directory,
}

impl Admission for Readers {
    fn admit(&self, call: &Extensions, node: &NodeInfo) -> Result<Admitted, Status> {
        let caller = call
            .get::<Caller>()
            .ok_or_else(|| Status::unauthenticated("authentication failure"))?;
        let account = account(caller);
        let denied = |why: &dyn std::fmt::Display| {
            info!(node = %node.id, caller = %caller.id, %why, "stream refused");
            Status::permission_denied(why.to_string())
        };
        if node.metadata("NAMESPACE") != Some(account.namespace.as_ref()) {
            return Err(denied(&"the node is not in its caller's namespace"));
        }
        let claimed = node.metadata("SERVICE_ACCOUNT");
        if claimed.is_some_and(|claimed| *claimed != *account.name) {
            return Err(denied(&"the node is not of its caller's account"));
        }
        let everything = || Admitted::everything(caller.id.to_string());
        match node.kind {
            NodeKind::Waypoint => match waypoint_of(caller, &self.directory) {
                Ok(audience) => Ok(Admitted {
                    audience: Some(audience),
                    types: Some(WAYPOINT_TYPES.map(Arc::from).into()),
                    ..everything()
                }),
                // An Envoy, which finds nothing of ours.
                Err(_) if self.open => Ok(everything()),
                Err(why) if why.may_pass() => {
                    debug!(node = %node.id, caller = %caller.id, %why, "stream put off");
                    Err(Status::unavailable(why.to_string()))
                }
                Err(why) => Err(denied(&why)),
            },
            _ if self.open => Ok(everything()),
            NodeKind::Ztunnel if self.trusted.contains(&account) => Ok(everything()),
            // Upstream lets any account read everything that is sent to nodes.
            NodeKind::Ztunnel => Err(denied(&"the caller's account is not a node proxy's")),
            NodeKind::Sidecar | NodeKind::Router | NodeKind::AgentGateway => {
                Err(denied(&"only node proxies and waypoints are served"))
            }
        }
    }
}
