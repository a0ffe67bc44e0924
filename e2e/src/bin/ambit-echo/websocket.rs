//! WebSocket: frames come back as they were (RFC 6455).

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::body::{AnyBody, whole};
use crate::detach;

/// Whether a request asks for it.
pub(crate) fn is_wanted(request: &Request<Incoming>) -> bool {
    let upgrade = request.headers().get(UPGRADE);
    upgrade.is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Switches protocols.
pub(crate) fn answer(mut request: Request<Incoming>) -> Response<AnyBody> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    let upgraded = hyper::upgrade::on(&mut request);
    detach(async move {
        if let Ok(stream) = upgraded.await {
            // A client that goes away ends its connection, nothing else.
            let _ = frames(TokioIo::new(stream)).await;
        }
    });
    let mut response = Response::new(whole(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = key.map(|key| accept(key.as_bytes()));
    if let Some(Ok(accept)) = accept.as_deref().map(HeaderValue::from_str) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

async fn frames(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let [first, second] = [stream.read_u8().await?, stream.read_u8().await?];
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        let length = usize::try_from(length.min(LONGEST)).unwrap_or_default();
        let mut mask = [0; 4];
        if second & 0x80 != 0 {
            stream.read_exact(&mut mask).await?;
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        // A ping is answered by a pong, anything else by itself.
        let first = if first & 0x0f == 9 { first + 1 } else { first };
        let mut frame = vec![first];
        match u16::try_from(length) {
            Ok(short @ 0..126) => frame.extend_from_slice(&short.to_be_bytes()[1..]),
            Ok(medium) => {
                frame.push(126);
                frame.extend_from_slice(&medium.to_be_bytes());
            }
            Err(_) => {
                frame.push(127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&payload);
        stream.write_all(&frame).await?;
        if first & 0x0f == 8 {
            return stream.shutdown().await;
        }
    }
}

/// `Sec-WebSocket-Accept` of a key.
fn accept(key: &[u8]) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    use base64::Engine as _;
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text);
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// Bytes of one frame.
const LONGEST: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    #[test]
    fn the_key_is_answered_as_the_rfc_has_it() {
        let answer = super::accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
