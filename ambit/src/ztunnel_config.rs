//! `ambit ztunnel-config`: what a node proxy has been told, and what it holds.

mod certificates;
mod connections;
mod dump;
mod fetch;
mod policies;
mod services;
mod workloads;

use std::time::SystemTime;

use ambit_runtime::Env;
use serde_json::Value;

use crate::args::{Shape, What, ZtunnelConfigArguments};
use crate::exit::{Exit, Failure};
use crate::streams::Streams;
use dump::Dump;

/// Fetches the dump and shows the part that was asked for.
pub(crate) fn run(
    arguments: ZtunnelConfigArguments,
    env: &dyn Env,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let one_proxy_only = matches!(arguments.what, What::Certificate | What::Connections { .. });
    let dump = fetch::dump(&arguments.target, one_proxy_only, env, streams)?;
    match arguments.output {
        Shape::Short => streams.say(&short(&arguments.what, &dump, SystemTime::now())),
        Shape::Json => streams.say_json(&selected(&arguments.what, &dump)),
        Shape::Yaml => streams.say_yaml(&selected(&arguments.what, &dump)),
    }
}

/// The tables.
fn short(what: &What, dump: &Dump, now: SystemTime) -> String {
    match what {
        What::Workload { .. } => workloads::table(&workloads::select(what, dump), dump),
        What::Service { service_namespace } => {
            services::table(&services::select(service_namespace.as_deref(), dump), dump)
        }
        What::Policy { policy_namespace } => {
            policies::table(&policies::select(policy_namespace.as_deref(), dump))
        }
        What::Certificate => certificates::table(dump, now),
        What::Connections {
            direction,
            raw,
            workload_namespace,
        } => connections::table(
            &connections::select(*direction, workload_namespace.as_deref(), dump),
            (!raw).then_some(dump),
        ),
        What::All { with_headers } => all(*with_headers, dump, now),
    }
}

fn all(with_headers: bool, dump: &Dump, now: SystemTime) -> String {
    let parts = [
        (
            "WORKLOAD INFO",
            workloads::table(&workloads::all(dump), dump),
        ),
        (
            "SERVICE INFO",
            services::table(&services::select(None, dump), dump),
        ),
        (
            "POLICY INFO",
            policies::table(&policies::select(None, dump)),
        ),
        ("SECRET INFO", certificates::table(dump, now)),
        (
            "CONNECTIONS INFO",
            connections::table(&connections::select(None, None, dump), Some(dump)),
        ),
    ];
    let part = |(banner, table): (&str, String)| {
        if with_headers {
            format!("{banner}:\n{table}")
        } else {
            table
        }
    };
    parts.map(part).join("\n\n")
}

/// The dump's own objects, unchanged.
fn selected(what: &What, dump: &Dump) -> Value {
    match what {
        What::Workload { .. } => workloads::select(what, dump)
            .into_iter()
            .map(|one| one.raw.clone())
            .collect(),
        What::Service { service_namespace } => services::select(service_namespace.as_deref(), dump)
            .into_iter()
            .map(|one| one.raw.clone())
            .collect(),
        What::Policy { policy_namespace } => policies::select(policy_namespace.as_deref(), dump)
            .into_iter()
            .map(|one| one.raw.clone())
            .collect(),
        What::Certificate => dump
            .certificates
            .iter()
            .map(|one| one.raw.clone())
            .collect(),
        What::Connections {
            workload_namespace, ..
        } => dump
            .workload_states
            .iter()
            .filter(|one| {
                workload_namespace
                    .as_ref()
                    .is_none_or(|wanted| *wanted == one.info.namespace)
            })
            .map(|one| (one.key.clone(), one.raw.clone()))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        What::All { .. } => dump.raw.clone(),
    }
}
