//! What a ztunnel answers to an agent that breaks the rules, and to a pod in
//! which it can't listen.

use ambit_netns::require_privilege;
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};

use crate::agent::Link;
use crate::world::{World, info};

/// A ztunnel on `n1`, its agent's end, and the agent.
async fn begin(world: &mut World) -> Result<(crate::agent::Agent, Link)> {
    // A socket file of the case before.
    let _ = std::fs::remove_file(world.socket("n1"));
    let agent = world.agent("n1")?;
    world.start_ztunnel("n1")?;
    let link = agent.accept()?;
    Ok((agent, link))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn protocol_errors_end_the_process() -> Result<()> {
    if !require_privilege("protocol errors end the process") {
        return Ok(());
    }
    let mut world = World::new("by-hand-errors").await?;
    type Broken = fn(&World, &Link) -> Result<String>;
    let cases: [(&str, Broken); 3] = [
        ("Add without workload_info", |world, link| {
            link.add_nobody("uid-client", &world.ns("client")?)
        }),
        ("Keep after the snapshot", |_, link| {
            assert_eq!(link.snapshot_sent()?, "");
            link.keep("uid-client")
        }),
        ("a second SnapshotSent", |_, link| {
            assert_eq!(link.snapshot_sent()?, "");
            link.snapshot_sent()
        }),
    ];
    for (what, broken) in cases {
        let (_agent, link) = begin(&mut world).await?;
        let error = broken(&world, &link)?;
        ensure!(!error.is_empty(), "{what}: a good ack");
        let mut process = world.ztunnels.remove("n1").context("started")?;
        let status = eventually(what, async || process.exited()?.context("still runs")).await?;
        assert_eq!(status.code(), Some(1), "{what}: {}", process.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_it_cannot_read_ends_the_conversation_only() -> Result<()> {
    if !require_privilege("what it cannot read ends the conversation only") {
        return Ok(());
    }
    let mut world = World::new("by-hand-garbage").await?;
    let (agent, mut link) = begin(&mut world).await?;
    for what in ["garbage", "no namespace"] {
        let error = match what {
            "garbage" => link.raw(b"\xff\xff\xff\xff")?,
            _ => link.add_nowhere("uid-client", info("client"))?,
        };
        ensure!(!error.is_empty(), "{what}: a good ack");
        ensure!(link.is_closed()?, "{what}: still connected");
        // It comes back by itself.
        link = agent.accept()?;
    }
    assert_eq!(
        link.add("uid-client", info("client"), &world.ns("client")?)?,
        ""
    );
    assert_eq!(link.snapshot_sent()?, "");
    world.wait_ready("n1", true).await
}

/// A negative ack, the connection stays, and it is tried again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pod_whose_port_is_taken_is_tried_again() -> Result<()> {
    if !require_privilege("a pod whose port is taken is tried again") {
        return Ok(());
    }
    let mut world = World::new("by-hand-taken").await?;
    let (_agent, link) = begin(&mut world).await?;
    let ns = world.ns("client")?;
    let taken = ns.run(|| std::net::TcpListener::bind("0.0.0.0:15008"))??;
    let error = link.add("uid-client", info("client"), &ns)?;
    ensure!(error.contains("15008"), "{error:?}");
    assert_eq!(link.snapshot_sent()?, "");
    let answer = world.ready("n1").await?;
    ensure!(answer.status == 500, "{answer:?}");
    let state = world.dump("n1").await?["workloadState"]["uid-client"].clone();
    assert_eq!(state["state"], "Pending");
    // Others are served meanwhile.
    let mallory = world.ns("mallory")?;
    assert_eq!(link.add("uid-mallory", info("mallory"), &mallory)?, "");
    drop(taken);
    world.wait_ready("n1", true).await?;
    let state = world.dump("n1").await?["workloadState"]["uid-client"].clone();
    assert_eq!(state["state"], "Up");
    Ok(())
}
