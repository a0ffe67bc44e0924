//! Giving a port to whoever else listens on it, without losing a connection.
//!
//! Listeners of one port (`SO_REUSEPORT`) share what comes by a hash. When one
//! is closed, handshakes that the kernel has begun for it are reset: first
//! nothing new may come to it, then it may be closed. A classic BPF program of
//! one instruction says which listener of the port gets the next connection.

use std::io;
use std::os::fd::AsFd;

use nix::libc::{sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt};

use crate::datagram::Datagrams;
use crate::listen::Listener;

impl Listener {
    /// From now on new connections go to listeners of the port that came after
    /// the first `ours`, which are this process's; those whose handshake has
    /// begun still come here. Nothing changes if there are no others, and
    /// nothing of it is left once the first `ours` are closed.
    ///
    /// # Errors
    /// The kernel takes no program, or the port isn't shared.
    pub fn hand_over(&self, ours: u32) -> io::Result<()> {
        hand_over(self, ours)
    }
}

impl Datagrams {
    /// [`Listener::hand_over`] for datagrams: those that have come stay here.
    ///
    /// # Errors
    /// The kernel takes no program, or the port isn't shared.
    pub fn hand_over(&self, ours: u32) -> io::Result<()> {
        hand_over(self, ours)
    }
}

fn hand_over(socket: &impl AsFd, ours: u32) -> io::Result<()> {
    // Sockets are numbered as they came; a number that isn't there falls back
    // to the hash.
    let mut program = [sock_filter {
        code: RETURN_CONSTANT,
        jt: 0,
        jf: 0,
        k: ours,
    }];
    let program = sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    // It is copied before this returns.
    setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?;
    Ok(())
}

/// `BPF_RET | BPF_K`.
const RETURN_CONSTANT: u16 = 0x06;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use crate::{ListenOptions, Listener, PodSockets, Transparent};

    fn sockets() -> PodSockets {
        PodSockets {
            transparent: Transparent::Never,
            ..PodSockets::default()
        }
    }

    fn listener(port: u16) -> Listener {
        sockets().listen(port, ListenOptions::default()).unwrap()
    }

    /// How many connections each listener gets of 64.
    async fn shares<const N: usize>(listeners: [&Listener; N]) -> [usize; N] {
        let port = listeners[0].local_addr().unwrap().port();
        let mut open = Vec::new();
        for _ in 0..64 {
            let to = SocketAddr::from(([127, 0, 0, 1], port));
            open.push(TcpStream::connect(to).await.unwrap());
        }
        let mut shares = [0; N];
        for (share, listener) in shares.iter_mut().zip(listeners) {
            // All of them are waiting to be accepted by now.
            while let Ok(accepted) = timeout(Duration::ZERO, listener.accept()).await {
                accepted.unwrap();
                *share += 1;
            }
        }
        shares
    }

    #[tokio::test]
    async fn connections_go_to_the_listeners_that_came_later() {
        let first = listener(0);
        let port = first.local_addr().unwrap().port();
        let second = listener(port);
        // Nobody else is there: everything stays.
        first.hand_over(2).unwrap();
        assert_eq!(shares([&first, &second]).await.iter().sum::<usize>(), 64);
        let (third, fourth) = (listener(port), listener(port));
        first.hand_over(2).unwrap();
        let [a, b, c, d] = shares([&first, &second, &third, &fourth]).await;
        assert_eq!([a, b, c + d], [0, 0, 64]);
        // One after the other they go, and the others share again.
        drop(first);
        let [b, c, d] = shares([&second, &third, &fourth]).await;
        assert_eq!([b, c + d], [0, 64]);
        drop(second);
        let [c, d] = shares([&third, &fourth]).await;
        assert!(c > 0 && d > 0 && c + d == 64, "{c} and {d}");
    }

    #[tokio::test]
    async fn a_port_that_is_not_shared_cannot_be_handed_over() {
        let alone = PodSockets {
            port_reuse: false,
            ..sockets()
        };
        let alone = alone.listen(0, ListenOptions::default()).unwrap();
        alone.hand_over(1).unwrap_err();
        assert_eq!(shares([&alone]).await, [64]);
    }
}
