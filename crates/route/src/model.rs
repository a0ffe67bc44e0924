//! What a route says, in the types that the data path reads. Made by `decode`
//! alone; immutable and shared.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use crate::backend::{BackendRef, Mirror};
use crate::cors::Cors;
use crate::fault::Fault;
use crate::headers::HeaderOps;
use crate::matching::Match;
use crate::redirect::Redirect;
use crate::response::ResponseClass;
use crate::retry::Retry;
use crate::rewrite::Rewrite;
use crate::session::SessionPersistence;
use crate::sni::SniPattern;

/// The object that a route came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// Its kind, as written in manifests.
    pub kind: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// metadata.generation; 0 where there is none.
    pub generation: i64,
}

/// One route object, decoded: everything that it says for this waypoint.
#[derive(Debug)]
pub struct Route {
    /// The resource's name, the key under which it is replaced and removed.
    pub name: Arc<str>,
    /// The object behind it.
    pub origin: Origin,
    /// `namespace/name` of the object: the tie-break of `waypoint-contract` 2.2.
    pub object: Arc<str>,
    /// Where it is attached.
    pub parents: Vec<Parent>,
    /// Its kind; kinds have a precedence per port (2.1).
    pub kind: RouteKind,
    /// Whose rules decide between several matches.
    pub semantics: Semantics,
    /// Creation in Unix milliseconds; the older wins (2.2).
    pub created: i64,
    /// Only for clients of this namespace, for whom it replaces producer routes.
    pub consumer_namespace: Option<Arc<str>>,
    /// In document order.
    pub rules: Vec<Arc<Rule>>,
}

/// One frontend that a route is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// `namespace/hostname`.
    pub frontend: Box<str>,
    /// The service port; 0 is every port.
    pub port: u16,
}

/// What kind of traffic a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// HTTP requests.
    Http,
    /// gRPC calls.
    Grpc,
    /// Connections by SNI.
    Tls,
    /// Connections.
    Tcp,
}

/// Whose rules decide between several matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Semantics {
    /// Sorted by specificity (2.2); what can't be had is 500.
    GatewayApi,
    /// Document order, older objects first (3.6); what can't be had is 503.
    VirtualService,
    /// Document order; no match goes to the service; replaces all others (8.1).
    ServiceProfile,
}

impl Semantics {
    /// The status for a destination that there isn't (1.10).
    #[must_use]
    pub const fn missing_backend(self) -> StatusCode {
        match self {
            Self::GatewayApi => StatusCode::INTERNAL_SERVER_ERROR,
            Self::VirtualService | Self::ServiceProfile => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// One rule: what it matches and what is done.
#[derive(Debug)]
pub struct Rule {
    /// For logs and metrics; empty when it has none.
    pub name: Box<str>,
    /// Of the route that it is part of.
    pub semantics: Semantics,
    /// Any of them; none matches everything.
    pub matches: Vec<Match>,
    /// Changes to the request, of the rule.
    pub request_headers: HeaderOps,
    /// Changes to the response, of the rule.
    pub response_headers: HeaderOps,
    /// Cross-origin policy.
    pub cors: Option<Box<Cors>>,
    /// Injected faults.
    pub fault: Option<Fault>,
    /// Ends the request here.
    pub answer: Option<Box<Answer>>,
    /// Host and path for the backend.
    pub rewrite: Option<Box<Rewrite>>,
    /// Copies.
    pub mirrors: Vec<Mirror>,
    /// Weighted destinations.
    pub backends: Vec<BackendRef>,
    /// Sum of the weights.
    pub(crate) total_weight: u64,
    /// The frontend's own service is the backend.
    pub to_frontend: bool,
    /// The whole transaction with its retries; `None`: no bound.
    pub timeout: Option<Duration>,
    /// `None`: the gateway's default holds.
    pub retry: Option<Box<Retry>>,
    /// Sticky sessions.
    pub session: Option<Box<SessionPersistence>>,
    /// What counts as a failure; none: 5xx.
    pub response_classes: Vec<ResponseClass>,
    /// Time without a byte in either direction.
    pub idle_timeout: Option<Duration>,
    /// Time until the response's end.
    pub response_timeout: Option<Duration>,
    /// TLS and TCP: server names; none: any.
    pub sni: Vec<SniPattern>,
    /// With several weighted destinations the rule's `set` wins (3.2).
    pub route_headers_last: bool,
}

impl Rule {
    /// The request's header changes in the order in which they are applied
    /// (3.2: usually the destination's last, so that it wins).
    #[must_use]
    pub fn ops_in_order<'a>(&'a self, backend: Option<&'a BackendRef>) -> [&'a HeaderOps; 2] {
        self.ordered(&self.request_headers, backend.map(|b| &b.request_headers))
    }

    /// The response's header changes in the order in which they are applied.
    #[must_use]
    pub fn response_ops_in_order<'a>(
        &'a self,
        backend: Option<&'a BackendRef>,
    ) -> [&'a HeaderOps; 2] {
        self.ordered(&self.response_headers, backend.map(|b| &b.response_headers))
    }

    fn ordered<'a>(
        &self,
        own: &'a HeaderOps,
        backend: Option<&'a HeaderOps>,
    ) -> [&'a HeaderOps; 2] {
        let backend = backend.unwrap_or(HeaderOps::none());
        if self.route_headers_last && self.backends.len() > 1 {
            [backend, own]
        } else {
            [own, backend]
        }
    }
}

/// What ends a request at its rule.
#[derive(Debug)]
pub enum Answer {
    /// Elsewhere.
    Redirect(Redirect),
    /// A response of the configuration.
    Direct(DirectResponse),
    /// The rule can't be used as a whole.
    Invalid(Invalid),
}

/// A response of the configuration (3.2).
#[derive(Debug, Clone)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// At most 1 MiB.
    pub body: Bytes,
}

/// Something that was asked for and can't be had: answered, never skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// For people and logs, never for a response body.
    pub reason: Box<str>,
    /// The answer's status.
    pub status: StatusCode,
}
