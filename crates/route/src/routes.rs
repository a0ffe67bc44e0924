//! All routes of one frontend: which of them has a request's rule
//! (`waypoint-contract` 1.12, 1.13, 2.1, 2.2, 3.6).

use std::sync::Arc;

use rpds::HashTrieMapSync;

use crate::index::{Best, Index};
use crate::matching::{Head, MatchedPath};
use crate::model::{Route, RouteKind, Rule, Semantics};
use crate::rank::Candidate;
use crate::table::{L4, Table};
use crate::trace::{Considered, Tracer, Why};

/// The routes of one frontend. Cheap to clone; changed by [`Routes::edit`].
#[derive(Debug, Clone)]
pub struct Routes {
    frontend: Arc<str>,
    by_name: HashTrieMapSync<Arc<str>, Arc<Route>>,
    /// One for each port and consumer namespace that routes name.
    tables: Vec<Arc<Table>>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// This rule.
    Rule(Matched<'a>),
    /// Nothing says anything: to the service itself.
    Service,
    /// There are routes and none matches: 404.
    NoMatch,
}

/// A request's rule.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'a> {
    /// The route that it is of.
    pub route: &'a Arc<Route>,
    /// The rule.
    pub rule: &'a Arc<Rule>,
    /// The match's own name, if it has one.
    pub alternative: Option<&'a str>,
    /// What of the path it covers.
    pub path: MatchedPath,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy)]
pub enum FoundTcp<'a> {
    /// This rule.
    Rule(MatchedTcp<'a>),
    /// Nothing says anything: to the service itself.
    Service,
    /// There are routes and none matches: it is closed.
    NoMatch,
}

/// A connection's rule.
#[derive(Debug, Clone, Copy)]
pub struct MatchedTcp<'a> {
    /// The route that it is of.
    pub route: &'a Arc<Route>,
    /// The rule.
    pub rule: &'a Arc<Rule>,
}

/// Changes to the routes of one frontend.
#[derive(Debug)]
pub struct Edit {
    routes: Routes,
}

impl Routes {
    /// No routes yet, of the frontend `namespace/hostname`.
    #[must_use]
    pub fn new(frontend: &str) -> Self {
        Self {
            frontend: frontend.into(),
            by_name: HashTrieMapSync::default(),
            tables: Vec::new(),
        }
    }

    /// `namespace/hostname`.
    #[must_use]
    pub fn frontend(&self) -> &str {
        &self.frontend
    }

    /// How many routes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.size()
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Every route, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.by_name.values()
    }

    /// Starts changes; this version stays as it is.
    #[must_use]
    pub fn edit(&self) -> Edit {
        Edit {
            routes: self.clone(),
        }
    }

    /// The rule of a request.
    #[must_use]
    pub fn find(&self, head: &Head<'_>) -> Found<'_> {
        self.find_with(head, &mut ())
    }

    /// The same, telling `tracer` of every rule that was considered.
    pub fn find_with<T: Tracer>(&self, head: &Head<'_>, tracer: &mut T) -> Found<'_> {
        let consumer = head
            .source_namespace
            .map(|namespace| self.group(head.port, Some(namespace)));
        let producer = self.group(head.port, None);
        let profile = consumer
            .filter(Group::has_profile)
            .or(Some(producer).filter(Group::has_profile));
        let chosen = consumer.filter(Group::has_http).unwrap_or(producer);
        let (best, group, missed) = match profile {
            Some(group) => (group.first_of_profile(head), group, Found::Service),
            None if chosen.has_http() => (chosen.first(head), chosen, Found::NoMatch),
            None => (None, chosen, Found::Service),
        };
        if T::ENABLED {
            for other in [consumer, Some(producer)].into_iter().flatten() {
                let standing = if profile.is_some() {
                    Standing::Profile(other.is(&group))
                } else {
                    Standing::Routes(other.is(&group))
                };
                other.explain(head, best, standing, tracer);
            }
        }
        best.map_or(missed, |(candidate, path)| {
            Found::Rule(Matched {
                route: &candidate.route,
                rule: &candidate.rule,
                alternative: candidate
                    .matching()
                    .map(|m| &*m.name)
                    .filter(|name| !name.is_empty()),
                path,
            })
        })
    }

    /// The rule of a connection: TLS routes first, then TCP (1.13).
    #[must_use]
    pub fn find_tcp(
        &self,
        port: u16,
        source_namespace: Option<&str>,
        sni: Option<&str>,
    ) -> FoundTcp<'_> {
        let group = source_namespace
            .map(|namespace| self.group(port, Some(namespace)))
            .filter(Group::has_l4)
            .unwrap_or_else(|| self.group(port, None));
        if !group.has_l4() {
            return FoundTcp::Service;
        }
        let best = group
            .tables()
            .filter_map(|table| table.l4.iter().find(|l4| l4.matches(source_namespace, sni)))
            .min_by(|a, b| a.order.cmp(&b.order));
        match best {
            Some(L4 { route, rule, .. }) => FoundTcp::Rule(MatchedTcp { route, rule }),
            None => FoundTcp::NoMatch,
        }
    }

    fn group(&self, port: u16, consumer: Option<&str>) -> Group<'_> {
        let of = |port: u16| {
            self.tables
                .iter()
                .find(|t| t.port == port && t.consumer.as_deref() == consumer)
                .map(|table| &**table)
        };
        Group {
            every_port: of(0),
            this_port: if port == 0 { None } else { of(port) },
        }
    }
}

