//! The conditions of a route's parents (`waypoint-contract` 2.1,
//! `control-plane-contract` 5.2).

use super::report::Failure;
use crate::RouteCondition;

/// What became of the route as a whole, for one group of parents.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict {
    /// A reference that can't be followed.
    pub(super) refs: Option<Failure>,
    /// No rule can be used.
    pub(super) refused: Option<Failure>,
    /// Some rules can't be used.
    pub(super) partial: Option<Failure>,
}

/// What became of one parent.
#[derive(Debug, Clone)]
pub(super) struct ParentVerdict<'a> {
    /// Why the route isn't attached.
    pub(super) refused: Option<&'a Failure>,
    /// Ports that it lost, in words; empty: none.
    pub(super) note: &'a str,
    /// Whether every service behind it has a waypoint; none: there is no service.
    pub(super) waypoint: Option<bool>,
}

/// The conditions of one parent, in a fixed order.
pub(super) fn conditions(verdict: &Verdict, parent: &ParentVerdict<'_>) -> Vec<RouteCondition> {
    let refused = parent.refused.or(verdict.refused.as_ref());
    let mut conditions = vec![match refused {
        Some(failure) => no("Accepted", failure),
        None => yes("Accepted", "Accepted", &accepted(parent.note)),
    }];
    conditions.push(match &verdict.refs {
        Some(failure) => no("ResolvedRefs", failure),
        None => yes("ResolvedRefs", "ResolvedRefs", "all references resolved"),
    });
    if let (None, Some(failure)) = (refused, &verdict.partial) {
        let message = format!("Dropped Rule: {}", failure.message);
        conditions.push(yes("PartiallyInvalid", "UnsupportedValue", &message));
    }
    if let Some(bound) = parent.waypoint {
        conditions.push(waypoints(bound));
    }
    conditions
}

fn waypoints(bound: bool) -> RouteCondition {
    if bound {
        return yes(
            "ResolvedWaypoints",
            "ResolvedWaypoints",
            "all waypoints resolved",
        );
    }
    no(
        "ResolvedWaypoints",
        &Failure {
            reason: "MissingUseWaypointLabel",
            message: "neither the parent nor its namespace has a waypoint that serves it: label \
                      one of them istio.io/use-waypoint"
                .to_owned(),
        },
    )
}

fn accepted(note: &str) -> String {
    if note.is_empty() {
        "the route is attached".to_owned()
    } else {
        format!("the route is attached, {note}")
    }
}

/// A condition that holds.
pub(super) fn yes(kind: &'static str, reason: &'static str, message: &str) -> RouteCondition {
    RouteCondition {
        kind,
        status: true,
        reason,
        message: message.to_owned(),
    }
}

/// A condition that doesn't hold.
pub(super) fn no(kind: &'static str, failure: &Failure) -> RouteCondition {
    RouteCondition {
        kind,
        status: false,
        reason: failure.reason,
        message: failure.message.clone(),
    }
}
