//! The application of the demo and the tests: an HTTP service that may call
//! others, and a TCP echo. It knows nothing of the mesh.
//!
//! `ambit-echo serve --http=8080 --tcp=9000 --upstream=cart:80`
#![allow(
    clippy::indexing_slicing,
    reason = "indexing a JSON value answers null"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Parser)]
enum Arguments {
    /// Serves until it is killed.
    Serve {
        /// Port of the HTTP service.
        #[arg(long)]
        http: Option<u16>,
        /// Port of the TCP echo.
        #[arg(long)]
        tcp: Option<u16>,
        /// Service that `/call` asks, as NAME:PORT.
        #[arg(long)]
        upstream: Vec<String>,
        /// First sends a greeting on the TCP port, as server-first protocols do.
        #[arg(long)]
        greeting: Option<String>,
        /// Has a line echoed by ADDRESS:PORT as the very first thing that it does.
        #[arg(long)]
        hello: Option<SocketAddr>,
    },
}

struct Service {
    pod: String,
    upstreams: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments::Serve {
        http,
        tcp,
        upstream,
        greeting,
        hello,
    } = Arguments::parse();
    if let Some(to) = hello {
        say_hello(to)
            .await
            .with_context(|| format!("say hello to {to}"))?;
    }
    #[allow(
        clippy::disallowed_methods,
        reason = "an application reads its environment"
    )]
    let pod = std::env::var("POD_NAME").unwrap_or_default();
    let service = Arc::new(Service {
        pod,
        upstreams: upstream,
    });
    let http = async {
        match http {
            Some(port) => serve_http(port, service).await,
            None => std::future::pending().await,
        }
    };
    let tcp = async {
        match tcp {
            Some(port) => serve_tcp(port, greeting.map(Arc::from)).await,
            None => std::future::pending().await,
        }
    };
    tokio::try_join!(http, tcp).map(drop)
}

async fn say_hello(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(HELLO).await?;
    let mut back = [0; HELLO.len()];
    stream.read_exact(&mut back).await?;
    Ok(())
}

const HELLO: &[u8] = b"hello, this is my very first connection";

async fn listen(port: u16) -> Result<TcpListener> {
    let any = SocketAddr::from(([0, 0, 0, 0], port));
    TcpListener::bind(any)
        .await
        .with_context(|| format!("listen on {port}"))
}

async fn serve_tcp(port: u16, greeting: Option<Arc<str>>) -> Result<()> {
    let listener = listen(port).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let greeting = greeting.clone();
        detach(async move {
            let greeting = greeting.as_deref().unwrap_or_default();
            if stream.write_all(greeting.as_bytes()).await.is_err() {
                return;
            }
            let (mut reader, mut writer) = stream.split();
            // A client that goes away ends its connection, nothing else.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
    }
}

async fn serve_http(port: u16, service: Arc<Service>) -> Result<()> {
    let listener = listen(port).await?;
    loop {
        let (stream, peer) = listener.accept().await?;
        let service = Arc::clone(&service);
        detach(async move {
            let handler = service_fn(|request| answer(request, &service, peer));
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder
                .serve_connection(TokioIo::new(stream), handler)
                .await;
        });
    }
}

/// Connections of an application end with the process.
fn detach(connection: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::runtime::Handle::current().spawn(connection));
}

async fn answer(
    request: Request<Incoming>,
    service: &Service,
    peer: SocketAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut body = json!({
        "pod": service.pod,
        "client": peer.ip().to_string(),
        "path": request.uri().path(),
    });
    if request.uri().path() == "/call" {
        let mut calls = serde_json::Map::new();
        for upstream in &service.upstreams {
            let result = match call(upstream).await {
                Ok(value) => value,
                Err(error) => json!({"error": format!("{error:#}")}),
            };
            calls.insert(upstream.clone(), result);
        }
        body["calls"] = Value::Object(calls);
    }
    let received = request
        .into_body()
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    body["received"] = json!(received.len());
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    let json_type = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json_type);
    Ok(response)
}

async fn call(upstream: &str) -> Result<Value> {
    let (name, port) = upstream
        .rsplit_once(':')
        .context("an upstream is NAME:PORT")?;
    let host = service_host(name);
    let stream = TcpStream::connect((host.as_str(), port.parse()?))
        .await
        .with_context(|| format!("connect to {upstream}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    detach(async move {
        let _ = connection.await;
    });
    let request = Request::get("/call")
        .header("host", upstream)
        .header("connection", "close")
        .body(Full::<Bytes>::default())?;
    let response = sender
        .send_request(request)
        .await
        .context("send a request")?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

/// The address that Kubernetes put into the environment, else the name itself.
fn service_host(name: &str) -> String {
    let variable = format!(
        "{}_SERVICE_HOST",
        name.to_ascii_uppercase().replace('-', "_")
    );
    #[allow(
        clippy::disallowed_methods,
        reason = "an application reads its environment"
    )]
    std::env::var(variable).unwrap_or_else(|_| name.to_owned())
}
