//! A node agent that is none of ours: a SOCK_SEQPACKET server written from the
//! contract (4.5), its messages put together byte by byte.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use ambit_netns::NetNs;
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen,
    recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// The socket that a ztunnel dials.
pub(crate) struct Agent(UnixListener);

/// One ztunnel's connection, after its hello.
pub(crate) struct Link(OwnedFd);

/// Who runs in a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Info<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
}

impl Agent {
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&fd, Backlog::new(8)?)?;
        wait_at_most(&fd, 20)?;
        // Accepting is the same for every kind of socket.
        Ok(Self(UnixListener::from(fd)))
    }

    /// The next ztunnel, whose first message must be a hello of version 1.
    pub(crate) fn accept(&self) -> Result<Link> {
        let (stream, _) = self.0.accept().context("no ztunnel came")?;
        let fd = OwnedFd::from(stream);
        wait_at_most(&fd, 10)?;
        let link = Link(fd);
        let hello = link.receive()?.context("gone before its hello")?;
        ensure!(
            hello == [0x08, 0x01],
            "not ZdsHello{{version: V1}}: {hello:?}"
        );
        Ok(link)
    }
}

impl Link {
    /// AddWorkload with the pod's namespace; returns the error of the ack,
    /// empty if it is good.
    pub(crate) fn add(&self, uid: &str, info: Info<'_>, ns: &NetNs) -> Result<String> {
        let who = [
            text(1, info.name),
            text(2, info.namespace),
            text(3, info.account),
        ];
        let add = [text(1, uid), bytes(2, &who.concat())].concat();
        self.ask(&bytes(1, &add), Some(ns.as_fd().as_raw_fd()))
    }

    /// AddWorkload that says nothing of who it is.
    pub(crate) fn add_nobody(&self, uid: &str, ns: &NetNs) -> Result<String> {
        self.ask(&bytes(1, &text(1, uid)), Some(ns.as_fd().as_raw_fd()))
    }

    /// AddWorkload without a namespace.
    pub(crate) fn add_nowhere(&self, uid: &str, info: Info<'_>) -> Result<String> {
        let who = [text(1, info.name), text(2, info.namespace)].concat();
        self.ask(&bytes(1, &[text(1, uid), bytes(2, &who)].concat()), None)
    }

    /// KeepWorkload, field 5.
    pub(crate) fn keep(&self, uid: &str) -> Result<String> {
        self.ask(&bytes(5, &text(1, uid)), None)
    }

    /// DelWorkload, whose uid is field 2.
    pub(crate) fn del(&self, uid: &str) -> Result<String> {
        self.ask(&bytes(2, &text(2, uid)), None)
    }

    /// The end of the snapshot.
    pub(crate) fn snapshot_sent(&self) -> Result<String> {
        self.ask(&bytes(3, &[]), None)
    }

    /// Any bytes.
    pub(crate) fn raw(&self, message: &[u8]) -> Result<String> {
        self.ask(message, None)
    }

    /// True once the ztunnel has closed its end.
    pub(crate) fn is_closed(&self) -> Result<bool> {
        Ok(self.receive()?.is_none())
    }

    fn ask(&self, message: &[u8], fd: Option<RawFd>) -> Result<String> {
        let fds: Vec<_> = fd.into_iter().collect();
        let control = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &control };
        let sent = sendmsg::<UnixAddr>(
            self.0.as_raw_fd(),
            &[IoSlice::new(message)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        ensure!(sent == message.len(), "{sent} bytes of {}", message.len());
        let answer = self.receive()?.context("closed without an ack")?;
        ack(&answer).with_context(|| format!("not a WorkloadResponse: {answer:?}"))
    }

    /// The next datagram; none at the end.
    fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 1024];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut parts, None, MsgFlags::empty())?;
        ensure!(!got.flags.contains(MsgFlags::MSG_TRUNC), "longer than 1024");
        let length = got.bytes;
        Ok((length > 0).then(|| buffer[..length].to_vec()))
    }
}

fn wait_at_most(fd: &OwnedFd, seconds: i64) -> Result<()> {
    setsockopt(fd, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0))?;
    Ok(setsockopt(fd, sockopt::SendTimeout, &TimeVal::new(5, 0))?)
}

/// A length-delimited protobuf field. Everything here is shorter than 128.
fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 128, "a varint of two bytes");
    [&[field << 3 | 2, length], content].concat()
}

fn text(field: u8, content: &str) -> Vec<u8> {
    bytes(field, content.as_bytes())
}

/// `error` of WorkloadResponse{ack: Ack{error}}.
fn ack(message: &[u8]) -> Option<String> {
    match only_field_1(only_field_1(message)??)? {
        None => Some(String::new()),
        Some(error) => String::from_utf8(error.to_vec()).ok(),
    }
}

/// The content of field 1, if there is any field; `None` for anything else.
#[allow(clippy::option_option, reason = "absent and wrong differ")]
fn only_field_1(message: &[u8]) -> Option<Option<&[u8]>> {
    let (length, content) = match message {
        [] => return Some(None),
        [0x0a, low @ 0..0x80, content @ ..] => (usize::from(*low), content),
        [0x0a, low, high @ 0..0x80, content @ ..] => {
            (usize::from(low & 0x7f) | usize::from(*high) << 7, content)
        }
        _ => return None,
    };
    (content.len() == length).then_some(Some(content))
}
