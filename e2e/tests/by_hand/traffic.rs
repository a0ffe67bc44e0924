//! What is carried, as whom, and what the proxies say of it.

use std::net::{IpAddr, SocketAddr};

use ambit_netns::require_privilege;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::agent::Link;
use crate::names;
use crate::world::{PODS, World, info};

/// The snapshots of both agents, each with the pods of its node.
fn snapshots(world: &World, links: &[(&str, Link)]) -> Result<()> {
    for (node, link) in links {
        for (pod, on) in PODS {
            if on == *node && pod != "outsider" {
                assert_eq!(
                    link.add(&format!("uid-{pod}"), info(pod), &world.ns(pod)?)?,
                    ""
                );
            }
        }
        assert_eq!(link.snapshot_sent()?, "");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_ztunnels_by_hand_carry_traffic() -> Result<()> {
    if !require_privilege("two ztunnels by hand carry traffic") {
        return Ok(());
    }
    let mut world = World::new("by-hand").await?;
    let dns = names::serve(&world)?;
    world.write("resolv.conf", &format!("nameserver {dns}\n"))?;
    let taken = names::take_port(&world, "server")?;
    let agents = [world.agent("n1")?, world.agent("n2")?];
    world.start_ztunnel("n1")?;
    world.start_ztunnel("n2")?;
    let links = [("n1", agents[0].accept()?), ("n2", agents[1].accept()?)];
    // Ready only when the snapshot is through.
    let answer = eventually("a readiness server", async || world.ready("n1").await).await?;
    ensure!(answer.status == 500, "{answer:?}");
    ensure!(answer.body.contains("workload proxy manager"), "{answer:?}");
    snapshots(&world, &links)?;
    for node in ["n1", "n2"] {
        world.wait_ready(node, true).await?;
    }
    for pod in ["client", "mallory", "server"] {
        world.redirect(pod).await?;
    }
    by_address_and_by_service(&world).await?;
    names::are_answered(&world).await?;
    // What an application has taken costs its pod nothing but names.
    let said = ["warn", "pod=\"server\"", "addr=127.0.0.1:15053", "names"];
    world.logged("n2", &said).await?;
    drop(taken);
    outsiders_are_served(&world).await?;
    half_close_is_kept(&world).await?;
    a_policy_of_the_file_denies(&world).await?;
    the_dump_is_the_file(&world).await?;
    certificates_were_asked_for(&world)?;
    pods_come_and_go(&world, &links[1].1).await?;
    the_agent_comes_back(&world, links, &agents).await
}

async fn by_address_and_by_service(world: &World) -> Result<()> {
    let (me, server) = (world.ip("client")?, world.ip("server")?);
    let address = SocketAddr::new(server, 8080);
    assert_eq!(world.seen_from("client", address).await?, me.to_string());
    let vip = SocketAddr::from(([10, 96, 7, 7], 80));
    assert_eq!(world.seen_from("client", vip).await?, me.to_string());
    let (ours, theirs) = (id("client"), id("server"));
    for (node, reporter, direction) in [
        ("n1", "source", "outbound"),
        ("n2", "destination", "inbound"),
    ] {
        let fields = [
            "connection complete".to_owned(),
            format!("direction=\"{direction}\""),
            format!("src.identity=\"{ours}\""),
            format!("dst.identity=\"{theirs}\""),
            format!("dst.addr={server}:15008"),
            format!("dst.hbone_addr={address}"),
        ];
        world.logged(node, &fields.each_ref().map(|f| &**f)).await?;
        let labels = [
            ("reporter", reporter),
            ("source_principal", &*ours),
            ("destination_principal", &*theirs),
            ("source_workload", "client"),
            ("destination_canonical_revision", "v2"),
            ("connection_security_policy", "mutual_tls"),
            ("response_flags", "-"),
        ];
        let metrics = world.metrics(node).await?;
        let opened = |more: &[(&str, &str)]| {
            let labels = [&labels[..], more].concat();
            metrics.sum("istio_tcp_connections_opened_total", &labels)
        };
        ensure!(opened(&[]) == 2.0, "{node} opened {}", opened(&[]));
        let service = ("destination_service", "server.shop.svc.cluster.local");
        ensure!(opened(&[service]) >= 1.0, "{node}: no service label");
    }
    Ok(())
}

fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

/// Plaintext in and out, each with its own address.
async fn outsiders_are_served(world: &World) -> Result<()> {
    for (from, to) in [("outsider", "server"), ("client", "outsider")] {
        let to = SocketAddr::new(world.ip(to)?, 8080);
        let seen: IpAddr = world.seen_from(from, to).await?.parse()?;
        assert_eq!(seen, world.ip(from)?, "{from} → {to}");
    }
    // A pod that calls itself, by its address and by its service.
    let server = world.ip("server")?;
    for to in [
        SocketAddr::new(server, 8080),
        SocketAddr::from(([10, 96, 7, 7], 80)),
    ] {
        assert_eq!(world.seen_from("server", to).await?, server.to_string());
    }
    Ok(())
}

async fn half_close_is_kept(world: &World) -> Result<()> {
    let vip = SocketAddr::from(([10, 96, 7, 7], 9000));
    let mut stream = client::connect(&world.ns("client")?, vip).await?;
    let text = "to the end ".repeat(20_000);
    let (mut reader, mut writer) = stream.split();
    let mut back = String::new();
    let write = async {
        writer.write_all(text.as_bytes()).await?;
        writer.shutdown().await
    };
    tokio::try_join!(write, reader.read_to_string(&mut back))?;
    ensure!(back == text, "{} of {} bytes", back.len(), text.len());
    Ok(())
}

async fn a_policy_of_the_file_denies(world: &World) -> Result<()> {
    let to = SocketAddr::new(world.ip("server")?, 8080);
    ensure!(world.seen_from("mallory", to).await.is_err(), "not refused");
    let why = "connection closed due to policy rejection: explicitly denied by shop/no-mallory";
    world.logged("n2", &[why, &id("mallory")]).await?;
    world
        .logged(
            "n1",
            &["http status: 401 Unauthorized", "direction=\"outbound\""],
        )
        .await?;
    let denied = [
        ("response_flags", "DENY"),
        ("source_principal", &*id("mallory")),
    ];
    let count = world.metrics("n2").await?;
    let count = count.sum("istio_tcp_connections_closed_total", &denied);
    ensure!(count == 1.0, "{count}");
    Ok(())
}

async fn the_dump_is_the_file(world: &World) -> Result<()> {
    let dump = world.dump("n2").await?;
    let find = |key: &str, name: &str| {
        let all = dump[key].as_array().cloned().unwrap_or_default();
        let found = all.into_iter().find(|entry| entry["name"] == name);
        found.with_context(|| format!("no {name} in {key}"))
    };
    let remote = find("workloads", "remote")?;
    for (key, want) in [
        (
            "uid",
            "other/networking.istio.io/WorkloadEntry/elsewhere/remote",
        ),
        ("network", "network-2"),
        ("networkMode", "HostNetwork"),
        ("status", "Unhealthy"),
        ("protocol", "TCP"),
        ("workloadType", "job"),
        ("hostname", "remote.example.com"),
    ] {
        assert_eq!(remote[key], want, "{key}");
    }
    assert_eq!(remote["capacity"], 7);
    assert_eq!(remote["applicationTunnel"]["port"], 15088);
    assert_eq!(
        remote["networkGateway"]["destination"],
        "network-2/192.0.2.9"
    );
    let server = find("services", "server")?;
    assert_eq!(server["hostname"], "server.shop.svc.cluster.local");
    assert_eq!(server["ports"]["80"], 8080);
    assert_eq!(server["loadBalancer"]["mode"], "Failover");
    let endpoint = &server["endpoints"]["Kubernetes//Pod/shop/server"];
    assert_eq!(endpoint["port"]["80"], 8080, "{server}");
    let everything = find("policies", "everything")?;
    assert_eq!(everything["action"], "Allow");
    let one = &everything["rules"][0][0][0];
    assert_eq!(one.as_object().map(serde_json::Map::len), Some(12), "{one}");
    assert_eq!(find("policies", "watched")?["dryRun"], true);
    for key in [
        "staticConfig",
        "version",
        "config",
        "certificates",
        "stagedServices",
    ] {
        ensure!(!dump[key].is_null(), "no {key}");
    }
    assert_eq!(dump["config"]["localNode"], "n2");
    let state = &dump["workloadState"]["uid-server"];
    assert_eq!(state["state"], "Up");
    assert_eq!(state["info"]["serviceAccount"], "server");
    let certificate = &dump["certificates"][0];
    assert_eq!(certificate["identity"], id("server"));
    assert_eq!(certificate["state"], "Available");
    assert_eq!(certificate["certChain"].as_array().map(Vec::len), Some(2));
    Ok(())
}

fn certificates_were_asked_for(world: &World) -> Result<()> {
    let asked = world.ca.asked.lock().unwrap().clone();
    let mut ids: Vec<_> = asked.iter().map(|(id, ..)| id.as_str()).collect();
    ids.sort_unstable();
    let want = [id("client"), id("mallory"), id("server")];
    assert_eq!(ids, want, "once each, and only what its node needs");
    for (_, header, life) in asked {
        assert_eq!((header.as_str(), life), ("Bearer any-token", 86_400));
    }
    Ok(())
}

/// Idempotent Add, Del, Add again.
async fn pods_come_and_go(world: &World, link: &Link) -> Result<()> {
    let (ns, server) = (world.ns("client")?, world.ip("server")?);
    let mut live = client::connect(&ns, SocketAddr::new(server, 9000)).await?;
    client::echo(&mut live, b"before").await?;
    // The same pod again, even under another name, is no reason to restart.
    let other = info("nobody");
    assert_eq!(link.add("uid-server", other, &world.ns("server")?)?, "");
    client::echo(&mut live, b"same pod, same namespace").await?;
    assert_eq!(link.del("uid-server")?, "");
    let mut rest = [0; 1];
    let ended = live.read(&mut rest).await;
    ensure!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    // From outside of the mesh, where nobody accepts on its behalf.
    let outside = world.ns("outsider")?;
    eventually("nobody listens on 15008", async || {
        let to = SocketAddr::new(server, 15008);
        ensure!(client::connect(&outside, to).await.is_err(), "still open");
        Ok(())
    })
    .await?;
    // Unknown ones are fine, too.
    assert_eq!(link.del("uid-nobody")?, "");
    assert_eq!(
        link.add("uid-server", info("server"), &world.ns("server")?)?,
        ""
    );
    let back = SocketAddr::new(server, 8080);
    let seen = eventually("the pod is served again", async || {
        world.seen_from("client", back).await
    })
    .await?;
    assert_eq!(seen, world.ip("client")?.to_string());
    Ok(())
}

/// The agent goes: not ready, but everything works. It comes back, and keeps
/// one pod without its namespace, and leaves out another.
async fn the_agent_comes_back(
    world: &World,
    links: [(&str, Link); 2],
    agents: &[crate::agent::Agent; 2],
) -> Result<()> {
    let server = world.ip("server")?;
    let mut live = client::connect(&world.ns("client")?, SocketAddr::new(server, 9000)).await?;
    client::echo(&mut live, b"before").await?;
    drop(links);
    world.wait_ready("n1", false).await?;
    client::echo(&mut live, b"while it is away").await?;
    let me = world.ip("client")?.to_string();
    let to = SocketAddr::new(server, 8080);
    assert_eq!(world.seen_from("client", to).await?, me);
    let link = agents[0].accept()?;
    assert_eq!(link.keep("uid-client")?, "");
    assert_eq!(link.snapshot_sent()?, "");
    world.wait_ready("n1", true).await?;
    client::echo(&mut live, b"kept").await?;
    assert_eq!(world.seen_from("client", to).await?, me);
    let state = world.dump("n1").await?["workloadState"].clone();
    ensure!(state["uid-mallory"].is_null(), "{state}");
    ensure!(state["uid-client"]["state"] == "Up", "{state}");
    Ok(())
}
