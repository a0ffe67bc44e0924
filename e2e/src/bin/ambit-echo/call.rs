//! Calls to other services, by `/call`.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{detach, environment};

/// What each upstream says.
pub(crate) async fn all(upstreams: &[String]) -> Value {
    let mut calls = serde_json::Map::new();
    for upstream in upstreams {
        let result = match call(upstream).await {
            Ok(value) => value,
            Err(error) => json!({"error": format!("{error:#}")}),
        };
        calls.insert(upstream.clone(), result);
    }
    Value::Object(calls)
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
    let variable = name.to_ascii_uppercase().replace('-', "_");
    let host = environment(&format!("{variable}_SERVICE_HOST"));
    if host.is_empty() {
        name.to_owned()
    } else {
        host
    }
}
