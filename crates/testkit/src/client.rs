//! TCP and HTTP/1.1 clients that dial from inside a namespace.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ambit_netns::NetNs;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);

/// Dials from a namespace.
///
/// # Errors
/// What the kernel says, or no answer within 10 s.
pub async fn connect(ns: &NetNs, to: SocketAddr) -> Result<TcpStream> {
    let socket = ns.run(|| match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    })??;
    timeout(DEADLINE, socket.connect(to))
        .await
        .with_context(|| format!("connect to {to}: no answer"))?
        .with_context(|| format!("connect to {to}"))
}

/// Sends bytes, reads as many back, and returns them.
///
/// # Errors
/// If the connection ends first, or nothing comes within 10 s.
pub async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> Result<Vec<u8>> {
    let exchange = async {
        stream.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).await?;
        Ok::<_, std::io::Error>(back)
    };
    Ok(timeout(DEADLINE, exchange).await.context("no echo")??)
}

/// Status and body of an HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// GET from inside a namespace, over a new connection.
///
/// # Errors
/// If there is no whole answer within 10 s.
pub async fn get(ns: &NetNs, to: SocketAddr, path: &str) -> Result<Answer> {
    let stream = connect(ns, to).await?;
    timeout(
        DEADLINE,
        request(stream, "GET", &to.to_string(), path, String::new()),
    )
    .await
    .with_context(|| format!("GET {path} from {to}: no answer"))?
}

/// POST from inside a namespace, over a new connection.
///
/// # Errors
/// If there is no whole answer within 10 s.
pub async fn post(ns: &NetNs, to: SocketAddr, path: &str, body: String) -> Result<Answer> {
    let stream = connect(ns, to).await?;
    timeout(
        DEADLINE,
        request(stream, "POST", &to.to_string(), path, body),
    )
    .await
    .with_context(|| format!("POST {path} to {to}: no answer"))?
}

/// POST over a Unix socket.
///
/// # Errors
/// If there is no whole answer within 30 s.
pub async fn post_unix(socket: &Path, path: &str, body: String) -> Result<Answer> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connect to {}", socket.display()))?;
    timeout(
        3 * DEADLINE,
        request(stream, "POST", "localhost", path, body),
    )
    .await
    .with_context(|| format!("POST {path}: no answer"))?
}

async fn request<S>(stream: S, method: &str, host: &str, path: &str, body: String) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(body)))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => {
            ended?;
            exchange.await
        }
    }
}
