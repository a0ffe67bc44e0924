//! ServiceEntries as traffic: endpoints that are written out, selected
//! WorkloadEntries and pods, names that DNS knows; dialled by the node itself
//! and by a waypoint (`ztunnel-contract` 11.5: TestServiceEntry...,
//! TestWaypointDNS; `waypoint-contract` 3.5 subsets).

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ambit_e2e::http::{self, Ask, Echo};
use ambit_e2e::manifests::{Key, set_meta};
use ambit_e2e::{Cluster, Options, WaypointPod, WaypointProgram, observe, programs};
use ambit_testkit::{eventually, eventually_within};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{on, on_with};

/// An entry under test: dialled from `mesh/client`, which is in the mesh.
#[derive(Debug, Clone, Copy)]
struct Entry {
    namespace: &'static str,
    host: &'static str,
    vip: [u8; 4],
    /// That of its namespace.
    waypoint: bool,
}

/// In a namespace without a waypoint.
const DIRECT: Entry = Entry {
    namespace: "consumer",
    host: "direct.test",
    vip: [10, 96, 77, 1],
    waypoint: false,
};
const BEHIND: Entry = Entry {
    namespace: "mesh",
    host: "behind.test",
    vip: [10, 96, 77, 2],
    waypoint: true,
};

/// A pod in the mesh, and one that never was.
const CAPTURED: &str = "backends/app-0";
const UNCAPTURED: &str = "plain/client";

impl Entry {
    fn put(self, cluster: &mut Cluster, resolution: &str, members: &Value) -> Result<()> {
        let vip = self.vip.map(|byte| byte.to_string()).join(".");
        let mut entry = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "entry", "namespace": self.namespace},
            "spec": {
                "hosts": [self.host], "addresses": [vip], "resolution": resolution,
                "ports": [{"number": 80, "targetPort": 8080, "name": "http", "protocol": "HTTP"}],
            },
        });
        for (key, value) in members.as_object().into_iter().flatten() {
            entry["spec"][key] = value.clone();
        }
        cluster.manifests.put(entry)
    }

    async fn ask(self, cluster: &Cluster, ask: &Ask) -> Result<Echo> {
        let ns = cluster.pod_ns("mesh", "client")?;
        let reply = http::ask(&ns, (self.vip, 80).into(), &ask.clone().host(self.host)).await?;
        ensure!(reply.status == 200, "{}: {:?}", reply.status, reply.body);
        let echo = reply.echo()?;
        let passed = echo.header("x-request-id").is_some();
        ensure!(passed == self.waypoint, "by a waypoint: {passed}");
        ensure!(echo.host == self.host, "asked as {}", echo.host);
        Ok(echo)
    }

    /// Waits until these pods answer, all of them and nobody else.
    async fn answered_by(self, cluster: &Cluster, pods: &[&str]) -> Result<()> {
        self.answered(cluster, &Ask::get("/"), pods).await
    }

    async fn answered(self, cluster: &Cluster, ask: &Ask, pods: &[&str]) -> Result<()> {
        let pods: BTreeSet<_> = pods.iter().map(|&pod| pod.to_owned()).collect();
        let what = format!("{} is answered by {pods:?}", self.host);
        // Names are looked up again every few seconds.
        eventually_within(Duration::from_secs(40), &what, async || {
            let mut seen = BTreeSet::new();
            // That one of two is never chosen has a chance of 1e-12.
            for _ in 0..40 {
                let echo = self.ask(cluster, ask).await?;
                seen.insert(format!("{}/{}", echo.namespace, echo.pod));
            }
            ensure!(seen == pods, "by {seen:?}");
            Ok(())
        })
        .await
    }

    /// Routes by a header to subsets by the label `version`.
    async fn has_subsets(self, cluster: &mut Cluster) -> Result<()> {
        let metadata = json!({"name": "entry", "namespace": self.namespace});
        let subset = |version: &str| json!({"name": version, "labels": {"version": version}});
        let to = |version: &str| json!([{"destination": {"host": self.host, "subset": version}}]);
        cluster.manifests.put(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata,
            "spec": {"host": self.host, "subsets": [subset("v1"), subset("v2")]},
        }))?;
        cluster.manifests.put(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata,
            "spec": {"hosts": [self.host], "http": [
                {"match": [{"headers": {"x-version": {"exact": "v2"}}}], "route": to("v2")},
                {"route": to("v1")}]},
        }))?;
        self.answered_by(cluster, &[CAPTURED]).await?;
        let two = Ask::get("/").header("x-version", "v2");
        self.answered(cluster, &two, &[UNCAPTURED]).await
    }
}

