//! Linkerd's and SMI's inputs: ServiceProfile, TrafficSplit, annotations, and
//! policy kinds that are answered with what to use (`waypoint-contract` section 8).
//!
//! Owns what they mean at a waypoint. `HTTPLocalRateLimitPolicy` and `Server` are
//! read where rate limits are.

mod accrual;
mod annotations;
mod conditions;
mod opaque;
mod profile;
mod split;
mod unused;

use std::sync::Arc;

use ambit_kube::{Kind, Object, ObjectKey, Problem, ServiceProfile};
use ambit_proto::waypoint::retry_budget::Kind as Budget;
use ambit_proto::waypoint::{Backend, RetryBudget, TokenBudget, TrafficPolicy};

pub use self::annotations::annotate_rules;
pub use self::opaque::opaque;
pub use self::profile::service_profile;
pub use self::split::traffic_split;
pub use self::unused::unused;
use crate::{ServiceInfo, World};

/// The profile that a service's own namespace has for it.
fn profile_of(service: &ServiceInfo, world: &dyn World) -> Option<Arc<ServiceProfile>> {
    let key = ObjectKey::new(
        Kind::ServiceProfile,
        service.namespace.clone(),
        service.hostname.clone(),
    );
    match world.object(&key)?.object {
        Object::ServiceProfile(profile) => Some(profile),
        _ => None,
    }
}

/// What a ServiceProfile's budget and the Service's annotations say of a
/// Backend, where nothing before has.
pub(crate) fn service_policies(
    backend: &mut Backend,
    service: &ServiceInfo,
    world: &dyn World,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(budget) = profile_of(service, world).and_then(|p| p.spec.retry_budget.clone()) {
        let budget = RetryBudget {
            kind: Some(Budget::Tokens(TokenBudget {
                ratio: budget
                    .retry_ratio
                    .filter(|ratio| profile::RATIOS.contains(ratio))
                    .unwrap_or(0.2),
                min_per_second: budget.min_retries_per_second.unwrap_or(10),
                ttl_ms: budget
                    .ttl
                    .map_or(10_000, ambit_kube::ProtoDuration::as_millis),
            })),
        };
        for_each_policy(backend, |policy| {
            policy.retry_budget.get_or_insert(budget);
        });
    }
    if let Some(accrual) = accrual::failure_accrual(service, world, &mut problems) {
        for_each_policy(backend, |policy| {
            if policy.outlier.is_none() {
                policy.accrual.get_or_insert(accrual);
            }
        });
    }
    backend.default_rule = annotations::default_rule(service, world, &mut problems);
    problems
}

fn for_each_policy(backend: &mut Backend, mut change: impl FnMut(&mut TrafficPolicy)) {
    // A level without a policy is as the one above, but the first has to be there.
    change(backend.policy.get_or_insert_default());
    let ports = backend
        .ports
        .iter_mut()
        .filter_map(|port| port.policy.as_mut());
    let subsets = backend.subsets.iter_mut().flat_map(|subset| {
        let ports = subset
            .ports
            .iter_mut()
            .filter_map(|port| port.policy.as_mut());
        std::iter::once(subset.policy.get_or_insert_default()).chain(ports)
    });
    ports.chain(subsets).for_each(change);
}
