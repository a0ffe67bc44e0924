//! Conditions on objects, as controllers write them (`control-plane-contract` 4.6).
//!
//! No time here: when a condition changed is for whoever writes it to know.

use serde::{Serialize, Serializer};

/// What the compiler has to say about one object, complete each time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    /// Of the object itself, one per kind of condition, in the order of their names.
    pub conditions: Vec<Condition>,
    /// Of a route: one per parent, in the order of the object (`status.parents`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Parent>,
    /// Of a policy that attaches to Gateway API objects: one per target (`status.ancestors`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Parent>,
    /// Of a Gateway: where it is reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Of a Gateway.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
}

/// What became of one parent of a route, or of one target of a policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    /// The reference as it was written: controllers find it by equality.
    #[serde(flatten)]
    pub reference: Reference,
    /// Who says so.
    pub controller_name: &'static str,
    /// In the order of their names.
    pub conditions: Vec<Condition>,
}

/// The member of the status that names what was referred to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reference {
    /// Of a route.
    ParentRef(serde_json::Value),
    /// Of a policy.
    AncestorRef(serde_json::Value),
}

/// Where a Gateway is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Address {
    /// `Hostname` or `IPAddress`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The name or the address.
    pub value: String,
}

/// One listener of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// As written.
    pub name: String,
    /// Routes attach to services, so none to a waypoint.
    pub attached_routes: u32,
    /// Kinds of routes; none, for the same reason.
    pub supported_kinds: [&'static str; 0],
    /// In the order of their names.
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether it holds.
    #[serde(serialize_with = "true_or_false")]
    pub status: bool,
    /// A word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// The object's generation that this is about; absent on Services, ServiceEntries and WorkloadEntries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<Generation>,
}

/// A generation as the object's kind writes it: a JSON string on Istio's kinds, a number on Gateway API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Generation {
    /// Istio's.
    Text(#[serde(serialize_with = "as_text")] i64),
    /// Gateway API's.
    Number(i64),
}

/// The conditions that the compiler knows by itself; translations bring theirs.
pub(crate) mod kind {
    /// Whether the node proxies enforce an authorization policy.
    pub(crate) const ZTUNNEL_ACCEPTED: &str = "ZtunnelAccepted";
    /// Whether a waypoint enforces an authorization policy.
    pub(crate) const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
    /// Who sees a ServiceEntry, while the mesh configuration restricts that.
    pub(crate) const VISIBILITY_APPLIED: &str = "istio.io/VisibilityApplied";
    /// Whether a service has the waypoint that it asks for.
    pub(crate) const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";
    /// A ServiceEntry needs a waypoint and has none.
    pub(crate) const WAYPOINT_MISSING: &str = "istio.io/WaypointMissing";
    /// The object is understood.
    pub(crate) const ACCEPTED: &str = "Accepted";
    /// A Gateway is served.
    pub(crate) const PROGRAMMED: &str = "Programmed";
    /// What the object refers to is there.
    pub(crate) const RESOLVED_REFS: &str = "ResolvedRefs";
    /// Listeners contradict each other.
    pub(crate) const CONFLICTED: &str = "Conflicted";
}

/// Why a condition is as it is.
pub(crate) mod reason {
    /// As written.
    pub(crate) const ACCEPTED: &str = "Accepted";
    /// Some or all of it is beyond the enforcer.
    pub(crate) const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
    /// It makes no sense as written.
    pub(crate) const INVALID: &str = "Invalid";
    /// Its target has no waypoint.
    pub(crate) const ANCESTOR_NOT_BOUND: &str = "AncestorNotBound";
}

impl Condition {
    pub(crate) fn new(kind: &'static str, status: bool, reason: &'static str) -> Self {
        Self {
            kind,
            status,
            reason,
            message: String::new(),
            observed_generation: None,
        }
    }

    pub(crate) fn message(self, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..self
        }
    }

    pub(crate) fn observed(self, generation: Option<Generation>) -> Self {
        Self {
            observed_generation: generation,
            ..self
        }
    }
}

impl Status {
    /// A status of conditions alone; none without any.
    pub(crate) fn of(mut conditions: Vec<Condition>) -> Option<Self> {
        conditions.sort_by_key(|condition| condition.kind);
        (!conditions.is_empty()).then(|| Self {
            conditions,
            ..Self::default()
        })
    }
}

fn true_or_false<S: Serializer>(status: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *status { "True" } else { "False" })
}

fn as_text<S: Serializer>(generation: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(generation)
}
