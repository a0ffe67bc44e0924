//! Two ztunnels on static configuration, with a node agent and a certificate
//! service that are not ours: what anybody can set up by hand.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

mod support;

use std::time::Duration;

use ambit_testkit::eventually;
use anyhow::{Context, Result};
use support::{Ips, Mesh, Options, exchange, outsider, pod};

const NODES: [(&str, &str); 3] = [("web", "n1"), ("cart", "n2"), ("vault", "n2")];

fn config(ips: &Ips) -> String {
    let workload = |(name, node): &(&str, &str)| {
        let policies = match *name {
            "vault" => "[istio-system/istio_converted_static_strict]",
            "cart" => "[shop/no-mallory]",
            _ => "[]",
        };
        format!(
            "- {{uid: 'Kubernetes//Pod/shop/{name}', name: {name}, namespace: shop, \
             serviceAccount: {name}, trustDomain: cluster.local, node: {node}, protocol: HBONE, \
             workloadIps: ['{}'], canonicalName: {name}, canonicalRevision: v1, \
             workloadName: {name}, clusterId: Kubernetes, \
             authorizationPolicies: {policies}, services: {{}}}}\n",
            ips[name]
        )
    };
    let mut workloads: String = NODES.iter().map(workload).collect();
    workloads.push_str(&workload(&("mallory", "n1")));
    format!(
        "workloads:\n{workloads}services: []\npolicies:\n\
         - {{name: istio_converted_static_strict, namespace: istio-system, \
            scope: WorkloadSelector, action: Deny, \
            rules: [[[{{notPrincipals: [{{Presence: []}}]}}]]]}}\n\
         - {{name: no-mallory, namespace: shop, scope: WorkloadSelector, action: Deny, \
            rules: [[[{{principals: [{{Exact: cluster.local/ns/shop/sa/mallory}}]}}]]]}}\n"
    )
}

async fn mesh(tag: &str) -> Result<Mesh> {
    mesh_with(tag, Vec::new()).await
}

async fn mesh_with(tag: &str, env: Vec<(&'static str, String)>) -> Result<Mesh> {
    let pods = [
        pod("web", "n1"),
        pod("mallory", "n1"),
        pod("cart", "n2"),
        pod("vault", "n2"),
        outsider("stranger", "n1"),
    ];
    Mesh::start(
        tag,
        &pods,
        Options {
            env,
            static_xds: Some(config),
            ..Options::default()
        },
    )
    .await
}

#[tokio::test]
async fn pods_talk_over_hbone_with_identities_policies_and_records() -> Result<()> {
    if !ambit_netns::require_privilege("pods talk over HBONE") {
        return Ok(());
    }
    let mesh = mesh("static").await?;
    hbone_carries_identities(&mesh).await?;
    a_policy_denies(&mesh).await?;
    strict_refuses_plaintext(&mesh).await?;
    // To the outside, and between pods of one node.
    assert_eq!(mesh.echo("web", "stranger").await?, mesh.ip("web"));
    assert_eq!(mesh.echo("cart", "vault").await?, mesh.ip("cart"));
    the_dump_shows_live_connections(&mesh).await
}

async fn hbone_carries_identities(mesh: &Mesh) -> Result<()> {
    let (n1, n2) = (mesh.node("n1"), mesh.node("n2"));
    assert_eq!(
        mesh.echo("web", "cart").await?,
        mesh.ip("web"),
        "the client's address is kept"
    );
    let to_cart = format!("dst.addr={}:15008", mesh.ip("cart"));
    let line = n1
        .logged(&["connection complete", "direction=\"outbound\"", &to_cart])
        .await?;
    for field in [
        "src.workload=\"web\"",
        "src.identity=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "dst.identity=\"spiffe://cluster.local/ns/shop/sa/cart\"",
        "bytes_sent=11 bytes_recv=75",
    ] {
        assert!(line.contains(field), "{field}\n{line}");
    }
    let line = n2
        .logged(&["connection complete", "direction=\"inbound\"", &to_cart])
        .await?;
    for field in [
        "src.identity=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "dst.workload=\"cart\"",
        "bytes_sent=75 bytes_recv=11",
    ] {
        assert!(line.contains(field), "{field}\n{line}");
    }
    for (node, reporter) in [(n1, "source"), (n2, "destination")] {
        let labels = [
            ("reporter", reporter),
            ("source_workload", "web"),
            ("destination_workload", "cart"),
            ("connection_security_policy", "mutual_tls"),
        ];
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 1),
            ("istio_tcp_connections_closed_total", 1),
            ("istio_tcp_received_bytes_total", 11),
            ("istio_tcp_sent_bytes_total", 75),
        ] {
            assert_eq!(
                node.metric(name, &labels).await?,
                value,
                "{name} {reporter}"
            );
        }
    }
    Ok(())
}

