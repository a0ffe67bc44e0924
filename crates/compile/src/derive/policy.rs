//! Policies on the wire, their statuses, and what is wrong with them (`control-plane-contract` 4).

use std::collections::BTreeSet;

use ambit_kube::Problem;
use ambit_proto::security::{Action, Authorization, Scope};

use super::hints::idle;
use crate::about::{About, Told};
use crate::codes;
use crate::output::AuthorizationResource;
use crate::outputs::Output;
use crate::policy::{
    Enforced, Kept, L7, NotEnforced, Peer, Policy, Reach, port_policy, sent_name,
    static_strict as strict_policy,
};
use crate::status::{Condition, Generation, Status, kind, reason};
use crate::store::{PolicyEntry, Store};
use crate::view::View;
use crate::waypoint;

/// An AuthorizationPolicy: to the node proxies, to waypoints, or to both.
pub(super) fn authorization(view: &View<'_>, about: About<'_, PolicyEntry>) -> Output {
    let mut output = waypoint::authorization(view, about.key).unwrap_or_default();
    let PolicyEntry { kept, .. } = &about.object.object;
    if matches!(kept.in_force(), Policy::NotEnforced(NotEnforced::Targets)) {
        output.diagnostics.extend(refusal(
            &about,
            kept,
            "the waypoint denies everything that it is attached to",
        ));
        return output;
    }
    if !kept.faults().is_empty() {
        // Said below, of the same values.
        output.diagnostics.clear();
    }
    let said = !output.diagnostics.is_empty();
    let node = node(view, &about, said);
    output.authorizations = node.authorizations;
    output.diagnostics.extend(node.diagnostics);
    let (own, of_node) = (output.status.take(), node.status);
    let both = own.into_iter().chain(of_node);
    output.status = Status::of(both.flat_map(|status| status.conditions).collect());
    output
}

/// What the node proxies enforce of it; `said`: why no waypoint enforces the rest was said already.
fn node(view: &View<'_>, about: &About<'_, PolicyEntry>, said: bool) -> Output {
    let store = view.store;
    let PolicyEntry { kept, generation } = &about.object.object;
    let policy = kept.in_force();
    let closed = match policy {
        Policy::Enforced(_) => "everything that it selects is denied",
        Policy::NotEnforced(_) => "nothing is enforced",
    };
    let mut diagnostics = refusal(about, kept, closed);
    let stand_in = waypoint::stand_in(view, about.key);
    let elsewhere = stand_in.is_some();
    let mut message = match policy {
        Policy::Enforced(enforced) => Some(message(store, about, enforced)),
        Policy::NotEnforced(_) => None,
    };
    if let Some(stand_in) = stand_in {
        message = stand_in.replace(message, about.key);
    }
    if kept.faults().is_empty() && !elsewhere {
        diagnostics.extend(match policy {
            Policy::Enforced(enforced) => omissions(about, enforced).filter(|_| !said),
            Policy::NotEnforced(NotEnforced::Action(_)) if said => None,
            Policy::NotEnforced(why) => Some(not_enforced(about, *why)),
        });
    }
    if let Some(selector) = policy.selector().filter(|selector| !selector.is_empty()) {
        let code = (codes::POLICY_SELECTS_NOTHING, "spec.selector.matchLabels");
        diagnostics.extend(idle(store, about, code, selector));
    }
    let condition = if elsewhere && kept.faults().is_empty() {
        Condition::new(kind::ZTUNNEL_ACCEPTED, true, reason::ACCEPTED)
            .message("enforced by the waypoint; ztunnel admits it only")
            .observed(generation.map(Generation::Text))
    } else {
        condition(kept, *generation)
    };
    Output {
        authorizations: message.iter().map(AuthorizationResource::new).collect(),
        status: Status::of(vec![condition]),
        diagnostics,
        ..Output::default()
    }
}

