//! Policies that can't be read in full and never were: what they are about is closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::{BrokenPolicy, Kind, Located, Reach, WorkloadSelector};
use ambit_proto::waypoint as pb;

use super::say::{Metadata, Say};
use super::selector::{Behind, behind};
use super::{Audience, Bound, targets};
use crate::{Translated, World};

/// Denies everything that a policy with `targetRefs` is bound to, and the
/// workloads behind waypoints that a RequestAuthentication selects; an
/// AuthorizationPolicy with a selector is the node proxies' to close. The reader
/// has told the problems.
pub fn broken(
    policy: &Located<Arc<BrokenPolicy>>,
    world: &dyn World,
) -> Translated<Vec<Bound<pb::Authorization>>> {
    let key = &policy.object.key;
    let covered = matches!(
        key.kind,
        Kind::AuthorizationPolicy | Kind::RequestAuthentication
    );
    let references = match &policy.object.reach {
        Reach::Targets(references) if covered => references,
        _ if key.kind == Kind::RequestAuthentication => return by_selector(policy, world),
        _ => return Translated::default(),
    };
    let metadata = Metadata {
        namespace: &key.namespace,
        name: &key.name,
        generation: 0,
    };
    let body = refusal(&metadata, key.kind);
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

/// A RequestAuthentication with a selector, at each waypoint that has some of its workloads.
fn by_selector(
    policy: &Located<Arc<BrokenPolicy>>,
    world: &dyn World,
) -> Translated<Vec<Bound<pb::Authorization>>> {
    let key = &policy.object.key;
    let selector = match &policy.object.reach {
        Reach::Selector(labels) => Some(WorkloadSelector {
            match_labels: labels.clone(),
        }),
        _ => None,
    };
    let groups = match behind(selector.as_ref(), &key.namespace, world) {
        Behind::One(waypoint, workloads) => BTreeMap::from([(waypoint, workloads)]),
        Behind::Mixed(groups) => groups,
        Behind::Off | Behind::Mesh | Behind::Nothing => BTreeMap::new(),
    };
    let metadata = Metadata {
        namespace: &key.namespace,
        name: &key.name,
        generation: 0,
    };
    let name = format!("{}/{}/{}", key.kind, key.namespace, key.name);
    let resources: Vec<_> = groups
        .into_iter()
        .map(|(waypoint, workloads)| Bound {
            name: format!("{name}/workloads/{}/{}", waypoint.0, waypoint.1),
            audience: Audience::Waypoints(vec![waypoint]),
            resource: pb::Authorization {
                targets: vec![pb::Target::default()],
                workload_uids: workloads.iter().map(ToString::to_string).collect(),
                ..refusal(&metadata, key.kind)
            },
        })
        .collect();
    Translated {
        resource: (!resources.is_empty()).then_some(resources),
        ..Translated::default()
    }
}

fn refusal(metadata: &Metadata<'_>, kind: Kind) -> pb::Authorization {
    pb::Authorization {
        origin: Some(metadata.origin(kind.as_str())),
        action: pb::AuthorizationAction::Deny.into(),
        rules: vec![pb::AuthorizationRule::default()],
        ..pb::Authorization::default()
    }
}
