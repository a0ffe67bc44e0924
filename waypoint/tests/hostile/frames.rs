//! HTTP/2 by hand: frames and header blocks that no library would write.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Raw, open};
use crate::support::World;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header block of literals, not indexed.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    let length = text.len();
    if length < 127 {
        out.push(u8::try_from(length).unwrap());
    } else {
        out.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        out.push(u8::try_from(rest).unwrap());
    }
    out.extend(text.as_bytes());
}

/// Fields of an ordinary request.
pub(crate) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/x"),
];

/// What the waypoint said.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Type, flags, stream, payload; DATA without its payload.
    pub(crate) frames: Vec<(u8, u8, u32, Vec<u8>)>,
    pub(crate) closed: bool,
}

impl Heard {
    /// The first block of a response on a stream.
    pub(crate) fn response(&self, stream: u32) -> Option<&[u8]> {
        let mut frames = self.frames.iter();
        let found = frames.find(|(kind, _, at, _)| *kind == HEADERS && *at == stream);
        found.map(|(_, _, _, payload)| &payload[..])
    }

    /// The response was 200: `:status: 200` is one byte.
    pub(crate) fn is_ok(&self, stream: u32) -> bool {
        self.response(stream)
            .is_some_and(|block| block.first() == Some(&0x88))
    }

    pub(crate) fn reset(&self, stream: u32) -> Option<u32> {
        self.code(RST_STREAM, stream, 0)
    }

    pub(crate) fn goaway(&self) -> Option<u32> {
        let mut all = self.frames.iter().filter(|frame| frame.0 == GOAWAY);
        let last = all.next_back()?;
        Some(u32::from_be_bytes(last.3.get(4..8)?.try_into().unwrap()))
    }

    fn code(&self, kind: u8, stream: u32, at: usize) -> Option<u32> {
        let mut frames = self.frames.iter();
        let found = frames.find(|frame| frame.0 == kind && frame.2 == stream)?;
        let bytes = found.3.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().unwrap()))
    }
}

/// A connection that has said its preface.
pub(crate) struct H2 {
    pub(crate) io: Raw,
}

impl H2 {
    pub(crate) async fn open(world: &World, to: SocketAddr, settings: &[u8]) -> Result<Self> {
        let mut io = open(world, to).await?;
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        io.write_all(&frame(SETTINGS, 0, 0, settings)).await?;
        Ok(Self { io })
    }

    /// Writes for at most some seconds; false: the waypoint takes no more.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        let writing = self.io.write_all(bytes);
        let done = tokio::time::timeout(Duration::from_secs(5), writing).await;
        matches!(done, Ok(Ok(())))
    }

    /// Reads until `enough`, the end, or the time is up.
    pub(crate) async fn hear(
        &mut self,
        patience: Duration,
        enough: impl Fn(&Heard) -> bool,
    ) -> Heard {
        let mut heard = Heard::default();
        let _ = tokio::time::timeout(patience, async {
            let mut bytes = Vec::new();
            loop {
                while let Some(next) = take(&mut bytes) {
                    heard.frames.push(next);
                    if enough(&heard) {
                        return;
                    }
                }
                let mut buffer = [0; 16 << 10];
                match self.io.read(&mut buffer).await {
                    Ok(0) | Err(_) => {
                        heard.closed = true;
                        return;
                    }
                    Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                }
            }
        })
        .await;
        heard
    }
}

fn take(bytes: &mut Vec<u8>) -> Option<(u8, u8, u32, Vec<u8>)> {
    let head: [u8; 9] = bytes.get(..9)?.try_into().ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    if bytes.len() < 9 + length {
        return None;
    }
    let mut payload: Vec<u8> = bytes.drain(..9 + length).skip(9).collect();
    let (kind, flags) = (head[3], head[4]);
    if kind == DATA {
        payload.clear();
    }
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    Some((kind, flags, stream, payload))
}
