//! Opaque bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::{Service, detach};

/// Says the greeting, then echoes.
pub(crate) async fn serve(listener: TcpListener, greeting: String) -> Result<()> {
    let greeting: Arc<str> = greeting.into();
    loop {
        let (mut stream, _) = listener.accept().await?;
        let greeting = Arc::clone(&greeting);
        detach(async move {
            if stream.write_all(greeting.as_bytes()).await.is_err() {
                return;
            }
            let (mut reader, mut writer) = stream.split();
            // A client that goes away ends its connection, nothing else.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
    }
}

/// Echoes lines behind the pod's name.
pub(crate) async fn serve_named(listener: TcpListener, service: Arc<Service>) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let service = Arc::clone(&service);
        detach(async move {
            let (reader, mut writer) = stream.split();
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let answer = format!("{} {line}\n", service.pod);
                if writer.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Has a line echoed.
pub(crate) async fn say_hello(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(HELLO).await?;
    let mut back = [0; HELLO.len()];
    stream.read_exact(&mut back).await?;
    Ok(())
}

const HELLO: &[u8] = b"hello, this is my very first connection";
