//! The gRPC of the suite's application: one unary method with one text each way.

use anyhow::{Result, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use prost::Message;

/// The method's path.
pub(crate) const METHOD: &str = "/proto.EchoTestService/Echo";
/// Of requests and answers.
pub(crate) const KIND: HeaderValue = HeaderValue::from_static("application/grpc");
/// Name of a call's status.
pub(crate) const STATUS: &str = "grpc-status";
/// Its words.
pub(crate) const MESSAGE: &str = "grpc-message";

/// Whether a request is gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(KIND.as_bytes()))
}

/// A message whose first field is `text`, in its frame.
pub(crate) fn frame(text: &str) -> Bytes {
    // A wrapped string has its text in field 1, as the method's messages do.
    let message = text.to_owned().encode_to_vec();
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// The text of a frame.
pub(crate) fn text(mut frame: Bytes) -> Result<String> {
    ensure!(frame.len() >= PREFIX, "a call without a message");
    ensure!(frame.get_u8() == 0, "a compressed message");
    let length = usize::try_from(frame.get_u32())?;
    ensure!(frame.len() == length, "a message cut short, or two");
    Ok(String::decode(frame)?)
}

/// Bytes before a message: compressed or not, length.
const PREFIX: usize = 5;
