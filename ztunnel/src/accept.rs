//! First step of every path: the next captured connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ambit_net::Listener;
use ambit_runtime::{Backoff, DrainWatch};
use tokio::net::TcpStream;
use tracing::warn;

/// Hands each connection on until the drain starts; then the listener is
/// closed at once, so that the kernel gives new connections to whoever else
/// listens on the port (`ztunnel-contract` section 10).
pub(crate) async fn accept_loop(
    listener: Listener,
    drain: DrainWatch,
    mut serve: impl FnMut(TcpStream, SocketAddr),
) {
    let mut backoff = Backoff::new(SHORT_OF_RESOURCES_FIRST, SHORT_OF_RESOURCES_MAX);
    let mut short = false;
    let mut draining = std::pin::pin!(drain.started());
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut draining => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if std::mem::take(&mut short) {
                    backoff.reset();
                }
                serve(stream, peer);
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                // Descriptors or memory: they come back when flows end. Until
                // then the backlog holds the callers, and nothing spins.
                if !std::mem::replace(&mut short, true) {
                    warn!(%error, "connections can't be accepted for now");
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
    // What the kernel has queued here already would be reset with the listener.
    while let Some((stream, peer)) = queued(&listener).await {
        serve(stream, peer);
    }
}

/// A connection that waits to be accepted, if there is one.
async fn queued(listener: &Listener) -> Option<(TcpStream, SocketAddr)> {
    tokio::select! {
        biased;
        accepted = listener.accept() => accepted.ok(),
        () = std::future::ready(()) => None,
    }
}

/// The connection was gone before it was accepted; the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

const SHORT_OF_RESOURCES_FIRST: Duration = Duration::from_millis(10);
const SHORT_OF_RESOURCES_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_descriptors_is_no_connections_fault() {
        let of = |errno| io::Error::from_raw_os_error(errno);
        use nix::errno::Errno;
        assert!(concerns_one_connection(&of(Errno::ECONNABORTED as i32)));
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM] {
            assert!(!concerns_one_connection(&of(errno as i32)), "{errno}");
        }
    }
}
