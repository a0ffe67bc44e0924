//! One end of a relay: a TCP socket here, an HBONE tunnel in `hbone`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::block::{Block, RELAY_BLOCK};
use crate::chunk::Chunk;

/// A byte stream with two directions that end independently.
///
/// Reading comes in two steps so that nobody holds a buffer or flow-control
/// credit while idle: first [`poll_readable`](Self::poll_readable), then, once
/// the other end has room, [`poll_read`](Self::poll_read).
pub trait Duplex: Send {
    /// Ready when a read is likely to give something: bytes, the end, an error.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Up to about `room` bytes; `None` is the peer's end of stream.
    fn poll_read(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Option<Chunk>>>;

    /// `n` bytes that were read are handed on: give flow-control credit back.
    fn on_consumed(&mut self, n: usize);

    /// How many bytes may be written now without being held up in memory.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// The room that was given isn't needed now: don't keep credit from others.
    fn release_room(&mut self);

    /// Writes some or all of the chunk and advances it by what was taken.
    fn poll_write(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<usize>>;

    /// Ends our direction; the other one goes on.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when the peer will take no more from us, if that shows without
    /// writing and reading has ended.
    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Makes the end of the stream an abrupt one, seen by the peer as such.
    fn abort(&mut self);
}

/// Whether an error just means that the peer went away: such a copy has ended,
/// it hasn't failed (`ztunnel-contract` 2.6).
pub fn is_benign(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
    )
}

/// Parts of one vectored write.
const MAX_SLICES: usize = 16;

impl Duplex for TcpStream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Option<Chunk>>> {
        // The block is this thread's scratch: it goes back at once if the
        // socket has nothing.
        let mut block = Block::relay();
        let room = room.clamp(1, RELAY_BLOCK);
        let mut buf = ReadBuf::new(block.get_mut(..room).unwrap_or_default());
        ready!(AsyncRead::poll_read(Pin::new(self), cx, &mut buf))?;
        let n = buf.filled().len();
        Poll::Ready(Ok((n > 0).then(|| Chunk::from_block(block, n))))
    }

    fn on_consumed(&mut self, _: usize) {}

    fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(RELAY_BLOCK))
    }

    fn release_room(&mut self) {}

    fn poll_write(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<usize>> {
        let n = if chunk.is_vectored() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = chunk.slices(&mut slices);
            let slices = slices.get(..count).unwrap_or_default();
            ready!(Pin::new(&mut *self).poll_write_vectored(cx, slices))?
        } else {
            ready!(AsyncWrite::poll_write(Pin::new(self), cx, chunk.first()))?
        };
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        chunk.advance(n);
        Poll::Ready(Ok(n))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    fn poll_abandoned(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    fn abort(&mut self) {
        // Closing with lingering off sends RST: the application learns that
        // the stream was cut. A socket that is gone already needs none.
        let _ = socket2::SockRef::from(&*self).set_linger(Some(std::time::Duration::ZERO));
    }
}
