//! PeerAuthentication by itself.

use ambit_kube::{Object, PeerAuthentication};
use serde_json::Value;

use super::{faults, idle_selector};
use crate::about::About;
use crate::codes;
use crate::output::Diagnostic;
use crate::policy::Peer;

/// A PeerAuthentication; `raw` is the object as it was sent.
pub(super) fn peer(
    about: About<'_, Object>,
    policy: &PeerAuthentication,
    raw: &Value,
) -> Vec<Diagnostic> {
    let found = Peer::read(policy).err().map(|refused| refused.faults);
    let mut told: Vec<_> = faults(about, found.unwrap_or_default()).collect();
    let selector = policy.spec.selector.as_ref();
    told.extend(idle_selector(about, selector));
    let ports = raw
        .pointer("/spec/portLevelMtls")
        .and_then(Value::as_object);
    if selector.is_some() && ports.is_some_and(serde_json::Map::is_empty) {
        let field = "spec.portLevelMtls";
        let error = about.error(codes::POLICY_VALUE, field, "written, and without a port");
        told.push(error.remedy("write ports, or remove it"));
    }
    told
}
