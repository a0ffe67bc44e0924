//! Bodies on their way: streamed, counted, and kept for a retry only as far as
//! a bound allows. No body is collected whole.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ambit_route::grpc_web::{Decoder, NotBase64};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::exchange::Streaming;
use super::messages::Messages;
use super::web::WebBody;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// Its sender's connection failed.
    #[error("body")]
    Http(#[source] hyper::Error),
    /// Nothing came for too long, or the whole took too long.
    #[error("timeout")]
    Timeout,
    /// Another attempt reads it now.
    #[error("superseded by another attempt")]
    Superseded,
    /// A mirrored body outgrew its bound.
    #[error("copy given up")]
    CopyGivenUp,
    /// It can't be translated.
    #[error(transparent)]
    Web(#[from] NotBase64),
}

/// The body of a request, as one attempt sends it.
pub(crate) enum UpBody {
    Empty,
    Full(Option<Bytes>),
    Replay(Attempt),
    Copy(CopyBody),
}

impl Body for UpBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Replay(attempt) => attempt.poll_frame(cx),
            Self::Copy(copy) => copy.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Replay(_) | Self::Copy(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Replay(attempt) => attempt.hint,
            Self::Copy(copy) => copy.hint,
        }
    }
}

/// A client's body and what of it was kept, for all attempts.
#[derive(Clone)]
pub(crate) struct Replay(Arc<Mutex<Source>>);

struct Source {
    incoming: Incoming,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Bytes that came so far, header of frames not counted.
    received: u64,
    limit: u64,
    /// More came than is kept: no attempt can begin anew.
    outgrown: bool,
    /// Anything was taken by an attempt.
    started: bool,
    /// The attempt that may read.
    epoch: u32,
    hint: SizeHint,
    copies: Vec<mpsc::Sender<Frame<Bytes>>>,
    /// Of gRPC, so far.
    messages: Messages,
    grpc: bool,
    /// The client sends base64, backends get what it stands for.
    decoder: Option<Decoder>,
    /// It broke off, or can't be read.
    broken: bool,
}

impl Replay {
    /// Up to `limit` bytes are kept. Messages of gRPC are counted.
    pub(crate) fn new(incoming: Incoming, limit: u64, grpc: bool) -> Self {
        let hint = incoming.size_hint();
        let ended = incoming.is_end_stream();
        Self(Arc::new(Mutex::new(Source {
            incoming,
            kept: Vec::new(),
            trailers: None,
            ended,
            received: 0,
            limit,
            outgrown: false,
            started: false,
            epoch: 0,
            hint,
            copies: Vec::new(),
            messages: Messages::default(),
            grpc,
            decoder: None,
            broken: false,
        })))
    }

    /// From the first byte on, what the client sends is base64.
    pub(crate) fn decode(&self) {
        let mut source = self.0.lock();
        source.decoder = Some(Decoder::default());
        source.hint = SizeHint::default();
    }

    /// The body for a new attempt; older attempts read no further. `None`: too
    /// much of it is gone.
    pub(crate) fn attempt(&self) -> Option<UpBody> {
        let mut source = self.0.lock();
        if source.outgrown {
            return None;
        }
        source.epoch += 1;
        if source.ended && source.kept.is_empty() && source.trailers.is_none() {
            return Some(UpBody::Empty);
        }
        Some(UpBody::Replay(Attempt {
            source: self.clone(),
            epoch: source.epoch,
            at: 0,
            trailers_sent: false,
            hint: source.hint,
        }))
    }

    /// Whether another attempt could have the whole body.
    pub(crate) fn can_repeat(&self) -> bool {
        !self.0.lock().outgrown
    }

    /// Whether the client didn't send it whole, or something else than it said.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.lock().broken
    }

    /// Bytes that the client sent so far.
    pub(crate) fn received(&self) -> u64 {
        self.0.lock().received
    }

    /// gRPC messages that the client sent so far.
    pub(crate) fn messages(&self) -> u64 {
        self.0.lock().messages.count()
    }

    /// A copy of what will come, for a mirror. It holds nobody up: a mirror
    /// that is too slow is given up.
    pub(crate) fn copy(&self) -> UpBody {
        let mut source = self.0.lock();
        if source.ended {
            return UpBody::Empty;
        }
        let (sender, frames) = mpsc::channel(COPY_FRAMES);
        source.copies.push(sender);
        UpBody::Copy(CopyBody {
            frames,
            hint: source.hint,
            left: source.hint.exact(),
        })
    }

    /// Reads up to `max` bytes before anything is sent, for a provider that
    /// wants to see them. The bytes stay kept. True: that was all of it.
    ///
    /// # Errors
    /// The client's connection failed.
    pub(crate) async fn peek(&self, max: u64) -> Result<(Vec<u8>, bool), BodyError> {
        loop {
            {
                let source = self.0.lock();
                if source.ended || source.received > max || source.outgrown {
                    let mut all: Vec<u8> = source.kept.concat();
                    let whole = source.ended && all.len() as u64 <= max;
                    all.truncate(usize::try_from(max).unwrap_or(usize::MAX));
                    return Ok((all, whole));
                }
            }
            let read = std::future::poll_fn(|cx| self.0.lock().poll_more(cx));
            if let Some(frame) = read.await {
                frame?;
            }
        }
    }

    /// What is kept at least: a provider's view of the body needs it.
    pub(crate) fn keep_at_least(&self, bytes: u64) {
        let mut source = self.0.lock();
        source.limit = source.limit.max(bytes);
    }
}

