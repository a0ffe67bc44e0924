//! `make conformance`: the official conformance suite of Gateway API, its
//! profiles of meshes, on a cluster in a box with Ambit, or on the cluster of
//! `KUBECONFIG`. `docs/conformance` has what comes of it.
#![allow(clippy::print_stdout, reason = "it talks to whoever typed the command")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ambit_e2e::kube::suite::{self, Output, Test, Verdict};
use ambit_e2e::kube::{Api, Cluster, ClusterOptions, Run, images, install, paths};
use anyhow::{Context, Result, ensure};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// One test only; nothing is published.
    #[arg(long)]
    test: Option<String>,
    /// Ambit and Gateway API's CRDs are there already.
    #[arg(long)]
    installed: bool,
    /// The box stays up, under the name `conformance`.
    #[arg(long)]
    keep: bool,
    /// Directory of the report of a run that is conformant.
    #[arg(long)]
    publish: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    #[allow(clippy::disallowed_methods, reason = "how it is told its cluster")]
    let given = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
    let started = Instant::now();
    if let Some(kubeconfig) = given {
        let api = Api::new(Path::new(&kubeconfig))?;
        return on(&api, arguments, started).await;
    }
    // Before anything is up: a missing program shows at once.
    let options = ClusterOptions {
        images: [images::of_ambit()?, images::of_suite()?].concat(),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start_in(Run::create("conformance")?, options).await?;
    println!("a cluster is ready after {} s", started.elapsed().as_secs());
    let outcome = on(cluster.api(), arguments, started).await;
    if arguments.keep {
        let kubeconfig = cluster.leave()?;
        println!("export KUBECONFIG={}", kubeconfig.display());
    }
    outcome
}

async fn on(api: &Api, arguments: &Arguments, started: Instant) -> Result<()> {
    if !arguments.installed {
        install::gateway_api(api).await?;
        install::ambit(api).await?;
        println!("Ambit is installed after {} s", started.elapsed().as_secs());
    }
    suite::prepare(api).await?;
    println!("its waypoints run after {} s", started.elapsed().as_secs());
    let dir = paths::base()?.join("conformance");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let (log, report) = (dir.join("suite.log"), dir.join("report.yaml"));
    let output = Output {
        log: &log,
        report: &report,
    };
    let begun = Instant::now();
    let only = arguments.test.as_deref();
    let tests = suite::run(api, only, &output, |name| println!("  {name}")).await?;
    println!("everything that it said: {}", log.display());
    if let Some(name) = only {
        let one = tests.iter().find(|test| test.name == name);
        let one = one.with_context(|| format!("{name} isn't a test of the suite"))?;
        table(&[one], begun.elapsed());
        ensure!(one.verdict == Verdict::Passed, "{name} didn't pass");
        return Ok(());
    }
    let mesh: Vec<&Test> = tests.iter().filter(|test| test.is_of_a_mesh()).collect();
    table(&mesh, begun.elapsed());
    println!("{} others need a gateway", tests.len() - mesh.len());
    let text = fs::read_to_string(&report).context("the suite wrote no report")?;
    let wrong = suite::complaints(&tests, &text)?;
    ensure!(
        wrong.is_empty(),
        "not conformant:\n  {}",
        wrong.join("\n  ")
    );
    let to = arguments.publish.clone().unwrap_or_else(published);
    fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    let name = suite::report_name(&text)?;
    fs::write(to.join(&name), &text)?;
    fs::write(to.join("tests.md"), suite::page(&tests, &text)?)?;
    println!("conformant: {}", to.join(name).display());
    Ok(())
}

fn table(tests: &[&Test], took: Duration) {
    // Cases that run side by side don't count: Go leaves them out.
    println!("\n{:<44} {:>8}  seconds", "test", "result");
    for test in tests {
        let result = match test.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Skipped(_) => "SKIPPED",
        };
        println!("{:<44} {result:>8}  {:>7}", test.name, test.seconds);
    }
    let passed = tests.iter().filter(|test| test.verdict == Verdict::Passed);
    println!(
        "{} of {} passed in {} s",
        passed.count(),
        tests.len(),
        took.as_secs()
    );
}

fn published() -> PathBuf {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR"));
    e2e.parent().unwrap_or(e2e).join("docs/conformance")
}
