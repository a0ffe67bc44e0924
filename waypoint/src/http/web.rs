//! gRPC-Web on ports that are declared `grpc-web` (`waypoint-contract` 1.8,
//! 1.11 row 7): what browsers' clients send becomes gRPC for the backend, and
//! its answer, trailers and all, becomes a body that a browser can read.
//!
//! Owns the two translations. Routes, policies and the log see the request as
//! the client sent it. A request of any other content type is left as it is.

use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use http_body::{Frame, SizeHint};

use super::body::BodyError;
use super::exchange::Streaming;
use super::reply::is_grpc;
use crate::destination::Found;

/// A call in gRPC-Web.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Web {
    /// `+proto` and the like, as the client wrote it.
    suffix: String,
    /// The request's body is base64.
    pub(crate) text: bool,
    /// The client wants the response's to be so too.
    answers_text: bool,
}

impl Web {
    /// The call, where the port speaks gRPC-Web and the head is one of it.
    pub(crate) fn of(found: &Found<'_>, head: &Parts) -> Option<Self> {
        match found {
            Found::Service { port, .. } if port.grpc_web && head.method == Method::POST => {
                Self::read(&head.headers)
            }
            _ => None,
        }
    }

    fn read(headers: &HeaderMap) -> Option<Self> {
        let (text, suffix) = kind(headers.get(CONTENT_TYPE)?)?;
        let accepted = headers.get(ACCEPT).and_then(kind);
        Some(Self {
            suffix: suffix.to_owned(),
            text,
            answers_text: accepted.map_or(text, |(text, _)| text),
        })
    }

    /// The headers that the backend gets.
    pub(crate) fn request(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, self.content_type("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if self.text {
            headers.remove(CONTENT_LENGTH);
        }
    }

    /// The headers that the client gets. False for an answer that isn't gRPC:
    /// it stays as it is.
    pub(crate) fn response(&self, headers: &mut HeaderMap) -> bool {
        if !is_grpc(headers) {
            return false;
        }
        let ours = if self.answers_text {
            "application/grpc-web-text"
        } else {
            "application/grpc-web"
        };
        headers.insert(CONTENT_TYPE, self.content_type(ours));
        headers.remove(CONTENT_LENGTH);
        true
    }

    /// A streaming answer.
    pub(crate) fn body(&self, inner: Box<Streaming>) -> WebBody {
        WebBody {
            inner,
            text: self.answers_text,
        }
    }

    fn content_type(&self, base: &str) -> HeaderValue {
        let whole = format!("{base}{}", self.suffix);
        HeaderValue::try_from(whole).unwrap_or(HeaderValue::from_static("application/grpc"))
    }
}

/// Whether a content type is gRPC-Web's text, and its suffix; none for others.
fn kind(value: &HeaderValue) -> Option<(bool, &str)> {
    let value = value.to_str().ok()?.split([';', ',']).next()?.trim();
    let rest = value.strip_prefix("application/grpc-web")?;
    let (text, suffix) = match rest.strip_prefix("-text") {
        Some(suffix) => (true, suffix),
        None => (false, rest),
    };
    (suffix.is_empty() || suffix.starts_with('+')).then_some((text, suffix))
}

/// The body of an answer: messages as they are, trailers as a last message
/// whose flag has the highest bit set.
pub(crate) struct WebBody {
    inner: Box<Streaming>,
    text: bool,
}

impl WebBody {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match ready!(self.inner.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => last_message(&trailers),
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            },
        };
        let data = if self.text && !data.is_empty() {
            BASE64.encode(&data).into()
        } else {
            data
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    /// Trailers add to what the backend said, and so does base64.
    pub(crate) fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn last_message(trailers: &HeaderMap) -> Bytes {
    let mut block = BytesMut::new();
    for (name, value) in trailers {
        block.put_slice(name.as_str().as_bytes());
        block.put_slice(b": ");
        block.put_slice(value.as_bytes());
        block.put_slice(b"\r\n");
    }
    let mut message = BytesMut::with_capacity(block.len() + 5);
    message.put_u8(TRAILERS);
    message.put_u32(u32::try_from(block.len()).unwrap_or(u32::MAX));
    message.put_slice(&block);
    message.freeze()
}

/// The flag of a message that holds trailers.
const TRAILERS: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_grpc_web() {
        for (value, want) in [
            ("application/grpc-web", Some((false, ""))),
            ("application/grpc-web+proto", Some((false, "+proto"))),
            ("application/grpc-web-text", Some((true, ""))),
            (
                "application/grpc-web-text+proto; x=1",
                Some((true, "+proto")),
            ),
            ("application/grpc", None),
            ("application/grpc-webby", None),
            ("application/json", None),
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(kind(&value), want, "{value:?}");
        }
    }

    #[test]
    fn trailers_are_a_message_of_their_own() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(
            &*last_message(&trailers),
            b"\x80\x00\x00\x00\x10grpc-status: 0\r\n"
        );
    }
}
