//! HTTP/1.1 and HTTP/2 on one port: what was asked, as JSON.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ambit_e2e::serving::begins_with_h2;
use anyhow::Result;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TRAILER};
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::body::{AnyBody, Pieces, whole};
use crate::wishes::{Death, Wishes};
use crate::{Service, call, detach, grpc, websocket};

/// Serves until it can't accept.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    tls: Option<TlsAcceptor>,
) -> Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        let asked = Asked {
            service: Arc::clone(&service),
            peer,
            sni: None,
        };
        match tls.clone() {
            None => detach(async move {
                if let Ok(h2) = begins_with_h2(&stream).await {
                    connection(stream, h2, asked).await;
                }
            }),
            Some(tls) => detach(async move {
                let Ok(stream) = tls.accept(stream).await else {
                    return;
                };
                let (_, session) = stream.get_ref();
                let h2 = session.alpn_protocol() == Some(b"h2");
                let sni = Some(session.server_name().unwrap_or_default().to_owned());
                connection(stream, h2, Asked { sni, ..asked }).await;
            }),
        }
    }
}

async fn connection(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    h2: bool,
    asked: Asked,
) {
    let io = TokioIo::new(stream);
    let _ = if h2 {
        h2_connection(io, asked).await
    } else {
        h1_connection(io, asked).await
    };
}

async fn h1_connection(
    io: impl Read + Write + Unpin + Send + 'static,
    asked: Asked,
) -> hyper::Result<()> {
    let handler = service_fn(async |request| {
        let mut response = asked.answer(request).await?;
        // A client that hears so sends nothing more into the end.
        if *asked.service.ending.borrow() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok::<_, io::Error>(response)
    });
    hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .max_buf_size(2 << 20)
        .serve_connection(io, handler)
        .with_upgrades()
        .await
}

