//! The official conformance suite of Gateway API, on a cluster with Ambit: what
//! is there before it comes, its flags, what its output and its report say.
//!
//! The suite's program and its manifests are its own, unchanged
//! (`e2e/kube/conformance`). Which of its tests are about a mesh is told by
//! their names; every other one asks for the feature `Gateway`, which a mesh
//! doesn't declare, and is skipped by the suite itself.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::api::{Api, refused_with};
use super::paths;
use crate::programs;

/// What a test came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It didn't run, and why.
    Skipped(String),
}

/// A test of the suite that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// Its name.
    pub name: String,
    /// What it came to.
    pub verdict: Verdict,
    /// How long it took, in seconds, as the suite writes it.
    pub seconds: String,
}

impl Test {
    /// Whether it is about a mesh.
    pub fn is_of_a_mesh(&self) -> bool {
        self.name.starts_with("Mesh")
    }
}

/// Namespaces that the suite deploys into.
const NAMESPACES: &[&str] = &[
    "gateway-conformance-mesh",
    "gateway-conformance-mesh-consumer",
];

/// Labels of them: in the mesh, behind their waypoint.
const LABELS: &str = "istio.io/dataplane-mode=ambient,istio.io/use-waypoint=waypoint";

/// Profiles that are asked for.
const PROFILES: &[&str] = &["MESH-HTTP", "MESH-GRPC"];