impl Edit {
    /// Adds a route, or replaces the one of that name.
    pub fn set(&mut self, route: Arc<Route>) {
        self.remove(&route.name);
        for (port, candidate) in candidates(&self.routes.frontend, &route) {
            let table = self.table(port, route.consumer_namespace.as_ref());
            table.insert(candidate);
        }
        self.routes
            .by_name
            .insert_mut(Arc::clone(&route.name), route);
    }

    /// Removes the route of that name, if there is one.
    pub fn remove(&mut self, name: &str) {
        let Some(route) = self.routes.by_name.get(name).cloned() else {
            return;
        };
        for (port, candidate) in candidates(&self.routes.frontend, &route) {
            let table = self.table(port, route.consumer_namespace.as_ref());
            table.remove(&candidate);
        }
        self.routes.by_name.remove_mut(name);
    }

    /// The routes after all changes.
    #[must_use]
    pub fn finish(mut self) -> Routes {
        self.routes.tables.retain(|table| !table.is_empty());
        for table in &mut self.routes.tables {
            if table.changed {
                Arc::make_mut(table).settle();
            }
        }
        self.routes
    }

    fn table(&mut self, port: u16, consumer: Option<&Arc<str>>) -> &mut Table {
        let tables = &mut self.routes.tables;
        let at = tables
            .iter()
            .position(|t| t.port == port && t.consumer.as_ref() == consumer)
            .unwrap_or_else(|| {
                tables.push(Arc::new(Table::new(port, consumer.cloned())));
                tables.len() - 1
            });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
        Arc::make_mut(&mut tables[at])
    }
}

/// Every match of every rule, with the port that it is for (0: all). A match
/// on another port than the parent's is none.
fn candidates(frontend: &str, route: &Arc<Route>) -> Vec<(u16, Candidate)> {
    let mut all = Vec::new();
    for parent in route.parents.iter().filter(|p| *p.frontend == *frontend) {
        for (index, rule) in (0_u32..).zip(&route.rules) {
            if rule.matches.is_empty() {
                all.push((parent.port, Candidate::new(route, (index, rule), None)));
            }
            for (alternative, matching) in (0_u32..).zip(&rule.matches) {
                let port = match (parent.port, matching.port) {
                    (0, port) | (port, 0) => port,
                    (parent, port) if parent == port => port,
                    _ => continue,
                };
                let candidate = Candidate::new(route, (index, rule), Some(alternative));
                all.push((port, candidate));
            }
        }
    }
    all
}

/// The tables that hold for one port and one side.
#[derive(Clone, Copy)]
struct Group<'a> {
    every_port: Option<&'a Table>,
    this_port: Option<&'a Table>,
}

/// How a group stands in a decision, for the trace.
#[derive(Clone, Copy)]
enum Standing {
    /// A profile decides; true: this group's.
    Profile(bool),
    /// Routes decide; true: this group's.
    Routes(bool),
}

