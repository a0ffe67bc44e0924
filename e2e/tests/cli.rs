//! `ambit` on what really runs: a live proxy's dump, and broken manifests.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use ambit_e2e::Cluster;
use ambit_e2e::observe::echoes;
use ambit_e2e::scenario::on_shop;
use anyhow::{Context, Result, ensure};
use serde_json::json;

struct Run {
    code: i32,
    output: String,
    notes: String,
}

fn ambit(cluster: &Cluster, demo: &Path, arguments: &[&str]) -> Result<Run> {
    let output = Command::new(cluster.bin_dir().join("ambit"))
        .args(arguments)
        .env("AMBIT_DEMO_DIR", demo)
        .output()?;
    Ok(Run {
        code: output.status.code().context("ended by a signal")?,
        output: String::from_utf8(output.stdout)?,
        notes: String::from_utf8(output.stderr)?,
    })
}

/// A table, by cells; cells hold no spaces, and headers at most one in a row.
fn table(text: &str, columns: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut lines = text.lines();
    let header = lines.next().context("an empty table")?;
    let words =
        |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    ensure!(
        words(header) == words(&columns.join(" ")),
        "the header is {header:?}"
    );
    Ok(lines.map(words).collect())
}

fn row<'t>(table: &'t [Vec<String>], name: &str) -> Result<Vec<&'t str>> {
    let found = table.iter().find(|row| row.iter().any(|cell| cell == name));
    let found = found.with_context(|| format!("no row {name} in {table:?}"))?;
    Ok(found.iter().map(String::as_str).collect())
}

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-the-worker, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/worker]}}]}]
";

/// Gives the shop a policy and some traffic, and describes node-1 as a held
/// demo does.
async fn prepare(cluster: &mut Cluster) -> Result<()> {
    cluster.wait_shop().await?;
    cluster.apply(POLICY)?;
    cluster
        .wait_policy("node-1", "not-the-worker", true)
        .await?;
    let web = cluster.pod_ns("shop", "web-0")?;
    echoes(&web, cluster.service_addr("shop", "cart", 9000)?).await?;
    let nodes = demo(cluster).join("nodes");
    std::fs::create_dir_all(&nodes)?;
    let host = cluster.underlay.host("node-1")?;
    let entry = json!({"netns": host.ns_path(), "admin": "127.0.0.1:15000"});
    Ok(std::fs::write(
        nodes.join("node-1.json"),
        entry.to_string(),
    )?)
}

fn demo(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("demo")
}

/// What `ambit ztunnel-config` prints of node-1's proxy.
fn show(cluster: &Cluster, what: &str, more: &[&str]) -> Result<String> {
    let arguments = [&["ztunnel-config", what, "--node", "node-1"], more].concat();
    let run = ambit(cluster, &demo(cluster), &arguments)?;
    ensure!(run.code == 0, "{what}: {} {}", run.code, run.notes);
    Ok(run.output)
}

#[test]
fn ztunnel_config_shows_workloads_services_and_policies() {
    on_shop(
        "ztunnel-config shows what a proxy was told",
        async |cluster| {
            prepare(cluster).await?;
            let columns = [
                "NAMESPACE",
                "POD NAME",
                "ADDRESS",
                "NODE",
                "WAYPOINT",
                "PROTOCOL",
            ];
            let workloads = table(&show(cluster, "workload", &[])?, &columns)?;
            for (namespace, pod, node, protocol) in [
                ("shop", "cart-0", "node-2", "HBONE"),
                ("legacy", "batch-0", "node-1", "TCP"),
            ] {
                let ip = cluster.pod_addr(namespace, pod, 0)?.ip().to_string();
                let want = [namespace, pod, &ip, node, "None", protocol];
                let have = row(&workloads, pod)?;
                ensure!(have == want, "{have:?}, not {want:?}");
            }
            let columns = [
                "NAMESPACE",
                "SERVICE NAME",
                "SERVICE VIP",
                "WAYPOINT",
                "ENDPOINTS",
            ];
            let services = table(&show(cluster, "service", &[])?, &columns)?;
            let payments = row(&services, "payments")?;
            ensure!(
                payments == ["shop", "payments", "10.96.0.13", "None", "1/1"],
                "{payments:?}"
            );
            let columns = ["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"];
            let policies = table(&show(cluster, "policy", &[])?, &columns)?;
            let policy = row(&policies, "not-the-worker")?;
            ensure!(
                policy == ["shop", "not-the-worker", "Deny", "WorkloadSelector"],
                "{policy:?}"
            );
            Ok(())
        },
    );
}

