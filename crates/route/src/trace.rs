//! Watching how a route is found: the same code decides with and without, and
//! without it costs nothing.

use std::sync::Arc;

use crate::matching::Miss;
use crate::model::{Route, Rule};

/// Receives every rule that was considered. `()` receives nothing and is
/// compiled out.
pub trait Tracer {
    /// False compiles everything out.
    const ENABLED: bool;

    /// One alternative of one rule was considered.
    fn considered(&mut self, considered: Considered<'_>);
}

/// One alternative of one rule, in the order in which they are decided.
#[derive(Debug)]
pub struct Considered<'a> {
    /// Its route.
    pub route: &'a Arc<Route>,
    /// Its rule.
    pub rule: &'a Arc<Rule>,
    /// The match in the rule; `None`: the rule has none.
    pub alternative: Option<usize>,
    /// What became of it.
    pub why: Why,
}

/// Why a rule was or wasn't taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It was taken.
    Taken,
    /// It matches too, but an earlier one was taken.
    Later,
    /// It doesn't match.
    Missed(Miss),
    /// A ServiceProfile replaces it (8.1).
    ProfileReplaces,
    /// Routes of the client's namespace replace it (2.1).
    ConsumerReplaces,
    /// A gRPC route on the port replaces it (2.1).
    GrpcReplaces,
}

impl Tracer for () {
    const ENABLED: bool = false;

    fn considered(&mut self, _: Considered<'_>) {}
}

/// A tracer that keeps the first steps, at most [`Log::MOST`].
#[derive(Debug, Default)]
pub struct Log {
    /// In order.
    pub steps: Vec<Step>,
    /// Steps that were not kept.
    pub dropped: usize,
}

/// A kept step.
#[derive(Debug)]
pub struct Step {
    /// The route.
    pub route: Arc<Route>,
    /// The rule.
    pub rule: Arc<Rule>,
    /// The match in the rule.
    pub alternative: Option<usize>,
    /// What became of it.
    pub why: Why,
}

impl Log {
    /// Bound of kept steps.
    pub const MOST: usize = 1000;
}

impl Tracer for Log {
    const ENABLED: bool = true;

    fn considered(&mut self, considered: Considered<'_>) {
        if self.steps.len() >= Self::MOST && considered.why != Why::Taken {
            self.dropped += 1;
            return;
        }
        self.steps.push(Step {
            route: Arc::clone(considered.route),
            rule: Arc::clone(considered.rule),
            alternative: considered.alternative,
            why: considered.why,
        });
    }
}
