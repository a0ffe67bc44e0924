//! Watching a routing decision while it is made; with `()` compiled out.

use std::fmt;

use crate::lookup::Found;
use crate::model::Workload;
use crate::route::Row;

/// Receives the steps of a routing decision.
pub trait RouteTracer {
    /// False compiles every step out.
    const ENABLED: bool;

    /// One step was taken.
    fn step(&mut self, step: RouteStep<'_>);
}

impl RouteTracer for () {
    const ENABLED: bool = false;

    fn step(&mut self, _: RouteStep<'_>) {}
}

/// One step of a routing decision.
#[derive(Debug, Clone, Copy)]
pub enum RouteStep<'a> {
    /// What the destination is.
    Found(Option<Found<'a>>),
    /// How many endpoints a service has, and how many of them may be used.
    Endpoints {
        /// All.
        known: usize,
        /// Those that may be used.
        eligible: usize,
    },
    /// The endpoint that was chosen.
    Chosen(&'a Workload),
    /// The rule that decided.
    Decided(Row),
}

impl fmt::Display for RouteStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(None) => f.write_str("nothing is known about the destination"),
            Self::Found(Some(Found::Workload(w))) => {
                write!(f, "the destination is workload {}", w.uid)
            }
            Self::Found(Some(Found::Service(s))) => {
                write!(f, "the destination is service {}", s.key)
            }
            Self::Endpoints { known, eligible } => {
                write!(f, "{eligible} of {known} endpoints may be used")
            }
            Self::Chosen(workload) => write!(f, "chose {}", workload.uid),
            Self::Decided(row) => write!(f, "decided by row {}", row.number()),
        }
    }
}

/// Keeps every step as a line, for `explain`.
#[derive(Debug, Clone, Default)]
pub struct RouteTrace {
    /// The steps, in order.
    pub lines: Vec<String>,
}

impl RouteTracer for RouteTrace {
    const ENABLED: bool = true;

    fn step(&mut self, step: RouteStep<'_>) {
        self.lines.push(step.to_string());
    }
}
