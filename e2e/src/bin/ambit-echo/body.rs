//! Bodies of answers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::HeaderMap;
use hyper::body::{Body, Frame};

/// Any of them.
pub(crate) type AnyBody = BoxBody<Bytes, io::Error>;

/// A whole one.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// Pieces, then trailers; or an end that is none.
pub(crate) struct Pieces {
    /// Bytes that are still to come.
    left: u64,
    /// What they are made of, again and again.
    piece: Bytes,
    at: usize,
    trailers: Option<HeaderMap>,
    dies: bool,
}

impl Pieces {
    /// `total` bytes made of `piece`.
    pub(crate) fn new(total: u64, piece: impl Into<Bytes>) -> Self {
        Self {
            left: total,
            piece: piece.into(),
            at: 0,
            trailers: None,
            dies: false,
        }
    }

    pub(crate) fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }

    /// The connection ends when so many bytes were sent.
    pub(crate) fn dying_after(mut self, bytes: u64) -> Self {
        self.left = self.left.min(bytes);
        self.dies = true;
        self
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left > 0 && !self.piece.is_empty() {
            let start = self.at % self.piece.len();
            let here = u64::try_from(self.piece.len() - start).unwrap_or(u64::MAX);
            let length = usize::try_from(self.left.min(here)).unwrap_or(usize::MAX);
            let data = self.piece.slice(start..start + length);
            self.at = start + length;
            self.left -= self.left.min(here);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.dies {
            self.dies = false;
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t))))
    }
}
