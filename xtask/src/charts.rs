//! The charts: what they render is committed, and compared.
//!
//! Needs `helm`: `HELM`, or the one in `PATH`. Without it nothing is compared,
//! which `AMBIT_REQUIRE_HELM=1` makes a problem. `AMBIT_BLESS=1` writes what is
//! rendered.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result};

/// A rendering: its file, the chart, and the values that aren't the default.
const GOLDENS: &[(&str, &str, &[&str])] = &[
    ("base", "base", &[]),
    ("istiod-lite", "istiod-lite", &[]),
    (
        "istiod-lite-canary",
        "istiod-lite",
        &[
            "revision=canary",
            "pilot.autoscaleEnabled=true",
            "gatewayClasses.istio-waypoint.deployment.spec.replicas=2",
        ],
    ),
    ("node-agent", "node-agent", &[]),
    (
        "node-agent-upstream-k3s",
        "node-agent",
        &[
            "global.platform=k3s",
            "reportToControlPlane=false",
            "cni.excludeNamespaces={kube-system,infra}",
        ],
    ),
    ("ztunnel", "ztunnel", &[]),
    (
        "ztunnel-canary-gke",
        "ztunnel",
        &[
            "revision=canary",
            "global.platform=gke",
            "global.networkPolicy.enabled=true",
            "logAsJson=true",
        ],
    ),
    ("ambit", "ambit", &["global.hub=example.org/mesh"]),
];

pub(crate) fn check() -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("a workspace")?;
    let charts = root.join("charts");
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| value == "1");
    let helm = std::env::var_os("HELM").unwrap_or_else(|| "helm".into());
    if Command::new(&helm).arg("version").output().is_err() {
        let loud = set("AMBIT_REQUIRE_HELM").then(|| "charts: there is no helm".to_owned());
        return Ok(loud.into_iter().collect());
    }
    let mut problems = Vec::new();
    let mut linted = Vec::new();
    for (name, chart, values) in GOLDENS {
        if !linted.contains(chart) {
            linted.push(*chart);
            problems.extend(lint(&helm, &charts, chart)?);
        }
        let golden = charts.join("golden").join(format!("{name}.yaml"));
        let rendered = match render(&helm, &charts, chart, values)? {
            Ok(rendered) => rendered,
            Err(why) => {
                problems.push(format!("charts/{chart}: {why}"));
                continue;
            }
        };
        if fs::read_to_string(&golden).is_ok_and(|there| there == rendered) {
            continue;
        }
        if set("AMBIT_BLESS") {
            fs::write(&golden, rendered).with_context(|| golden.display().to_string())?;
            continue;
        }
        problems.push(format!(
            "charts/golden/{name}.yaml isn't what charts/{chart} renders; AMBIT_BLESS=1 writes it"
        ));
    }
    Ok(problems)
}

fn lint(helm: &OsString, charts: &Path, chart: &str) -> Result<Option<String>> {
    let output = Command::new(helm)
        .args(["lint", "--strict", "--quiet", chart])
        .current_dir(charts)
        .output()
        .context("run helm lint")?;
    Ok((!output.status.success()).then(|| format!("charts/{chart}: {}", said(&output))))
}

fn render(
    helm: &OsString,
    charts: &Path,
    chart: &str,
    values: &[&str],
) -> Result<Result<String, String>> {
    let output = Command::new(helm)
        .args(["template", chart, chart, "--namespace", "istio-system"])
        .args(["--kube-version", "1.34.0"])
        .args(values.iter().flat_map(|value| ["--set", value]))
        .current_dir(charts)
        .output()
        .context("run helm template")?;
    if !output.status.success() {
        return Ok(Err(said(&output)));
    }
    Ok(Ok(String::from_utf8(output.stdout)?))
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&text).trim().replace('\n', " / ")
}
