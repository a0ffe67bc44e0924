//! The load of the benchmark: one small protocol, a server and four clients.
//!
//! The first byte of a connection names what it is for: `B` bulk (the server
//! counts to the end and answers with the count), `R` requests of 128 bytes
//! answered by 128, `C` one byte answered, then the server closes (so that the
//! client's ports aren't left in TIME_WAIT), `I` one byte answered, then nothing.

pub mod http;
pub mod steady;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const MESSAGE: usize = 128;
const CHUNK: usize = 256 * 1024;

/// What a client did.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Bytes, connections or requests.
    pub count: u64,
    /// Wall-clock time that it took.
    pub seconds: f64,
}

impl Outcome {
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

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    match stream.read_u8().await? {
        b'B' => {
            let mut buffer = vec![0; CHUNK];
            let mut count = 0;
            loop {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    read => count += read as u64,
                }
            }
            stream.write_u64(count).await
        }
        b'R' => {
            let mut message = [0; MESSAGE];
            loop {
                stream.read_exact(&mut message).await?;
                stream.write_all(&message).await?;
            }
        }
        b'C' => {
            stream.write_u8(b'!').await?;
            stream.shutdown().await?;
            // Until the client has closed too.
            stream.read_u8().await.map(drop)
        }
        _ => {
            stream.write_u8(b'!').await?;
            stream.read_u8().await.map(drop)
        }
    }
}

/// Sends for so long over so many connections.
///
/// # Errors
/// If a connection fails, or bytes are lost.
pub async fn bulk(to: SocketAddr, connections: usize, time: Duration) -> Result<Outcome> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(async move {
            let mut stream = dial(to, b'B').await?;
            let chunk = vec![7; CHUNK];
            let mut sent = 0;
            while started.elapsed() < time {
                stream.write_all(&chunk).await?;
                sent += chunk.len() as u64;
            }
            stream.shutdown().await?;
            let counted = stream.read_u64().await.context("the server's count")?;
            ensure!(counted == sent, "{sent} bytes sent, {counted} arrived");
            Ok(sent)
        });
    }
    let count = sum(tasks).await?;
    Ok(Outcome {
        count,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Asks one request after the other on each of so many kept connections.
///
/// # Errors
/// If a connection fails.
pub async fn requests(to: SocketAddr, connections: usize, time: Duration) -> Result<Outcome> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(dial(to, b'R').await?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        tasks.spawn(async move {
            let mut message = [1; MESSAGE];
            let mut count = 0;
            while started.elapsed() < time {
                stream.write_all(&message).await?;
                stream.read_exact(&mut message).await?;
                count += 1;
            }
            Ok(count)
        });
    }
    let count = sum(tasks).await?;
    Ok(Outcome {
        count,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Opens a connection, exchanges a byte, closes it, and again.
///
/// # Errors
/// If a connection fails.
pub async fn connects(to: SocketAddr, clients: usize, time: Duration) -> Result<Outcome> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(async move {
            let mut count = 0;
            while started.elapsed() < time {
                let mut stream = dial(to, b'C').await?;
                let mut answer = Vec::with_capacity(1);
                stream.read_to_end(&mut answer).await?;
                ensure!(answer == b"!", "a connection ended without its answer");
                count += 1;
            }
            Ok(count)
        });
    }
    let count = sum(tasks).await?;
    Ok(Outcome {
        count,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Opens so many connections and holds them until standard input ends; prints
/// a line when they are open.
///
/// # Errors
/// If a connection fails.
pub async fn idle(to: SocketAddr, connections: usize, opened: impl FnOnce()) -> Result<()> {
    let open = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    let gate = Arc::new(tokio::sync::Semaphore::new(64));
    for _ in 0..connections {
        let (open, gate) = (Arc::clone(&open), Arc::clone(&gate));
        tasks.spawn(async move {
            let permit = gate.acquire_owned().await?;
            let mut stream = dial(to, b'I').await?;
            stream.read_u8().await?;
            drop(permit);
            open.fetch_add(1, Ordering::Relaxed);
            Ok::<_, anyhow::Error>(stream)
        });
    }
    let mut held = Vec::with_capacity(connections);
    while let Some(stream) = tasks.join_next().await {
        held.push(stream??);
    }
    opened();
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    drop(held);
    Ok(())
}

async fn dial(to: SocketAddr, kind: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to)
        .await
        .with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.write_u8(kind).await?;
    Ok(stream)
}

async fn sum(mut tasks: JoinSet<Result<u64>>) -> Result<u64> {
    let mut total = 0;
    while let Some(count) = tasks.join_next().await {
        total += count??;
    }
    Ok(total)
}
