//! Access logs: whether, in which form, of what (6.2 and 6.5).

use std::sync::Arc;

use ambit_kube::{
    FileAccessLog, MeshConfigSpec, TelemetryAccessLogging, TelemetryMode, TelemetrySpec,
};
use ambit_proto::waypoint as pb;

use super::expression;
use crate::World;

/// What of access logs is in force. A layer that speaks of them replaces those before it.
pub(super) fn of(layers: &[Arc<TelemetrySpec>], world: &dyn World) -> pb::AccessLogging {
    let config = &world.mesh().config;
    let speaks = |layer: &&Arc<TelemetrySpec>| layer.access_logging.iter().any(applies);
    let Some(layer) = layers.iter().rev().find(speaks) else {
        return by_default(config);
    };
    let mut logging = pb::AccessLogging {
        disabled: true,
        ..pb::AccessLogging::default()
    };
    for entry in layer.access_logging.iter().filter(|entry| applies(entry)) {
        if entry.disabled == Some(true) {
            logging.disabled = true;
            continue;
        }
        let Some(format) = form(entry, config) else {
            continue;
        };
        let filter = entry
            .filter
            .as_ref()
            .map_or("", |filter| filter.expression.as_str());
        logging = pb::AccessLogging {
            disabled: false,
            filter: match expression::fault(filter) {
                // A log of everything is no loss; none would be.
                Some(_) => String::new(),
                None => filter.trim().to_owned(),
            },
            ..format
        };
    }
    logging
}

/// Whether an entry is about the side on which a waypoint is.
pub(super) fn applies(entry: &TelemetryAccessLogging) -> bool {
    entry
        .matches
        .is_none_or(|matches| matches.mode != TelemetryMode::Client)
}

/// Without any Telemetry: as the mesh configuration says.
fn by_default(config: &MeshConfigSpec) -> pb::AccessLogging {
    let providers = config
        .default_providers
        .as_ref()
        .map(|providers| &providers.access_logging);
    let named = providers
        .into_iter()
        .flatten()
        .find_map(|name| of_provider(name, config));
    let file = config
        .access_log_file
        .as_ref()
        .is_some_and(|file| !file.is_empty());
    match named {
        Some(logging) => logging,
        None if file => of_mesh(config),
        None => pb::AccessLogging {
            disabled: true,
            ..pb::AccessLogging::default()
        },
    }
}

/// The form that an entry's providers give it; none if all write elsewhere.
fn form(entry: &TelemetryAccessLogging, config: &MeshConfigSpec) -> Option<pb::AccessLogging> {
    if !entry.providers.is_empty() {
        return entry
            .providers
            .iter()
            .find_map(|one| of_provider(&one.name, config));
    }
    let logging = by_default(config);
    Some(if logging.disabled {
        of_mesh(config)
    } else {
        logging
    })
}

fn of_provider(name: &str, config: &MeshConfigSpec) -> Option<pb::AccessLogging> {
    if let Some(found) = config
        .extension_providers
        .iter()
        .find(|one| one.name == name)
    {
        return found.envoy_file_access_log.as_ref().map(of_file);
    }
    (name == BUILT_IN).then(|| of_mesh(config))
}

fn of_file(file: &FileAccessLog) -> pb::AccessLogging {
    let format = file.log_format.as_ref();
    let labels = format.and_then(|format| format.labels.as_ref());
    let text = format.and_then(|format| format.text.clone());
    match labels {
        Some(labels) => {
            let empty = labels.as_object().is_none_or(serde_json::Map::is_empty);
            pb::AccessLogging {
                json: true,
                format: if empty {
                    String::new()
                } else {
                    labels.to_string()
                },
                ..pb::AccessLogging::default()
            }
        }
        None => pb::AccessLogging {
            format: text.unwrap_or_default(),
            ..pb::AccessLogging::default()
        },
    }
}

fn of_mesh(config: &MeshConfigSpec) -> pb::AccessLogging {
    pb::AccessLogging {
        json: config.access_log_encoding.as_deref() == Some("JSON"),
        format: config.access_log_format.clone().unwrap_or_default(),
        ..pb::AccessLogging::default()
    }
}

/// The provider that every mesh has: its own file.
pub(super) const BUILT_IN: &str = "envoy";