async fn h2_connection(
    io: impl Read + Write + Unpin + Send + 'static,
    asked: Asked,
) -> hyper::Result<()> {
    let mut ending = asked.service.ending.clone();
    let ending = async move {
        if ending.wait_for(|ending| *ending).await.is_err() {
            std::future::pending().await
        }
    };
    let asked = Arc::new(asked);
    let handler = service_fn(move |request| {
        let asked = Arc::clone(&asked);
        async move { asked.answer(request).await }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(2 << 20)
        .serve_connection(io, handler);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = ending => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// What a connection knows.
struct Asked {
    service: Arc<Service>,
    peer: SocketAddr,
    /// Over TLS: the server's name that the client gave.
    sni: Option<String>,
}

impl Asked {
    /// An error is a connection, or a stream, that ends without an answer.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<AnyBody>> {
        if request.uri().path() == "/__seen" {
            return Ok(json_response(&self.seen(&request)));
        }
        let wishes = Wishes::of(request.uri(), &self.service.pod);
        let mut told = self.told(&request);
        let count = self.count(&wishes, &told);
        tokio::time::sleep(wishes.delay).await;
        if count <= wishes.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let failing = count <= wishes.fail;
        if failing {
            tokio::time::sleep(wishes.fail_delay).await;
        }
        if websocket::is_wanted(&request) {
            return Ok(websocket::answer(request));
        }
        if grpc::is_grpc(request.headers()) {
            return Ok(grpc::answer(request, &told).await);
        }
        let calls = request.uri().path() == "/call";
        let mut response = if wishes.echo {
            Response::new(request.into_body().map_err(io::Error::other).boxed())
        } else {
            told["received"] = json!(length(request.into_body()).await);
            if calls {
                told["calls"] = call::all(&self.service.upstreams).await;
            }
            json_response(&told)
        };
        let code = wishes.code.unwrap_or(503);
        let status = if failing { Some(code) } else { wishes.status };
        if let Some(status) = status.and_then(|code| StatusCode::from_u16(code).ok()) {
            *response.status_mut() = status;
        }
        more_headers(response.headers_mut(), wishes.headers);
        Ok(with_body(response, &wishes))
    }

    /// The request as JSON.
    fn told(&self, request: &Request<Incoming>) -> Value {
        let mut headers = BTreeMap::<&str, Vec<String>>::new();
        for (name, value) in request.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.as_str()).or_default().push(value);
        }
        let host = request.headers().get(HOST).and_then(|h| h.to_str().ok());
        let authority = request.uri().authority().map(|a| a.as_str());
        let path = request.uri().path_and_query().map(|p| p.as_str());
        let mut told = json!({
            "pod": self.service.pod,
            "namespace": self.service.namespace,
            "client": self.peer.ip().to_string(),
            "method": request.method().as_str(),
            "path": path.unwrap_or_default(),
            "host": authority.or(host).unwrap_or_default(),
            "proto": match request.version() {
                Version::HTTP_2 => "HTTP/2.0",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            "headers": headers,
        });
        if let Some(sni) = &self.sni {
            told["sni"] = json!(sni);
        }
        told
    }

    /// Counts a request that has a name. The first is 1; without a name there
    /// is no count, and none of what depends on it.
    fn count(&self, wishes: &Wishes, told: &Value) -> u64 {
        let Some(id) = &wishes.id else {
            return u64::MAX;
        };
        let Ok(mut seen) = self.service.seen.lock() else {
            return u64::MAX;
        };
        if seen.len() >= MOST_NAMES && !seen.contains_key(id) {
            return u64::MAX;
        }
        let entry = seen.entry(id.clone()).or_default();
        entry.count += 1;
        entry.last = told.clone();
        entry.count
    }

    fn seen(&self, request: &Request<Incoming>) -> Value {
        let id = Wishes::of(request.uri(), "").id.unwrap_or_default();
        let Ok(seen) = self.service.seen.lock() else {
            return Value::Null;
        };
        match seen.get(&id) {
            Some(seen) => json!({"count": seen.count, "last": seen.last}),
            None => json!({"count": 0, "last": null}),
        }
    }
}

fn json_response(value: &Value) -> Response<AnyBody> {
    let mut response = Response::new(whole(value.to_string()));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Bytes of a body, none of which is kept.
async fn length(mut body: Incoming) -> u64 {
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.data_ref().map_or(0, Bytes::len);
        length += u64::try_from(data).unwrap_or_default();
    }
    length
}

fn more_headers(headers: &mut HeaderMap, bytes: usize) {
    for at in 0..bytes.div_ceil(HEADER) {
        let length = HEADER.min(bytes - at * HEADER);
        let name = HeaderName::try_from(format!("x-more-{at}"));
        let value = HeaderValue::try_from("m".repeat(length));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
}

/// The body that was wished for, if it is another.
fn with_body(mut response: Response<AnyBody>, wishes: &Wishes) -> Response<AnyBody> {
    if wishes.trailers {
        let names = HeaderValue::from_static("x-trailer");
        response.headers_mut().insert(TRAILER, names);
        return response.map(|told| {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-trailer", HeaderValue::from_static("yes"));
            told.with_trailers(async { Some(Ok(trailers)) }).boxed()
        });
    }
    if wishes.size.is_none() && wishes.death.is_none() {
        return response;
    }
    response.map(|told| {
        let size = wishes.size.or(told.size_hint().exact()).unwrap_or(PIECE);
        let piece = "x".repeat(usize::try_from(size.min(PIECE)).unwrap_or_default());
        let pieces = Pieces::new(size, piece);
        match wishes.death {
            Some(Death::AfterHeaders) => pieces.dying_after(0).boxed(),
            Some(Death::MidBody) => pieces.dying_after(size / 2).boxed(),
            None => pieces.boxed(),
        }
    })
}

/// Requests with names that are counted.
const MOST_NAMES: usize = 100_000;
/// Bytes of one header of many.
const HEADER: usize = 4096;
/// Bytes of a body that are written at once.
const PIECE: u64 = 64 << 10;
