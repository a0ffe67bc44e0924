//! The conversation with the node agent: one request over its socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::config::{Config, Invocation};

/// The agent didn't say yes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(
        "the node agent isn't there ({socket}: {cause}); pods that may be enrolled wait for it"
    )]
    Away { socket: PathBuf, cause: io::Error },
    #[error("the node agent didn't answer: {0}")]
    Silent(io::Error),
    #[error("the node agent's answer can't be read")]
    Garbled,
    #[error("{0}")]
    Refused(String),
}

/// Where the agent listens, and how long its absence is put up with.
pub(crate) struct Agent {
    socket: PathBuf,
    patience: Duration,
}

impl Agent {
    pub(crate) fn new(config: &Config, patience: Duration) -> Self {
        let socket = config.socket.clone();
        Self { socket, patience }
    }

    /// Asks, and waits for a yes.
    pub(crate) fn ask(
        &self,
        path: &str,
        invocation: &Invocation,
        config: &Config,
    ) -> Result<(), AskError> {
        let Some((namespace, name)) = &invocation.pod else {
            return Ok(());
        };
        let addresses = config.addresses();
        let addresses: Vec<_> = addresses.iter().map(|ip| json!({"Address": ip})).collect();
        let body = json!({
            "Netns": invocation.netns,
            "PodName": name,
            "PodNamespace": namespace,
            "PodUID": invocation.uid,
            "ContainerID": invocation.container,
            "IPs": addresses,
        })
        .to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: node-agent\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = self.connect()?;
        let mut answer = Vec::new();
        let mut talk = |stream: &mut UnixStream| -> io::Result<()> {
            stream.set_read_timeout(Some(ANSWER))?;
            stream.set_write_timeout(Some(ANSWER))?;
            stream.write_all(request.as_bytes())?;
            stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
            Ok(())
        };
        talk(&mut stream).map_err(AskError::Silent)?;
        understand(&answer)
    }

    /// An agent that is being replaced has a socket that refuses, or none.
    fn connect(&self) -> Result<UnixStream, AskError> {
        let deadline = Instant::now() + self.patience;
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return Ok(stream),
                Err(cause) if Instant::now() >= deadline => {
                    let socket = self.socket.clone();
                    return Err(AskError::Away { socket, cause });
                }
                Err(_) => pause(),
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this program has no runtime")]
fn pause() {
    std::thread::sleep(PAUSE);
}

fn understand(answer: &[u8]) -> Result<(), AskError> {
    let text = std::str::from_utf8(answer).map_err(|_| AskError::Garbled)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(AskError::Garbled)?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse::<u16>().ok())
        .ok_or(AskError::Garbled)?;
    match status {
        200 => Ok(()),
        _ => Err(AskError::Refused(body.trim().to_owned())),
    }
}

/// The agent itself says why after 4.5 s.
const ANSWER: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
const MAX_ANSWER: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_a_yes() {
        assert!(understand(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok());
        let no = understand(b"HTTP/1.1 500 Internal Server Error\r\nx: y\r\n\r\nnot yet\n");
        assert_eq!(no.unwrap_err().to_string(), "not yet");
        let texts: [&[u8]; 6] = [
            b"",
            b"HTTP/1.1 200 OK",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 2oo OK\r\n\r\n",
            b"\xff\xff\r\n\r\n",
            b"200\r\n\r\n",
        ];
        for text in texts {
            assert!(
                matches!(understand(text), Err(AskError::Garbled)),
                "{text:?}"
            );
        }
    }
}
