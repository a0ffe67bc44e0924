//! Pods join the mesh and leave it while they run, and while others talk to
//! them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

use std::cell::Cell;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use ambit_e2e::manifests::{Key, set_meta};
use ambit_e2e::observe::{Trace, echoes, pod, still_echoes, wait_cut, wait_echo};
use ambit_e2e::scenario::{on, on_shop};
use ambit_e2e::{Cluster, Options};
use ambit_netns::NetNs;
use ambit_testkit::capture::Capture;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::json;

const LABEL: &str = "dataplane-mode";
const ISTIO_LABEL: &str = "istio.io/dataplane-mode";

async fn wait_both(cluster: &Cluster, namespace: &str, pod: &str, want: &str) -> Result<()> {
    for node in cluster.node_names() {
        cluster.wait_protocol(node, namespace, pod, want).await?;
    }
    Ok(())
}

fn label_pod(
    cluster: &mut Cluster,
    namespace: &str,
    pod: &str,
    key: &str,
    value: Option<&str>,
) -> Result<()> {
    cluster
        .manifests
        .edit(&Key::new("Pod", namespace, pod), |pod| {
            set_meta(pod, "labels", key, value)
        })
}

/// Waits until nothing of the mesh is in a namespace: it is as it was.
async fn wait_no_trace(ns: &NetNs, before: &Trace) -> Result<()> {
    eventually("no trace is left", async || {
        let now = Trace::of(ns).await?;
        ensure!(now == *before, "{now:#?} isn't {before:#?}");
        Ok(())
    })
    .await
}

#[test]
fn a_namespace_joins_and_leaves_while_outsiders_connections_go_on() {
    on_shop("a namespace joins and leaves", async |cluster| {
        cluster.wait_shop().await?;
        let outside = cluster.pod_ns("legacy", "batch-0")?;
        let invoices = cluster.pod_ns("billing", "invoices-0")?;
        let target = cluster.pod_addr("billing", "invoices-0", 9000)?;
        let trace = Trace::of(&invoices).await?;
        let mut before = client::connect(&outside, target).await?;
        // And one that the pod itself has opened.
        let mut own =
            client::connect(&invoices, cluster.pod_addr("legacy", "batch-0", 9000)?).await?;
        still_echoes(&mut before).await?;
        still_echoes(&mut own).await?;

        cluster.label_namespace("billing", LABEL, Some("ambient"))?;
        wait_both(cluster, "billing", "invoices-0", "HBONE").await?;
        let enrolled = Trace::of(&invoices).await?;
        for port in [15001, 15006, 15008] {
            ensure!(enrolled.listening.contains(&port), "{enrolled:?}");
        }
        still_echoes(&mut before)
            .await
            .context("opened before, after joining")?;
        still_echoes(&mut own)
            .await
            .context("its own, after joining")?;
        let mut during = client::connect(&outside, target).await?;
        still_echoes(&mut during).await?;
        let web = cluster.pod_ns("shop", "web-0")?;
        echoes(&web, cluster.service_addr("billing", "invoices", 9000)?).await?;
        let carried = [
            ("src.workload", "web-0"),
            ("dst.workload", "invoices-0"),
            (
                "dst.identity",
                "spiffe://cluster.local/ns/billing/sa/invoices",
            ),
        ];
        eventually("it is carried by mutual TLS", async || {
            ensure!(
                cluster.access("node-1", &carried)?.len() == 1,
                "not at the source"
            );
            ensure!(
                cluster.access("node-2", &carried)?.len() == 1,
                "not at the destination"
            );
            Ok(())
        })
        .await?;

        cluster.label_namespace("billing", LABEL, None)?;
        wait_both(cluster, "billing", "invoices-0", "TCP").await?;
        echoes(&web, cluster.service_addr("billing", "invoices", 9000)?).await?;
        for (what, live) in [
            ("before", &mut before),
            ("its own", &mut own),
            ("during", &mut during),
        ] {
            still_echoes(live)
                .await
                .with_context(|| format!("{what}, after leaving"))?;
        }
        // New connections go direct at once, though one is still carried.
        let mut after = client::connect(&outside, target).await?;
        still_echoes(&mut after).await?;
        let passed = [("src.workload", "batch-0"), ("dst.workload", "invoices-0")];
        drop(during);
        eventually("the one that was carried has its record", async || {
            ensure!(
                cluster.access("node-2", &passed)?.len() == 1,
                "{:?}",
                cluster.access("node-2", &passed)?
            );
            Ok(())
        })
        .await?;
        wait_no_trace(&invoices, &trace).await?;
        for live in [&mut before, &mut own, &mut after] {
            still_echoes(live).await.context("at the very end")?;
        }
        Ok(())
    });
}

