//! The end of an inner connection: what was said last has to arrive.
//!
//! A client may still be sending when its connection ends: acknowledgements, a
//! body that nobody wants. Dropped at once, the tunnel is reset, the client's
//! proxy passes that on, and the client loses the answer, or the GOAWAY, that
//! was on its way. So whoever has said its last word listens for a while, as
//! RFC 9112 9.6 asks of servers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ambit_runtime::Scope;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A connection that, once its sending side is ended, is kept until the client
/// has ended its own: for [`PATIENCE`] and [`LEFTOVER`] bytes at most.
pub(crate) struct Parting<IO: AsyncRead + Unpin + Send + 'static> {
    /// Gone only when dropped.
    io: Option<IO>,
    /// Whom the listening task belongs to.
    scope: Scope,
    sent_all: bool,
    read_all: bool,
}

impl<IO: AsyncRead + Unpin + Send + 'static> Parting<IO> {
    pub(crate) fn new(io: IO, scope: Scope) -> Self {
        Self {
            io: Some(io),
            scope,
            sent_all: false,
            read_all: false,
        }
    }

    fn io(&mut self) -> io::Result<Pin<&mut IO>> {
        let io = self.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(io))
    }
}

impl<IO: AsyncRead + Unpin + Send + 'static> Drop for Parting<IO> {
    fn drop(&mut self) {
        let Some(mut io) = self.io.take() else {
            return;
        };
        if !self.sent_all || self.read_all {
            return;
        }
        self.scope.spawn("parting", async move {
            let _ = tokio::time::timeout(PATIENCE, hear_out(&mut io)).await;
        });
    }
}

/// Reads to the client's end, or until it has said too much.
async fn hear_out(io: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 4096];
    let mut left = LEFTOVER;
    while let Ok(n @ 1..) = io.read(&mut buffer).await {
        left = left.saturating_sub(n);
        if left == 0 {
            return;
        }
    }
}

impl<IO: AsyncRead + Unpin + Send + 'static> AsyncRead for Parting<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = ready!(self.io()?.poll_read(cx, buf));
        self.read_all |= read.is_err() || (room > 0 && buf.filled().len() == before);
        Poll::Ready(read)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Parting<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(self.io()?.poll_shutdown(cx));
        self.sent_all |= ended.is_ok();
        Poll::Ready(ended)
    }
}

/// How long a client has to end its side.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is read of it meanwhile, in bytes.
const LEFTOVER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn pair() -> (DuplexStream, Parting<DuplexStream>, Scope) {
        let (client, server) = duplex(256);
        let scope = Scope::new("test");
        let parting = Parting::new(server, scope.clone());
        (client, parting, scope)
    }

    #[tokio::test(start_paused = true)]
    async fn who_still_sends_is_heard_out_and_gets_the_last_word() {
        let (mut client, mut server, _scope) = pair();
        server.write_all(b"goodbye").await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        // More than the pipe holds: somebody reads it.
        client.write_all(&[7; 4096]).await.unwrap();
        let mut word = String::new();
        client.read_to_string(&mut word).await.unwrap();
        assert_eq!(word, "goodbye");
    }

    #[tokio::test(start_paused = true)]
    async fn patience_and_what_is_read_are_bounded() {
        let (mut client, mut server, _scope) = pair();
        server.shutdown().await.unwrap();
        drop(server);
        tokio::time::sleep(PATIENCE * 2).await;
        assert!(client.write_all(b"still here").await.is_err());

        let (mut client, mut server, _scope) = pair();
        server.shutdown().await.unwrap();
        drop(server);
        assert!(client.write_all(&vec![0; LEFTOVER * 2]).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_cut_off_is_not_heard_out() {
        let (mut client, server, scope) = pair();
        drop(server);
        assert!(client.write_all(b"more").await.is_err());
        scope.finish(Duration::ZERO).await;
    }
}