impl Source {
    /// The next frame of the client; kept, copied and counted.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                self.ended = true;
                self.copies.clear();
                let whole = self.decoder.as_ref().map_or(Ok(()), Decoder::end);
                self.broken = whole.is_err();
                return Poll::Ready(whole.err().map(|error| Err(error.into())));
            }
            Some(Err(error)) => {
                self.copies.clear();
                self.broken = true;
                return Poll::Ready(Some(Err(BodyError::Http(error))));
            }
            Some(Ok(frame)) => match self.decoded(frame) {
                Ok(frame) => frame,
                Err(error) => {
                    self.copies.clear();
                    self.broken = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            },
        };
        self.share(&frame);
        if let Some(data) = frame.data_ref() {
            self.received += data.len() as u64;
            if self.grpc {
                self.messages.pass(data);
            }
            if self.received > self.limit {
                self.outgrown = true;
                self.kept = Vec::new();
            } else if !data.is_empty() {
                self.kept.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        if self.incoming.is_end_stream() {
            self.ended = true;
            self.copies.clear();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn decoded(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, NotBase64> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(frame);
        };
        let frame = match frame.into_data() {
            Ok(data) => Frame::data(decoder.pass(&data)?),
            Err(frame) => frame,
        };
        if self.incoming.is_end_stream() {
            decoder.end()?;
        }
        Ok(frame)
    }

    fn share(&mut self, frame: &Frame<Bytes>) {
        if self.copies.is_empty() {
            return;
        }
        self.copies.retain(|copy| {
            let frame = match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => Frame::data(data.clone()),
                (None, Some(trailers)) => Frame::trailers(trailers.clone()),
                (None, None) => return true,
            };
            copy.try_send(frame).is_ok()
        });
    }
}

/// One attempt's reading of a [`Replay`].
pub(crate) struct Attempt {
    source: Replay,
    epoch: u32,
    at: usize,
    trailers_sent: bool,
    hint: SizeHint,
}

impl Attempt {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut source = self.source.0.lock();
        if source.epoch != self.epoch {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(kept) = source.kept.get(self.at) {
            let kept = kept.clone();
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept))));
        }
        if source.ended {
            return Poll::Ready(match &source.trailers {
                Some(trailers) if !self.trailers_sent => {
                    self.trailers_sent = true;
                    Some(Ok(Frame::trailers(trailers.clone())))
                }
                _ => None,
            });
        }
        source.started = true;
        let frame = ready!(source.poll_more(cx));
        self.at = source.kept.len();
        if let Some(Ok(frame)) = &frame {
            self.trailers_sent |= frame.is_trailers();
        }
        Poll::Ready(frame)
    }
}

/// The body of a mirrored request.
pub(crate) struct CopyBody {
    frames: mpsc::Receiver<Frame<Bytes>>,
    hint: SizeHint,
    left: Option<u64>,
}

impl CopyBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match ready!(self.frames.poll_recv(cx)) {
            Some(frame) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // A short copy must not look like a complete one.
            None if self.left.is_some_and(|left| left > 0) => {
                Poll::Ready(Some(Err(BodyError::CopyGivenUp)))
            }
            None => Poll::Ready(None),
        }
    }
}

/// The body of a response.
pub(crate) enum DownBody {
    Empty,
    Full(Option<Bytes>),
    Stream(Box<Streaming>),
    Web(WebBody),
}

impl DownBody {
    pub(crate) fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Full(Some(bytes))
        }
    }
}

impl Body for DownBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.poll_frame(cx),
            Self::Web(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(stream) => stream.is_end_stream(),
            Self::Web(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(stream) => stream.size_hint(),
            Self::Web(body) => body.size_hint(),
        }
    }
}

/// Frames that a mirror may lag behind.
const COPY_FRAMES: usize = 64;

impl From<BodyError> for io::Error {
    fn from(error: BodyError) -> Self {
        Self::other(error)
    }
}
