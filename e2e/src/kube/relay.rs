//! A way from this machine's loopback into a box, which has no link to it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ambit_netns::NetNs;
use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::paths;

/// `kube-init relay` into the network of a process.
///
/// # Errors
/// If the program isn't built.
pub fn command(to: SocketAddr, pid: u32, port: u16) -> Result<Command> {
    let mut command = Command::new(paths::own_program("kube-init")?);
    command
        .args(["relay", &to.to_string()])
        .arg(format!("/proc/{pid}/ns/net"))
        .arg(port.to_string());
    Ok(command)
}

/// Listens on 127.0.0.1, says the port on standard output, and carries every
/// connection to `to` inside a namespace. Returns never, except with an error.
///
/// # Errors
/// If the port is taken or the namespace is gone.
pub fn serve(to: SocketAddr, namespace: &Path, port: u16) -> Result<()> {
    let ns = NetNs::open(namespace)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("listen on port {port}"))?;
        let mut output = std::io::stdout();
        writeln!(output, "{}", listener.local_addr()?.port())?;
        output.flush()?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => { connections.spawn(carry(stream, ns.clone(), to)); }
                    // Descriptors ran out: some connections will end.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    })
}

async fn carry(mut from: TcpStream, ns: NetNs, to: SocketAddr) -> Result<()> {
    let socket = ns.run(|| match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    })??;
    let mut onward = timeout(Duration::from_secs(5), socket.connect(to)).await??;
    from.set_nodelay(true)?;
    onward.set_nodelay(true)?;
    copy_bidirectional(&mut from, &mut onward).await?;
    Ok(())
}
