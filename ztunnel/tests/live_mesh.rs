//! Two ztunnels whose configuration changes while they run, and whose control
//! plane and certificate service come and go.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use ambit_redirect::zds::ProxyState;
use ambit_testkit::eventually;
use anyhow::{Result, ensure};
use support::control::deny;
use support::{
    Ips, Mesh, Options, PodSpec, Published, exchange, outsider, pod, share_account, workload,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const PODS: [PodSpec; 3] = [
    pod("web", "n1"),
    pod("cart", "n2"),
    outsider("stranger", "n1"),
];

fn open_mesh(ips: &Ips) -> Published {
    let workloads = PODS
        .iter()
        .filter(|pod| pod.enrolled)
        .map(|pod| workload(pod, ips[pod.name]));
    (workloads.collect(), Vec::new())
}

async fn mesh(tag: &str, pods: &[PodSpec], env: Vec<(&'static str, String)>) -> Result<Mesh> {
    let published = Some(open_mesh as fn(&Ips) -> Published);
    Mesh::start(
        tag,
        pods,
        Options {
            env,
            published,
            ..Options::default()
        },
    )
    .await
}

async fn ended(stream: &mut TcpStream) -> Result<()> {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    // A reset is an end as well.
    ensure!(read.is_ok(), "the connection lives on");
    Ok(())
}

#[tokio::test]
async fn policy_closes_what_it_turns_against() -> Result<()> {
    if !ambit_netns::require_privilege("policy closes live connections") {
        return Ok(());
    }
    let mut mesh = mesh("policy", &PODS, Vec::new()).await?;
    let ips: Ips = PODS
        .iter()
        .map(|pod| (pod.name, mesh.ip(pod.name)))
        .collect();
    let (workloads, _) = open_mesh(&ips);
    let mut hbone = mesh.dial("web", "cart").await?;
    let mut plain = mesh.dial("stranger", "cart").await?;
    exchange(&mut hbone).await?;
    exchange(&mut plain).await?;

    // The workload's list of policies changes: the policy is new and so is the list.
    let mut listed = workloads.clone();
    listed[1].authorization_policies = vec!["shop/no-web".to_owned()];
    let policy = deny("no-web", "cluster.local/ns/shop/sa/web");
    mesh.discovery.as_mut().unwrap().publish(&listed, &[policy]);
    ended(&mut hbone).await?;
    exchange(&mut plain).await?;
    let n2 = mesh.node("n2");
    n2.logged(&[
        "connection complete",
        "connection closed due to policy change",
    ])
    .await?;
    let denied = [("response_flags", "DENY"), ("source_workload", "web")];
    assert_eq!(
        n2.metric("istio_tcp_connections_closed_total", &denied)
            .await?,
        1
    );
    mesh.refused("web", "cart").await?;

    // Off the list, and back on it: only the list changes.
    mesh.discovery.as_mut().unwrap().publish(&workloads, &[]);
    eventually("web is let in again", async || {
        mesh.echo("web", "cart").await
    })
    .await?;
    let mut hbone = mesh.dial("web", "cart").await?;
    exchange(&mut hbone).await?;
    mesh.discovery.as_mut().unwrap().publish(&listed, &[]);
    ended(&mut hbone).await?;

    // The policy's content changes: now everybody without an identity is out.
    let mut everybody = deny("no-web", "");
    everybody.rules.clear();
    everybody.rules.push(ambit_proto::security::Rule::default());
    mesh.discovery
        .as_mut()
        .unwrap()
        .publish(&listed, &[everybody]);
    ended(&mut plain).await
}

#[tokio::test]
async fn a_control_plane_may_be_away() -> Result<()> {
    if !ambit_netns::require_privilege("a control plane may be away") {
        return Ok(());
    }
    let pods = [PODS[0], PODS[1], PODS[2], outsider("web-2", "n1")];
    let mut mesh = mesh("away", &pods, Vec::new()).await?;
    let mut open = mesh.dial("web", "cart").await?;
    exchange(&mut open).await?;
    mesh.discovery.as_mut().unwrap().leave().await;

    // What was known goes on.
    exchange(&mut open).await?;
    assert_eq!(mesh.echo("web", "cart").await?, mesh.ip("web"));

    // A new pod of a known identity dials out, and takes nothing in.
    let new = PodSpec {
        enrolled: true,
        ..share_account("web-2", "web", "n1")
    };
    mesh.insert(&new)?;
    mesh.enrol(&new).await?;
    eventually("the new pod dials out", async || {
        mesh.echo("web-2", "cart").await
    })
    .await?;
    let line = mesh
        .node("n2")
        .logged(&[
            "connection complete",
            &format!("src.addr={}:", mesh.ip("web-2")),
        ])
        .await?;
    assert!(
        line.contains("src.identity=\"spiffe://cluster.local/ns/shop/sa/web\""),
        "{line}"
    );
    mesh.refused("stranger", "web-2").await?;
    let n1 = mesh.node("n1");
    n1.logged(&[
        "connection failed",
        "unknown local workload: web.shop (web-2)",
    ])
    .await?;
    let by_reason = [
        ("reporter", "destination"),
        ("reason", "unknown_local_workload"),
    ];
    assert_eq!(n1.metric("ambit_refusals_total", &by_reason).await?, 1);

    // It comes back and knows the new pod.
    let ips: Ips = pods
        .iter()
        .map(|pod| (pod.name, mesh.ip(pod.name)))
        .collect();
    let (mut workloads, _) = open_mesh(&ips);
    workloads.push(workload(&new, ips["web-2"]));
    let discovery = mesh.discovery.as_mut().unwrap();
    discovery.publish(&workloads, &[]);
    discovery.come()?;
    eventually("the new pod takes connections", async || {
        mesh.echo("stranger", "web-2").await
    })
    .await?;
    exchange(&mut open).await?;
    Ok(())
}

#[tokio::test]
async fn a_certificate_service_may_be_away() -> Result<()> {
    if !ambit_netns::require_privilege("a certificate service may be away") {
        return Ok(());
    }
    let pods = [PODS[0], PODS[1], PODS[2], outsider("late", "n1")];
    let mut mesh = mesh("ca", &pods, Vec::new()).await?;
    assert_eq!(mesh.echo("web", "cart").await?, mesh.ip("web"));
    mesh.ca.away.store(true, Ordering::Relaxed);
    assert_eq!(
        mesh.echo("web", "cart").await?,
        mesh.ip("web"),
        "what is there is used"
    );

    // An identity without a certificate: enrolled all the same, refused clearly.
    let late = pod("late", "n1");
    let ips: Ips = pods
        .iter()
        .map(|pod| (pod.name, mesh.ip(pod.name)))
        .collect();
    let (mut workloads, _) = open_mesh(&ips);
    workloads.push(workload(&late, ips["late"]));
    mesh.discovery.as_mut().unwrap().publish(&workloads, &[]);
    mesh.insert(&late)?;
    mesh.enrol(&late).await?;
    mesh.refused("late", "cart").await?;
    let n1 = mesh.node("n1");
    n1.logged(&[
        "connection complete",
        "certificate of spiffe://cluster.local/ns/shop/sa/late",
    ])
    .await?;
    let flagged = [
        ("source_workload", "late"),
        ("response_flags", "IDENTITY_ERROR"),
    ];
    ensure!(
        n1.metric("istio_tcp_connections_closed_total", &flagged)
            .await?
            >= 1
    );

    mesh.ca.away.store(false, Ordering::Relaxed);
    eventually("the late pod talks", async || {
        mesh.echo("late", "cart").await
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn unfinished_handshakes_are_bounded() -> Result<()> {
    if !ambit_netns::require_privilege("unfinished handshakes are bounded") {
        return Ok(());
    }
    let env = vec![
        ("AMBIT_MAX_HALF_OPEN", "8".to_owned()),
        ("ZTUNNEL_WORKER_THREADS", "1".to_owned()),
    ];
    let mesh = mesh("halfopen", &PODS, env).await?;
    let at = std::net::SocketAddr::new(mesh.ip("cart"), 15008);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(ambit_testkit::client::connect(mesh.ns("stranger"), at).await?);
    }
    let n2 = mesh.node("n2");
    let crowded = [("reporter", "destination"), ("reason", "limit_reached")];
    eventually("the oldest are given up", async || {
        let refused = n2.metric("ambit_refusals_total", &crowded).await?;
        ensure!(refused == 32, "{refused}");
        Ok(())
    })
    .await?;
    n2.logged(&["connection failed", "too many unfinished handshakes"])
        .await?;
    assert_eq!(
        mesh.echo("web", "cart").await?,
        mesh.ip("web"),
        "an honest peer gets in"
    );
    Ok(())
}

#[tokio::test]
async fn an_agent_that_comes_back_finds_its_pods_served() -> Result<()> {
    if !ambit_netns::require_privilege("an agent comes back") {
        return Ok(());
    }
    let mut mesh = mesh("agent", &PODS, Vec::new()).await?;
    let mut open = mesh.dial("web", "cart").await?;
    exchange(&mut open).await?;
    mesh.stop_agent("n1").await;
    eventually("not ready without its agent", async || {
        let answer = mesh.node("n1").get(15021, "/healthz/ready").await?;
        ensure!(
            answer.body.contains("workload proxy manager"),
            "{}",
            answer.body
        );
        Ok(())
    })
    .await?;
    exchange(&mut open).await?;
    assert_eq!(mesh.echo("web", "cart").await?, mesh.ip("web"));
    mesh.start_agent("n1", &PODS)?;
    mesh.node("n1").ready().await?;
    exchange(&mut open).await?;

    // Without the pod in its snapshot its proxy ends, connections included.
    mesh.node("n1").zds.remove("web");
    ended(&mut open).await
}

/// The mesh reaches a proxy's own metrics with mutual TLS.
#[tokio::test]
async fn a_proxy_is_a_workload_too() -> Result<()> {
    if !ambit_netns::require_privilege("a proxy is a workload too") {
        return Ok(());
    }
    let own = [
        ("POD_NAME", "zt"),
        ("POD_NAMESPACE", "shop"),
        ("SERVICE_ACCOUNT", "zt"),
    ];
    let env = own.map(|(key, value)| (key, value.to_owned())).to_vec();
    let mut mesh = mesh("own", &PODS, env).await?;
    let ips: Ips = PODS
        .iter()
        .map(|pod| (pod.name, mesh.ip(pod.name)))
        .collect();
    let (mut workloads, _) = open_mesh(&ips);
    let n2_ip = mesh.net.host("n2")?.ip();
    workloads.push(workload(&pod("zt", "n2"), n2_ip));
    mesh.discovery.as_mut().unwrap().publish(&workloads, &[]);
    let at = std::net::SocketAddr::new(n2_ip, 15020);
    eventually("metrics over HBONE", async || {
        let answer = ambit_testkit::client::get(mesh.ns("web"), at, "/metrics").await?;
        ensure!(answer.body.contains("istio_build"), "{}", answer.body);
        let to_zt = [
            ("reporter", "destination"),
            ("destination_workload", "zt"),
            ("source_workload", "web"),
            ("connection_security_policy", "mutual_tls"),
        ];
        let opened = "istio_tcp_connections_opened_total";
        ensure!(
            mesh.node("n2").metric(opened, &to_zt).await? >= 1,
            "not over HBONE yet"
        );
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn an_upgrade_refuses_no_connection() -> Result<()> {
    if !ambit_netns::require_privilege("an upgrade refuses no connection") {
        return Ok(());
    }
    let mut mesh = mesh("upgrade", &PODS, Vec::new()).await?;
    let mut open = mesh.dial("web", "cart").await?;
    exchange(&mut open).await?;
    for node in ["n1", "n2"] {
        let old = mesh.upgrade(node, &Options::default()).await?;
        old.signal(nix::sys::signal::Signal::SIGTERM)?;
        // Open connections go on beside the new proxy for the old one's deadline.
        if node == "n1" {
            exchange(&mut open).await?;
        }
        for _ in 0..40 {
            assert_eq!(mesh.echo("web", "cart").await?, mesh.ip("web"));
            assert_eq!(mesh.echo("stranger", "cart").await?, mesh.ip("stranger"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_whose_port_is_taken_is_refused_and_tried_again() -> Result<()> {
    if !ambit_netns::require_privilege("a port is taken") {
        return Ok(());
    }
    let pods = [PODS[0], PODS[1], PODS[2], outsider("late", "n1")];
    let mesh = mesh("port", &pods, Vec::new()).await?;
    let taken = mesh
        .ns("late")
        .run(|| std::net::TcpListener::bind("0.0.0.0:15006"))??;
    mesh.insert(&pod("late", "n1"))?;
    let node = mesh.node("n1");
    eventually("a refusal that names the port", async || {
        match node.zds.state("late") {
            ProxyState::Refused(why) if why.contains("15006") => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    })
    .await?;
    let unready = node.get(15021, "/healthz/ready").await?;
    assert_eq!(unready.status, 500, "{}", unready.body);
    assert_eq!(
        node.dump().await?["workloadState"]["late"]["state"],
        "Pending"
    );
    assert_eq!(
        mesh.echo("web", "cart").await?,
        mesh.ip("web"),
        "the others are served"
    );
    drop(taken);
    node.ready().await?;
    assert_eq!(node.dump().await?["workloadState"]["late"]["state"], "Up");
    Ok(())
}