async fn a_policy_denies(mesh: &Mesh) -> Result<()> {
    let (n1, n2) = (mesh.node("n1"), mesh.node("n2"));
    mesh.refused("mallory", "cart").await?;
    let why = "connection closed due to policy rejection: explicitly denied by shop/no-mallory";
    n2.logged(&["connection complete", why]).await?;
    n1.logged(&["connection complete", "http status: 401 Unauthorized"])
        .await?;
    let denied = [("response_flags", "DENY"), ("source_workload", "mallory")];
    assert_eq!(
        n2.metric("istio_tcp_connections_closed_total", &denied)
            .await?,
        1
    );
    let connect = [
        ("response_flags", "CONNECT"),
        ("source_workload", "mallory"),
    ];
    assert_eq!(
        n1.metric("istio_tcp_connections_failed_total", &connect)
            .await?,
        1
    );
    let by_reason = [("reporter", "destination"), ("reason", "policy_denied")];
    assert_eq!(n2.metric("ambit_refusals_total", &by_reason).await?, 1);
    Ok(())
}

async fn strict_refuses_plaintext(mesh: &Mesh) -> Result<()> {
    assert_eq!(
        mesh.echo("stranger", "cart").await?,
        mesh.ip("stranger"),
        "PERMISSIVE"
    );
    mesh.refused("stranger", "vault").await?;
    let why = "explicitly denied by istio-system/istio_converted_static_strict";
    mesh.node("n2")
        .logged(&["connection complete", why])
        .await?;
    assert_eq!(mesh.echo("web", "vault").await?, mesh.ip("web"));
    Ok(())
}

async fn the_dump_shows_live_connections(mesh: &Mesh) -> Result<()> {
    let mut live = mesh.dial("web", "cart").await?;
    exchange(&mut live).await?;
    let (n1, n2) = (mesh.node("n1").dump().await?, mesh.node("n2").dump().await?);
    let cart = mesh.ip("cart");
    let out = &n1["workloadState"]["web"]["connections"]["outbound"][0];
    assert_eq!(out["originalDst"], format!("{cart}:8080"));
    assert_eq!(out["actualDst"], format!("{cart}:15008"));
    assert_eq!(out["protocol"], "HBONE");
    let state = &n2["workloadState"]["cart"];
    assert_eq!(state["state"], "Up");
    assert_eq!(state["info"]["serviceAccount"], "cart");
    assert_eq!(
        state["connections"]["inbound"][0]["actualDst"],
        format!("{cart}:8080")
    );
    for key in [
        "workloads",
        "services",
        "policies",
        "stagedServices",
        "staticConfig",
        "version",
    ] {
        assert!(n1.get(key).is_some(), "{key}");
    }
    assert_eq!(n1["config"]["localNode"], "n1");
    let ids: Vec<_> = n2["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["identity"].clone())
        .collect();
    assert_eq!(
        ids,
        [
            "spiffe://cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/vault"
        ],
        "only this node's"
    );
    // Bytes of connections that still run count.
    let labels = [("reporter", "source"), ("destination_workload", "cart")];
    let before = mesh
        .node("n1")
        .metric("istio_tcp_sent_bytes_total", &labels)
        .await?;
    exchange(&mut live).await?;
    let after = mesh
        .node("n1")
        .metric("istio_tcp_sent_bytes_total", &labels)
        .await?;
    assert_eq!(after - before, 75);
    Ok(())
}

/// Listeners close at once, an open connection goes on until its end, then the
/// process ends with 0.
#[tokio::test]
async fn a_drain_lets_open_connections_end() -> Result<()> {
    if !ambit_netns::require_privilege("a drain lets open connections end") {
        return Ok(());
    }
    let mut mesh = mesh("drain").await?;
    let mut open = mesh.dial("web", "cart").await?;
    exchange(&mut open).await?;
    let mut other = mesh.dial("stranger", "cart").await?;
    exchange(&mut other).await?;
    mesh.node("n2").post(15000, "/quitquitquit").await?;
    mesh.node("n2").logged(&["draining"]).await?;
    eventually("new connections are refused", async || {
        mesh.refused("web", "cart").await
    })
    .await?;
    exchange(&mut open).await?;
    exchange(&mut other).await?;
    drop((open, other));
    let n2 = mesh.nodes.get_mut("n2").unwrap();
    let status = eventually("the process ends", async || {
        n2.ztunnel.exited()?.context("still runs")
    })
    .await?;
    assert!(status.success(), "{status}");
    Ok(())
}

/// At the deadline of a drain what is open is cut, and says so.
#[tokio::test]
async fn a_drain_ends_at_its_deadline() -> Result<()> {
    if !ambit_netns::require_privilege("a drain ends at its deadline") {
        return Ok(());
    }
    let env = vec![("CONNECTION_TERMINATION_DEADLINE", "1s".to_owned())];
    let mut mesh = mesh_with("deadline", env).await?;
    let mut open = mesh.dial("web", "cart").await?;
    exchange(&mut open).await?;
    let n1 = mesh.nodes.get_mut("n1").unwrap();
    let status = n1.ztunnel.stop(Duration::from_secs(5))?;
    assert!(status.success(), "{status}");
    assert!(exchange(&mut open).await.is_err());
    n1.logged(&[
        "connection complete",
        "connection closed due to connection drain",
    ])
    .await?;
    Ok(())
}
