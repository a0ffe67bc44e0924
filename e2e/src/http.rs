//! An HTTP client in the test's own process that dials from inside a pod's
//! namespace: HTTP/1.1, HTTP/2 with prior knowledge, gRPC, WebSocket.
//!
//! It interprets nothing: no redirects, no retries, no decoding. What came back
//! is what the proxy sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_testkit::client;
use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const DEADLINE: Duration = Duration::from_secs(20);

/// A request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Host header; the address that is dialled if unset.
    pub host: Option<String>,
    /// Further headers, repeated ones as often as they are written.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Bytes,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
}

impl Ask {
    /// GET over HTTP/1.1.
    pub fn get(path: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            path: path.to_owned(),
            host: None,
            headers: Vec::new(),
            body: Bytes::new(),
            version: Version::HTTP_11,
        }
    }

    /// With another method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// With a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this Host header.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Over HTTP/2, prior knowledge.
    #[must_use]
    pub fn h2(mut self) -> Self {
        self.version = Version::HTTP_2;
        self
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers as sent.
    pub headers: HeaderMap,
    /// Trailers, if any were sent.
    pub trailers: Option<HeaderMap>,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// A header's value as text; the first of several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What the echo application saw.
    ///
    /// # Errors
    /// If the body isn't the echo application's.
    pub fn echo(&self) -> Result<Echo> {
        serde_json::from_slice(&self.body).with_context(|| {
            let body = String::from_utf8_lossy(&self.body);
            format!("status {}, not an echo: {body:?}", self.status)
        })
    }
}

/// What the echo application saw of a request.
#[derive(Debug, Clone, Deserialize)]
pub struct Echo {
    /// Name of the pod that answered.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Host header or `:authority`.
    pub host: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub proto: String,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The server name of the TLS that the application itself ended, if it did.
    pub sni: Option<String>,
}

impl Echo {
    /// All values of a header, joined by commas; none if it wasn't there.
    pub fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(&name.to_ascii_lowercase())?.join(","))
    }
}

/// Sends a request over a new connection from inside a namespace.
///
/// # Errors
/// If there is no whole answer within 20 s.
pub async fn ask(ns: &NetNs, to: SocketAddr, request: &Ask) -> Result<Reply> {
    let stream = client::connect(ns, to).await?;
    stream.set_nodelay(true)?;
    timeout(DEADLINE, exchange(stream, to, request))
        .await
        .with_context(|| format!("{} {} at {to}: no answer", request.method, request.path))?
        .with_context(|| format!("{} {} at {to}", request.method, request.path))
}

/// The same inside of TLS with whoever answers to `name` with a certificate of
/// one of the authorities in `pem`.
///
/// # Errors
/// If there is no TLS or no whole answer within 20 s.
pub async fn ask_in_tls(
    ns: &NetNs,
    to: SocketAddr,
    request: &Ask,
    (name, pem): (&str, &[u8]),
) -> Result<Reply> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder_with_provider(ambit_identity::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let server = ServerName::try_from(name.to_owned())?;
    let whole = async {
        let stream = client::connect(ns, to).await?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(server, stream);
        exchange(connecting.await.context("TLS")?, to, request).await
    };
    timeout(DEADLINE, whole)
        .await
        .with_context(|| format!("{name} at {to}: no answer"))?
        .with_context(|| format!("{name} at {to}"))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    to: SocketAddr,
    ask: &Ask,
) -> Result<Reply> {
    let authority = ask.host.clone().unwrap_or_else(|| match to.port() {
        80 => to.ip().to_string(),
        _ => to.to_string(),
    });
    let mut request = Request::builder().method(&*ask.method);
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    let body = Full::new(ask.body.clone());
    if ask.version == Version::HTTP_2 {
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        let request = request
            .version(Version::HTTP_2)
            .uri(format!("http://{authority}{}", ask.path))
            .body(body)?;
        return drive(connection, async move {
            collect(sender.send_request(request).await?).await
        })
        .await;
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = request
        .uri(&*ask.path)
        .header("host", authority)
        .body(body)?;
    drive(connection, async move {
        collect(sender.send_request(request).await?).await
    })
    .await
}

/// An exchange and the connection that it needs, until the exchange is over.
async fn drive<T, E>(
    connection: impl Future<Output = Result<(), E>>,
    exchange: impl Future<Output = Result<T>>,
) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = connection => {
            ended.context("the connection ended")?;
            exchange.await
        }
    }
}

