//! What is said of a Telemetry object.

use std::sync::Arc;

use ambit_kube::{
    Code, Kind, Located, MeshConfigSpec, PolicyTargetReference, Telemetry, TelemetryMode,
    TelemetrySpec, TelemetryTag,
};

use super::metrics::{Bad, Faults};
use super::{access_log, codes, expression, layers, metrics, tracing};
use crate::security::{Fault, Metadata, Say};
use crate::{Translated, World};

/// What is wrong with an object, said once.
pub fn object(telemetry: &Located<Arc<Telemetry>>, world: &dyn World) -> Translated<()> {
    let spec = &telemetry.object.spec;
    let metadata = Metadata::of(&telemetry.object.metadata);
    let mut say = Say::about(Kind::Telemetry, &metadata, telemetry);
    place(&telemetry.object, &metadata, world, &mut say);
    let config = &world.mesh().config;
    let mut note = Note { say: &mut say };
    let single = [Arc::new(spec.clone())];
    metrics::overrides(&single, &mut note);
    metrics_entries(spec, config, &mut note);
    logging_entries(spec, config, &mut note);
    tracing_entries(spec, config, &mut note);
    Translated {
        problems: say.done(),
        ..Translated::default()
    }
}

/// Whether it holds for anything at a waypoint.
fn place(telemetry: &Telemetry, metadata: &Metadata<'_>, world: &dyn World, say: &mut Say) {
    let spec = &telemetry.spec;
    let mut note = Note { say };
    if spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.match_labels.is_empty())
    {
        note.warning(
            codes::TELEMETRY_UNUSED,
            "spec.selector",
            "",
            "a waypoint isn't chosen by labels, so this has no effect",
            "attach it: targetRefs to the Gateway or the Service",
        );
    } else if layers::is_wide(spec) {
        let all = layers::telemetries(metadata.namespace, world);
        let wide = all.iter().filter(|one| layers::is_wide(&one.spec));
        let first = wide.min_by_key(|one| layers::age(one));
        if let Some(other) = first
            .and_then(|one| one.metadata.name.as_deref())
            .filter(|name| *name != metadata.name)
        {
            note.warning(
                codes::TELEMETRY_UNUSED,
                "spec",
                other,
                "another, older Telemetry holds for the whole namespace, and only one does",
                "merge them, or attach this one by targetRefs",
            );
        }
    }
    let many = spec.target_refs.iter().enumerate();
    let many = many.map(|(at, one)| (format!("spec.targetRefs[{at}]"), one));
    let one = spec
        .target_ref
        .iter()
        .map(|one| ("spec.targetRef".to_owned(), one));
    for (field, reference) in one.chain(many) {
        reference_fault(&field, reference, metadata.namespace, world, &mut note);
    }
}

fn reference_fault(
    field: &str,
    reference: &PolicyTargetReference,
    namespace: &str,
    world: &dyn World,
    note: &mut Note<'_>,
) {
    let named = format!("{} {}", reference.kind, reference.name);
    let exists = match (reference.group.as_str(), reference.kind.as_str()) {
        ("" | "core", "Service") => world.service(namespace, &reference.name).is_some(),
        ("networking.istio.io", "ServiceEntry") => {
            !world.service_entry(namespace, &reference.name).is_empty()
        }
        ("gateway.networking.k8s.io", "Gateway") => {
            world.waypoint(namespace, &reference.name).is_some()
        }
        ("gateway.networking.k8s.io", "GatewayClass") => namespace == &*world.mesh().root_namespace,
        _ => {
            note.error(
                codes::BAD_TARGET,
                field,
                &named,
                "telemetry can't attach to this kind",
                "refer to a Service, ServiceEntry, Gateway or GatewayClass, with its group",
            );
            return;
        }
    };
    if !exists {
        note.error(codes::NO_TARGET, field, &named, "there is no such service or waypoint here", "check the name, and that it is in the same namespace (for a GatewayClass: the root namespace)");
    }
}