#[test]
fn ztunnel_config_shows_the_certificates_of_a_nodes_pods() {
    on_shop("ztunnel-config shows certificates", async |cluster| {
        prepare(cluster).await?;
        let columns = [
            "CERTIFICATE NAME",
            "TYPE",
            "STATUS",
            "VALID CERT",
            "SERIAL NUMBER",
            "NOT AFTER",
            "NOT BEFORE",
        ];
        let certificates = table(&show(cluster, "certificate", &[])?, &columns)?;
        for account in ["web", "payments"] {
            let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
            let leaf = row(&certificates, &id)?;
            ensure!(
                leaf.len() == 7 && leaf[1..4] == ["Leaf", "Available", "true"],
                "{leaf:?}"
            );
            ensure!(
                u128::from_str_radix(leaf[4], 16).is_ok(),
                "a serial number in hex: {leaf:?}"
            );
            ensure!(leaf[5].ends_with('Z') && leaf[6] < leaf[5], "{leaf:?}");
            let root = certificates.iter().any(|r| r[0] == id && r[1] == "Root");
            ensure!(root, "no root of {id}");
        }
        // Cart is on the other node.
        let others = certificates.iter().any(|r| r[0].ends_with("/cart"));
        ensure!(!others, "{certificates:?}");
        Ok(())
    });
}

#[test]
fn ztunnel_config_shows_all_of_a_live_or_saved_dump() {
    on_shop("ztunnel-config shows all", async |cluster| {
        prepare(cluster).await?;
        let all = show(cluster, "all", &["--with-headers"])?;
        for part in [
            "WORKLOAD INFO",
            "SERVICE INFO",
            "POLICY INFO",
            "SECRET INFO",
            "CONNECTIONS INFO",
            "not-the-worker",
            "10.96.0.13",
            "spiffe://cluster.local/ns/shop/sa/web",
        ] {
            ensure!(all.contains(part), "no {part} in {all}");
        }
        let dump = cluster.config_dump("node-1").await?;
        let json: serde_json::Value =
            serde_json::from_str(&show(cluster, "policy", &["-o", "json"])?)?;
        ensure!(json == dump["policies"], "{json}");
        let saved = cluster.dir().join("dump.json");
        std::fs::write(&saved, dump.to_string())?;
        let saved = saved.to_string_lossy().into_owned();
        let run = ambit(
            cluster,
            &demo(cluster),
            &["zc", "workload", "--file", &saved],
        )?;
        let live = show(cluster, "workload", &[])?;
        ensure!(
            run.code == 0 && run.output == live,
            "{}{}",
            run.output,
            run.notes
        );
        Ok(())
    });
}

#[test]
fn analyze_exits_by_what_it_finds() {
    on_shop("analyze exits by what it finds", async |cluster| {
        let demo = cluster.dir().to_owned();
        let manifests = cluster.manifests.dir().to_string_lossy().into_owned();
        let analyze = |cluster: &Cluster, more: &[&str]| {
            ambit(cluster, &demo, &[&["analyze", &manifests], more].concat())
        };
        // What the demo runs on has no errors.
        let run = analyze(cluster, &[])?;
        ensure!(run.code == 0, "{}\n{}", run.output, run.notes);

        let broken = cluster.manifests.dir().join("broken.yaml");
        std::fs::write(
            &broken,
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: wrong, namespace: shop}\nspec:\n  selector: {matchLabels: {app: cart}}\n  action: DENY\n  rules:\n    - from: [{source: {ipBlocks: [10.0.0.0/99]}}]\n",
        )?;
        let run = analyze(cluster, &[])?;
        ensure!(
            run.code == 79,
            "{}: {}\n{}",
            run.code,
            run.output,
            run.notes
        );
        let said = format!("{}{}", run.output, run.notes);
        for part in [
            "AuthorizationPolicy wrong.shop",
            "broken.yaml:8",
            "10.0.0.0/99",
        ] {
            ensure!(said.contains(part), "no {part} in {said}");
        }
        // Only what concerns a namespace.
        ensure!(
            analyze(cluster, &["-n", "billing"])?.code == 0,
            "it isn't billing's"
        );
        ensure!(
            analyze(cluster, &["-n", "shop"])?.code == 79,
            "it is shop's"
        );

        std::fs::write(&broken, "kind: [Service\n")?;
        let run = analyze(cluster, &[])?;
        ensure!(
            run.code == 65,
            "{}: {}\n{}",
            run.code,
            run.output,
            run.notes
        );
        let run = analyze(cluster, &["--ignore-unknown"])?;
        ensure!(run.code == 0, "{}: {}\n{}", run.code, run.output, run.notes);
        std::fs::remove_file(&broken)?;
        ensure!(analyze(cluster, &[])?.code == 0, "repaired");
        ensure!(
            ambit(cluster, &demo, &["analyze", "no/such/directory"])?.code == 1,
            "a path that isn't there"
        );
        Ok(())
    });
}
