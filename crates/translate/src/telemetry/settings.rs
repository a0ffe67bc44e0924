//! What is said of the mesh's telemetry settings.

use ambit_kube::{ExtensionProvider, Problem, TracingConfig};

use super::codes;
use super::object::{Note, custom_tags, sampling};
use crate::World;
use crate::security::{Say, service_named};

/// What is wrong with the mesh configuration's telemetry; fields without the object's place.
pub fn mesh(world: &dyn World) -> Vec<Problem> {
    let mut say = Say::mesh();
    let mut note = Note { say: &mut say };
    let config = &world.mesh().config;
    file(
        "accessLogFile",
        config.access_log_file.as_deref(),
        &mut note,
    );
    for (at, one) in config.extension_providers.iter().enumerate() {
        provider(&format!("extensionProviders[{at}]"), one, world, &mut note);
    }
    let config = config.default_config.as_ref();
    if let Some(settings) = config.and_then(|config| config.tracing.as_ref()) {
        older_tracing(settings, &mut note);
        custom_tags("defaultConfig.tracing", &settings.custom_tags, &mut note);
        let field = "defaultConfig.tracing.sampling";
        sampling(field, settings.sampling, &mut note);
    }
    say.done()
}

fn file(field: &str, written: Option<&str>, note: &mut Note<'_>) {
    let other = written.filter(|file| !matches!(*file, "" | "/dev/stdout" | "/dev/stderr"));
    if let Some(other) = other {
        let message = "waypoints write to standard output only";
        note.warning(
            codes::MESH_UNUSED,
            field,
            other,
            message,
            "write /dev/stdout",
        );
    }
}

fn provider(field: &str, provider: &ExtensionProvider, world: &dyn World, note: &mut Note<'_>) {
    if let Some(word) = provider.unsupported() {
        let remedy = match word {
            "zipkin" => {
                "send spans by opentelemetry; a collector can pass them on. B3 headers are passed on"
            }
            "envoyOtelAls" | "envoyHttpAls" | "envoyTcpAls" => {
                "use envoyFileAccessLog, and collect standard output"
            }
            "sds" => "use a Secret (credentialName)",
            _ => "use opentelemetry",
        };
        let field = format!("{field}.{word}");
        let message = "waypoints have no such provider; nothing goes there";
        note.warning(
            codes::UNSUPPORTED_PROVIDER,
            &field,
            &provider.name,
            message,
            remedy,
        );
    }
    if let Some(otlp) = &provider.opentelemetry {
        let found = service_named(&otlp.service, world);
        let has_port = found.is_some_and(|service| {
            let mut ports = service.ports.iter();
            ports.any(|port| u32::from(port.number) == otlp.port)
        });
        if !has_port {
            let field = format!("{field}.opentelemetry.service");
            let written = format!("{}:{}", otlp.service, otlp.port);
            let message = "there is no such service or port; no spans go there";
            let remedy =
                "write [NAMESPACE/]HOSTNAME of a Service or ServiceEntry, and a port that it has";
            note.error(codes::NO_PROVIDER, &field, &written, message, remedy);
        }
    }
    if let Some(log) = &provider.envoy_file_access_log {
        let field = format!("{field}.envoyFileAccessLog.path");
        file(&field, Some(&log.path), note);
    }
}

/// The places where providers were named before `extensionProviders`.
fn older_tracing(settings: &TracingConfig, note: &mut Note<'_>) {
    let older = [
        ("zipkin", &settings.zipkin),
        ("lightstep", &settings.lightstep),
        ("datadog", &settings.datadog),
        ("stackdriver", &settings.stackdriver),
        ("openCensusAgent", &settings.open_census_agent),
    ];
    for (word, _) in older.iter().filter(|(_, value)| value.is_some()) {
        let field = format!("defaultConfig.tracing.{word}");
        let message = "waypoints have no such provider; nothing goes there";
        let remedy =
            "name an opentelemetry provider in extensionProviders and defaultProviders.tracing";
        note.warning(codes::MESH_UNUSED, &field, word, message, remedy);
    }
}