fn metrics_entries(spec: &TelemetrySpec, config: &MeshConfigSpec, note: &mut Note<'_>) {
    for (at, entry) in spec.metrics.iter().enumerate() {
        let field = format!("spec.metrics[{at}]");
        for (index, provider) in entry.providers.iter().enumerate() {
            let known = config
                .extension_providers
                .iter()
                .find(|one| one.name == provider.name);
            if provider.name != "prometheus" && known.is_none_or(|one| one.prometheus.is_none()) {
                let field = format!("{field}.providers[{index}].name");
                note.warning(
                    codes::UNSUPPORTED_PROVIDER,
                    &field,
                    &provider.name,
                    "waypoints give metrics to be scraped, and to no other provider",
                    "name prometheus, or leave the providers out",
                );
            }
        }
        if entry.reporting_interval.is_some() {
            let field = format!("{field}.reportingInterval");
            note.info(
                codes::TELEMETRY_UNUSED,
                &field,
                "metrics of connections are brought up to date every 5 s",
            );
        }
        for (index, one) in entry.overrides.iter().enumerate() {
            if one
                .matches
                .as_ref()
                .is_some_and(|matches| matches.mode == TelemetryMode::Client)
            {
                let field = format!("{field}.overrides[{index}].match.mode");
                note.info(
                    codes::TELEMETRY_UNUSED,
                    &field,
                    "a waypoint reports as a server; what is for clients has no effect on it",
                );
            }
        }
    }
}

fn logging_entries(spec: &TelemetrySpec, config: &MeshConfigSpec, note: &mut Note<'_>) {
    for (at, entry) in spec.access_logging.iter().enumerate() {
        let field = format!("spec.accessLogging[{at}]");
        if !access_log::applies(entry) {
            note.info(
                codes::TELEMETRY_UNUSED,
                &format!("{field}.match.mode"),
                "a waypoint reports as a server; what is for clients has no effect on it",
            );
            continue;
        }
        for (index, provider) in entry.providers.iter().enumerate() {
            let known = config
                .extension_providers
                .iter()
                .find(|one| one.name == provider.name);
            let field = format!("{field}.providers[{index}].name");
            match known {
                Some(one) if one.envoy_file_access_log.is_some() => {}
                Some(_) => note.error(
                    codes::UNSUPPORTED_PROVIDER,
                    &field,
                    &provider.name,
                    "waypoints write access logs to standard output only",
                    "name an envoyFileAccessLog provider, or envoy",
                ),
                None if provider.name == access_log::BUILT_IN => {}
                None => note.error(
                    codes::NO_PROVIDER,
                    &field,
                    &provider.name,
                    "the mesh has no such provider",
                    "name one of meshConfig.extensionProviders, or envoy",
                ),
            }
        }
        let filter = entry
            .filter
            .as_ref()
            .map_or("", |filter| filter.expression.as_str());
        if let Some(fault) = expression::fault(filter) {
            let message = format!("{fault}; without the filter everything is written");
            note.error(
                codes::BAD_EXPRESSION,
                &format!("{field}.filter.expression"),
                filter,
                &message,
                "see the attributes and functions in docs/waypoint.md",
            );
        }
    }
}

fn tracing_entries(spec: &TelemetrySpec, config: &MeshConfigSpec, note: &mut Note<'_>) {
    for (at, entry) in spec.tracing.iter().enumerate() {
        let field = format!("spec.tracing[{at}]");
        if !tracing::applies(entry) {
            note.info(
                codes::TELEMETRY_UNUSED,
                &format!("{field}.match.mode"),
                "a waypoint reports as a server; what is for clients has no effect on it",
            );
            continue;
        }
        for (index, provider) in entry.providers.iter().enumerate() {
            let known = config
                .extension_providers
                .iter()
                .find(|one| one.name == provider.name);
            let field = format!("{field}.providers[{index}].name");
            match known {
                Some(one) if one.opentelemetry.is_some() => {}
                Some(_) => note.error(
                    codes::UNSUPPORTED_PROVIDER,
                    &field,
                    &provider.name,
                    "waypoints send spans by OTLP only",
                    "name an opentelemetry provider",
                ),
                None => note.error(
                    codes::NO_PROVIDER,
                    &field,
                    &provider.name,
                    "the mesh has no such provider",
                    "name an opentelemetry provider of meshConfig.extensionProviders",
                ),
            }
        }
        if entry.providers.len() > 1 {
            note.warning(
                codes::TELEMETRY_UNUSED,
                &format!("{field}.providers"),
                "",
                "spans go to one provider: the first that can be used",
                "keep one; a collector can pass them on",
            );
        }
        if entry.use_request_id_for_trace_sampling == Some(false) {
            note.info(codes::TELEMETRY_UNUSED, &format!("{field}.useRequestIdForTraceSampling"), "the request id doesn't decide on sampling here in any case; the trace's own flag does");
        }
        sampling(
            &format!("{field}.randomSamplingPercentage"),
            entry.random_sampling_percentage,
            note,
        );
        custom_tags(&field, &entry.custom_tags, note);
    }
}

