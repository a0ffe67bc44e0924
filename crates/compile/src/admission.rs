//! Whether an object may be applied: what the validation webhook judges (`control-plane-contract` 8.3).
//!
//! [`refusals`] looks at one object alone, and an error in it is a refusal: it can't work, whatever else there is.
//! [`Compiler::preview`](crate::Compiler::preview) looks at the object among all others; what it finds changes with
//! them, so that it is a warning. Neither changes anything.

use ambit_kube::{
    Change, Located, Object, ObjectKey, PolicyTargetReference, Severity, WorkloadSelector,
};
use serde_json::Value;

use crate::about::About;
use crate::codes;
use crate::policy::Fault;
use crate::{Compiler, Diagnostic, Settings};

mod entry;
mod peer;
mod policy;

/// What is wrong, or doubtful, with an object by itself. `raw` is the object as it was sent: what is written and
/// empty is only seen there.
pub fn refusals(settings: &Settings, object: &Located<Object>, raw: &Value) -> Vec<Diagnostic> {
    let key = object.object.key();
    let about = About { key: &key, object };
    let mut told = match &object.object {
        Object::AuthorizationPolicy(policy) => policy::authorization(about, policy),
        Object::RequestAuthentication(policy) => policy::request_authentication(about, policy),
        Object::PeerAuthentication(policy) => peer::peer(about, policy, raw),
        Object::ServiceEntry(entry) => entry::service_entry(about, entry),
        Object::WorkloadEntry(entry) => entry::workload_entry(about, entry),
        _ => Vec::new(),
    };
    if told.iter().any(|told| told.severity == Severity::Error) {
        // Enough; and what is too large isn't compiled.
        return told;
    }
    let known: Vec<_> = told.iter().map(|told| told.field.clone()).collect();
    let mut others = alone(settings, &key, object);
    others.retain(|other| !known.contains(&other.field));
    told.extend(others);
    told.sort_by(|a, b| (&a.field, a.code).cmp(&(&b.field, b.code)));
    told
}

/// What the compiler says of the object in a mesh that has nothing else, as far as that can't change.
fn alone(settings: &Settings, key: &ObjectKey, object: &Located<Object>) -> Vec<Diagnostic> {
    let settings = Settings {
        // Whoever asks has decided that it is ours.
        revision: "".into(),
        ..settings.clone()
    };
    let mut compiler = Compiler::new(settings);
    compiler.apply([Change::Apply(object.clone())]);
    let about_it = |d: &Diagnostic| d.key.as_ref() == Some(key);
    let mut all = compiler.diagnostics();
    // An address that is left out may be found through a network's gateway.
    let absent =
        |d: &Diagnostic| d.code == codes::BAD_ADDRESS && d.value.as_deref() == Some("\"\"");
    all.retain(|d| about_it(d) && d.severity == Severity::Error && is_of_form(d) && !absent(d));
    all
}

/// Whether an error is about the object by itself, not about what it refers to.
pub(crate) fn is_of_form(diagnostic: &Diagnostic) -> bool {
    codes::OF_FORM.contains(&diagnostic.code.as_str())
}

fn faults<T>(about: About<'_, T>, faults: Vec<Fault>) -> impl Iterator<Item = Diagnostic> {
    faults.into_iter().map(move |fault| {
        let error = about.error(codes::POLICY_VALUE, &fault.field, fault.wrong);
        let error = match &fault.value {
            Some(value) => error.value(value),
            None => error,
        };
        error.remedy(fault.remedy)
    })
}

/// A selector that is there and says nothing.
fn idle_selector<T>(
    about: About<'_, T>,
    selector: Option<&WorkloadSelector>,
) -> Option<Diagnostic> {
    let empty = selector.is_some_and(|selector| selector.match_labels.is_empty());
    empty.then(|| {
        let message = "an empty selector: it selects every workload of the namespace";
        let warning = about.warning(codes::POLICY_VALUE, "spec.selector.matchLabels", message);
        warning.remedy("leave the selector out, or write labels")
    })
}

/// What a policy attaches to by reference.
fn references<T>(
    about: About<'_, T>,
    (one, many): (Option<&PolicyTargetReference>, &[PolicyTargetReference]),
    has_selector: bool,
) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    let fault = |field: &str, message: &str, remedy: &str| {
        about
            .error(codes::POLICY_VALUE, field, message)
            .remedy(remedy)
    };
    let field = if one.is_some() {
        "spec.targetRef"
    } else {
        "spec.targetRefs"
    };
    if has_selector && (one.is_some() || !many.is_empty()) {
        let message = "a policy has a selector or targetRefs, not both";
        told.push(fault(field, message, "keep the one that is meant"));
    }
    if one.is_some() && !many.is_empty() {
        let message = "a policy has targetRef or targetRefs, not both";
        told.push(fault(
            "spec.targetRefs",
            message,
            "put all of them into targetRefs",
        ));
    }
    if many.len() > MOST_REFERENCES {
        let message = format!("more than {MOST_REFERENCES} references");
        told.push(fault("spec.targetRefs", &message, "write several policies"));
    }
    let one = one.map(|reference| ("spec.targetRef".to_owned(), reference));
    let many = many.iter().enumerate();
    let many = many.map(|(at, reference)| (format!("spec.targetRefs[{at}]"), reference));
    for (field, reference) in one.into_iter().chain(many) {
        let kind = (reference.group.as_str(), reference.kind.as_str());
        if !ATTACHABLE.contains(&kind) && kind != ("core", "Service") {
            let error = about.error(
                codes::POLICY_VALUE,
                &format!("{field}.kind"),
                "a policy can't attach to this kind",
            );
            let (group, kind) = kind;
            told.push(error.value(&format!("{group}/{kind}")).remedy(
                "refer to a Gateway or GatewayClass (gateway.networking.k8s.io), a Service, or a ServiceEntry (networking.istio.io)",
            ));
        }
        if reference.name.is_empty() {
            let field = format!("{field}.name");
            told.push(fault(
                &field,
                "a reference without a name",
                "write the name",
            ));
        }
        if let Some(namespace) = reference.namespace.as_ref().filter(|ns| !ns.is_empty()) {
            let error = about.error(
                codes::POLICY_VALUE,
                &format!("{field}.namespace"),
                "a policy attaches within its own namespace only",
            );
            let remedy = "leave the namespace out, and put the policy into the target's";
            told.push(error.value(namespace).remedy(remedy));
        }
    }
    told
}

const ATTACHABLE: [(&str, &str); 4] = [
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
];
/// As the CRD has it.
const MOST_REFERENCES: usize = 16;
