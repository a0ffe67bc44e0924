//! A client that writes what it likes on an inner stream.

use std::net::SocketAddr;
use std::time::Duration;

use ambit_hbone::Tunnel;
use ambit_net::DuplexIo;
use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::World;

/// An inner stream.
pub(crate) type Raw = DuplexIo<Tunnel>;

/// What came back before the end or the time was up.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) text: String,
    /// The waypoint ended it.
    pub(crate) closed: bool,
}

impl Said {
    pub(crate) fn answers(&self) -> usize {
        self.text.matches("HTTP/1.1 ").count()
    }

    pub(crate) fn status(&self) -> u16 {
        let status = self.text.strip_prefix("HTTP/1.1 ");
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok());
        status.unwrap_or(0)
    }
}

pub(crate) async fn open(world: &World, to: SocketAddr) -> Result<Raw> {
    Ok(DuplexIo::new(world.client.tunnel(&to.to_string()).await?))
}

/// Writes bytes and reads whatever comes.
pub(crate) async fn say(world: &World, to: SocketAddr, bytes: &[u8]) -> Result<Said> {
    let mut io = open(world, to).await?;
    // The waypoint may have hung up before everything is written.
    let _ = io.write_all(bytes).await;
    Ok(hear(&mut io, PATIENCE).await)
}

pub(crate) async fn hear(io: &mut Raw, patience: Duration) -> Said {
    let mut said = Vec::new();
    let reading = io.read_to_end(&mut said);
    let closed = tokio::time::timeout(patience, reading).await.is_ok();
    Said {
        text: String::from_utf8_lossy(&said).into_owned(),
        closed,
    }
}

const PATIENCE: Duration = Duration::from_millis(1500);
