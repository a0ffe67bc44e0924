//! Traces: whether, how many, where to, with which tags (6.4 and 6.5).

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::{
    ExtensionProvider, OpenTelemetryProvider, OtlpHeader, ProtoDuration, TelemetryMode,
    TelemetrySpec, TelemetryTag, TelemetryTracing,
};
use ambit_proto::waypoint as pb;

use crate::World;
use crate::security::service_named;

/// What of traces is in force: each setting from the narrowest layer that has it.
pub(super) fn of(layers: &[Arc<TelemetrySpec>], world: &dyn World) -> pb::Tracing {
    let config = &world.mesh().config;
    let settings = config
        .default_config
        .as_ref()
        .and_then(|config| config.tracing.as_ref());
    let entries = || {
        layers
            .iter()
            .rev()
            .flat_map(|layer| layer.tracing.iter().rev())
            .filter(|entry| applies(entry))
    };
    let named = entries().find(|entry| !entry.providers.is_empty());
    let defaults = config
        .default_providers
        .as_ref()
        .map(|providers| providers.tracing.as_slice());
    let names: Vec<&str> = match named {
        Some(entry) => entry
            .providers
            .iter()
            .map(|one| one.name.as_str())
            .collect(),
        None => defaults
            .unwrap_or_default()
            .iter()
            .map(String::as_str)
            .collect(),
    };
    let provider = names.iter().find_map(|name| {
        config
            .extension_providers
            .iter()
            .find(|one| one.name == *name)
    });
    let otlp = provider.and_then(|provider| provider.opentelemetry.as_ref());
    let otlp = otlp.and_then(|otlp| exporter(otlp, world));
    let sampling = entries().find_map(|entry| entry.random_sampling_percentage);
    let sampling = sampling.or_else(|| settings.and_then(|settings| settings.sampling));
    let mut tags: BTreeMap<&String, &TelemetryTag> = settings
        .into_iter()
        .flat_map(|settings| &settings.custom_tags)
        .collect();
    for layer in layers {
        let more = layer.tracing.iter().filter(|entry| applies(entry));
        tags.extend(more.flat_map(|entry| &entry.custom_tags));
    }
    let istio_tags = entries().find_map(|entry| entry.enable_istio_tags);
    let istio_tags =
        istio_tags.or_else(|| settings.and_then(|settings| settings.enable_istio_tags));
    pb::Tracing {
        disabled: entries()
            .find_map(|entry| entry.disable_span_reporting)
            .unwrap_or(false),
        sampling: sampling
            .filter(|share| (0.0..=100.0).contains(share))
            .unwrap_or(SAMPLING),
        otlp,
        tags: tags
            .into_iter()
            .filter_map(|(name, written)| tag(name, written))
            .collect(),
        disable_propagation: entries()
            .find_map(|entry| entry.disable_context_propagation)
            .unwrap_or(false),
        propagation: propagation(provider).into(),
        disable_istio_tags: istio_tags == Some(false),
    }
}

/// Whether an entry is about the side on which a waypoint is.
pub(super) fn applies(entry: &TelemetryTracing) -> bool {
    entry
        .matches
        .is_none_or(|matches| matches.mode != TelemetryMode::Client)
}

/// What a collector of another product reads is passed on, even though no spans go there.
fn propagation(provider: Option<&ExtensionProvider>) -> pb::Propagation {
    let Some(zipkin) = provider.and_then(|provider| provider.zipkin.as_ref()) else {
        return pb::Propagation::W3c;
    };
    match zipkin
        .get("traceContextOption")
        .and_then(serde_json::Value::as_str)
    {
        Some("USE_B3_WITH_W3C_PROPAGATION") => pb::Propagation::B3AndW3c,
        _ => pb::Propagation::B3,
    }
}

/// Where spans go; none where the service can't be found.
fn exporter(otlp: &OpenTelemetryProvider, world: &dyn World) -> Option<pb::OtlpExporter> {
    let service = service_named(&otlp.service, world)?;
    let headers = |list: &[OtlpHeader]| -> Vec<pb::Header> {
        let with_value = list
            .iter()
            .filter_map(|header| Some((header.name.to_ascii_lowercase(), header.value.clone()?)));
        with_value
            .map(|(name, value)| pb::Header { name, value })
            .collect()
    };
    let (http_path, timeout, headers) = match (&otlp.http, &otlp.grpc) {
        (Some(http), _) => {
            let path = if http.path.is_empty() {
                "/v1/traces"
            } else {
                http.path.as_str()
            };
            (path.to_owned(), http.timeout, headers(&http.headers))
        }
        (None, Some(grpc)) => (String::new(), grpc.timeout, headers(&grpc.initial_metadata)),
        (None, None) => (String::new(), None, Vec::new()),
    };
    Some(pb::OtlpExporter {
        service: service.key(),
        port: otlp.port,
        http_path,
        timeout_ms: timeout.map_or(0, ProtoDuration::as_millis),
        headers,
    })
}

fn tag(name: &str, written: &TelemetryTag) -> Option<pb::SpanTag> {
    use pb::span_tag::Value;
    let (value, default_value) = if let Some(literal) = &written.literal {
        (Value::Literal(literal.value.clone()), None)
    } else if let Some(environment) = &written.environment {
        (
            Value::Environment(environment.name.clone()),
            environment.default_value.clone(),
        )
    } else if let Some(header) = &written.header {
        (
            Value::Header(header.name.to_ascii_lowercase()),
            header.default_value.clone(),
        )
    } else {
        return None;
    };
    Some(pb::SpanTag {
        name: name.to_owned(),
        default_value: default_value.unwrap_or_default(),
        value: Some(value),
    })
}

/// Percent, where nobody says (6.4).
const SAMPLING: f64 = 1.0;
