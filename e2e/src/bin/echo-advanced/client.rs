//! The client that the suite runs in its pods. What it prints, for request `i`:
//! `[i] Url=`, `[i] StatusCode=`, `[i] ResponseHeader=Name:Value`, each line of
//! the body as `[i body] LINE`, and an empty line, by which the suite tells
//! answers apart. It follows no redirects.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use ambit_e2e::serving::detach;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::asked::canonical;
use crate::grpc;

/// What is asked, and how often.
#[derive(Debug, Parser)]
pub(crate) struct Wanted {
    /// `http://HOST[:PORT]/PATH` or `grpc://HOST:PORT`.
    url: Uri,
    /// Method of HTTP requests.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// `Name:Value`, or metadata of gRPC; `Host` is another than the URL's.
    #[arg(short = 'H', long = "header", value_parser = header, allow_hyphen_values = true)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// How many requests, one after the other, on a kept connection.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// How long each may take.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("a header is Name:Value")?;
    Ok((name.parse()?, value.trim_start().parse()?))
}

#[derive(Debug, Clone, Copy)]
enum Scheme {
    Http,
    Grpc,
}

/// Asks, and prints what comes back. An error if a request had no answer.
pub(crate) async fn run(wanted: &Wanted, output: &mut impl Write) -> Result<()> {
    let (scheme, port) = match wanted.url.scheme_str() {
        Some("http") => (Scheme::Http, 80),
        Some("grpc") => (Scheme::Grpc, 7070),
        other => bail!("scheme {other:?}: http or grpc"),
    };
    let host = wanted.url.host().context("a URL has a host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let to = (host, wanted.url.port_u16().unwrap_or(port));
    let mut connection = None;
    let mut failed = 0;
    for i in 0..wanted.count {
        let exchange = exchange(wanted, scheme, to, &mut connection);
        let answer = tokio::time::timeout(wanted.timeout, exchange).await;
        let answer = answer.unwrap_or_else(|late| Err(late.into()));
        let text = match answer {
            Ok(answer) => answer.text(i, &wanted.url),
            Err(error) => {
                failed += 1;
                connection = None;
                format!("[{i}] Url={}\n[{i}] Error={error:#}\n\n", wanted.url)
            }
        };
        output.write_all(text.as_bytes())?;
    }
    output.flush()?;
    ensure!(failed == 0, "{failed} of {} had no answer", wanted.count);
    Ok(())
}

/// One that is kept, if the server keeps it.
enum Connection {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

struct Answer {
    status: String,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn text(&self, i: u32, url: &Uri) -> String {
        let mut text = format!("[{i}] Url={url}\n[{i}] StatusCode={}\n", self.status);
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            let name = canonical(name.as_str());
            // Writing to a String never fails.
            let _ = writeln!(text, "[{i}] ResponseHeader={name}:{value}");
        }
        for line in self.body.lines().filter(|line| !line.is_empty()) {
            let _ = writeln!(text, "[{i} body] {line}");
        }
        text.push('\n');
        text
    }
}

async fn exchange(
    wanted: &Wanted,
    scheme: Scheme,
    to: (&str, u16),
    kept: &mut Option<Connection>,
) -> Result<Answer> {
    let ready = match kept {
        Some(kept) => kept.is_ready().await,
        None => false,
    };
    let mut connection = match kept.take() {
        Some(kept) if ready => kept,
        _ => connect(scheme, to).await?,
    };
    let response = match &mut connection {
        Connection::H1(sender) => sender.send_request(wanted.http()?).await?,
        Connection::H2(sender) => sender.send_request(wanted.grpc()?).await?,
    };
    let answer = match scheme {
        Scheme::Http => read(response).await?,
        Scheme::Grpc => read_grpc(response).await?,
    };
    *kept = Some(connection);
    Ok(answer)
}

impl Connection {
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::H1(sender) => sender.ready().await.is_ok(),
            Self::H2(sender) => sender.ready().await.is_ok(),
        }
    }
}

async fn connect(scheme: Scheme, to: (&str, u16)) -> Result<Connection> {
    let stream = TcpStream::connect(to)
        .await
        .with_context(|| format!("connect to {}:{}", to.0, to.1))?;
    stream.set_nodelay(true)?;
    let io = TokioIo::new(stream);
    Ok(match scheme {
        Scheme::Http => {
            let mut builder = http1::Builder::new();
            // As the suite's own client writes them.
            let (sender, driver) = builder.title_case_headers(true).handshake(io).await?;
            detach(async move {
                let _ = driver.await;
            });
            Connection::H1(sender)
        }
        Scheme::Grpc => {
            let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
            detach(async move {
                let _ = driver.await;
            });
            Connection::H2(sender)
        }
    })
}

impl Wanted {
    fn http(&self) -> Result<Request<Full<Bytes>>> {
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::default());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = path.parse()?;
        let host = self.url.authority().context("a URL has a host")?;
        let host = HeaderValue::from_str(host.as_str())?;
        request.headers_mut().insert(HOST, host);
        for (name, value) in &self.headers {
            match *name == HOST {
                true => drop(request.headers_mut().insert(name, value.clone())),
                false => drop(request.headers_mut().append(name, value.clone())),
            }
        }
        Ok(request)
    }

    fn grpc(&self) -> Result<Request<Full<Bytes>>> {
        let mut authority = self
            .url
            .authority()
            .context("a URL has a host")?
            .to_string();
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            match *name == HOST {
                true => value.to_str()?.clone_into(&mut authority),
                false => drop(headers.append(name, value.clone())),
            }
        }
        headers.insert(CONTENT_TYPE, grpc::KIND);
        headers.insert("te", HeaderValue::from_static("trailers"));
        let mut request = Request::post(format!("http://{authority}{}", grpc::METHOD))
            .body(Full::new(grpc::frame("hello")))?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("the body")?.to_bytes();
    Ok(Answer {
        status: head.status.as_u16().to_string(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// A call's status is printed as HTTP's, if it is 0, as the suite wants it.
async fn read_grpc(response: Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("the message")?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = trailers.get(grpc::STATUS);
    let status = status.or_else(|| head.headers.get(grpc::STATUS));
    let status = match status.and_then(|status| status.to_str().ok()) {
        Some("0") => "200",
        Some(other) => other,
        None => bail!("no gRPC status, with HTTP's {}", head.status),
    };
    let body = match status {
        "200" => grpc::text(body.to_bytes())?,
        _ => String::new(),
    };
    Ok(Answer {
        status: status.to_owned(),
        headers: head.headers,
        body,
    })
}