fn message(store: &Store, about: &About<'_, PolicyEntry>, policy: &Enforced) -> Authorization {
    let namespace = &about.key.namespace;
    let scope = match policy.reach {
        Reach::Selected(_) => Scope::WorkloadSelector,
        Reach::All if *namespace == store.mesh.root_namespace => Scope::Global,
        Reach::All | Reach::Namespace => Scope::Namespace,
    };
    Authorization {
        name: sent_name(&about.key.name),
        namespace: namespace.to_string(),
        scope: scope.into(),
        action: policy.action.into(),
        rules: policy.rules.clone(),
        dry_run: policy.dry_run,
        ..Authorization::default()
    }
}

/// A PeerAuthentication: a policy of its own where ports differ.
pub(super) fn peer(store: &Store, about: About<'_, Kept<Peer>>) -> Output {
    let kept = &about.object.object;
    let policy = kept.in_force();
    let mut diagnostics = refusal(&about, kept, "what it selects requires mutual TLS");
    if let Some(selector) = policy.reach.selector() {
        let code = (codes::SELECTS_NOTHING, "spec.selector.matchLabels");
        diagnostics.extend(idle(store, &about, code, selector));
    }
    let (namespace, name) = (&*about.key.namespace, &*about.key.name);
    let selects = policy.reach.selector().is_some();
    let levels = store.peer_levels(namespace);
    let message = selects
        .then(|| port_policy(namespace, name, policy, levels))
        .flatten();
    Output {
        authorizations: message.iter().map(AuthorizationResource::new).collect(),
        diagnostics,
        ..Output::default()
    }
}

/// The policy that STRICT workloads share, while there is any PeerAuthentication.
pub(super) fn static_strict(store: &Store) -> Output {
    let message = store
        .has_peers()
        .then(|| strict_policy(&store.mesh.root_namespace));
    Output {
        authorizations: message.iter().map(AuthorizationResource::new).collect(),
        ..Output::default()
    }
}

/// Why a policy is refused, and what holds instead; `closed` says that for one that was never good.
fn refusal<T, K>(about: &About<'_, T>, kept: &Kept<K>, closed: &str) -> Vec<Problem> {
    let faults = kept.faults().iter();
    // What the reader of manifests couldn't read, it has told.
    let read = faults.filter(|fault| !fault.field.is_empty());
    let mut told: Vec<_> = read
        .map(|fault| {
            let error = about.error(codes::POLICY_VALUE, &fault.field, fault.wrong.as_str());
            let value = fault.value.as_deref();
            value
                .into_iter()
                .fold(error, Told::value)
                .remedy(fault.remedy)
        })
        .collect();
    let remedy = "correct the policy";
    told.extend(match kept {
        Kept::Good(_) => None,
        Kept::LastGood { .. } => {
            let message =
                "the policy is refused as it is written now; its last good form stays in force";
            Some(
                about
                    .warning(codes::POLICY_LAST_GOOD, "", message)
                    .remedy(remedy),
            )
        }
        Kept::Closed { .. } => {
            let message =
                format!("the policy is refused and no good form of it is known: {closed}");
            Some(
                about
                    .error(codes::POLICY_CLOSED, "", message)
                    .remedy(remedy),
            )
        }
    });
    told
}

fn omissions(about: &About<'_, PolicyEntry>, policy: &Enforced) -> Option<Problem> {
    let l7 = policy.l7.as_ref()?;
    let warning = about.warning(codes::POLICY_L7, &l7.field, omission(policy.action, l7));
    let value = list(&l7.found);
    Some(warning.value(&value).remedy(
        "attach rules on HTTP to a waypoint with targetRefs, or use conditions on connections only",
    ))
}

/// What leaving out HTTP attributes means, in one sentence.
fn omission(action: Action, l7: &L7) -> String {
    let found = list(&l7.found);
    match action {
        Action::Allow => format!(
            "ztunnel can't see HTTP: the rules that use it allow nothing, which is more restrictive (found: {found})"
        ),
        Action::Deny if l7.no_effect => format!(
            "ztunnel can't see HTTP: rules that use nothing else have no effect there (found: {found})"
        ),
        Action::Deny => format!(
            "ztunnel can't see HTTP: that part of the rules is left out, so that more is denied (found: {found})"
        ),
    }
}