#[test]
fn live_connections_are_ended_at_the_bound_and_no_trace_is_left() {
    let mut options = Options::shop();
    options.drain_bound = Duration::from_secs(3);
    on(
        "live connections are ended at the bound",
        options,
        async |cluster| {
            cluster.wait_shop().await?;
            let invoices = cluster.pod_ns("billing", "invoices-0")?;
            let trace = Trace::of(&invoices).await?;
            cluster.label_namespace("billing", LABEL, Some("ambient"))?;
            wait_both(cluster, "billing", "invoices-0", "HBONE").await?;
            let (web, batch) = (
                cluster.pod_ns("shop", "web-0")?,
                cluster.pod_ns("legacy", "batch-0")?,
            );
            let target = cluster.pod_addr("billing", "invoices-0", 9000)?;
            let mut carried = [
                client::connect(&web, target).await?,
                client::connect(&batch, target).await?,
                client::connect(&invoices, cluster.pod_addr("shop", "cart-0", 9000)?).await?,
            ];
            for live in &mut carried {
                still_echoes(live).await?;
            }
            cluster.label_namespace("billing", LABEL, None)?;
            wait_both(cluster, "billing", "invoices-0", "TCP").await?;
            for live in &mut carried {
                still_echoes(live).await.context("served until the bound")?;
            }
            for live in &mut carried {
                wait_cut(live).await.context("ended at the bound")?;
            }
            wait_no_trace(&invoices, &trace).await?;
            echoes(&batch, target).await.context("direct")?;
            echoes(&web, target).await.context("direct, from the mesh")
        },
    );
}

#[test]
fn a_label_alone_never_makes_a_pod_hbone() {
    on_shop("a label alone never makes a pod HBONE", async |cluster| {
        cluster.wait_shop().await?;
        cluster.agent("node-2")?.kill()?;
        cluster.label_namespace("billing", LABEL, Some("ambient"))?;
        cluster.label_namespace("billing", ISTIO_LABEL, Some("ambient"))?;
        // Nor does an annotation that anybody can write.
        cluster
            .manifests
            .edit(&Key::new("Pod", "billing", "invoices-0"), |pod| {
                set_meta(
                    pod,
                    "annotations",
                    "ambient.istio.io/redirection",
                    Some("enabled"),
                );
            })?;
        cluster.wait_config("the-labels-are-known").await?;
        let target = cluster.pod_addr("billing", "invoices-0", 9000)?;
        let (web, batch) = (
            cluster.pod_ns("shop", "web-0")?,
            cluster.pod_ns("legacy", "batch-0")?,
        );
        for node in ["node-1", "node-2"] {
            let protocol = cluster.protocol(node, "billing", "invoices-0").await?;
            ensure!(protocol == "TCP", "{node} takes it for {protocol}");
        }
        for from in [&web, &batch] {
            echoes(from, target)
                .await
                .context("it is reachable as before")?;
        }
        eventually("the annotation is a diagnostic", async || {
            ensure!(
                cluster.statusz().await?.to_string().contains("AMB0203"),
                "not yet"
            );
            Ok(())
        })
        .await?;
        // With an agent it is enrolled.
        cluster.start_agent("node-2")?;
        wait_both(cluster, "billing", "invoices-0", "HBONE").await?;
        for from in [&web, &batch] {
            echoes(from, target).await.context("enrolled")?;
        }
        Ok(())
    });
}

