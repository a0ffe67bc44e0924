//! Who calls: authentication of every call, and admission to discovery
//! (`control-plane-contract` 6.5, 7.2).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ambit_authn::{Caller, PodClaims, TokenVerifier, Via, caller_from_certificate};
use ambit_cluster::{Reviewed, TokenReviewer};
use ambit_proto::waypoint::TYPES as WAYPOINT_TYPES;
use ambit_types::{NamespacedName, SpiffeId};
use ambit_xds::{Admission, Admitted, NodeInfo, NodeKind};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Extensions, Status};
use tracing::{debug, info};

use crate::audience::waypoint_of;
use crate::directory::Directory;
use crate::listener::Peer;
use crate::metrics::ControlMetrics;
use crate::node_caller::account;

/// Who says whose a token is.
pub(crate) enum Tokens {
    /// Public keys: we do.
    Keys(TokenVerifier),
    /// The cluster's API server, asked about each.
    Cluster(TokenReviewer),
}

/// Puts the [`Caller`] into each call's extensions, or ends the call.
#[derive(Clone)]
pub(crate) struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    tokens: Tokens,
    trust_domain: Arc<str>,
    cluster_id: String,
    metrics: Arc<ControlMetrics>,
}

/// Why a call has no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unknown {
    /// For the log and the metrics; the caller isn't told.
    reason: &'static str,
    /// Nobody could say: the same call may work in a moment.
    transient: bool,
}

impl From<&'static str> for Unknown {
    fn from(reason: &'static str) -> Self {
        Self {
            reason,
            transient: false,
        }
    }
}

impl Authenticator {
    /// For one mesh and one cluster.
    pub(crate) fn new(
        tokens: Tokens,
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
        }
    }

    /// A service behind it, under the name that failures are counted by.
    pub(crate) fn guard<S>(&self, name: &'static str, inner: S) -> Guarded<S> {
        Guarded {
            authenticator: self.clone(),
            name,
            inner,
        }
    }

    async fn admit<B>(
        &self,
        name: &'static str,
        mut request: http::Request<B>,
    ) -> Result<http::Request<B>, Status> {
        let call = Call::of(&request);
        let unknown = match self.caller(&call).await {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                return Ok(request);
            }
            Err(unknown) => unknown,
        };
        let reason = unknown.reason;
        self.shared.metrics.unauthenticated(name, reason);
        let peer = call.peer.as_ref().map(|peer| peer.address);
        info!(service = name, ?peer, reason, "caller not authenticated");
        Err(if unknown.transient {
            Status::unavailable("callers can't be authenticated at the moment")
        } else {
            Status::unauthenticated("authentication failure")
        })
    }

    async fn caller(&self, call: &Call) -> Result<Caller, Unknown> {
        let foreign = |id: &[u8]| !id.is_empty() && id != self.shared.cluster_id.as_bytes();
        if call.cluster.as_deref().is_some_and(foreign) {
            return Err("unknown_cluster".into());
        }
        if let Some(peer) = &call.peer
            && !peer.certificates.is_empty()
        {
            match caller_from_certificate(&peer.certificates, &self.shared.trust_domain) {
                Ok(caller) => return Ok(caller),
                // The token may still say who it is.
                Err(error) => debug!(%error, "client certificate names no caller"),
            }
        }
        let token = call.token()?;
        match &self.shared.tokens {
            Tokens::Keys(keys) => {
                let verified = keys.verify(token);
                verified.map_err(|error| error.as_str().into())
            }
            Tokens::Cluster(reviewer) => {
                let reviewed = reviewer.review(token).await.map_err(|error| Unknown {
                    reason: error.as_str(),
                    transient: error.is_transient(),
                })?;
                let known = reviewed_caller(&reviewed, &self.shared.trust_domain);
                known.ok_or_else(|| "not_service_account".into())
            }
        }
    }
}

/// What of a call says who calls.
struct Call {
    cluster: Option<Vec<u8>>,
    authorization: Option<HeaderValue>,
    peer: Option<Peer>,
}

impl Call {
    fn of<B>(request: &http::Request<B>) -> Self {
        let headers = request.headers();
        let cluster = headers.get("clusterid");
        Self {
            cluster: cluster.map(|id| id.as_bytes().to_vec()),
            authorization: headers.get(AUTHORIZATION).cloned(),
            peer: request.extensions().get::<Peer>().cloned(),
        }
    }

    fn token(&self) -> Result<&str, &'static str> {
        let header = self.authorization.as_ref().ok_or("no_credentials")?;
        let header = header.to_str().map_err(|_| "malformed")?;
        let (scheme, token) = header.split_once(' ').ok_or("malformed")?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err("malformed");
        }
        Ok(token.trim())
    }
}

fn reviewed_caller(reviewed: &Reviewed, trust_domain: &Arc<str>) -> Option<Caller> {
    let (namespace, account) = (reviewed.namespace.as_str(), reviewed.account.as_str());
    let id = SpiffeId::new(Arc::clone(trust_domain), namespace, account).ok()?;
    let pod = reviewed.pod.as_ref().map(|pod| PodClaims {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
    });
    Some(Caller {
        id,
        pod,
        via: Via::Token,
    })
}

/// A gRPC service that only known callers reach.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    authenticator: Authenticator,
    name: &'static str,
    inner: S,
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The one that was found ready; its clone need not be.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (authenticator, name) = (self.authenticator.clone(), self.name);
        Box::pin(async move {
            match authenticator.admit(name, request).await {
                Ok(request) => inner.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
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