impl<'a> Group<'a> {
    fn tables(self) -> impl Iterator<Item = &'a Table> {
        [self.every_port, self.this_port].into_iter().flatten()
    }

    fn is(&self, other: &Self) -> bool {
        let same = |a: Option<&Table>, b: Option<&Table>| match (a, b) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same(self.every_port, other.every_port) && same(self.this_port, other.this_port)
    }

    fn has_profile(&self) -> bool {
        self.tables().any(|table| !table.profile.is_empty())
    }

    fn has_http(&self) -> bool {
        self.tables().any(|table| {
            !table.grpc.is_empty() || !table.http.is_empty() || !table.ordered.is_empty()
        })
    }

    fn has_grpc(self) -> bool {
        self.tables().any(|table| !table.grpc.is_empty())
    }

    fn has_l4(&self) -> bool {
        self.tables().any(|table| !table.l4.is_empty())
    }

    fn first_of_profile(self, head: &Head<'_>) -> Best<'a> {
        self.tables()
            .fold(None, |best, table| table.profile.first(head, best))
    }

    /// Gateway API routes are one block among the VirtualServices, as old as
    /// the oldest of them; the first block that matches decides (3.6).
    fn first(self, head: &Head<'_>) -> Best<'a> {
        let ordered = self
            .tables()
            .fold(None, |best, table| table.ordered.first(head, best));
        if let Some((candidate, _)) = ordered
            && self
                .block()
                .is_none_or(|block| (candidate.key.created, &*candidate.key.object) < block)
        {
            return ordered;
        }
        let grpc = self.has_grpc();
        self.tables()
            .fold(None, |best, table| {
                let index: &Index = if grpc { &table.grpc } else { &table.http };
                index.first(head, best)
            })
            .or(ordered)
    }

    /// Age and name of the oldest Gateway API route.
    fn block(self) -> Option<(i64, &'a str)> {
        self.tables()
            .filter_map(|table| table.block.as_ref())
            .map(|(created, object)| (*created, &**object))
            .min()
    }

    fn explain<T: Tracer>(self, head: &Head<'_>, best: Best<'_>, standing: Standing, out: &mut T) {
        let grpc = self.has_grpc();
        for candidate in self.in_order() {
            let profile = candidate.route.semantics == Semantics::ServiceProfile;
            let replaced = match standing {
                Standing::Profile(mine) => (!(mine && profile)).then_some(Why::ProfileReplaces),
                Standing::Routes(false) => Some(Why::ConsumerReplaces),
                Standing::Routes(true) => (grpc
                    && candidate.route.semantics == Semantics::GatewayApi
                    && candidate.route.kind != RouteKind::Grpc)
                    .then_some(Why::GrpcReplaces),
            };
            let taken = best.is_some_and(|(found, _)| Arc::ptr_eq(found, candidate));
            let checked = candidate
                .matching()
                .map_or(Ok(MatchedPath::Whole), |m| m.check(head));
            let why = match (replaced, checked) {
                (Some(replaced), _) => replaced,
                (None, Err(miss)) => Why::Missed(miss),
                (None, Ok(_)) if taken => Why::Taken,
                (None, Ok(_)) => Why::Later,
            };
            out.considered(Considered {
                route: &candidate.route,
                rule: &candidate.rule,
                alternative: candidate.alternative.map(|at| at as usize),
                why,
            });
        }
    }

    /// Every candidate in the order in which they are decided.
    fn in_order(self) -> Vec<&'a Arc<Candidate>> {
        let sorted = |of: fn(&Table) -> &Index| {
            let mut all: Vec<_> = self.tables().flat_map(|table| of(table).all()).collect();
            all.sort_by(|a, b| a.key.cmp(&b.key));
            all
        };
        let block = self.block();
        let (before, after): (Vec<_>, Vec<_>) = sorted(|t| &t.ordered)
            .into_iter()
            .partition(|c| block.is_none_or(|block| (c.key.created, &*c.key.object) < block));
        let mut all = sorted(|t| &t.profile);
        all.extend(before);
        all.extend(sorted(|t| &t.grpc));
        all.extend(sorted(|t| &t.http));
        all.extend(after);
        all
    }
}
