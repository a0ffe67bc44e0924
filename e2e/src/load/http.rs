//! HTTP/1.1 load: a server and two clients that cost little themselves, so
//! that what is measured is the proxy between them.
//!
//! `GET /` is answered by 128 bytes, `GET /bytes/N` by N bytes. The clients
//! check status and length of every answer; anything else is an error, and an
//! error ends the run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a client did.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct HttpOutcome {
    /// Requests, or bytes of bodies.
    pub count: u64,
    /// Wall-clock time that it took.
    pub seconds: f64,
    /// Latency of a request, its middle and its 99th percentile, in microseconds.
    pub p50_us: u64,
    /// See `p50_us`.
    pub p99_us: u64,
}

impl HttpOutcome {
    /// Count per second.
    pub fn rate(self) -> f64 {
        self.count as f64 / self.seconds.max(f64::EPSILON)
    }
}

/// Serves until it is killed.
///
/// # Errors
/// If it can't listen.
pub async fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(async move {
            // A client that goes away ends its connection only.
            let _ = answer(stream).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    let small = response_head(SMALL.len() as u64) + SMALL;
    let block = vec![b'x'; BLOCK];
    let mut input = Vec::with_capacity(4096);
    loop {
        let Some(head) = read_head(&mut stream, &mut input).await? else {
            return Ok(());
        };
        let target = std::str::from_utf8(&head)?.split(' ').nth(1).unwrap_or("/");
        match target.strip_prefix("/bytes/") {
            None => stream.write_all(small.as_bytes()).await?,
            Some(length) => {
                let mut left: u64 = length.parse()?;
                stream.write_all(response_head(left).as_bytes()).await?;
                while left > 0 {
                    let part = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
                    stream
                        .write_all(block.get(..part).unwrap_or_default())
                        .await?;
                    left -= part as u64;
                }
            }
        }
    }
}

fn response_head(length: u64) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ncontent-type: text/plain\r\n\r\n")
}

/// Takes one head out of the input; none at the end of the stream.
async fn read_head(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = input.split_off(end + 4);
            return Ok(Some(std::mem::replace(input, rest)));
        }
        ensure!(input.len() < 64 * 1024, "a head without an end");
        if stream.read_buf(input).await? == 0 {
            ensure!(input.is_empty(), "closed inside a head");
            return Ok(None);
        }
    }
}

/// Asks one request after the other on each of so many kept connections.
///
/// # Errors
/// If a connection fails, or an answer isn't what was asked for.
pub async fn requests(to: SocketAddr, connections: usize, time: Duration) -> Result<HttpOutcome> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let mut stream = dial(to).await?;
        // Once before the clock starts, so that every proxy has dialled.
        exchange(&mut stream, &mut Vec::new(), to, "/").await?;
        streams.push(stream);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        tasks.spawn(async move {
            let mut histogram = histogram()?;
            let mut input = Vec::with_capacity(4096);
            while started.elapsed() < time {
                let asked = Instant::now();
                exchange(&mut stream, &mut input, to, "/").await?;
                histogram.saturating_record(micros(asked.elapsed()));
            }
            Ok::<_, anyhow::Error>(histogram)
        });
    }
    let mut all = histogram()?;
    while let Some(one) = tasks.join_next().await {
        all.add(one??)?;
    }
    Ok(HttpOutcome {
        count: all.len(),
        seconds: started.elapsed().as_secs_f64(),
        p50_us: all.value_at_quantile(0.5),
        p99_us: all.value_at_quantile(0.99),
    })
}

/// Downloads a body of so many bytes on each of so many connections at once.
///
/// # Errors
/// If a connection fails or bytes are missing.
pub async fn download(to: SocketAddr, connections: usize, bytes: u64) -> Result<HttpOutcome> {
    let started = Instant::now();
    let target: Arc<str> = format!("/bytes/{bytes}").into();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let target = Arc::clone(&target);
        tasks.spawn(async move {
            let mut stream = dial(to).await?;
            exchange(&mut stream, &mut Vec::new(), to, &target).await
        });
    }
    let mut count = 0;
    while let Some(one) = tasks.join_next().await {
        count += one??;
    }
    Ok(HttpOutcome {
        count,
        seconds: started.elapsed().as_secs_f64(),
        ..HttpOutcome::default()
    })
}

/// One request and its whole answer; the length of its body.
async fn exchange(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
    to: SocketAddr,
    target: &str,
) -> Result<u64> {
    let request = format!("GET {target} HTTP/1.1\r\nhost: {to}\r\nuser-agent: ambit-load\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(stream, input)
        .await?
        .context("closed without an answer")?;
    let head = std::str::from_utf8(&head)?;
    ensure!(head.starts_with("HTTP/1.1 200"), "answered {head:?}");
    let length = content_length(head)?;
    let mut left = length.saturating_sub(input.len() as u64);
    let mut buffer = vec![0; usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK))];
    input.clear();
    while left > 0 {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "closed with {left} bytes missing");
        left = left.saturating_sub(read as u64);
    }
    Ok(length)
}

fn content_length(head: &str) -> Result<u64> {
    for line in head.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok(value.trim().parse()?);
        }
    }
    bail!("an answer without a length: {head:?}")
}

async fn dial(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)
        .await
        .with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

const BLOCK: usize = 256 * 1024;
const SMALL: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
                     0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
