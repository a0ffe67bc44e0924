//! An open tunnel: one HTTP/2 stream as an end of a relay.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ambit_net::{Chunk, Duplex, RELAY_BLOCK};
use ambit_types::SpiffeId;
use bytes::Bytes;

use crate::baggage::Baggage;
use crate::engine::Stream;
use crate::pool::Lease;

/// A byte stream to a peer whose identity is verified. END_STREAM is its FIN,
/// in each direction on its own; dropping it unfinished resets the stream.
pub struct Tunnel {
    stream: Stream,
    origin: Origin,
    baggage: Option<Box<Baggage>>,
    next: Option<Bytes>,
    state: State,
}

/// Whose connection the stream is on.
enum Origin {
    Dialled(Lease),
    Accepted(Arc<SpiffeId>),
}

#[derive(Default)]
struct State {
    read_ended: bool,
    write_ended: bool,
    reserved: bool,
}

impl Tunnel {
    pub(crate) fn dialled(stream: Stream, lease: Lease, baggage: Option<Baggage>) -> Self {
        Self::new(stream, Origin::Dialled(lease), baggage.map(Box::new))
    }

    pub(crate) fn accepted(stream: Stream, peer: Arc<SpiffeId>) -> Self {
        Self::new(stream, Origin::Accepted(peer), None)
    }

    fn new(stream: Stream, origin: Origin, baggage: Option<Box<Baggage>>) -> Self {
        Self {
            stream,
            origin,
            baggage,
            next: None,
            state: State::default(),
        }
    }

    /// Whom the other end proved to be.
    pub fn peer(&self) -> &SpiffeId {
        match &self.origin {
            Origin::Dialled(lease) => lease.peer(),
            Origin::Accepted(peer) => peer,
        }
    }

    /// What the peer's 200 said about its workload; dialled tunnels only.
    pub fn baggage(&self) -> Option<&Baggage> {
        self.baggage.as_deref()
    }
}

/// Frames that are handed on together, and so with one system call.
const BATCH: usize = 16;

impl Duplex for Tunnel {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.next.is_none() && !self.state.read_ended {
            self.next = ready!(self.stream.poll_data(cx))?;
            self.state.read_ended = self.next.is_none();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, _: usize) -> Poll<io::Result<Option<Chunk>>> {
        ready!(self.poll_readable(cx))?;
        let Some(first) = self.next.take() else {
            return Poll::Ready(Ok(None));
        };
        let mut total = first.len();
        let mut chunk = Chunk::from(first);
        for _ in 1..BATCH {
            if total >= RELAY_BLOCK {
                break;
            }
            // An end or an error comes again at the next read.
            match self.stream.poll_data(cx) {
                Poll::Ready(Ok(Some(bytes))) => {
                    total += bytes.len();
                    chunk.push(bytes);
                }
                Poll::Ready(Ok(None)) => {
                    self.state.read_ended = true;
                    break;
                }
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(Some(chunk)))
    }

    fn on_consumed(&mut self, n: usize) {
        self.stream.release(n);
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.state.reserved = true;
        self.stream.poll_room(cx, RELAY_BLOCK)
    }

    fn release_room(&mut self) {
        if std::mem::take(&mut self.state.reserved) {
            self.stream.release_room();
        }
    }

    fn poll_write(&mut self, _: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<usize>> {
        let all = std::mem::replace(chunk, Chunk::from(Bytes::new())).into_bytes();
        let n = all.len();
        Poll::Ready(self.stream.send(all).map(|()| n))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.state.write_ended, true) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.stream.finish())
    }

    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // While we read, a reset shows there.
        if self.state.read_ended && !self.state.write_ended {
            self.stream.poll_reset(cx)
        } else {
            Poll::Pending
        }
    }

    fn abort(&mut self) {
        self.stream.reset();
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("peer", self.peer())
            .finish_non_exhaustive()
    }
}