#[test]
fn a_pods_label_wins_over_its_namespaces() {
    on_shop("a pod's label wins over its namespace's", async |cluster| {
        cluster.wait_shop().await?;
        let (web, batch) = (
            cluster.pod_ns("shop", "web-0")?,
            cluster.pod_ns("legacy", "batch-0")?,
        );
        let catalog = cluster.pod_addr("shop", "catalog-0", 9000)?;
        let invoices = cluster.pod_addr("billing", "invoices-0", 9000)?;
        // Out of an enrolled namespace, and into the mesh from one that isn't.
        label_pod(cluster, "shop", "catalog-0", LABEL, Some("none"))?;
        label_pod(
            cluster,
            "billing",
            "invoices-0",
            ISTIO_LABEL,
            Some("ambient"),
        )?;
        wait_both(cluster, "shop", "catalog-0", "TCP").await?;
        wait_both(cluster, "billing", "invoices-0", "HBONE").await?;
        wait_both(cluster, "shop", "cart-0", "HBONE").await?;
        for from in [&web, &batch] {
            echoes(from, catalog).await?;
            echoes(from, invoices).await?;
        }
        // Without them the namespaces' count again.
        label_pod(cluster, "shop", "catalog-0", LABEL, None)?;
        label_pod(cluster, "billing", "invoices-0", ISTIO_LABEL, None)?;
        wait_both(cluster, "shop", "catalog-0", "HBONE").await?;
        wait_both(cluster, "billing", "invoices-0", "TCP").await?;
        for from in [&web, &batch] {
            echoes(from, catalog).await?;
            echoes(from, invoices).await?;
        }
        Ok(())
    });
}

#[test]
fn on_one_object_the_istio_label_wins_and_the_disagreement_is_said() {
    on_shop("the istio label wins on one object", async |cluster| {
        cluster.wait_shop().await?;
        let said = async |cluster: &Cluster, object: &str| {
            let (kind, name) = object.split_once(' ').context("a kind and a name")?;
            eventually(&format!("{object} disagrees with itself"), async || {
                let page = cluster.statusz().await?;
                let all = page["diagnostics"].as_array().context("no diagnostics")?;
                let found = all.iter().find(|d| {
                    d["code"] == "AMB0201" && d["key"]["kind"] == kind && d["key"]["name"] == name
                });
                let found = found.with_context(|| format!("{all:#?}"))?;
                ensure!(
                    found["remedy"].is_string() && found["origin"]["line"].as_u64() > Some(0),
                    "{found}"
                );
                Ok(())
            })
            .await
        };
        // A namespace.
        cluster.label_namespace("billing", ISTIO_LABEL, Some("ambient"))?;
        cluster.label_namespace("billing", LABEL, Some("none"))?;
        wait_both(cluster, "billing", "invoices-0", "HBONE").await?;
        said(cluster, "Namespace billing").await?;
        // A pod.
        label_pod(cluster, "shop", "catalog-0", ISTIO_LABEL, Some("none"))?;
        label_pod(cluster, "shop", "catalog-0", LABEL, Some("ambient"))?;
        wait_both(cluster, "shop", "catalog-0", "TCP").await?;
        said(cluster, "Pod catalog-0").await?;
        // Agreement resolves it.
        cluster.label_namespace("billing", LABEL, Some("ambient"))?;
        label_pod(cluster, "shop", "catalog-0", LABEL, None)?;
        eventually("both are resolved", async || {
            ensure!(
                !cluster.statusz().await?.to_string().contains("AMB0201"),
                "still said"
            );
            Ok(())
        })
        .await
    });
}

#[test]
fn flushed_rules_are_repaired() {
    on_shop("flushed rules are repaired", async |cluster| {
        cluster.wait_shop().await?;
        let cart = cluster.pod_ns("shop", "cart-0")?;
        let before = Trace::of(&cart).await?;
        ensure!(
            !before.ruleset.is_empty() && !before.rules.is_empty() && !before.routes.is_empty(),
            "{before:?}"
        );
        let mut live = client::connect(
            &cluster.pod_ns("shop", "web-0")?,
            cluster.pod_addr("shop", "cart-0", 9000)?,
        )
        .await?;
        still_echoes(&mut live).await?;
        let flush =
            cart.run_on_thread(|| Command::new("nft").args(["flush", "ruleset"]).status())??;
        ensure!(flush.success(), "nft: {flush}");
        let same = async || {
            let now = Trace::of(&cart).await?;
            // Counters count on.
            ensure!(
                shape(&now.ruleset) == shape(&before.ruleset),
                "{}",
                now.ruleset
            );
            ensure!(
                (&now.rules, &now.routes) == (&before.rules, &before.routes),
                "{now:?}"
            );
            Ok(())
        };
        eventually("the rules are back", same).await?;
        still_echoes(&mut live)
            .await
            .context("a connection that was there")?;
        // Only a part of them, and the routing beside them.
        let part = cart.run_on_thread(|| {
            Command::new("nft")
                .args(["delete", "table", "inet", "istio-ambient-mangle"])
                .status()
        })??;
        ensure!(part.success(), "nft: {part}");
        let netlink = ambit_netns::Netlink::in_ns(&cart)?;
        for rule in netlink.mark_rules().await? {
            netlink.del_mark_rule(rule).await?;
        }
        netlink.flush_table(100).await?;
        eventually("they are back again", same).await?;
        wait_echo(
            "and it works",
            &cluster.pod_ns("legacy", "batch-0")?,
            cluster.pod_addr("shop", "cart-0", 9000)?,
        )
        .await?;
        still_echoes(&mut live)
            .await
            .context("a connection that was there")
    });
}

