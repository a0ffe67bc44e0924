//! What a translation gives.

use ambit_kube::Problem;

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Translated<R> {
    /// The message; none where nothing is left to send. An object that can't be
    /// used isn't none: its parts are sent as `Invalid`, so that nothing fails open.
    pub resource: Option<R>,
    /// A status for each parent that the object names, in its order.
    pub parents: Vec<ParentStatus>,
    /// Conditions of the object itself, for kinds without parents.
    pub conditions: Vec<RouteCondition>,
    /// What is wrong or doubtful.
    pub problems: Vec<Problem>,
}

impl<R> Default for Translated<R> {
    fn default() -> Self {
        Self {
            resource: None,
            parents: Vec::new(),
            conditions: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// `status.parents[]` of a route, or `status.ancestors[]` of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentStatus {
    /// The reference as it was written, every field as given and no other, so
    /// that controllers find it by equality (CLI contract 6.1).
    pub parent_ref: serde_json::Value,
    /// Accepted, `ResolvedRefs`, ...
    pub conditions: Vec<RouteCondition>,
}

/// One condition of a Gateway API or Istio object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteCondition {
    /// `Accepted`, `ResolvedRefs`, ...
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// A word of the contract.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}
