//! TLS records under HTTP/2: large reads, coalesced writes, nothing held while
//! idle.
//!
//! Reading, up to [`WIRE_BLOCK`] bytes come out of the socket at once and are
//! decrypted where they lie; the block is this thread's and goes back as soon
//! as it is drained. Writing, records are sealed into such a block and leave
//! with [`Wire::poll_send`], which the connection's driver calls when everything
//! that was ready has been written: many small frames make one system call, and
//! a lone one isn't delayed.

mod buffers;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use ambit_identity::{TlsFault, classify_io};
use ambit_net::WIRE_BLOCK;
use parking_lot::Mutex;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::handshake::{Side, encode, tls_error};

use buffers::{Input, Output, RECORD};

/// An established TLS connection.
pub(crate) struct Wire<S> {
    tcp: TcpStream,
    tls: S,
    input: Input,
    /// Decrypted bytes that the reader had no room for.
    plain: Vec<u8>,
    plain_start: usize,
    output: Output,
    /// The peer said its last.
    ended: bool,
    /// We said ours.
    closing: bool,
    heard: bool,
    /// Bytes that may still be read in this turn of the driver.
    turn: usize,
    fault: Arc<OnceLock<TlsFault>>,
}

/// What one turn reads at most before other tasks of the thread run.
const TURN: usize = 4 * WIRE_BLOCK;
/// With this much sealed and waiting, a write doesn't wait for the batch's end.
const SEND_AT: usize = 128 * 1024;

impl<S: Side> Wire<S> {
    pub(crate) fn new(tcp: TcpStream, tls: S, input: Vec<u8>, plain: Vec<u8>) -> Self {
        Self {
            tcp,
            tls,
            input: Input::new(input),
            plain,
            plain_start: 0,
            output: Output::default(),
            ended: false,
            closing: false,
            heard: false,
            turn: TURN,
            fault: Arc::default(),
        }
    }

    pub(crate) fn tls(&self) -> &S {
        &self.tls
    }

    /// Set when TLS ends the connection, before anybody sees an error of it.
    pub(crate) fn fault(&self) -> Arc<OnceLock<TlsFault>> {
        Arc::clone(&self.fault)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let before = buf.filled().len();
            self.take_plain(buf);
            if !self.input.is_empty() && buf.remaining() > 0 && !self.ended {
                self.decrypt(buf)?;
            }
            if buf.filled().len() > before || self.ended {
                self.heard = true;
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    fn take_plain(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = self.plain.get(self.plain_start..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        let n = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..n).unwrap_or_default());
        self.plain_start += n;
        if self.plain_start == self.plain.len() {
            self.plain = Vec::new();
            self.plain_start = 0;
        }
    }

    /// Decrypts what is there, into `buf` while that has room.
    fn decrypt(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        while buf.remaining() > 0 && self.advance(&mut Goal::Read(buf))? {}
        Ok(())
    }

    /// One step of rustls over the input that is there. False when the goal is
    /// reached or nothing more can be done towards it now.
    fn advance(&mut self, goal: &mut Goal<'_, '_>) -> io::Result<bool> {
        let UnbufferedStatus { discard, state } = self.tls.process(self.input.bytes());
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                let mut step = Ok(true);
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => goal.take(record.payload, &mut self.plain),
                        Err(error) => step = Err(tls_error(error)),
                    }
                }
                step
            }
            // Key updates, alerts of our own.
            Ok(ConnectionState::EncodeTlsData(mut record)) => {
                encode(&mut record, self.output.control());
                Ok(true)
            }
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                sent.done();
                Ok(true)
            }
            Ok(ConnectionState::PeerClosed) => {
                self.ended = true;
                Ok(matches!(goal, Goal::Seal(_)))
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => match goal {
                Goal::Read(_) => Ok(false),
                Goal::Seal(bytes) => self.output.seal(&mut traffic, bytes).map(|()| false),
            },
            Ok(_) => match goal {
                Goal::Read(_) => Ok(false),
                Goal::Seal(_) => Err(io::ErrorKind::BrokenPipe.into()),
            },
            Err(error) => Err(tls_error(error)),
        };
        self.input.discard(discard);
        step.inspect_err(|error| {
            let _ = self.fault.set(classify_io(error));
        })
    }

    /// More ciphertext. Holds no block while it waits.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turn == 0 {
            self.input.settle();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = match self.tcp.poll_read_ready(cx) {
            Poll::Ready(Ok(())) => {
                let mut buf = ReadBuf::new(self.input.room());
                let read = Pin::new(&mut self.tcp).poll_read(cx, &mut buf);
                let n = buf.filled().len();
                self.input.filled(n);
                self.turn = self.turn.saturating_sub(n);
                // An end without close_notify is a cut; HTTP/2 has its own end.
                self.ended |= n == 0 && read.is_ready();
                read
            }
            other => other,
        };
        if read.is_pending() {
            self.input.settle();
        }
        read
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.output.capacity_for_plain() < bytes.len().min(RECORD) {
            ready!(self.poll_send(cx))?;
        }
        let take = bytes.len().min(self.output.capacity_for_plain());
        let Some(bytes) = bytes.get(..take).filter(|bytes| !bytes.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        self.seal(bytes)?;
        if self.output.len() >= SEND_AT {
            // Not done is fine: the driver goes on with it.
            let _ = self.poll_send(cx)?;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Encrypts into the output block. An empty slice seals a close_notify.
    fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        while self.advance(&mut Goal::Seal(bytes))? {}
        Ok(())
    }

    /// Writes out everything that is sealed.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.take_control();
        while self.output.len() > 0 {
            let n = ready!(Pin::new(&mut self.tcp).poll_write(cx, self.output.bytes()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.sent(n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.closing, true) {
            // A peer that is gone needs no farewell.
            let _ = self.seal(&[]);
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// What a step of rustls is for.
enum Goal<'a, 'b> {
    Read(&'a mut ReadBuf<'b>),
    Seal(&'a [u8]),
}

impl Goal<'_, '_> {
    /// Hands on decrypted bytes; what has no room now waits in `plain`.
    fn take(&mut self, payload: &[u8], plain: &mut Vec<u8>) {
        let taken = match self {
            Self::Read(buf) if plain.is_empty() => {
                let n = payload.len().min(buf.remaining());
                buf.put_slice(payload.get(..n).unwrap_or_default());
                n
            }
            Self::Read(_) | Self::Seal(_) => 0,
        };
        plain.extend_from_slice(payload.get(taken..).unwrap_or_default());
    }
}

/// The two handles on a connection's wire: HTTP/2 reads and writes through
/// one, the driver flushes through the other. Both are in one task, so the lock
/// is never contended.
pub(crate) struct SharedWire<S>(Arc<Mutex<Wire<S>>>);

impl<S> Clone for SharedWire<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Side> SharedWire<S> {
    pub(crate) fn new(wire: Wire<S>) -> Self {
        Self(Arc::new(Mutex::new(wire)))
    }

    /// A new turn of the driver begins.
    pub(crate) fn begin_turn(&self) {
        self.0.lock().turn = TURN;
    }

    /// The batch is complete: send it.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_send(cx)
    }

    /// Whether anything was heard from the peer since the handshake.
    pub(crate) fn heard(&self) -> bool {
        self.0.lock().heard
    }
}

impl<S: Side> AsyncRead for SharedWire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, buf)
    }
}

impl<S: Side> AsyncWrite for SharedWire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bytes)
    }

    /// Does nothing: HTTP/2 flushes after every large frame. See
    /// [`SharedWire::poll_send`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_shutdown(cx)
    }
}
