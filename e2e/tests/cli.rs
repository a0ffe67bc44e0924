//! `ambit` on what really runs: a live proxy's dump, and broken manifests.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

use std::path::Path;
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

#[test]
fn ztunnel_config_shows_what_a_live_proxy_holds() {
    on_shop("ztunnel-config shows a live proxy", async |cluster| {
        cluster.wait_shop().await?;
        cluster.apply(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-the-worker, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/worker]}}]}]
",
        )?;
        cluster
            .wait_policy("node-1", "not-the-worker", true)
            .await?;
        let web = cluster.pod_ns("shop", "web-0")?;
        echoes(&web, cluster.service_addr("shop", "cart", 9000)?).await?;
        let demo = cluster.dir().join("demo");
        std::fs::create_dir_all(demo.join("nodes"))?;
        let host = cluster.underlay.host("node-1")?;
        let entry = json!({"netns": host.ns_path(), "admin": "127.0.0.1:15000"});
        std::fs::write(demo.join("nodes/node-1.json"), entry.to_string())?;
        let show = |what: &str, more: &[&str]| -> Result<String> {
            let run = ambit(
                cluster,
                &demo,
                &[&["ztunnel-config", what, "--node", "node-1"], more].concat(),
            )?;
            ensure!(run.code == 0, "{what}: {} {}", run.code, run.notes);
            Ok(run.output)
        };

        let workloads = table(
            &show("workload", &[])?,
            &[
                "NAMESPACE",
                "POD NAME",
                "ADDRESS",
                "NODE",
                "WAYPOINT",
                "PROTOCOL",
            ],
        )?;
        let ip = |namespace: &str, pod: &str| {
            Ok::<_, anyhow::Error>(cluster.pod_addr(namespace, pod, 0)?.ip().to_string())
        };
        let cart = ip("shop", "cart-0")?;
        ensure!(row(&workloads, "cart-0")? == ["shop", "cart-0", &cart, "node-2", "None", "HBONE"]);
        let batch = ip("legacy", "batch-0")?;
        ensure!(
            row(&workloads, "batch-0")? == ["legacy", "batch-0", &batch, "node-1", "None", "TCP"]
        );

        let services = table(
            &show("service", &[])?,
            &[
                "NAMESPACE",
                "SERVICE NAME",
                "SERVICE VIP",
                "WAYPOINT",
                "ENDPOINTS",
            ],
        )?;
        ensure!(row(&services, "payments")? == ["shop", "payments", "10.96.0.13", "None", "1/1"]);

        let policies = table(
            &show("policy", &[])?,
            &["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"],
        )?;
        ensure!(
            row(&policies, "not-the-worker")?
                == ["shop", "not-the-worker", "Deny", "WorkloadSelector"]
        );

        let columns = [
            "CERTIFICATE NAME",
            "TYPE",
            "STATUS",
            "VALID CERT",
            "SERIAL NUMBER",
            "NOT AFTER",
            "NOT BEFORE",
        ];
        let certificates = table(&show("certificate", &[])?, &columns)?;
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
            let kinds: Vec<_> = certificates
                .iter()
                .filter(|r| r[0] == id)
                .map(|r| r[1].as_str())
                .collect();
            ensure!(kinds.contains(&"Root"), "{kinds:?}");
        }
        // Only of the pods of this node.
        ensure!(
            !certificates.iter().any(|r| r[0].ends_with("/cart")),
            "{certificates:?}"
        );

        let all = show("all", &["--with-headers"])?;
        for part in [
            "WORKLOAD INFO",
            "SERVICE INFO",
            "POLICY INFO",
            "SECRET INFO",
            "CONNECTIONS INFO",
            "not-the-worker",
            "10.96.0.13",
        ] {
            ensure!(all.contains(part), "no {part} in {all}");
        }
        // JSON is the dump itself; a saved dump says the same as the proxy.
        let dump = cluster.config_dump("node-1").await?;
        let policies: serde_json::Value = serde_json::from_str(&show("policy", &["-o", "json"])?)?;
        ensure!(policies == dump["policies"], "{policies}");
        let saved = cluster.dir().join("dump.json");
        std::fs::write(&saved, dump.to_string())?;
        let run = ambit(
            cluster,
            &demo,
            &["zc", "workload", "--file", &saved.to_string_lossy()],
        )?;
        ensure!(
            run.code == 0 && run.output == show("workload", &[])?,
            "{}",
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
