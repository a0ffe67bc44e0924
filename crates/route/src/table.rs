//! The candidates of one port and one consumer namespace.

use std::sync::Arc;

use crate::index::Index;
use crate::model::{Route, RouteKind, Rule, Semantics};
use crate::rank::Candidate;
use crate::sni::SniPattern;

/// The candidates of one port (0: every port), for the clients of one
/// namespace or for all.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) port: u16,
    pub(crate) consumer: Option<Arc<str>>,
    /// Gateway API, by specificity.
    pub(crate) grpc: Index,
    /// Gateway API, by specificity.
    pub(crate) http: Index,
    /// VirtualServices, in document order.
    pub(crate) ordered: Index,
    /// ServiceProfiles, in document order.
    pub(crate) profile: Index,
    /// Connections, in order.
    pub(crate) l4: Vec<L4>,
    /// Age and name of the oldest Gateway API route.
    pub(crate) block: Option<(i64, Arc<str>)>,
    /// Since it was last settled.
    pub(crate) changed: bool,
}

/// One rule for connections, with one of its server names.
#[derive(Debug, Clone)]
pub(crate) struct L4 {
    pub(crate) order: L4Order,
    pub(crate) sni: Option<SniPattern>,
    pub(crate) route: Arc<Route>,
    pub(crate) rule: Arc<Rule>,
    alternative: Option<u32>,
}

/// TLS before TCP, exact server names before wildcards (Gateway API), the older
/// object first, then document order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct L4Order {
    tcp: bool,
    unspecific: (bool, usize),
    created: i64,
    object: Arc<str>,
    rule: usize,
}

impl Table {
    pub(crate) const fn new(port: u16, consumer: Option<Arc<str>>) -> Self {
        Self {
            port,
            consumer,
            grpc: Index::new(),
            http: Index::new(),
            ordered: Index::new(),
            profile: Index::new(),
            l4: Vec::new(),
            block: None,
            changed: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.l4.is_empty()
            && [&self.grpc, &self.http, &self.ordered, &self.profile]
                .iter()
                .all(|index| index.is_empty())
    }

    pub(crate) fn insert(&mut self, candidate: Candidate) {
        self.changed = true;
        let route = Arc::clone(&candidate.route);
        match self.index(&route) {
            Some(index) => index.insert(Arc::new(candidate)),
            None => self.l4.extend(connections(&candidate)),
        }
    }

    pub(crate) fn remove(&mut self, candidate: &Candidate) {
        self.changed = true;
        match self.index(&candidate.route) {
            Some(index) => index.remove(candidate),
            None => self
                .l4
                .retain(|l4| !Arc::ptr_eq(&l4.route, &candidate.route)),
        }
    }

    pub(crate) fn settle(&mut self) {
        for index in [
            &mut self.grpc,
            &mut self.http,
            &mut self.ordered,
            &mut self.profile,
        ] {
            index.settle();
        }
        self.l4.sort_by(|a, b| a.order.cmp(&b.order));
        // Asked only where both kinds of route are on one service.
        self.block = if self.ordered.is_empty() {
            None
        } else {
            [&self.grpc, &self.http]
                .into_iter()
                .flat_map(Index::all)
                .map(|c| (c.key.created, Arc::clone(&c.key.object)))
                .min()
        };
        self.changed = false;
    }

    fn index(&mut self, route: &Route) -> Option<&mut Index> {
        match (route.kind, route.semantics) {
            (RouteKind::Tls | RouteKind::Tcp, _) => None,
            (_, Semantics::ServiceProfile) => Some(&mut self.profile),
            (_, Semantics::VirtualService) => Some(&mut self.ordered),
            (RouteKind::Grpc, Semantics::GatewayApi) => Some(&mut self.grpc),
            (RouteKind::Http, Semantics::GatewayApi) => Some(&mut self.http),
        }
    }
}

fn connections(candidate: &Candidate) -> Vec<L4> {
    let one = |sni: Option<&SniPattern>| L4 {
        order: L4Order {
            tcp: candidate.route.kind == RouteKind::Tcp,
            unspecific: match (candidate.route.semantics, sni) {
                (Semantics::GatewayApi, Some(sni)) => sni.unspecific(),
                (Semantics::GatewayApi, None) => (true, usize::MAX),
                _ => (false, 0),
            },
            created: candidate.route.created,
            object: Arc::clone(&candidate.route.object),
            rule: candidate
                .route
                .rules
                .iter()
                .position(|rule| Arc::ptr_eq(rule, &candidate.rule))
                .unwrap_or(usize::MAX),
        },
        sni: sni.cloned(),
        route: Arc::clone(&candidate.route),
        rule: Arc::clone(&candidate.rule),
        alternative: candidate.alternative,
    };
    if candidate.rule.sni.is_empty() {
        vec![one(None)]
    } else {
        candidate
            .rule
            .sni
            .iter()
            .map(|sni| one(Some(sni)))
            .collect()
    }
}

impl L4 {
    /// The port is the table's.
    pub(crate) fn matches(&self, source_namespace: Option<&str>, sni: Option<&str>) -> bool {
        let named = match (&self.sni, sni) {
            (Some(pattern), Some(sni)) => pattern.matches(sni),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let from = self
            .alternative
            .and_then(|at| self.rule.matches.get(at as usize))
            .is_none_or(|matching| {
                matching.source_namespaces.is_empty()
                    || source_namespace
                        .is_some_and(|ns| matching.source_namespaces.iter().any(|of| **of == *ns))
            });
        named && from
    }
}
