//! gRPC without a schema: every method is answered.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Request, Response};
use serde_json::Value;

use crate::body::{AnyBody, Pieces};

/// Whether a request is gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// The standard health check says that it serves. A method whose name says that it streams gets its messages back as they
/// come; any other one message that says what was asked. The metadata
/// `x-grpc-status` is the status, without any message if it isn't 0.
pub(crate) async fn answer(request: Request<Incoming>, echo: &Value) -> Response<AnyBody> {
    let status = request.headers().get("x-grpc-status").cloned();
    let failing = status.filter(|status| status != "0");
    let streams = request.uri().path().contains("Stream");
    let health = request.uri().path() == "/grpc.health.v1.Health/Check";
    let mut response = if let Some(status) = failing {
        let mut response = Response::new(crate::body::whole(Bytes::new()));
        response.headers_mut().insert("grpc-status", status);
        let why = HeaderValue::from_static("as asked");
        response.headers_mut().insert("grpc-message", why);
        response
    } else if streams {
        let echoed = request.into_body().map_err(std::io::Error::other);
        let ended = async { Some(Ok(good())) };
        Response::new(echoed.with_trailers(ended).boxed())
    } else {
        // A unary call is answered when it was heard.
        let _ = request.into_body().collect().await;
        let message = match health {
            true => message(SERVING),
            false => message(echo.to_string().as_bytes()),
        };
        let length = u64::try_from(message.len()).unwrap_or_default();
        Response::new(Pieces::new(length, message).with_trailers(good()).boxed())
    };
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn good() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

fn message(bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(5 + bytes.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(bytes.len()).unwrap_or_default());
    message.put_slice(bytes);
    message.freeze()
}

/// `HealthCheckResponse {status: SERVING}`.
const SERVING: &[u8] = &[0x08, 0x01];
