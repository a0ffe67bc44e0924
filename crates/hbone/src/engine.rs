//! The HTTP/2 engine: the only module that knows the `h2` crate.
//!
//! What the rest of the crate sees is small: open a stream or be given one,
//! read, room, write, end, reset, and a connection that must be driven. An own
//! framing for CONNECT tunnels would replace this file.

mod heartbeat;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};

use crate::config::HboneConfig;
use crate::error::StreamError;
use crate::handshake::Side;
use crate::wire::{SharedWire, Wire};

use heartbeat::Heartbeat;

/// Opens streams on one connection. Cheap to clone; the connection ends when
/// no opener and no stream is left.
#[derive(Clone)]
pub(crate) struct Opener(h2::client::SendRequest<Bytes>);

/// Why a stream didn't come to an answer.
pub(crate) struct OpenFailure {
    /// The peer certainly did nothing about it: it may be tried elsewhere.
    pub(crate) untouched: bool,
    pub(crate) source: io::Error,
}

/// The client's half of a connection, to be polled until it ends.
pub(crate) struct ClientDriver<S: Side> {
    connection: h2::client::Connection<SharedWire<S>, Bytes>,
    wire: SharedWire<S>,
    heartbeat: Heartbeat,
}

/// How a driver ended.
pub(crate) enum DriverEnd {
    /// As it should: closed by either side.
    Closed,
    /// The peer stopped answering pings.
    Silent,
    Failed(io::Error),
}

/// Starts HTTP/2 as a client.
pub(crate) async fn client<S: Side>(
    wire: Wire<S>,
    config: &HboneConfig,
) -> io::Result<(Opener, ClientDriver<S>)> {
    let wire = SharedWire::new(wire);
    let handshake = h2::client::Builder::new()
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window)
        .max_frame_size(config.frame_size)
        .max_header_list_size(CLIENT_HEADERS)
        .initial_max_send_streams(INITIAL_STREAMS)
        .max_send_buffer_size(config.send_buffer)
        .data_frame_budget(SMALL_FRAMES)
        .enable_push(false)
        .handshake(wire.clone());
    let (opener, mut connection) = sending(handshake, &wire).await.map_err(into_io)?;
    let heartbeat = Heartbeat::new(connection.ping_pong(), config);
    let driver = ClientDriver {
        connection,
        wire,
        heartbeat,
    };
    Ok((Opener(opener), driver))
}

