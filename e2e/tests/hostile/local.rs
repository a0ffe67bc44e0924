//! Programs on the node that talk nonsense to the agent's sockets.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ambit_e2e::observe::{echoes, pod};
use ambit_e2e::scenario::on_shop;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn nonsense_on_the_agents_sockets_is_refused() {
    on_shop("nonsense on the agent's sockets", async |cluster| {
        cluster.wait_shop().await?;
        let dir = cluster.node_dir("node-1");
        for socket in ["zds.sock", "cni.sock"] {
            let mode = std::fs::metadata(dir.join(socket))?.permissions().mode();
            ensure!(mode & 0o077 == 0, "{socket}: {mode:o}");
        }
        strangers_of_zds(&dir.join("zds.sock"))?;
        strangers_of_cni(&dir.join("cni.sock")).await?;
        ensure!(
            cluster.agent("node-1")?.exited()?.is_none(),
            "the agent ended"
        );
        // The real proxy is still served, and pods still start.
        eventually("the proxy is ready", async || {
            let host = cluster.underlay.host("node-1")?;
            let answer =
                client::get(host.ns(), (host.ip(), 15021).into(), "/healthz/ready").await?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        })
        .await?;
        cluster.run_pod(pod("shop", "web-1", "node-1", &[])).await?;
        cluster
            .wait_protocol("node-2", "shop", "web-1", "HBONE")
            .await?;
        let worker = cluster.pod_ns("shop", "worker-0")?;
        echoes(&worker, cluster.pod_addr("shop", "web-1", 9000)?).await
    });
}

/// Proxies that begin with garbage, with another version, or with far too much.
fn strangers_of_zds(path: &std::path::Path) -> Result<()> {
    for first in [&b"garbage"[..], b"\x08\x07", &[0xff; 4000]] {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(10, 0))?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        send(fd.as_raw_fd(), first, MsgFlags::MSG_NOSIGNAL)?;
        let mut rest = [0; 64];
        // Closed, and no pod was told.
        let got = recv(fd.as_raw_fd(), &mut rest, MsgFlags::empty());
        ensure!(
            matches!(got, Ok(0) | Err(nix::Error::ECONNRESET)),
            "{first:?}: {got:?}"
        );
    }
    Ok(())
}

async fn strangers_of_cni(path: &std::path::Path) -> Result<()> {
    let pod =
        r#"{"Netns": "/proc/1/ns/net", "PodName": "nobody", "PodNamespace": "shop", "IPs": []}"#;
    for (what, to, body, want) in [
        ("no JSON", "/cmdadd", "{".to_owned(), 400),
        ("another shape", "/cmdadd", "[1, 2]".to_owned(), 400),
        (
            "too long",
            "/cmdadd",
            format!("{{\"x\": \"{}\"}}", "y".repeat(1 << 20)),
            400,
        ),
        ("another path", "/cmdexec", pod.to_owned(), 404),
        ("no such pod", "/cmdadd", pod.to_owned(), 500),
    ] {
        match client::post_unix(path, to, body).await {
            Ok(answer) => ensure!(answer.status == want, "{what}: {answer:?}"),
            // A body that isn't read to its end may end in a reset.
            Err(error) => ensure!(what == "too long", "{what}: {error:#}"),
        }
    }
    let mut stream = tokio::net::UnixStream::connect(path).await?;
    stream.write_all(&[0xff; 512]).await?;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    let _ = ended.context("garbage keeps a connection")?;
    ensure!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
    Ok(())
}
