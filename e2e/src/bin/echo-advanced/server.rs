//! Serves HTTP/1.1, HTTP/2, gRPC and TCP, each on its ports, until it is killed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;

use ambit_e2e::serving::{begins_with_h2, detach, tls};
use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::asked::Place;
use crate::grpc;

/// Where it listens; what isn't given is as in the suite's own image.
#[derive(Debug, Parser)]
pub(crate) struct Ports {
    /// Port of HTTP/1.1 and HTTP/2; may be repeated.
    #[arg(long, default_value = "8080")]
    pub(crate) port: Vec<u16>,
    /// Port of gRPC; may be repeated.
    #[arg(long, default_value = "7070")]
    pub(crate) grpc: Vec<u16>,
    /// Port of the TCP echo; may be repeated.
    #[arg(long, default_value = "9090")]
    pub(crate) tcp: Vec<u16>,
    /// Which of the others speak TLS.
    #[arg(long, requires = "crt", requires = "key")]
    pub(crate) tls: Vec<u16>,
    /// Certificate chain, PEM.
    #[arg(long)]
    pub(crate) crt: Option<PathBuf>,
    /// Key, PEM.
    #[arg(long)]
    pub(crate) key: Option<PathBuf>,
}

pub(crate) async fn run(ports: Ports) -> Result<()> {
    let tls = match (&ports.crt, &ports.key) {
        (Some(certificate), Some(key)) if !ports.tls.is_empty() => Some(tls(certificate, key)?),
        _ => None,
    };
    let mut servers = JoinSet::new();
    for port in ports.port.into_iter().chain(ports.grpc) {
        let tls = tls.clone().filter(|_| ports.tls.contains(&port));
        servers.spawn(serve(listen(port).await?, tls));
    }
    for port in ports.tcp {
        servers.spawn(serve_tcp(listen(port).await?));
    }
    match servers.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}

async fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))
        .await
        .with_context(|| format!("listen on {port}"))
}

/// Serves HTTP until it can't accept.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>) -> Result<()> {
    let port = listener.local_addr()?.port();
    let (hostname, version) = (hostname(), version());
    loop {
        let (stream, peer) = listener.accept().await?;
        // An answer of gRPC is three writes.
        let _ = stream.set_nodelay(true);
        let place = Place {
            hostname: hostname.clone(),
            version: version.clone(),
            port,
            peer,
            alpn: None,
        };
        let tls = tls.clone();
        // A client that goes away ends its connection, nothing else.
        detach(async move {
            let _ = match tls {
                Some(tls) => over_tls(&tls, stream, place).await,
                None => plain(stream, place).await,
            };
        });
    }
}

async fn plain(stream: TcpStream, place: Place) -> Result<()> {
    match begins_with_h2(&stream).await? {
        true => h2(stream, place).await,
        false => h1(stream, place).await,
    }
}

async fn over_tls(tls: &TlsAcceptor, stream: TcpStream, mut place: Place) -> Result<()> {
    let stream = tls.accept(stream).await?;
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    place.alpn = Some(if is_h2 { "h2" } else { "http/1.1" });
    match is_h2 {
        true => h2(stream, place).await,
        false => h1(stream, place).await,
    }
}

async fn h1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    place: Place,
) -> Result<()> {
    let answer = service_fn(|request| answer(&place, request));
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await?;
    Ok(())
}

async fn h2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    place: Place,
) -> Result<()> {
    let answer = service_fn(move |request| {
        let place = place.clone();
        async move { answer(&place, request).await }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await?;
    Ok(())
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(place: &Place, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body.map(|whole| whole.to_bytes());
    let mut lines = place.lines(&parts);
    if grpc::is_grpc(&parts.headers) {
        let heard = body.ok().and_then(|body| grpc::text(body).ok());
        return Ok(grpc_answer(&parts, lines, heard));
    }
    if body.is_err() {
        lines.push_str("Error=the body isn't whole, or too long\n");
    }
    let mut response = Response::new(Full::new(Bytes::from(lines)).boxed());
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

fn grpc_answer(request: &Parts, mut lines: String, heard: Option<String>) -> Answer {
    let refused = match (&heard, request.uri.path()) {
        (_, path) if path != grpc::METHOD => Some(("12", "no such method")),
        (None, _) => Some(("3", "no message that can be read")),
        (Some(_), _) => None,
    };
    let mut response = if let Some((status, words)) = refused {
        let mut response = Response::new(Full::default().boxed());
        let headers = response.headers_mut();
        headers.insert(grpc::STATUS, HeaderValue::from_static(status));
        headers.insert(grpc::MESSAGE, HeaderValue::from_static(words));
        response
    } else {
        lines.push_str(&format!("Echo={}\n", heard.unwrap_or_default()));
        let mut trailers = HeaderMap::new();
        trailers.insert(grpc::STATUS, HeaderValue::from_static("0"));
        let body = Full::new(grpc::frame(&lines));
        Response::new(body.with_trailers(async { Some(Ok(trailers)) }).boxed())
    };
    response.headers_mut().insert(CONTENT_TYPE, grpc::KIND);
    response
}

/// Echoes bytes until it can't accept.
pub(crate) async fn serve_tcp(listener: TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        detach(async move {
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
    }
}

/// A pod's own is its name.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

#[allow(
    clippy::disallowed_methods,
    reason = "an application reads its environment"
)]
fn version() -> String {
    std::env::var("VERSION").unwrap_or_default()
}

/// Bytes of a request's body.
const LONGEST: usize = 4 << 20;
