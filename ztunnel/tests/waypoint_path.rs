//! The way through a waypoint that stands behind a node proxy, and what it is
//! told there (`ztunnel-contract` 2.9; 3.2 rows 3 and 8; 3.3 step 4).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_runtime::Scope;
use ambit_testkit::client;
use anyhow::{Context, Result, ensure};
use support::{Ips, Mesh, Options, pod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Where the waypoint of the test takes connections with a PROXY header.
const PROXIED: u16 = 15088;
const GUARDED: &str = "10.96.0.10:80";
const LOST: &str = "10.96.0.11:80";

fn config(ips: &Ips) -> String {
    let workload = |name: &str, node: &str, more: &str| {
        format!(
            "- {{uid: 'Kubernetes//Pod/shop/{name}', name: {name}, namespace: shop, \
             serviceAccount: {name}, trustDomain: cluster.local, node: {node}, protocol: HBONE, \
             workloadIps: ['{}'], canonicalName: {name}, workloadName: {name}, \
             clusterId: Kubernetes, {more}}}\n",
            ips[name]
        )
    };
    let waypoint = "waypoint: {destination: shop/gate.shop, hboneMtlsPort: 15008}";
    let workloads = [
        workload("web", "n1", "services: {}"),
        workload("cart", "n2", &format!("services: {{}}, {waypoint}")),
        workload(
            "gate",
            "n2",
            &format!(
                "services: {{shop/gate.shop: {{15008: 15008}}}}, \
                 applicationTunnel: {{protocol: PROXY, port: {PROXIED}}}"
            ),
        ),
    ];
    format!(
        "workloads:\n{}services:\n\
         - {{name: gate, namespace: shop, hostname: gate.shop, vips: [/10.96.0.1], ports: {{15008: 15008}}}}\n\
         - {{name: guarded, namespace: shop, hostname: guarded.shop, vips: [/10.96.0.10], ports: {{80: 8080}}, {waypoint}}}\n\
         - {{name: lost, namespace: shop, hostname: lost.shop, vips: [/10.96.0.11], ports: {{80: 8080}}, \
            waypoint: {{destination: shop/nowhere.shop, hboneMtlsPort: 15008}}}}\n",
        workloads.concat()
    )
}

#[tokio::test]
async fn a_waypoint_is_told_who_came_and_where_to_and_is_never_gone_round() -> Result<()> {
    if !ambit_netns::require_privilege("the way through a waypoint") {
        return Ok(());
    }
    for localhost in [true, false] {
        let tag = if localhost { "way" } else { "wayip" };
        let options = Options {
            env: vec![("LOCALHOST_APP_TUNNEL", localhost.to_string())],
            static_xds: Some(config),
            ..Options::default()
        };
        let pods = [pod("web", "n1"), pod("cart", "n2"), pod("gate", "n2")];
        let mesh = Mesh::start(tag, &pods, options).await?;
        let gate = mesh.ip("gate");
        let listens: IpAddr = if localhost {
            [127, 0, 0, 1].into()
        } else {
            gate
        };
        receiver(
            &mesh.scope,
            mesh.ns("gate"),
            SocketAddr::new(listens, PROXIED),
        )?;

        // By the service: row 3.
        let web = mesh.ip("web");
        let seen_from = if localhost { listens } else { web };
        let told = told(&mesh, GUARDED.parse()?).await?;
        let id = "spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(told, format!("{seen_from} {web} {GUARDED} {id}"));
        // By the pod's address: row 8.
        let cart = SocketAddr::new(mesh.ip("cart"), support::ECHO);
        let told = told_of(&mesh, cart).await?;
        assert_eq!(told, format!("{seen_from} {web} {cart} {id}"));
        // A waypoint that isn't there.
        ensure!(told_of(&mesh, LOST.parse()?).await.is_err(), "went round");
        records(&mesh).await?;
    }
    Ok(())
}

/// What both proxies say of it.
async fn records(mesh: &Mesh) -> Result<()> {
    let (n1, n2) = (mesh.node("n1"), mesh.node("n2"));
    let refused = [("reporter", "source"), ("reason", "unknown_waypoint")];
    assert_eq!(n1.metric("ambit_refusals_total", &refused).await?, 1);
    let to_gate = format!("dst.addr={}:15008", mesh.ip("gate"));
    for field in [
        "dst.service=\"guarded.shop\"",
        "dst.workload=\"gate\"",
        "dst.hbone_addr=10.96.0.10:80",
    ] {
        n1.logged(&["connection complete", &to_gate, field]).await?;
    }
    let labels = [
        ("reporter", "source"),
        ("destination_workload", "gate"),
        ("destination_service", "guarded.shop"),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/shop/sa/gate",
        ),
    ];
    let name = "istio_tcp_connections_opened_total";
    assert_eq!(n1.metric(name, &labels).await?, 1);
    let labels = [
        ("reporter", "destination"),
        ("destination_workload", "gate"),
    ];
    assert_eq!(n2.metric(name, &labels).await?, 2);
    Ok(())
}

async fn told(mesh: &Mesh, to: SocketAddr) -> Result<String> {
    told_of(mesh, to).await.with_context(|| {
        format!(
            "{}\n{}",
            mesh.node("n1").ztunnel.log(),
            mesh.node("n2").ztunnel.log()
        )
    })
}

/// What the waypoint was told of a connection from `web`.
async fn told_of(mesh: &Mesh, to: SocketAddr) -> Result<String> {
    let mut stream = client::connect(mesh.ns("web"), to).await?;
    stream.write_all(b"hello").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(12), reading).await??;
    let (told, data) = answer.rsplit_once('\n').context("no answer")?;
    ensure!(data == "hello", "{answer:?}");
    Ok(told.to_owned())
}

/// Answers with what its PROXY header says, then with the data.
fn receiver(scope: &Scope, ns: &NetNs, at: SocketAddr) -> Result<()> {
    let listener = ns.run(|| std::net::TcpListener::bind(at))??;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    scope.spawn("receiver", async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let mut head = [0; 16];
            if stream.read_exact(&mut head).await.is_err() {
                continue;
            }
            assert_eq!(
                &head[..14],
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
                "v2, PROXY, TCP4"
            );
            let mut body = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
            stream.read_exact(&mut body).await.unwrap();
            let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&body[at..at + 4]).unwrap());
            let port = u16::from_be_bytes([body[10], body[11]]);
            assert_eq!(body[12], 0xd0);
            let id = String::from_utf8_lossy(&body[15..]);
            let told = format!("{} {} {}:{port} {id}\n", peer.ip(), ip(0), ip(4));
            stream.write_all(told.as_bytes()).await.unwrap();
            let mut data = Vec::new();
            stream.read_to_end(&mut data).await.unwrap();
            stream.write_all(&data).await.unwrap();
        }
    });
    Ok(())
}
