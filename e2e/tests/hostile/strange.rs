//! HTTP/2 requests that no library would send, over good TLS.

use std::net::SocketAddr;
use std::time::Duration;

use ambit_e2e::peer::{Credential, tls};
use ambit_netns::NetNs;
use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    /// GET, with everything that belongs to it.
    Get,
    /// CONNECT to any text.
    Authority(&'static str),
    /// CONNECT with 200 KiB of headers.
    HugeHeaders,
}

/// Sends one request by hand and returns the status of the answer.
pub(crate) async fn ask(
    ns: &NetNs,
    to: SocketAddr,
    credential: &Credential,
    request: Request,
) -> Result<u16> {
    let talk = async {
        let mut tls = tls(ns, to, credential).await?;
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        // SETTINGS, empty.
        tls.write_all(&frame(4, 0, 0, &[])).await?;
        for frame in headers(&block(request)) {
            tls.write_all(&frame).await?;
        }
        tls.flush().await?;
        status(&mut tls).await
    };
    timeout(Duration::from_secs(10), talk)
        .await
        .context("no answer")?
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HEADERS of stream 1, and CONTINUATIONs as far as needed.
fn headers(block: &[u8]) -> Vec<Vec<u8>> {
    const END_HEADERS: u8 = 4;
    let parts: Vec<_> = block.chunks(16_000).collect();
    let last = parts.len() - 1;
    let frames = parts.iter().enumerate().map(|(at, part)| {
        let kind = if at == 0 { 1 } else { 9 };
        frame(kind, if at == last { END_HEADERS } else { 0 }, 1, part)
    });
    frames.collect()
}

/// A header block of literals that nobody remembers.
fn block(request: Request) -> Vec<u8> {
    let mut block = Vec::new();
    let mut add = |name: &str, value: &str| {
        // Without indexing, a new name.
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    };
    match request {
        Request::Get => {
            add(":method", "GET");
            add(":scheme", "http");
            add(":authority", "10.0.0.1:80");
            add(":path", "/");
        }
        Request::Authority(authority) => {
            add(":method", "CONNECT");
            add(":authority", authority);
        }
        Request::HugeHeaders => {
            add(":method", "CONNECT");
            add(":authority", "10.0.0.1:80");
            let value = "x".repeat(100);
            for number in 0..1800 {
                add(&format!("x-{number}"), &value);
            }
        }
    }
    block
}

/// The status of stream 1's answer: the proxy's statuses are literals or of
/// the static table.
async fn status(tls: &mut (impl AsyncRead + Unpin)) -> Result<u16> {
    loop {
        let mut head = [0; 9];
        tls.read_exact(&mut head)
            .await
            .context("the connection ended")?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        ensure!(length < 1 << 20, "a frame of {length} bytes");
        let mut payload = vec![0; length as usize];
        tls.read_exact(&mut payload).await?;
        match head[3] {
            1 => return answer(&payload),
            3 => bail!("RST_STREAM {payload:?}"),
            7 => bail!("GOAWAY {payload:?}"),
            _ => {}
        }
    }
}

fn answer(block: &[u8]) -> Result<u16> {
    // Indices 8 to 14 of the static table.
    let known = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [index @ 0x88..=0x8e, ..] => Ok(known[usize::from(index - 0x88)]),
        // `:status` by the name's index, the value plain or Huffman coded.
        [0x48 | 0x08, 3, a, b, c, ..] => Ok(String::from_utf8(vec![*a, *b, *c])?.parse()?),
        other => bail!("a header block that starts with {:?}", other.get(..8)),
    }
}