fn not_enforced(about: &About<'_, PolicyEntry>, why: NotEnforced) -> Problem {
    let (field, message, remedy) = match why {
        NotEnforced::Targets => (
            "spec.targetRefs",
            "the policy attaches to a waypoint, and waypoints aren't served yet: it isn't enforced"
                .to_owned(),
            "select workloads by label for what node proxies can enforce",
        ),
        NotEnforced::Action(action) => (
            "spec.action",
            format!("{action} is beyond the node proxy: the policy isn't enforced"),
            "use ALLOW or DENY",
        ),
        NotEnforced::DryRun => (
            "metadata.annotations.istio.io/dry-run",
            "dry runs are switched off: the policy isn't sent".to_owned(),
            "remove the annotation to enforce the policy, or switch dry runs on",
        ),
    };
    about
        .error(codes::POLICY_NOT_ENFORCED, field, message)
        .remedy(remedy)
}

fn condition(kept: &Kept<Policy>, generation: Option<i64>) -> Condition {
    let kind = match kept.in_force() {
        Policy::NotEnforced(NotEnforced::Targets) => kind::WAYPOINT_ACCEPTED,
        Policy::Enforced(_) | Policy::NotEnforced(_) => kind::ZTUNNEL_ACCEPTED,
    };
    let (status, reason, message) = match kept {
        Kept::Good(policy) => judged(policy),
        Kept::LastGood { faults, .. } => {
            let message = format!("{}; the last good form stays in force", worst(faults));
            (false, reason::INVALID, message)
        }
        Kept::Closed { faults, closed } => {
            let held = match closed {
                Policy::Enforced(_) => {
                    "no good form is known, so everything that it selects is denied"
                }
                Policy::NotEnforced(_) => "no good form is known, and nothing is enforced",
            };
            (false, reason::INVALID, format!("{}; {held}", worst(faults)))
        }
    };
    Condition::new(kind, status, reason)
        .message(message)
        .observed(generation.map(Generation::Text))
}

fn judged(policy: &Policy) -> (bool, &'static str, String) {
    match policy {
        Policy::Enforced(Enforced { l7: None, .. }) => {
            (true, reason::ACCEPTED, "attached to ztunnel".to_owned())
        }
        Policy::Enforced(Enforced {
            l7: Some(l7),
            action,
            ..
        }) => (true, reason::UNSUPPORTED_VALUE, omission(*action, l7)),
        Policy::NotEnforced(NotEnforced::Targets) => (
            false,
            reason::ANCESTOR_NOT_BOUND,
            "no waypoint serves the target".to_owned(),
        ),
        Policy::NotEnforced(NotEnforced::Action(action)) => (
            false,
            reason::UNSUPPORTED_VALUE,
            format!("ztunnel doesn't know the action {action}"),
        ),
        Policy::NotEnforced(NotEnforced::DryRun) => (
            false,
            reason::UNSUPPORTED_VALUE,
            "ztunnel isn't asked to evaluate dry runs".to_owned(),
        ),
    }
}

/// The first fault, in one line, and how many more there are.
fn worst(faults: &[crate::policy::Fault]) -> String {
    let Some(first) = faults.first() else {
        return String::new();
    };
    let more = match faults.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    if first.field.is_empty() {
        return format!("{}{more}", first.wrong);
    }
    let value = first.value.as_ref().map(|value| format!(" = {value:?}"));
    let (field, value) = (&first.field, value.unwrap_or_default());
    format!("{field}{value}: {}; {}{more}", first.wrong, first.remedy)
}

fn list(found: &BTreeSet<String>) -> String {
    let found: Vec<_> = found.iter().map(String::as_str).collect();
    found.join(", ")
}
