//! A backend that is nothing but a socket: it writes down every byte that it
//! gets, and answers with whatever bytes a test wants.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_runtime::Scope;
use anyhow::Result;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What follows the bytes of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next request on the same connection.
    Next,
    /// A proper end.
    Close,
    /// RST.
    Reset,
    /// Silence.
    Hang,
}

/// The answer to a request, given its head and its number.
pub(crate) type Script = Arc<dyn Fn(&str, usize) -> (Vec<u8>, Then) + Send + Sync>;

/// What the backend got.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    bytes: Arc<Mutex<Vec<Vec<u8>>>>,
    heads: Arc<AtomicUsize>,
}

impl Seen {
    /// Everything, connection by connection.
    pub(crate) fn text(&self) -> String {
        let all = self.bytes.lock();
        let all: Vec<_> = all.iter().filter(|one| !one.is_empty()).collect();
        let all: Vec<_> = all.iter().map(|one| String::from_utf8_lossy(one)).collect();
        all.join("\n--- another connection\n")
    }

    pub(crate) fn connections(&self) -> usize {
        self.bytes.lock().len()
    }

    /// Request heads that were complete.
    pub(crate) fn heads(&self) -> usize {
        self.heads.load(Ordering::SeqCst)
    }

    pub(crate) fn clear(&self) {
        for connection in self.bytes.lock().iter_mut() {
            connection.clear();
        }
    }
}

/// Answers every head by the script; bodies are written down and passed over
/// only as far as they come with their head.
pub(crate) async fn serve(scope: &Scope, ip: IpAddr, script: Script) -> Result<Seen> {
    let listener = TcpListener::bind((ip, 8080)).await?;
    let seen = Seen::default();
    let (tasks, log) = (scope.clone(), seen.clone());
    scope.spawn("raw app", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let index = {
                let mut all = log.bytes.lock();
                all.push(Vec::new());
                all.len() - 1
            };
            let (log, script) = (log.clone(), Arc::clone(&script));
            tasks.spawn("raw connection", async move {
                let mut read = Vec::new();
                let mut buffer = vec![0; 64 << 10];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    log.bytes.lock()[index].extend_from_slice(&buffer[..n]);
                    read.extend_from_slice(&buffer[..n]);
                    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
                        continue;
                    };
                    let head = String::from_utf8_lossy(&read[..end]).into_owned();
                    if !head.contains(" HTTP/1.1\r\n") {
                        continue; // the rest of a body
                    }
                    read.clear();
                    let number = log.heads.fetch_add(1, Ordering::SeqCst);
                    let (answer, then) = script(&head, number);
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                    match then {
                        Then::Next => {}
                        Then::Close => return,
                        Then::Reset => {
                            let _ = stream.set_zero_linger();
                            return;
                        }
                        Then::Hang => tokio::time::sleep(Duration::from_secs(600)).await,
                    }
                }
            });
        }
    });
    Ok(seen)
}

/// A proper answer.
pub(crate) fn fine() -> Script {
    Arc::new(|_, _| {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine".to_vec();
        (answer, Then::Next)
    })
}
