//! Fourth step of the inbound paths: may this connection come in, and may it
//! stay (`ztunnel-contract` section 6).

use std::sync::Arc;

use ambit_policy::{Attrs, DecisionLog, DeniedBy, Tracer, Verdict, evaluate_with};
use ambit_state::{View, Workload};
use ambit_types::Direction;
use tracing::info;

use crate::error::FlowError;
use crate::flow::Flow;
use crate::pod::PodProxy;

/// The verdict on a flow, by a view that was read after the flow had been
/// registered: a policy that comes later finds it there.
pub(crate) fn authorize(
    view: &View,
    local: &Workload,
    flow: &Flow,
    proxy: &PodProxy,
) -> Result<(), FlowError> {
    let verdict = match decision_log(proxy) {
        Some(mut log) => verdict(view, local, flow, &mut log),
        None => verdict(view, local, flow, &mut ()),
    };
    verdict.map_err(FlowError::Denied)
}

/// Where the steps of a decision are told, dry runs included; as a rule nobody
/// listens and the decision skips them.
fn decision_log(proxy: &PodProxy) -> Option<DecisionLog> {
    if proxy.node.authz_info {
        Some(DecisionLog::Info)
    } else if tracing::enabled!(target: "ambit_policy::trace", tracing::Level::DEBUG) {
        Some(DecisionLog::Debug)
    } else {
        None
    }
}

fn verdict(
    view: &View,
    local: &Workload,
    flow: &Flow,
    tracer: &mut impl Tracer,
) -> Result<(), DeniedBy> {
    let facts = &flow.facts;
    let attrs = Attrs {
        source_ip: facts.src.ip(),
        destination: facts.actual,
        peer: facts.source_id.as_ref(),
    };
    match evaluate_with(&view.policies_for(local), &attrs, tracer) {
        Verdict::Allow(_) => Ok(()),
        Verdict::Deny(by) => Err(by),
    }
}

/// Evaluates the flows of a pod again whenever its policies have changed:
/// their content, or the list of those that bind it. The latter is what
/// upstream leaves out (`ztunnel-contract` 11.1).
pub(crate) async fn keep_authorized(proxy: Arc<PodProxy>) {
    let mut changed = proxy.node.state.changed();
    let mut policies = changed.borrow_and_update().policies;
    let mut local = proxy.local_now();
    while changed.changed().await.is_ok() {
        let now = changed.borrow_and_update().policies;
        let workload = proxy.local_now();
        let same_list = match (&local, &workload) {
            (Some(old), Some(new)) => {
                Arc::ptr_eq(old, new) || old.authorization_policies == new.authorization_policies
            }
            (None, None) => true,
            _ => false,
        };
        if now != policies || !same_list {
            recheck(&proxy, workload.as_deref());
        }
        policies = now;
        // A pod that left the configuration keeps its connections: its agent
        // says when it is gone.
        local = workload.or(local);
    }
}

fn recheck(proxy: &PodProxy, local: Option<&Workload>) {
    let Some(local) = local else { return };
    let view = proxy.node.state.view();
    for flow in proxy.flows.running() {
        if flow.facts.direction == Direction::Outbound {
            continue;
        }
        if let Err(by) = verdict(&view, local, &flow, &mut ()) {
            info!(
                src = %flow.facts.src,
                dst = %flow.facts.actual,
                peer = flow.facts.source_id.as_ref().map(tracing::field::display),
                %by,
                "connection closed: policy turned against it"
            );
            flow.cut();
        }
    }
}
