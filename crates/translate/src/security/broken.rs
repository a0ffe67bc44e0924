//! Policies that can't be read in full and never were: what they are about is closed.

use std::sync::Arc;

use ambit_kube::{BrokenPolicy, Kind, Located, Reach};
use ambit_proto::waypoint as pb;

use super::say::{Metadata, Say};
use super::{Bound, targets};
use crate::{Translated, World};

/// Denies everything that a policy with `targetRefs` is bound to; one with a
/// selector is the node proxies' to close. The reader has told the problems.
pub fn broken(
    policy: &Located<Arc<BrokenPolicy>>,
    world: &dyn World,
) -> Translated<Vec<Bound<pb::Authorization>>> {
    let key = &policy.object.key;
    let covered = matches!(
        key.kind,
        Kind::AuthorizationPolicy | Kind::RequestAuthentication
    );
    let (true, Reach::Targets(references)) = (covered, &policy.object.reach) else {
        return Translated::default();
    };
    let metadata = Metadata {
        namespace: &key.namespace,
        name: &key.name,
        generation: 0,
    };
    let body = pb::Authorization {
        origin: Some(metadata.origin(key.kind.as_str())),
        action: pb::AuthorizationAction::Deny.into(),
        rules: vec![pb::AuthorizationRule::default()],
        ..pb::Authorization::default()
    };
    let mut say = Say::about(key.kind, &metadata, policy);
    let references = targets::references(None, references);
    let bound = targets::resolve(&references, metadata.namespace, world, &mut say);
    let name = format!("{}/{}/{}", key.kind, metadata.namespace, metadata.name);
    let resources = bound.split(&name, world, |targets| pb::Authorization {
        targets,
        ..body.clone()
    });
    let why = format!(
        "can't be read, so everything is refused: {}",
        policy.object.why
    );
    Translated {
        resource: (!resources.is_empty()).then_some(resources),
        conditions: vec![bound.condition(Some(why))],
        problems: say.done(),
        ..Translated::default()
    }
}
