//! First step of every path: the next captured connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ambit_net::Listener;
use ambit_runtime::{Backoff, DrainMode, DrainWatch};
use tokio::net::TcpStream;
use tracing::{debug, warn};

/// Hands each connection on until the drain starts. Then whoever else listens
/// on the port gets those that come, and the listener is closed as soon as the
/// handshakes that the kernel has begun for it are over: closed at once, it
/// would reset them (`ztunnel-contract` section 10, 12.A.33).
///
/// `ours` is how many listeners of the port this process has.
pub(crate) async fn accept_loop(
    listener: Listener,
    ours: u32,
    drain: DrainWatch,
    mut serve: impl FnMut(TcpStream, SocketAddr),
) {
    let mut backoff = Backoff::new(SHORT_OF_RESOURCES_FIRST, SHORT_OF_RESOURCES_MAX);
    let mut short = false;
    let mut closing = std::pin::pin!(handed_over(drain, || listener.hand_over(ours)));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closing => break,
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

/// Until a drain has begun, the port was handed over, and what the kernel had
/// begun for its old owner is over.
pub(crate) async fn handed_over(drain: DrainWatch, hand_over: impl FnOnce() -> io::Result<()>) {
    if let DrainMode::Graceful { deadline } = drain.started().await {
        if let Err(error) = hand_over() {
            debug!(%error, "what comes to the port now may be lost");
        }
        tokio::time::sleep(HANDSHAKES.min(deadline / 2)).await;
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

/// How long handshakes may take that had begun when the drain did: the round
/// trip of a peer that is far away, on a busy machine.
const HANDSHAKES: Duration = Duration::from_millis(300);
const SHORT_OF_RESOURCES_FIRST: Duration = Duration::from_millis(10);
const SHORT_OF_RESOURCES_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ambit_net::{ListenOptions, PodSockets, Transparent};
    use ambit_runtime::{DrainTrigger, drain};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;

    /// A process that listens on a port and answers each connection with a byte.
    struct Process {
        closing: DrainTrigger,
        accepted: Arc<AtomicUsize>,
        accepts: JoinHandle<()>,
        port: u16,
    }

    impl Process {
        fn start(port: u16) -> Self {
            let sockets = PodSockets {
                transparent: Transparent::Never,
                ..PodSockets::default()
            };
            let listener = sockets.listen(port, ListenOptions::default()).unwrap();
            let port = listener.local_addr().unwrap().port();
            let (closing, watch) = drain();
            let accepted = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&accepted);
            let serve = move |mut stream: TcpStream, _| {
                count.fetch_add(1, Ordering::SeqCst);
                task(async move { stream.write_all(b"!").await.unwrap_or_default() });
            };
            Self {
                closing,
                accepted,
                accepts: task(accept_loop(listener, 1, watch, serve)),
                port,
            }
        }

        fn accepted(&self) -> usize {
            self.accepted.load(Ordering::SeqCst)
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a test has no scope")]
    fn task(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        tokio::spawn(task)
    }

    async fn is_answered(port: u16) -> io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.read_u8().await.map(drop)
    }

    #[tokio::test]
    async fn a_successor_gets_every_connection_of_a_process_that_drains() {
        let old = Process::start(0);
        let new = Process::start(old.port);
        while old.accepted() == 0 || new.accepted() == 0 {
            is_answered(old.port).await.unwrap();
        }
        let deadline = Duration::from_secs(10);
        old.closing.start(DrainMode::Graceful { deadline });
        // Its task has run when this one comes back from the socket.
        is_answered(old.port).await.unwrap();
        let before = old.accepted();
        while !old.accepts.is_finished() {
            is_answered(old.port).await.unwrap();
        }
        assert_eq!(old.accepted(), before);
        for _ in 0..20 {
            is_answered(old.port).await.unwrap();
        }
        assert_eq!(old.accepted(), before);
        drop(new);
    }

    #[tokio::test]
    async fn without_a_successor_the_port_is_closed() {
        let only = Process::start(0);
        is_answered(only.port).await.unwrap();
        let deadline = Duration::ZERO;
        only.closing.start(DrainMode::Graceful { deadline });
        only.accepts.await.unwrap();
        assert!(is_answered(only.port).await.is_err());
    }

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
