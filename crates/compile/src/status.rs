//! Conditions on objects, as controllers write them (`control-plane-contract` 4.6).
//!
//! No time here: when a condition changed is for whoever writes it to know.

use serde::{Serialize, Serializer};

/// What the compiler has to say about one object, complete each time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// One per kind of condition, in the order of the kinds.
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    /// Whether it holds.
    #[serde(serialize_with = "true_or_false")]
    pub status: bool,
    /// A word.
    pub reason: Reason,
    /// A sentence.
    pub message: String,
    /// The object's generation that this is about; a JSON string on Istio's kinds.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "generation_as_text"
    )]
    pub observed_generation: Option<i64>,
}

/// The conditions that the compiler knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum ConditionKind {
    /// Whether the node proxies enforce an authorization policy.
    ZtunnelAccepted,
    /// Whether a waypoint enforces an authorization policy.
    WaypointAccepted,
    /// Who sees a ServiceEntry, while the mesh configuration restricts that.
    #[serde(rename = "istio.io/VisibilityApplied")]
    VisibilityApplied,
}

/// Why a condition is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Reason {
    /// As written.
    Accepted,
    /// Some or all of it is beyond the enforcer.
    UnsupportedValue,
    /// It makes no sense as written.
    Invalid,
    /// Its target has no waypoint.
    AncestorNotBound,
    /// A mesh-wide setting was applied.
    Applied,
}

fn true_or_false<S: Serializer>(status: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *status { "True" } else { "False" })
}

fn generation_as_text<S: Serializer>(
    generation: &Option<i64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match generation {
        Some(generation) => serializer.collect_str(generation),
        None => serializer.serialize_none(),
    }
}
