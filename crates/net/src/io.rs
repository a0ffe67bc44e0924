//! A [`Duplex`] as a stream of the async ecosystem: HTTP and TLS engines read
//! into buffers of their own and write from them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::chunk::Chunk;
use crate::duplex::Duplex;

/// Reads and writes a [`Duplex`] through buffers of the caller.
///
/// What a read doesn't fit in is kept for the next one. Flow-control credit
/// goes back as bytes are taken. A write takes no more than there is room for,
/// so that a stalled peer holds up the writer and not memory.
#[derive(Debug)]
pub struct DuplexIo<D> {
    inner: D,
    rest: Option<Chunk>,
    ended: bool,
}

impl<D: Duplex> DuplexIo<D> {
    /// Wraps a stream.
    pub fn new(inner: D) -> Self {
        Self {
            inner,
            rest: None,
            ended: false,
        }
    }

    /// Wraps a stream of which some bytes were read already; they come first.
    pub fn with_read(inner: D, read: Option<Chunk>) -> Self {
        Self {
            rest: read.filter(|chunk| !chunk.is_empty()),
            ..Self::new(inner)
        }
    }

    /// What was read of the stream and not taken; whoever takes it says so with
    /// [`on_taken`](Self::on_taken) when it is handed on.
    pub fn take_read(&mut self) -> Option<Chunk> {
        self.rest.take()
    }

    /// `n` bytes of [`take_read`](Self::take_read) are handed on: flow-control
    /// credit goes back.
    pub fn on_taken(&mut self, n: usize) {
        self.inner.on_consumed(n);
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &D {
        &self.inner
    }

    /// The stream and what was read of it without being taken.
    pub fn into_parts(self) -> (D, Option<Chunk>) {
        (self.inner, self.rest)
    }
}

impl<D: Duplex> DuplexIo<D> {
    /// Writes what there is room for.
    fn write_now(&mut self, cx: &mut Context<'_>, bytes: Bytes) -> Poll<io::Result<usize>> {
        let written = ready!(self.inner.poll_write(cx, &mut Chunk::from(bytes)))?;
        self.inner.release_room();
        Poll::Ready(Ok(written))
    }
}

impl<D: Duplex + Unpin> AsyncRead for DuplexIo<D> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.rest.is_none() && !me.ended {
            ready!(me.inner.poll_readable(cx))?;
            match ready!(me.inner.poll_read(cx, buf.remaining()))? {
                Some(chunk) => me.rest = Some(chunk),
                None => me.ended = true,
            }
        }
        let mut taken = 0;
        if let Some(chunk) = &mut me.rest {
            while buf.remaining() > 0 && !chunk.is_empty() {
                let part = chunk.first();
                let n = part.len().min(buf.remaining());
                buf.put_slice(part.get(..n).unwrap_or_default());
                chunk.advance(n);
                taken += n;
            }
        }
        if me.rest.as_ref().is_some_and(Chunk::is_empty) {
            me.rest = None;
        }
        if taken > 0 {
            me.inner.on_consumed(taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl<D: Duplex + Unpin> AsyncWrite for DuplexIo<D> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.inner.poll_room(cx))?;
        let part = buf.get(..room.min(buf.len())).unwrap_or(buf);
        self.write_now(cx, Bytes::copy_from_slice(part))
    }

    /// Makes one piece of all parts: a head and its body travel together, and
    /// the engine above needn't join them first.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: usize = parts.iter().map(|part| part.len()).sum();
        if all == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut room = all.min(ready!(self.inner.poll_room(cx))?);
        let mut piece = Vec::with_capacity(room);
        for part in parts {
            let part = part.get(..room.min(part.len())).unwrap_or(part);
            piece.extend_from_slice(part);
            room -= part.len();
        }
        self.write_now(cx, piece.into())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn short_reads_lose_nothing_and_ends_go_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (mut client, (server, _)) = tokio::try_join!(dialled, listener.accept()).unwrap();
        client.write_all(b"hello world").await.unwrap();
        client.shutdown().await.unwrap();
        let seen = Some(Chunk::from(Bytes::from_static(b"> ")));
        let mut io = DuplexIo::with_read(server, seen);
        let mut all = Vec::new();
        let mut three = [0; 3];
        loop {
            let n = io.read(&mut three).await.unwrap();
            if n == 0 {
                break;
            }
            all.extend_from_slice(&three[..n]);
        }
        assert_eq!(all, b"> hello world");
        io.write_all(b"bye").await.unwrap();
        io.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "bye");
    }
    /// Has room for so many bytes at a time, and notes each piece.
    struct Narrow {
        room: usize,
        pieces: Vec<Vec<u8>>,
    }

    impl Duplex for Narrow {
        fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_read(&mut self, _: &mut Context<'_>, _: usize) -> Poll<io::Result<Option<Chunk>>> {
            Poll::Pending
        }

        fn on_consumed(&mut self, _: usize) {}

        fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(self.room))
        }

        fn release_room(&mut self) {}

        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            chunk: &mut Chunk,
        ) -> Poll<io::Result<usize>> {
            let bytes = std::mem::replace(chunk, Chunk::from(Bytes::new())).into_bytes();
            self.pieces.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_abandoned(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
            Poll::Pending
        }

        fn abort(&mut self) {}
    }

    #[tokio::test]
    async fn parts_are_one_piece_as_long_as_there_is_room() {
        for (room, wanted) in [(99, "head, body"), (8, "head, bo"), (4, "head"), (1, "h")] {
            let pieces = Vec::new();
            let mut io = DuplexIo::new(Narrow { room, pieces });
            let parts = ["", "head", ", ", "body"].map(|part| IoSlice::new(part.as_bytes()));
            let n = io.write_vectored(&parts).await.unwrap();
            assert_eq!((n, io.inner.pieces), (wanted.len(), vec![wanted.into()]));
        }
        let mut io = DuplexIo::new(Narrow {
            room: 9,
            pieces: Vec::new(),
        });
        assert_eq!(io.write_vectored(&[IoSlice::new(b"")]).await.unwrap(), 0);
        assert!(io.inner.pieces.is_empty());
    }
}