fn ip(cluster: &Cluster, pod: &str) -> Result<String> {
    let (namespace, name) = pod.split_once('/').context("namespace/name")?;
    Ok(cluster.pod_addr(namespace, name, 0)?.ip().to_string())
}

#[test]
fn endpoints_that_are_written_out_are_dialled() {
    on("inlined endpoints", async |cluster| {
        let (captured, uncaptured) = (ip(cluster, CAPTURED)?, ip(cluster, UNCAPTURED)?);
        let one = json!({"address": captured, "labels": {"version": "v1"}});
        let two = json!({"address": uncaptured, "labels": {"version": "v2"}});
        for entry in [DIRECT, BEHIND] {
            entry.put(cluster, "STATIC", &json!({"endpoints": [one, two]}))?;
            entry.answered_by(cluster, &[CAPTURED, UNCAPTURED]).await?;
        }
        BEHIND.has_subsets(cluster).await?;
        // Labels alone change: the subset that loses its endpoint is empty.
        let other = json!({"address": uncaptured, "labels": {"version": "v3"}});
        BEHIND.put(cluster, "STATIC", &json!({"endpoints": [one, other]}))?;
        eventually("nobody is v2", async || {
            let two = Ask::get("/").header("x-version", "v2").host(BEHIND.host);
            let ns = cluster.pod_ns("mesh", "client")?;
            let reply = http::ask(&ns, (BEHIND.vip, 80).into(), &two).await?;
            ensure!(reply.status == 503, "{}", reply.status);
            Ok(())
        })
        .await?;
        for entry in [DIRECT, BEHIND] {
            entry.put(cluster, "STATIC", &json!({"endpoints": [one]}))?;
            entry.answered_by(cluster, &[CAPTURED]).await?;
        }
        Ok(())
    });
}

#[test]
fn workload_entries_that_are_selected_are_dialled() {
    on("selected WorkloadEntries", async |cluster| {
        let selector = json!({"workloadSelector": {"labels": {"app": "vm"}}});
        for entry in [DIRECT, BEHIND] {
            for (name, pod, version) in [("one", CAPTURED, "v1"), ("two", UNCAPTURED, "v2")] {
                // Labels of both places count, and the metadata's win.
                cluster.manifests.put(json!({
                    "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
                    "metadata": {"name": name, "namespace": entry.namespace, "labels": {"version": version}},
                    "spec": {"address": ip(cluster, pod)?, "labels": {"app": "vm", "version": "v0"}},
                }))?;
            }
            entry.put(cluster, "STATIC", &selector)?;
            entry.answered_by(cluster, &[CAPTURED, UNCAPTURED]).await?;
        }
        BEHIND.has_subsets(cluster).await?;
        cluster.delete("VirtualService", "mesh", "entry")?;
        for entry in [DIRECT, BEHIND] {
            let key = Key::new("WorkloadEntry", entry.namespace, "one");
            cluster.manifests.edit(&key, |one| {
                set_meta(one, "labels", "app", Some("other"));
            })?;
            entry.answered_by(cluster, &[UNCAPTURED]).await?;
        }
        Ok(())
    });
}

