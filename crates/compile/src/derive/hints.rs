//! Diagnostics on labels and selectors, of objects whose resources come from elsewhere or from nowhere.

use ambit_kube::{Code, Kind, ObjectKey, Problem};

use crate::about::About;
use crate::codes;
use crate::enrolment::{DATAPLANE_MODE, DATAPLANE_MODE_SHORT, REDIRECTION};
use crate::input::{Hints, Labels, Namespace, Service};
use crate::outputs::Output;
use crate::status::Status;
use crate::store::Store;
use crate::view::View;
use crate::waypoint;

/// What a namespace's labels ask for in vain.
pub(super) fn namespace(view: &View<'_>, key: &ObjectKey) -> Option<Output> {
    let object = view.store.space(&key.name)?.namespace.as_ref()?;
    let about: About<'_, Namespace> = About { key, object };
    let mut diagnostics = hints(&about, &object.object.hints);
    diagnostics.extend(waypoint::namespace_problem(view, &about));
    Some(Output {
        diagnostics,
        ..Output::default()
    })
}

/// What is wrong with a Service; its resource belongs to its host name.
pub(super) fn service(view: &View<'_>, about: About<'_, Service>) -> Output {
    let store = view.store;
    let service = &about.object.object;
    let mut diagnostics = hints(&about, &service.hints);
    for bad in &service.bad_vips {
        let told = about.error(
            codes::BAD_ADDRESS,
            &bad.field,
            "not an address, so the service isn't reached under it",
        );
        diagnostics.push(
            told.value(&bad.value)
                .remedy("write an IP address, or None"),
        );
    }
    let selector = Some(&service.selector).filter(|selector| !selector.is_empty());
    diagnostics.extend(selector.and_then(|selector| {
        idle(
            store,
            &about,
            (codes::SELECTS_NOTHING, "spec.selector"),
            selector,
        )
    }));
    let host = store.hostname(&about.key.namespace, &about.key.name);
    let (conditions, told) = waypoint::service_status(view, &about, &[&host]);
    diagnostics.extend(told);
    Output {
        status: Status::of(conditions),
        diagnostics,
        ..Output::default()
    }
}

/// A diagnostic if a selector picks nothing.
pub(super) fn idle<T>(
    store: &Store,
    about: &About<'_, T>,
    (code, field): (Code, &str),
    selector: &Labels,
) -> Option<Problem> {
    let namespace = &about.key.namespace;
    let everywhere =
        about.key.kind == Kind::AuthorizationPolicy && *namespace == store.mesh.root_namespace;
    let picks = if everywhere {
        store
            .discovered()
            .any(|(name, _)| store.selects_any(name, selector))
    } else {
        store.selects_any(namespace, selector)
    };
    if picks {
        return None;
    }
    let place = if everywhere {
        "the mesh"
    } else {
        "its namespace"
    };
    let message = format!("the selector matches no pod and no WorkloadEntry of {place}");
    let told = about.warning(code, field, message);
    let remedy = "compare the labels with those of the pods that are meant";
    Some(told.value(&selector.to_string()).remedy(remedy))
}

/// Diagnostics on labels and annotations that ask for something which they don't get.
pub(super) fn hints<T>(about: &About<'_, T>, hints: &Hints) -> Vec<Problem> {
    let mut told = Vec::new();
    let Some(hints) = hints.get() else {
        return told;
    };
    let label = |name: &str| format!("metadata.labels.{name}");
    if let Some((long, short)) = &hints.disagreement {
        let message = format!(
            "{DATAPLANE_MODE} says {long} and {DATAPLANE_MODE_SHORT} says {short}; {long} holds"
        );
        let warning = about.warning(
            codes::LABELS_DISAGREE,
            &label(DATAPLANE_MODE_SHORT),
            message,
        );
        let remedy = format!("remove {DATAPLANE_MODE_SHORT}, or give both one value");
        told.push(warning.value(short).remedy(remedy));
    }
    if let Some(mode) = &hints.unknown_mode {
        let message = "an enrolment label with a value that means nothing";
        let warning = about.warning(codes::LABEL_VALUE, &label(DATAPLANE_MODE), message);
        told.push(warning.value(mode).remedy("write ambient or none"));
    }
    if let Some(state) = &hints.redirection {
        let field = format!("metadata.annotations.{REDIRECTION}");
        let message = "whether a pod is captured is believed from its node's agent only";
        let warning = about.warning(codes::REDIRECTION_ANNOTATION, &field, message);
        let remedy =
            format!("remove the annotation; to enrol, use the label {DATAPLANE_MODE}=ambient");
        told.push(warning.value(state).remedy(remedy));
    }
    if let Some((field, value)) = &hints.injection {
        let info = about.info(
            codes::INJECTION,
            field,
            "there are no sidecars, so nothing is injected",
        );
        let remedy =
            format!("label the namespace or the pod {DATAPLANE_MODE}=ambient; nothing restarts");
        told.push(info.value(value).remedy(remedy));
    }
    told
}