/// A ruleset without its counters' values and handles.
fn shape(ruleset: &str) -> Vec<String> {
    let words = ruleset.lines().map(|line| {
        let words = line.split_whitespace();
        let plain = words.filter(|w| !w.chars().all(|c| c.is_ascii_digit()));
        plain.collect::<Vec<_>>().join(" ")
    });
    words.collect()
}

#[test]
fn a_starting_pods_very_first_connection_is_carried() {
    on_shop("a starting pod is held", async |cluster| {
        cluster.wait_shop().await?;
        let node = cluster.underlay.host("node-1")?;
        let capture = Capture::start(node.ns(), cluster.uplink("node-1").await?)?;
        // Several, so that an order of events that is only likely would show.
        let mut apps = Vec::new();
        for number in 0..4 {
            let name = format!("early-{number}");
            let hello = format!("--hello={}", cluster.pod_addr("shop", "cart-0", 9000)?);
            cluster
                .run_pod(pod("shop", &name, "node-1", &[&hello]))
                .await?;
            apps.push(name);
        }
        for name in &apps {
            let first = [("direction", "outbound"), ("src.workload", name.as_str())];
            let line = eventually("its first connection has a record", async || {
                let lines = cluster.access("node-1", &first)?;
                lines.first().cloned().context("not yet")
            })
            .await?;
            ensure!(
                line["src.identity"] == "spiffe://cluster.local/ns/shop/sa/early",
                "{line:?}"
            );
            ensure!(
                line["dst.workload"] == "cart-0" && !line.contains_key("error"),
                "{line:?}"
            );
        }
        let seen = capture.stop()?;
        ensure!(seen.bytes_with_port(15008) > 0, "nothing was captured");
        ensure!(
            !seen.contains(b"my very first connection"),
            "it went in the clear"
        );
        Ok(())
    });
}

/// What a client that dials all the time has seen.
#[derive(Debug, Default)]
struct Seen {
    answered: u32,
    slowest: Duration,
    failed: Vec<String>,
}

/// How long the dialling goes on after each change: an enrolment may take a
/// hundredth of a second, and what a client sees just after it counts as well.
const SETTLED: Duration = Duration::from_millis(250);

/// Dials every 20 ms until it is over; each attempt is on its own.
async fn dial_all_the_time(from: &NetNs, to: SocketAddr, over: &Cell<bool>) -> Result<Seen> {
    use futures::StreamExt;
    let mut seen = Seen::default();
    let mut pending = futures::stream::FuturesUnordered::new();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let attempt = async || {
        let began = Instant::now();
        let result = echoes(from, to).await;
        (began.elapsed(), result)
    };
    loop {
        let ended = tokio::select! {
            _ = pace.tick(), if !over.get() => {
                pending.push(attempt());
                continue;
            }
            ended = pending.next(), if !pending.is_empty() => ended,
        };
        match ended {
            Some((took, Ok(()))) => {
                seen.answered += 1;
                seen.slowest = seen.slowest.max(took);
            }
            Some((took, Err(error))) => {
                let nth = seen.answered + 1;
                seen.failed
                    .push(format!("number {nth}, after {took:?}: {error:#}"));
            }
            None => {}
        }
        if over.get() && pending.is_empty() {
            return Ok(seen);
        }
    }
}