pub(super) fn sampling(field: &str, share: Option<f64>, note: &mut Note<'_>) {
    if let Some(share) = share.filter(|share| !(0.0..=100.0).contains(share)) {
        note.error(
            codes::BAD_TELEMETRY,
            field,
            &share.to_string(),
            "not a percentage; 1 is used",
            "write 0 to 100",
        );
    }
}

pub(super) fn custom_tags(
    field: &str,
    tags: &std::collections::BTreeMap<String, TelemetryTag>,
    note: &mut Note<'_>,
) {
    for (name, tag) in tags {
        let field = format!("{field}.customTags.{name}");
        if tag.formatter.is_some() {
            note.error(
                codes::TELEMETRY_UNUSED,
                &format!("{field}.formatter"),
                name,
                "waypoints don't format tags; this one is left out",
                "use literal, environment or header",
            );
        } else if tag.literal.is_none() && tag.environment.is_none() && tag.header.is_none() {
            note.error(
                codes::BAD_TELEMETRY,
                &field,
                name,
                "a tag without a value; it is left out",
                "write literal, environment or header",
            );
        }
    }
}

/// Says it, with fewer words.
pub(super) struct Note<'a> {
    pub(super) say: &'a mut Say,
}

impl Note<'_> {
    pub(super) fn error(
        &mut self,
        code: Code,
        field: &str,
        value: &str,
        message: &str,
        remedy: &str,
    ) {
        self.say.error(code, fault(field, value, message, remedy));
    }

    pub(super) fn warning(
        &mut self,
        code: Code,
        field: &str,
        value: &str,
        message: &str,
        remedy: &str,
    ) {
        self.say.warning(code, fault(field, value, message, remedy));
    }

    pub(super) fn info(&mut self, code: Code, field: &str, message: &str) {
        self.say.info(code, fault(field, "", message, ""));
    }
}

fn fault<'a>(field: &'a str, value: &'a str, message: &'a str, remedy: &'a str) -> Fault<'a> {
    Fault {
        field,
        value: (!value.is_empty()).then_some(value),
        message,
        remedy,
    }
}

impl Faults for Note<'_> {
    fn bad(&mut self, field: String, value: &str, what: Bad) {
        let (code, message, remedy) = match what {
            Bad::Metric => (
                codes::BAD_TELEMETRY,
                "waypoints have no such metric; the change is left out".to_owned(),
                metrics::METRICS.join(", "),
            ),
            Bad::CustomMetric => (
                codes::TELEMETRY_UNUSED,
                "waypoints have no metrics but the standard ones; the change is left out"
                    .to_owned(),
                metrics::METRICS.join(", "),
            ),
            Bad::Label => (
                codes::BAD_TELEMETRY,
                "not the name of a label; the change is left out".to_owned(),
                "use letters, digits and _".to_owned(),
            ),
            Bad::Expression(why) => (
                codes::BAD_EXPRESSION,
                format!("{why}; the label stays as it is"),
                "see the attributes and functions in docs/waypoint.md".to_owned(),
            ),
        };
        self.error(code, &field, value, &message, &remedy);
    }
}