impl Opener {
    /// Whether new streams can still be opened: not closed, no GOAWAY.
    pub(crate) fn is_usable(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        !matches!(self.0.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// How many streams the peer allows at once, as it last said.
    pub(crate) fn peer_limit(&self) -> usize {
        self.0.current_max_send_streams()
    }

    /// Sends a CONNECT and waits for the answer.
    pub(crate) async fn connect(
        &mut self,
        request: Request<()>,
    ) -> Result<(Response<()>, Stream), OpenFailure> {
        let (response, send) = self.0.send_request(request, false).map_err(|error| {
            let source = into_io(error);
            OpenFailure {
                untouched: true,
                source,
            }
        })?;
        let (head, recv) = response.await.map_err(failure)?.into_parts();
        Ok((Response::from_parts(head, ()), Stream { send, recv }))
    }
}

fn failure(error: h2::Error) -> OpenFailure {
    let refused = error.reason() == Some(Reason::REFUSED_STREAM);
    // After GOAWAY the streams beyond its last id fail with it.
    let untouched = refused || (error.is_go_away() && error.is_remote());
    OpenFailure {
        untouched,
        source: into_io(error),
    }
}

impl<S: Side> ClientDriver<S> {
    /// Whether the peer's settings are known: they are the first thing it says.
    pub(crate) fn settled(&self) -> bool {
        self.wire.heard()
    }

    /// One turn: reads, writes, pings, then one flush.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<DriverEnd> {
        self.wire.begin_turn();
        if self.heartbeat.poll_silent(cx).is_ready() {
            return Poll::Ready(DriverEnd::Silent);
        }
        match Pin::new(&mut self.connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(DriverEnd::Closed),
            Poll::Ready(Err(error)) => Poll::Ready(DriverEnd::Failed(into_io(error))),
            Poll::Pending => match self.wire.poll_send(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(DriverEnd::Failed(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            },
        }
    }
}

/// The server's half of a connection.
pub(crate) struct ServerDriver<S: Side> {
    connection: h2::server::Connection<SharedWire<S>, Bytes>,
    wire: SharedWire<S>,
    heartbeat: Heartbeat,
    silent: bool,
}

/// A request that waits for its answer.
pub(crate) struct Responder {
    respond: h2::server::SendResponse<Bytes>,
    recv: RecvStream,
}

/// Starts HTTP/2 as a server.
pub(crate) async fn server<S: Side>(
    wire: Wire<S>,
    config: &HboneConfig,
) -> io::Result<ServerDriver<S>> {
    let wire = SharedWire::new(wire);
    let handshake = h2::server::Builder::new()
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window)
        .max_frame_size(config.frame_size)
        .max_header_list_size(SERVER_HEADERS)
        .max_concurrent_streams(config.accepted_streams)
        .max_send_buffer_size(config.send_buffer)
        .data_frame_budget(SMALL_FRAMES)
        .handshake(wire.clone());
    let mut connection = sending(handshake, &wire).await.map_err(into_io)?;
    let heartbeat = Heartbeat::new(connection.ping_pong(), config);
    Ok(ServerDriver {
        connection,
        wire,
        heartbeat,
        silent: false,
    })
}

impl<S: Side> ServerDriver<S> {
    /// The next request; meanwhile reads, writes and pings.
    pub(crate) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Request<()>, Responder), DriverEnd>> {
        self.wire.begin_turn();
        if !self.silent && self.heartbeat.poll_silent(cx).is_ready() {
            self.silent = true;
            self.connection.abrupt_shutdown(Reason::NO_ERROR);
        }
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                let (head, recv) = request.into_parts();
                let responder = Responder { respond, recv };
                Poll::Ready(Ok((Request::from_parts(head, ()), responder)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(if self.silent {
                DriverEnd::Silent
            } else {
                DriverEnd::Failed(into_io(error))
            })),
            Poll::Ready(None) if self.silent => Poll::Ready(Err(DriverEnd::Silent)),
            Poll::Ready(None) => Poll::Ready(Err(DriverEnd::Closed)),
            Poll::Pending => {
                let sent = self.wire.poll_send(cx);
                match sent {
                    // Nothing gets through to a silent peer: don't wait for it.
                    _ if self.silent => Poll::Ready(Err(DriverEnd::Silent)),
                    Poll::Ready(Err(error)) => Poll::Ready(Err(DriverEnd::Failed(error))),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    /// GOAWAY: open streams go on, the connection ends with the last one.
    pub(crate) fn go_away(&mut self) {
        self.connection.graceful_shutdown();
    }
}

impl Responder {
    /// Answers with more to follow.
    pub(crate) fn accept(mut self, response: Response<()>) -> Result<Stream, StreamError> {
        let send = self.respond.send_response(response, false);
        Ok(Stream {
            send: send.map_err(|_| StreamError::Gone)?,
            recv: self.recv,
        })
    }

    /// Answers and ends the stream.
    pub(crate) fn reject(mut self, response: Response<()>) {
        // A client that is gone doesn't miss the answer.
        let _ = self.respond.send_response(response, true);
    }
}

/// An open stream: two directions that end independently.
pub(crate) struct Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
}

impl Stream {
    /// The next bytes; `None` is the peer's end of stream.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => return Poll::Ready(Ok(Some(bytes))),
                None => return Poll::Ready(Ok(None)),
                Some(Err(error)) if is_clean(&error) => return Poll::Ready(Ok(None)),
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
    }

    /// Gives receive window back.
    pub(crate) fn release(&mut self, n: usize) {
        // More than was received would be our own mistake, and harmless.
        let _ = self.recv.flow_control().release_capacity(n);
    }

    /// Asks for send window and says how much there is.
    pub(crate) fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(want);
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) if is_clean(&error) => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    /// Gives send window that isn't used back to the connection's other streams.
    pub(crate) fn release_room(&mut self) {
        self.send.reserve_capacity(0);
    }

    /// Queues bytes.
    pub(crate) fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.send
            .send_data(bytes, false)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends our direction.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.send
            .send_data(Bytes::new(), true)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Ready when the peer reset the stream.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(Reason::NO_ERROR | Reason::CANCEL) => Poll::Ready(io::ErrorKind::BrokenPipe.into()),
            Ok(reason) => Poll::Ready(reset_error(reason)),
            Err(error) => Poll::Ready(into_io(error)),
        }
    }

    /// Tells the peer that the application's connection failed (RFC 9113, 8.5).
    pub(crate) fn reset(&mut self) {
        self.send.send_reset(Reason::CONNECT_ERROR);
    }
}

/// Polls a handshake and sends what it writes: its flushes do nothing.
async fn sending<S: Side, F: Future>(handshake: F, wire: &SharedWire<S>) -> F::Output {
    let mut handshake = std::pin::pin!(handshake);
    std::future::poll_fn(|cx| {
        wire.begin_turn();
        let done = handshake.as_mut().poll(cx);
        // A failure to send shows when the driver runs.
        let _ = wire.poll_send(cx);
        done
    })
    .await
}

/// Resets that mean an ordinary end (`ztunnel-contract` 2.6).
fn is_clean(error: &h2::Error) -> bool {
    error.is_reset()
        && error.is_remote()
        && matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL))
}

fn reset_error(reason: Reason) -> io::Error {
    match reason {
        Reason::STREAM_CLOSED => io::ErrorKind::BrokenPipe.into(),
        // The other end's application connection broke.
        Reason::CONNECT_ERROR => io::ErrorKind::ConnectionReset.into(),
        other => io::Error::other(h2::Error::from(other)),
    }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_reset()
        && let Some(reason) = error.reason()
    {
        return reset_error(reason);
    }
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::other(error)
}

/// Header lists that we accept.
const CLIENT_HEADERS: u32 = 16 << 10;
const SERVER_HEADERS: u32 = 64 << 10;
/// Streams until the peer says how many it takes.
const INITIAL_STREAMS: usize = 100;
/// The engine's guard against floods of tiny frames closes the connection and
/// all its streams with it. Its default is met by one application that doesn't
/// read while its peer sends lines of 60 bytes; this is met by no reader within
/// the stream window unless frames are smaller than about 16 bytes.
const SMALL_FRAMES: usize = 64 << 20;
