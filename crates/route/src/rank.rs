//! Which of several candidates is asked first (`waypoint-contract` 2.2, 3.6).

use std::sync::Arc;

use crate::matching::{Match, PathPattern};
use crate::model::{Route, RouteKind, Rule, Semantics};

/// The place of a candidate among those of its frontend; less is earlier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Inverted specificity; 0 where document order decides.
    order: u128,
    /// Of the object: the older first.
    pub(crate) created: i64,
    /// `namespace/name` of the object.
    pub(crate) object: Arc<str>,
    rule: u32,
    alternative: u32,
}

/// One match of one rule of one route.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) key: Key,
    pub(crate) route: Arc<Route>,
    pub(crate) rule: Arc<Rule>,
    /// Index into the rule's matches; `None`: the rule has none.
    pub(crate) alternative: Option<u32>,
}

impl Candidate {
    /// `rule` is the place in the route, `alternative` the one in the rule.
    pub(crate) fn new(
        route: &Arc<Route>,
        rule: (u32, &Arc<Rule>),
        alternative: Option<u32>,
    ) -> Self {
        let (index, rule) = rule;
        let matching = alternative.and_then(|at| rule.matches.get(at as usize));
        let order = match route.semantics {
            Semantics::GatewayApi => u128::MAX - specificity(route.kind, matching),
            Semantics::VirtualService | Semantics::ServiceProfile => 0,
        };
        Self {
            key: Key {
                order,
                created: route.created,
                object: Arc::clone(&route.object),
                rule: index,
                alternative: alternative.unwrap_or(0),
            },
            route: Arc::clone(route),
            rule: Arc::clone(rule),
            alternative,
        }
    }

    /// What must hold; `None`: nothing.
    pub(crate) fn matching(&self) -> Option<&Match> {
        self.rule.matches.get(self.alternative? as usize)
    }
}

/// Class of the path, its length, a second length, method, headers, query:
/// the ranks 1 to 6 of 2.2 as one number.
fn specificity(kind: RouteKind, matching: Option<&Match>) -> u128 {
    let Some(matching) = matching else {
        return path_class(PREFIX, 0);
    };
    let path = match (kind, matching.grpc, &matching.path) {
        (_, Some((service, method)), _) => (u128::from(service) << 72) | (u128::from(method) << 48),
        (RouteKind::Grpc, None, None) => 0,
        (_, None, None) => path_class(PREFIX, 0),
        (_, None, Some(PathPattern::Exact { .. })) => path_class(EXACT, 0),
        (_, None, Some(PathPattern::Element { text, .. } | PathPattern::Text { text, .. })) => {
            path_class(PREFIX, text.len())
        }
        (_, None, Some(PathPattern::Regex { length, .. })) => path_class(REGEX, *length as usize),
    };
    path | (u128::from(matching.method.is_some()) << 40)
        | ((matching.headers.len().min(0xffff) as u128) << 16)
        | (matching.query.len().min(0xffff) as u128)
}

const fn path_class(class: u128, length: usize) -> u128 {
    let length = if length > 0xff_ffff {
        0xff_ffff
    } else {
        length
    };
    (class << 96) | ((length as u128) << 72)
}

const EXACT: u128 = 3;
const PREFIX: u128 = 2;
const REGEX: u128 = 1;