async fn collect(response: http::Response<Incoming>) -> Result<Reply> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("body")?;
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        trailers: body.trailers().cloned(),
        body: body.to_bytes(),
    })
}

/// What a gRPC call came to.
#[derive(Debug, Clone)]
pub struct GrpcReply {
    /// `grpc-status`.
    pub status: u32,
    /// `grpc-message`.
    pub message: String,
    /// The messages that came.
    pub messages: Vec<Bytes>,
    /// The answer as HTTP.
    pub http: Reply,
}

impl GrpcReply {
    /// What the echo application saw.
    ///
    /// # Errors
    /// If no message came, or not the echo application's.
    pub fn echo(&self) -> Result<Echo> {
        let message = self
            .messages
            .first()
            .with_context(|| format!("status {}: {}", self.status, self.message))?;
        Ok(serde_json::from_slice(message)?)
    }
}

/// One unary gRPC call over a new connection.
///
/// # Errors
/// If there is no whole answer, or it isn't gRPC.
pub async fn grpc(
    ns: &NetNs,
    to: SocketAddr,
    method: &str,
    metadata: &[(String, String)],
    message: &[u8],
) -> Result<GrpcReply> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len())?);
    body.put_slice(message);
    let mut request = Ask::get(method).method("POST").h2().body(body.freeze());
    request.headers = metadata.to_vec();
    let request = request
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let http = ask(ns, to, &request).await?;
    let field = |name: &str| {
        let trailers = http.trailers.as_ref().and_then(|t| t.get(name));
        let value = trailers.or_else(|| http.headers.get(name))?;
        value.to_str().ok().map(str::to_owned)
    };
    ensure!(http.status == 200, "HTTP status {}", http.status);
    let status = field("grpc-status").context("no grpc-status")?;
    Ok(GrpcReply {
        status: status.parse()?,
        message: field("grpc-message").unwrap_or_default(),
        messages: messages(&http.body)?,
        http,
    })
}

fn messages(mut body: &[u8]) -> Result<Vec<Bytes>> {
    let mut all = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(5) {
        let [0, length @ ..] = head else {
            bail!("a compressed message");
        };
        let length = usize::try_from(u32::from_be_bytes(length.try_into()?))?;
        let (message, rest) = rest.split_at_checked(length).context("a cut message")?;
        all.push(Bytes::copy_from_slice(message));
        body = rest;
    }
    ensure!(body.is_empty(), "a cut message");
    Ok(all)
}

/// Asks for a WebSocket, sends one text message, and gives the status and the
/// message that came back (RFC 6455; both shorter than 126 bytes).
///
/// # Errors
/// If the answer isn't HTTP, or a frame isn't what it should be.
pub async fn websocket(
    ns: &NetNs,
    to: SocketAddr,
    path: &str,
    text: &str,
) -> Result<(u16, Option<String>)> {
    let stream = client::connect(ns, to).await?;
    timeout(DEADLINE, speak_websocket(stream, to, path, text))
        .await
        .context("WebSocket: no answer")?
}

async fn speak_websocket(
    mut stream: TcpStream,
    to: SocketAddr,
    path: &str,
    text: &str,
) -> Result<(u16, Option<String>)> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("no whole head")?);
    }
    let head = String::from_utf8(head)?;
    let status: u16 = head
        .split(' ')
        .nth(1)
        .with_context(|| format!("{head:?}"))?
        .parse()?;
    if status != 101 {
        return Ok((status, None));
    }
    ensure!(text.len() < 126, "too long for this client");
    // FIN and text; masked with zeros, so that the payload reads as it is.
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len())?, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).await?;
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let [0x81, length] = head else {
        bail!("a frame of another kind: {head:?}");
    };
    let mut back = vec![0; usize::from(length)];
    stream.read_exact(&mut back).await?;
    Ok((status, Some(String::from_utf8(back)?)))
}

/// Sends a line over TCP and reads one back.
///
/// # Errors
/// If the connection ends before.
pub async fn line(ns: &NetNs, to: SocketAddr, text: &str) -> Result<String> {
    let mut stream = client::connect(ns, to).await?;
    let exchange = async {
        stream.write_all(format!("{text}\n").as_bytes()).await?;
        let mut back = Vec::new();
        while back.last() != Some(&b'\n') {
            ensure!(back.len() < 4096, "a line without an end");
            back.push(stream.read_u8().await.context("closed")?);
        }
        Ok(String::from_utf8(back)?.trim_end().to_owned())
    };
    timeout(DEADLINE, exchange).await.context("no answer")?
}
