//! The crate graph: only the edges that docs/adr/0001 allows.

use anyhow::{Context, Result};
use serde_json::Value;

/// What each crate may depend on. Programs are below their libraries.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ambit-types", &[]),
    ("ambit-proto", &[]),
    ("ambit-runtime", &[]),
    ("ambit-netns", &[]),
    ("ambit-policy", &["types", "proto"]),
    ("ambit-route", &["types", "proto"]),
    ("ambit-upstream", &["types", "proto"]),
    ("ambit-jwt", &["types", "proto"]),
    ("ambit-observe", &["types", "runtime", "proto", "telemetry"]),
    ("ambit-translate", &["types", "proto", "kube"]),
    ("ambit-kube", &["types"]),
    ("ambit-source", &["types", "runtime", "kube"]),
    ("ambit-cluster", &["types", "runtime", "kube"]),
    ("ambit-identity", &["types", "runtime"]),
    ("ambit-authn", &["types", "runtime", "identity"]),
    ("ambit-ca", &["types", "runtime", "identity"]),
    ("ambit-channel", &["types", "runtime", "proto", "identity"]),
    ("ambit-net", &["types", "runtime", "netns"]),
    ("ambit-redirect", &["types", "runtime", "proto", "netns"]),
    ("ambit-xds", &["types", "runtime", "proto"]),
    ("ambit-telemetry", &["types", "runtime"]),
    ("ambit-hbone", &["types", "runtime", "identity", "net"]),
    ("ambit-state", &["types", "runtime", "proto", "policy"]),
    ("ambit-compile", &["types", "proto", "kube", "translate"]),
    (
        "ambit-testkit",
        &["netns", "runtime", "types", "proto", "identity", "ca"],
    ),
    (
        "ztunnel",
        &[
            "types",
            "runtime",
            "proto",
            "identity",
            "channel",
            "net",
            "netns",
            "redirect",
            "xds",
            "telemetry",
            "hbone",
            "state",
            "policy",
        ],
    ),
    (
        "waypoint",
        &[
            "types",
            "runtime",
            "proto",
            "identity",
            "channel",
            "net",
            "xds",
            "telemetry",
            "hbone",
            "policy",
            "route",
            "upstream",
            "jwt",
            "observe",
        ],
    ),
    (
        "istiod-lite",
        &[
            "types",
            "runtime",
            "proto",
            "identity",
            "authn",
            "ca",
            "xds",
            "telemetry",
            "kube",
            "source",
            "cluster",
            "compile",
        ],
    ),
    (
        "node-agent",
        &[
            "types",
            "runtime",
            "proto",
            "identity",
            "netns",
            "redirect",
            "kube",
            "source",
            "cluster",
            "channel",
            "telemetry",
            "compile",
        ],
    ),
    ("ambit-cni", &[]),
    (
        "ambit",
        &[
            "types", "runtime", "kube", "source", "cluster", "compile", "netns", "state", "policy",
            "route",
        ],
    ),
];

pub(crate) fn check(metadata: &Value) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"].as_str().context("a name")?;
        let Some((_, allowed)) = ALLOWED.iter().find(|(of, _)| *of == name) else {
            continue;
        };
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let to = dependency["name"].as_str().context("a name")?;
            let ours = dependency["path"].is_string();
            let normal = dependency["kind"].is_null();
            let short = to.strip_prefix("ambit-").unwrap_or(to);
            if ours && normal && !allowed.contains(&short) {
                problems.push(format!(
                    "{name} depends on {to}: not an edge of docs/adr/0001; a new one needs an ADR"
                ));
            }
        }
    }
    Ok(problems)
}