#[test]
fn pods_that_are_selected_are_dialled_as_what_they_are() {
    on("selected pods", async |cluster| {
        let selects = |app: &str| json!({"workloadSelector": {"labels": {"app": app}}});
        let entry = |namespace, last, waypoint| Entry {
            namespace,
            host: "selected.test",
            vip: [10, 96, 77, last],
            waypoint,
        };
        // By the node: in the mesh over HBONE, with both identities; outside in the clear.
        let (outside, inside) = (entry("plain", 3, false), entry("backends", 4, false));
        outside.put(cluster, "STATIC", &selects("client"))?;
        outside.answered_by(cluster, &[UNCAPTURED]).await?;
        inside.put(cluster, "STATIC", &selects("app"))?;
        inside.answered_by(cluster, &[CAPTURED]).await?;
        let client = ("src.workload", "client");
        let identity = ("dst.identity", "spiffe://cluster.local/ns/backends/sa/app");
        eventually("records say so", async || {
            let to = |namespace| {
                [
                    client,
                    ("dst.namespace", namespace),
                    ("direction", "outbound"),
                ]
            };
            let outside = cluster.access("node-1", &to("plain"))?;
            let inside = cluster.access("node-1", &to("backends"))?;
            ensure!(!outside.is_empty() && !inside.is_empty(), "no record");
            let mutual = |line: &observe::Line| observe::has(line, &[identity]);
            ensure!(inside.iter().all(mutual), "{inside:?}");
            let named = outside.iter().any(|line| line.contains_key("dst.identity"));
            ensure!(!named, "{outside:?}");
            Ok(())
        })
        .await?;
        // By a waypoint: one of its namespace that stays outside of the mesh.
        let mut pod = observe::pod("mesh", "left-0", "node-1", &[]);
        set_meta(&mut pod, "labels", "istio.io/dataplane-mode", Some("none"));
        cluster.run_pod(pod).await?;
        BEHIND.put(cluster, "STATIC", &selects("left"))?;
        BEHIND.answered_by(cluster, &["mesh/left-0"]).await?;
        cluster.delete_pod("mesh", "left-0").await?;
        BEHIND.put(cluster, "STATIC", &selects("echo"))?;
        BEHIND
            .answered_by(cluster, &["mesh/echo-v1-0", "mesh/echo-v2-0"])
            .await
    });
}

/// Names that only the waypoint's resolver knows: in a hosts file of its own.
#[test]
fn a_waypoint_looks_names_up_and_follows_them() {
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let mut options = Options::shop();
    options.scenario = programs::scenarios().join("conformance");
    options.waypoint_program = Some(with_hosts(hosts.path()));
    on_with("names", options, async |cluster| {
        let hosts = hosts.path();
        let knows = |cluster: &Cluster, pod: &str| -> Result<()> {
            let ip = ip(cluster, pod)?;
            std::fs::write(hosts, format!("{ip} named.test behind.test\n"))?;
            Ok(())
        };
        // An endpoint by its name; and none, where the host itself is looked up.
        let named = json!({"endpoints": [{"address": "named.test"}]});
        for members in [named, json!({})] {
            knows(cluster, UNCAPTURED)?;
            BEHIND.put(cluster, "DNS", &members)?;
            BEHIND.answered_by(cluster, &[UNCAPTURED]).await?;
            knows(cluster, CAPTURED)?;
            BEHIND.answered_by(cluster, &[CAPTURED]).await?;
        }
        // What was known stays while a name doesn't resolve.
        std::fs::write(hosts, "")?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        BEHIND.answered_by(cluster, &[CAPTURED]).await
    });
}

/// Our waypoint, with a file of the test's in the place of `/etc/hosts`.
fn with_hosts(file: &std::path::Path) -> WaypointProgram {
    let file = file.to_owned();
    WaypointProgram(Arc::new(move |pod: &WaypointPod| {
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$1\" /etc/hosts && exec \"$2\" proxy waypoint";
        command.args(["--mount", "sh", "-c", script, "sh"]);
        command
            .arg(&file)
            .arg(programs::bin_dir()?.join("waypoint"));
        command.envs(&pod.environment).current_dir(&pod.dir);
        Ok(Some(command))
    }))
}
