//! A `SOCK_SEQPACKET` socket as whole datagrams with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{MAX_DATAGRAM, WireError};
use crate::readiness::watch;

/// One received datagram. No bytes and no descriptor is the end of the stream.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Datagram {
    pub(super) fn is_end(&self) -> bool {
        self.bytes.is_empty() && self.fds.is_empty()
    }
}

/// Why a datagram couldn't be read.
#[derive(Debug)]
pub(super) enum ReceiveError {
    Io(io::Error),
    Wire(WireError),
}

/// A connected socket of the running tokio runtime.
#[derive(Debug)]
pub(super) struct SeqPacket(AsyncFd<OwnedFd>);

/// A listening socket.
#[derive(Debug)]
pub(super) struct SeqListener(AsyncFd<OwnedFd>);

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn new_socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socket_with(family, kind, FLAGS, None)?)
}

impl SeqPacket {
    /// Connects; a Unix socket's connect never waits for the peer, it fails
    /// with `WouldBlock` if the backlog is full.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let fd = new_socket()?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self(watch(fd)?))
    }

    /// Sends one datagram, with a descriptor if given.
    ///
    /// Cancel safe: a datagram is sent whole or not at all.
    pub(super) async fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.0
            .async_io(Interest::WRITABLE, |socket| {
                send_datagram(socket.as_fd(), bytes, fd)
            })
            .await
    }

    /// The next datagram.
    ///
    /// Cancel safe: nothing is taken from the socket before it's returned.
    pub(super) async fn recv(&self) -> Result<Datagram, ReceiveError> {
        loop {
            let mut ready = self.0.readable().await.map_err(ReceiveError::Io)?;
            match recv_datagram(self.0.get_ref().as_fd()) {
                Err(ReceiveError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                }
                Err(ReceiveError::Io(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// What lies in the socket already, without waiting.
    pub(super) fn try_recv(&self) -> Option<Result<Datagram, ReceiveError>> {
        match recv_datagram(self.0.get_ref().as_fd()) {
            Err(ReceiveError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => None,
            done => Some(done),
        }
    }

    #[cfg(test)]
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (a, b) = rustix::net::socketpair(family, kind, FLAGS, None)?;
        Ok((Self(watch(a)?), Self(watch(b)?)))
    }
}

impl SeqListener {
    /// Listens on a path; a socket that an earlier process left there goes.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let fd = new_socket()?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        // Whoever may connect is handed the namespaces of pods.
        let owner_only =
            <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        std::fs::set_permissions(path, owner_only)?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self(watch(fd)?))
    }

    /// The next connection.
    ///
    /// Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<SeqPacket> {
        let fd = self
            .0
            .async_io(Interest::READABLE, |socket| {
                Ok(rustix::net::accept_with(socket, FLAGS)?)
            })
            .await?;
        Ok(SeqPacket(watch(fd)?))
    }
}

fn send_datagram(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let slices = [IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn recv_datagram(socket: BorrowedFd<'_>) -> Result<Datagram, ReceiveError> {
    let mut buffer = [0; MAX_DATAGRAM];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let received = rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|e| ReceiveError::Io(e.into()))?;
    // Owned at once, so that none leaks if the datagram is refused.
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(ReceiveError::Wire(WireError::Truncated));
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(ReceiveError::Wire(WireError::ControlTruncated));
    }
    let bytes = buffer.get(..received.bytes).unwrap_or_default().to_vec();
    Ok(Datagram { bytes, fds })
}

const BACKLOG: i32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn carries_bytes_and_one_descriptor_close_on_exec() {
        let (a, b) = SeqPacket::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        a.send(b"with", Some(file.as_fd())).await.unwrap();
        a.send(b"without", None).await.unwrap();
        let first = b.recv().await.unwrap();
        assert_eq!((first.bytes.as_slice(), first.fds.len()), (&b"with"[..], 1));
        let flags = rustix::io::fcntl_getfd(&first.fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let second = b.recv().await.unwrap();
        assert_eq!(
            (second.bytes.as_slice(), second.fds.len()),
            (&b"without"[..], 0)
        );
        drop(a);
        assert!(b.recv().await.unwrap().is_end());
    }

    #[tokio::test]
    async fn a_long_datagram_and_a_second_descriptor_are_errors() {
        let (a, b) = SeqPacket::pair().unwrap();
        a.send(&[7; MAX_DATAGRAM], None).await.unwrap();
        assert_eq!(b.recv().await.unwrap().bytes.len(), MAX_DATAGRAM);
        a.send(&[7; MAX_DATAGRAM + 1], None).await.unwrap();
        let error = b.recv().await.unwrap_err();
        assert!(matches!(error, ReceiveError::Wire(WireError::Truncated)));

        let file = tempfile::tempfile().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd(); 16];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let slices = [IoSlice::new(b"x")];
        rustix::net::sendmsg(a.0.get_ref(), &slices, &mut control, SendFlags::empty()).unwrap();
        match b.recv().await {
            // Alignment leaves room for a few; those are refused by their count.
            Err(ReceiveError::Wire(WireError::ControlTruncated)) => {}
            other => panic!("{other:?}"),
        }
    }
}