#[test]
fn joining_and_leaving_refuse_nothing_and_drop_nothing() {
    on_shop("joining and leaving have no window", async |cluster| {
        cluster.wait_shop().await?;
        let invoices = cluster.pod_ns("billing", "invoices-0")?;
        let target = cluster.pod_addr("billing", "invoices-0", 9000)?;
        let (web, worker) = (
            cluster.pod_ns("shop", "web-0")?,
            cluster.pod_ns("shop", "worker-0")?,
        );
        let batch = cluster.pod_ns("legacy", "batch-0")?;
        let service = cluster.service_addr("billing", "invoices", 9000)?;
        let cart = cluster.service_addr("shop", "cart", 9000)?;
        let over = Cell::new(false);
        let change = async {
            for _ in 0..2 {
                cluster.label_namespace("billing", LABEL, Some("ambient"))?;
                wait_both(cluster, "billing", "invoices-0", "HBONE").await?;
                tokio::time::sleep(SETTLED).await;
                cluster.label_namespace("billing", LABEL, None)?;
                wait_both(cluster, "billing", "invoices-0", "TCP").await?;
                tokio::time::sleep(SETTLED).await;
            }
            over.set(true);
            Ok::<_, anyhow::Error>(())
        };
        // In: from the mesh, across nodes and on one; from outside. Out: to the mesh.
        let (_, a, b, c, d) = tokio::try_join!(
            change,
            dial_all_the_time(&web, service, &over),
            dial_all_the_time(&worker, target, &over),
            dial_all_the_time(&batch, target, &over),
            dial_all_the_time(&invoices, cart, &over),
        )?;
        for (who, seen) in [("web", a), ("worker", b), ("batch", c), ("invoices", d)] {
            ensure!(seen.failed.is_empty(), "{who}: {seen:?}");
            ensure!(seen.answered > 20, "{who} hardly dialled: {seen:?}");
            // Linux sends a SYN again after 1 s, then after 3 s in all: who had to
            // send it twice more was dropped for longer than one retransmission.
            ensure!(seen.slowest < Duration::from_secs(3), "{who}: {seen:?}");
        }
        Ok(())
    });
}

#[test]
fn once_enrolled_nothing_goes_in_the_clear() {
    on_shop("once enrolled nothing goes in the clear", async |cluster| {
        cluster.wait_shop().await?;
        let (web, invoices) = (
            cluster.pod_ns("shop", "web-0")?,
            cluster.pod_ns("billing", "invoices-0")?,
        );
        let there = cluster.service_addr("billing", "invoices", 9000)?;
        let back = cluster.service_addr("shop", "payments", 9000)?;
        cluster.label_namespace("billing", LABEL, Some("ambient"))?;
        wait_both(cluster, "billing", "invoices-0", "HBONE").await?;
        let node = cluster.underlay.host("node-1")?;
        let capture = Capture::start(node.ns(), cluster.uplink("node-1").await?)?;
        for _ in 0..20 {
            echoes(&web, there).await?;
            echoes(&invoices, back).await?;
        }
        let seen = capture.stop()?;
        ensure!(seen.bytes_with_port(15008) > 0, "nothing was captured");
        ensure!(seen.not_tls().is_empty(), "{:?}", seen.not_tls());
        ensure!(!seen.contains(b"are you there"), "it is readable");
        Ok(())
    });
}

#[test]
fn what_may_never_be_enrolled_isnt() {
    on_shop("what may never be enrolled isn't", async |cluster| {
        cluster.wait_shop().await?;
        let mut sidecar = pod("shop", "sidecar-0", "node-1", &[]);
        sidecar["metadata"]["annotations"] = json!({"sidecar.istio.io/status": "{}"});
        cluster.run_pod(sidecar).await?;
        cluster.wait_config("the-sidecar-is-known").await?;
        wait_both(cluster, "shop", "sidecar-0", "TCP").await?;
        let ns = cluster.pod_ns("shop", "sidecar-0")?;
        ensure!(Trace::of(&ns).await?.ruleset.is_empty(), "it is redirected");
        let cart = cluster.pod_addr("shop", "cart-0", 9000)?;
        echoes(&ns, cart).await
    });
}
