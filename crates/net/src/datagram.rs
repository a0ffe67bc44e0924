//! UDP in a pod's namespace: the port at which a pod's names are asked.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use tokio::net::UdpSocket;

use crate::listen::ListenError;
use crate::sockets::{PodSockets, family};

/// A bound UDP socket that no runtime knows yet.
#[derive(Debug)]
pub struct BoundDatagrams(std::net::UdpSocket);

/// A bound UDP socket on this thread's runtime.
#[derive(Debug)]
pub struct Datagrams(UdpSocket);

impl PodSockets {
    /// Binds an address for datagrams, shared with an older or newer proxy
    /// where listeners are.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind_datagrams(&self, addr: SocketAddr) -> Result<BoundDatagrams, ListenError> {
        let made = self.datagram_socket(family(addr)).and_then(|socket| {
            if self.port_reuse {
                socket.set_reuse_port(true)?;
            }
            Ok(socket)
        });
        let port = addr.port();
        let socket = made.map_err(|source| ListenError::Socket { port, source })?;
        let bound = socket.bind(&addr.into());
        bound.map_err(|source| ListenError::Bind { addr, source })?;
        Ok(BoundDatagrams(socket.into()))
    }
}

impl BoundDatagrams {
    /// Hands the socket to the current runtime.
    ///
    /// # Errors
    /// The runtime can't take it.
    pub fn register(self) -> io::Result<Datagrams> {
        UdpSocket::from_std(self.0).map(Datagrams)
    }
}

impl Datagrams {
    /// The next datagram, its first `most` bytes, and where it came from.
    ///
    /// What comes from this very port is left out: an answer to it would come
    /// back for ever. Memory is only taken once there is a datagram.
    ///
    /// # Errors
    /// The socket stays usable.
    ///
    /// # Cancel safety
    /// Safe: no datagram is lost.
    pub async fn receive(&self, most: usize) -> io::Result<(Vec<u8>, SocketAddr)> {
        let ours = self.local_addr()?.port();
        loop {
            self.0.readable().await?;
            let mut datagram = Vec::with_capacity(most);
            match self.0.try_recv_buf_from(&mut datagram) {
                Ok((_, from)) if from.port() == ours => {}
                Ok((_, from)) => return Ok((datagram, from)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// Of this datagram.
    pub async fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.send_to(datagram, to).await.map(drop)
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_successor_gets_every_datagram_of_a_port_that_is_handed_over() {
        let sockets = PodSockets::default();
        let bind = |port: u16| {
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            sockets.bind_datagrams(addr).unwrap().register().unwrap()
        };
        let old = bind(0);
        let at = old.local_addr().unwrap();
        let new = bind(at.port());
        old.hand_over(1).unwrap();
        let mut buffer = [0; 8];
        for _ in 0..16 {
            let client = sockets.connect_datagram(at).await.unwrap();
            client.send(b"?").await.unwrap();
            let (question, from) = new.receive(8).await.unwrap();
            assert_eq!(question, b"?");
            new.send(b"!", from).await.unwrap();
            let n = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..n], b"!");
        }
        let nothing = tokio::time::timeout(Duration::ZERO, old.receive(8));
        nothing.await.unwrap_err();
    }

    #[tokio::test]
    async fn what_a_port_sends_itself_is_left_out() {
        let sockets = PodSockets::default();
        let bound = sockets.bind_datagrams(([127, 0, 0, 1], 0).into()).unwrap();
        let port = bound.register().unwrap();
        let at = port.local_addr().unwrap();
        port.send(b"forged", at).await.unwrap();
        let client = sockets.connect_datagram(at).await.unwrap();
        client.send(b"longer than it may be").await.unwrap();
        let (datagram, _) = port.receive(6).await.unwrap();
        assert_eq!(datagram, b"longer");
    }
}