/// Features of a mesh, core and extended, all that there are: what the profiles
/// report.
const OF_A_MESH: &[&str] = &[
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// Features of routes that tests of a mesh ask for besides.
const OF_ROUTES: &[&str] = &[
    "GRPCRoute",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
];

/// Tests of a mesh that the pinned version of the suite has. With fewer, it
/// wasn't run whole.
const TESTS: usize = 22;

/// Makes the suite's namespaces and their waypoints, and waits until these run.
///
/// # Errors
/// What is refused, or doesn't run.
pub async fn prepare(api: &Api) -> Result<()> {
    for name in NAMESPACES {
        // An earlier run's, that is still being deleted.
        eventually_within(TWO_MINUTES, &format!("{name} is usable"), async || {
            let path = format!("/api/v1/namespaces/{name}");
            match api.get(&path).await {
                Ok(namespace) => {
                    let deleted = &namespace["metadata"]["deletionTimestamp"];
                    ensure!(deleted.is_null(), "it is being deleted");
                    Ok(())
                }
                Err(error) if refused_with(&error) == Some(StatusCode::NOT_FOUND) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await?;
    }
    let file = programs::scenarios().join("cluster/conformance.yaml");
    let yaml = fs::read_to_string(&file).context("read the suite's namespaces")?;
    let mut objects = crate::manifests::parse(&yaml)?;
    for object in &mut objects {
        if object["kind"] == "Namespace" {
            for label in LABELS.split(',') {
                let (key, value) = label.split_once('=').context("a label has a value")?;
                crate::manifests::set_meta(object, "labels", key, Some(value));
            }
        }
        api.apply_object(object).await?;
    }
    for name in NAMESPACES {
        eventually_within(
            TWO_MINUTES,
            &format!("the waypoint of {name}"),
            async || {
                let version = "gateway.networking.k8s.io/v1";
                let gateway = api.object(version, "Gateway", name, "waypoint").await?;
                let conditions = gateway["status"]["conditions"].as_array();
                let mut conditions = conditions.into_iter().flatten();
                let programmed = conditions.find(|c| c["type"] == "Programmed");
                let programmed = programmed.context("it isn't looked after")?;
                ensure!(programmed["status"] == "True", "{programmed}");
                Ok(())
            },
        )
        .await?;
        api.wait_rolled_out("Deployment", name, "waypoint", TWO_MINUTES)
            .await?;
    }
    Ok(())
}

/// Where a run leaves what it says.
#[derive(Debug)]
pub struct Output<'a> {
    /// Everything that the suite printed.
    pub log: &'a Path,
    /// The suite's report.
    pub report: &'a Path,
}

/// Runs the suite, or one test of it, and says the name of each test of a mesh
/// when it begins. The tests that ended, in order.
///
/// # Errors
/// If the suite isn't built, or none of its tests was run: with its last words.
pub async fn run(
    api: &Api,
    only: Option<&str>,
    output: &Output<'_>,
    mut say: impl FnMut(&str),
) -> Result<Vec<Test>> {
    let _ = fs::remove_file(output.report);
    let mut command = Command::new(paths::kube_program("conformance.test")?);
    command
        .args(flags(only))
        .arg(format!("-report-output={}", output.report.display()))
        .env("KUBECONFIG", api.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What it says of a client that it couldn't make.
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let mut suite = command.spawn().context("start the suite")?;
    let lines = suite.stdout.take().context("its output is piped")?;
    let mut lines = BufReader::new(lines).lines();
    let mut log =
        fs::File::create(output.log).with_context(|| format!("write {}", output.log.display()))?;
    let mut text = String::new();
    while let Some(line) = lines.next_line().await? {
        writeln!(log, "{line}")?;
        writeln!(text, "{line}")?;
        let begun = line.strip_prefix("=== RUN").map(str::trim);
        let name = begun.and_then(|name| name.strip_prefix(PARENT));
        let is_one = |name: &&str| match only {
            Some(only) => *name == only,
            None => name.starts_with("Mesh") && !name.contains('/'),
        };
        if let Some(name) = name.filter(is_one) {
            say(name);
        }
    }
    let ended = suite.wait().await?;
    let tests = read(&text);
    ensure!(
        !tests.is_empty(),
        "no test was run ({ended}):\n{}",
        tail(&text)
    );
    Ok(tests)
}

fn flags(only: Option<&str>) -> Vec<String> {
    let features = [OF_A_MESH, OF_ROUTES].concat().join(",");
    let mut flags = vec![
        "-test.v".to_owned(),
        "-test.timeout=30m".to_owned(),
        "-test.run=^TestMesh$".to_owned(),
        "-mesh-name=ambit".to_owned(),
        format!("-conformance-profiles={}", PROFILES.join(",")),
        format!("-supported-features={features}"),
        format!("-namespace-labels={LABELS}"),
        "-organization=ambit".to_owned(),
        "-project=ambit".to_owned(),
        concat!("-url=", env!("CARGO_PKG_REPOSITORY")).to_owned(),
        concat!("-version=v", env!("CARGO_PKG_VERSION")).to_owned(),
        concat!("-contact=", env!("CARGO_PKG_REPOSITORY"), "/issues").to_owned(),
    ];
    flags.extend(only.map(|name| format!("-run-test={name}")));
    flags
}

/// The tests in what the suite printed: its own lines about them, not those of
/// their cases.
pub fn read(output: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    for line in output.lines() {
        let Some((word, rest)) = line.trim_start().strip_prefix("--- ").and_then(split) else {
            continue;
        };
        let Some((name, time)) = rest.strip_prefix(PARENT).and_then(|n| n.split_once(" (")) else {
            continue;
        };
        if name.contains('/') {
            continue;
        }
        let verdict = match word {
            "PASS" => Verdict::Passed,
            "SKIP" => Verdict::Skipped(why_skipped(output, name)),
            _ => Verdict::Failed,
        };
        tests.push(Test {
            name: name.to_owned(),
            verdict,
            seconds: time.trim_end_matches("s)").to_owned(),
        });
    }
    tests
}

fn split(line: &str) -> Option<(&str, &str)> {
    line.split_once(": ")
}

fn why_skipped(output: &str, name: &str) -> String {
    let said = format!("Skipping {name}: ");
    let mut lines = output.lines();
    let why = lines.find_map(|line| line.split_once(&said).map(|(_, why)| why));
    why.unwrap_or("it doesn't say why").to_owned()
}

/// What keeps a whole run from being conformant; empty if it is.
///
/// # Errors
/// If the report can't be read, or lacks a profile.
pub fn complaints(tests: &[Test], report: &str) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let (mesh, others): (Vec<_>, Vec<_>) = tests.iter().partition(|test| test.is_of_a_mesh());
    for test in &mesh {
        match &test.verdict {
            Verdict::Passed => {}
            Verdict::Failed => wrong.push(format!("{} failed", test.name)),
            Verdict::Skipped(why) => wrong.push(format!("{} was skipped: {why}", test.name)),
        }
    }
    if mesh.len() < TESTS {
        wrong.push(format!("{} of {TESTS} tests of a mesh ran", mesh.len()));
    }
    // They need a gateway, each of them; a reason besides would hide something.
    for test in others {
        let asked = "suite does not support ";
        if !matches!(&test.verdict, Verdict::Skipped(why) if why.starts_with(asked)) {
            wrong.push(format!("{}: {:?}", test.name, test.verdict));
        }
    }
    let report = crate::manifests::parse(report).context("parse the report")?;
    let report = report.first().context("an empty report")?;
    let profiles = report["profiles"].as_array().into_iter().flatten();
    let profiles: Vec<&Value> = profiles.collect();
    for name in PROFILES {
        let profile = profiles.iter().find(|profile| profile["name"] == *name);
        let profile = profile.with_context(|| format!("the report lacks {name}"))?;
        let clean = |part: &Value| {
            let statistics = &part["statistics"];
            part["result"] == "success" && statistics["Failed"] == 0 && statistics["Skipped"] == 0
        };
        // A profile that has no extended tests says nothing of them.
        let extended = &profile["extended"];
        if !(clean(&profile["core"]) && (extended.is_null() || clean(extended))) {
            wrong.push(format!("{name} isn't clean: {profile}"));
        }
    }
    let features = |list: &str| {
        let lists = profiles.iter().map(|profile| &profile["extended"][list]);
        let names = lists.filter_map(Value::as_array).flatten();
        names.filter_map(Value::as_str).collect::<BTreeSet<_>>()
    };
    let (supported, unsupported) = (
        features("supportedFeatures"),
        features("unsupportedFeatures"),
    );
    // The first is core: it is in no list.
    for feature in OF_A_MESH.iter().skip(1) {
        if !supported.contains(feature) {
            wrong.push(format!("the report lacks {feature}"));
        }
    }
    for feature in unsupported {
        wrong.push(format!("the report has {feature} as unsupported"));
    }
    Ok(wrong)
}

/// The tests of a mesh as a page, without what differs from run to run.
///
/// # Errors
/// If the report can't be read.
pub fn page(tests: &[Test], report: &str) -> Result<String> {
    let report = crate::manifests::parse(report).context("parse the report")?;
    let report = report.first().context("an empty report")?;
    let text = |field: &str| report[field].as_str().unwrap_or_default();
    let mut page = format!(
        "# Tests of a mesh, Gateway API {} ({} channel)\n\n\
         Written by `make conformance`.\n\n| test | result |\n|---|---|\n",
        text("gatewayAPIVersion"),
        text("gatewayAPIChannel")
    );
    for test in tests.iter().filter(|test| test.is_of_a_mesh()) {
        let result = match &test.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Skipped(_) => "skipped",
        };
        writeln!(page, "| {} | {result} |", test.name)?;
    }
    Ok(page)
}

/// Name of the file that a report is published as.
///
/// # Errors
/// If the report can't be read, or doesn't say whose it is.
pub fn report_name(report: &str) -> Result<String> {
    let report = crate::manifests::parse(report).context("parse the report")?;
    let report = report.first().context("an empty report")?;
    let text = |path: &str| {
        let value = report.pointer(path).and_then(Value::as_str);
        value.with_context(|| format!("the report has no {path}"))
    };
    let (channel, mode) = (text("/gatewayAPIChannel")?, text("/mode")?);
    let version = text("/implementation/version")?;
    Ok(format!("{channel}-{version}-{mode}-report.yaml"))
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(20);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// The one test of the suite's program, and what its own are below.
const PARENT: &str = "TestMesh/";
const TWO_MINUTES: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests;
