//! Diagnostics on mesh configurations; what they set reaches everything else directly.

use ambit_kube::{MeshConfig, ObjectKey, Problem};
use ambit_proto::waypoint::Gateway;
use ambit_translate::{istio, security, telemetry};
use std::sync::Arc;

use crate::about::About;
use crate::codes;
use crate::outputs::Output;
use crate::view::View;

/// What is wrong with a mesh configuration.
pub(super) fn config(view: &View<'_>, key: &ObjectKey) -> Output {
    let store = view.store;
    let Some(object) = store.mesh_configs.get(key) else {
        return Output::default();
    };
    let about: About<'_, Arc<MeshConfig>> = About { key, object };
    let mut diagnostics = Vec::new();
    let chosen = store.chosen_mesh_config();
    if chosen.is_some_and(|chosen| chosen != key) {
        let message = "there is another mesh configuration, which is used instead";
        let warning = about.warning(codes::MESH_NOT_USED, "", message);
        diagnostics.push(warning.remedy("keep one"));
    } else {
        if let Some(fault) = &store.mesh_fault {
            let message = "not usable; the last good configuration, or the default, stays in force";
            let error = about.error(codes::MESH_VALUE, &fault.bad.field, message);
            diagnostics.push(
                error
                    .value(&fault.bad.value)
                    .remedy(format!("write {}", fault.wanted)),
            );
        }
        let (fixed, written) = (
            &store.settings.trust_domain,
            &object.object.spec.trust_domain,
        );
        if let (Some(fixed), Some(written)) = (fixed, written)
            && **fixed != **written
        {
            let message = format!("the certificate authority signs for {fixed}, which holds");
            let warning = about.warning(codes::MESH_NOT_USED, "trustDomain", message);
            diagnostics.push(warning.value(written).remedy("give both one trust domain"));
        }
    }
    if chosen == Some(key) {
        let told = [
            security::providers(view).1,
            istio::mesh_routing(view.mesh_info(), &mut Gateway::default()),
            istio::unused_settings(view.mesh_info()),
            telemetry::mesh(view),
        ];
        // Translations don't know where the configuration stands.
        diagnostics.extend(told.into_iter().flatten().map(|problem| Problem {
            origin: object.origin_of(problem.field.as_deref().unwrap_or_default()),
            key: Some(key.clone()),
            ..problem
        }));
    }
    Output {
        diagnostics,
        ..Output::default()
    }
}
