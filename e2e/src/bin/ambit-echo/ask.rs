//! `ambit-echo ask`: the other side, for a shell in a pod.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::detach;

#[derive(Args)]
pub(crate) struct Ask {
    /// `http://HOST[:PORT][/PATH]`; several are asked one after the other.
    #[arg(required = true)]
    url: Vec<Uri>,
    /// Header, `NAME:VALUE`; may be repeated.
    #[arg(short = 'H', long)]
    header: Vec<String>,
    /// Method.
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// How often, each time over a connection of its own unless they are kept.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Keeps a connection to each server for the next request.
    #[arg(long)]
    keep: bool,
    /// Time between two rounds of requests.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pause: Duration,
    /// Bound of a request.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Fails if a request isn't answered.
    #[arg(long)]
    fail: bool,
    /// Prints only answers that tell of another value of this request header than
    /// the last one did, and failures.
    #[arg(long, value_name = "HEADER")]
    news: Option<String>,
}

impl Ask {
    /// Prints a line of JSON for each request: `url`, `end` (microseconds since
    /// 1970), and `status` with `body` (JSON, or a text), or `error`.
    pub(crate) async fn run(self) -> Result<()> {
        let mut kept: Vec<_> = self.url.iter().map(|_| None).collect();
        let mut last = None;
        for nth in 0..self.count {
            if nth > 0 {
                sleep(self.pause).await;
            }
            for (url, kept) in self.url.iter().zip(&mut kept) {
                let answer = timeout(self.timeout, self.once(url, kept)).await;
                let answer = answer.context("no answer in time").flatten();
                if !self.keep || answer.is_err() {
                    *kept = None;
                }
                let mut line = match answer {
                    Ok(answer) => answer,
                    Err(error) if self.fail => return Err(error),
                    Err(error) => json!({"error": format!("{error:#}")}),
                };
                if let Some(header) = &self.news
                    && line["status"] == 200
                {
                    let told = line["body"]["headers"][header].clone();
                    if last.replace(told.clone()) == Some(told) {
                        continue;
                    }
                }
                line["url"] = json!(url.to_string());
                line["end"] = json!(micros());
                #[allow(clippy::print_stdout, reason = "what it is for")]
                {
                    println!("{line}");
                }
            }
        }
        Ok(())
    }

    async fn once(&self, url: &Uri, kept: &mut Option<Sender>) -> Result<Value> {
        ensure!(url.scheme_str() == Some("http"), "only http");
        let authority = url.authority().context("a URL has a host")?;
        let sender = match kept.as_mut().filter(|kept| !kept.is_closed()) {
            Some(_) => kept,
            None => {
                *kept = Some(connect(url).await?);
                kept
            }
        };
        let sender = sender.as_mut().context("connected")?;
        sender.ready().await.context("no answer")?;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(&*self.method).uri(path);
        let named = |header: &String| header.to_ascii_lowercase().starts_with("host:");
        if !self.header.iter().any(named) {
            request = request.header("host", authority.as_str());
        }
        for header in &self.header {
            let (name, value) = header.split_once(':').context("a header is NAME:VALUE")?;
            request = request.header(name, value.trim());
        }
        let request = request.body(Full::<Bytes>::default())?;
        let response = sender.send_request(request).await.context("no answer")?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.context("a body")?;
        let body = body.to_bytes();
        let body =
            serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
        Ok(json!({"status": status, "body": body}))
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn connect(url: &Uri) -> Result<Sender> {
    let host = url.host().context("a URL has a host")?;
    let port = url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
        .await
        .context("connect")?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    detach(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    u64::try_from(micros).unwrap_or_default()
}
