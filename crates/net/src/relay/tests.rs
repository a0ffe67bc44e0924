//! Over loopback sockets: what applications see at the far ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::block::RELAY_BLOCK;

/// client <-> (downstream, upstream) <-> server
struct Line {
    client: TcpStream,
    downstream: TcpStream,
    upstream: TcpStream,
    server: TcpStream,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

async fn line() -> Line {
    let (client, downstream) = pair().await;
    let (upstream, server) = pair().await;
    Line {
        client,
        downstream,
        upstream,
        server,
    }
}

/// Runs the relay beside what the two applications do.
async fn with_relay<F: Future>(
    downstream: TcpStream,
    upstream: TcpStream,
    apps: F,
) -> (Result<Transfer, RelayError>, F::Output) {
    let meter = Meter::default();
    let both = async { tokio::join!(relay(downstream, upstream, &meter), apps) };
    tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .expect("the relay ends")
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn half_close_goes_through_in_either_order() {
    for client_first in [true, false] {
        let mut l = line().await;
        let apps = async {
            let (first, second) = if client_first {
                (&mut l.client, &mut l.server)
            } else {
                (&mut l.server, &mut l.client)
            };
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            assert_eq!(read_all(second).await, b"question");
            second.write_all(b"the answer").await.unwrap();
            second.shutdown().await.unwrap();
            assert_eq!(read_all(first).await, b"the answer");
        };
        let (transfer, ()) = with_relay(l.downstream, l.upstream, apps).await;
        let (received, sent) = if client_first { (8, 10) } else { (10, 8) };
        assert_eq!(transfer.unwrap(), Transfer { received, sent });
    }
}

#[tokio::test]
async fn the_server_may_speak_first() {
    let mut l = line().await;
    let apps = async {
        l.server.write_all(b"220 hello\r\n").await.unwrap();
        let mut greeting = [0; 11];
        l.client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
        drop(l.client);
        drop(l.server);
    };
    let (transfer, ()) = with_relay(l.downstream, l.upstream, apps).await;
    assert_eq!(transfer.unwrap().sent, 11);
}

#[tokio::test]
async fn bulk_arrives_whole_in_both_directions_at_once() {
    const SIZE: usize = 24 << 20;
    let pattern = |i: usize| i.wrapping_mul(2_654_435_761).to_le_bytes()[2];
    async fn send(mut to: tokio::net::tcp::OwnedWriteHalf, byte: impl Fn(usize) -> u8) {
        let mut at = 0;
        while at < SIZE {
            let piece: Vec<u8> = (at..(at + 77_777).min(SIZE)).map(&byte).collect();
            to.write_all(&piece).await.unwrap();
            at += piece.len();
        }
        to.shutdown().await.unwrap();
    }
    async fn check(mut from: tokio::net::tcp::OwnedReadHalf, byte: impl Fn(usize) -> u8) -> usize {
        let mut buf = vec![0; 50_000];
        let mut at = 0;
        loop {
            let n = from.read(&mut buf).await.unwrap();
            if n == 0 {
                return at;
            }
            assert!(buf[..n].iter().enumerate().all(|(i, b)| *b == byte(at + i)));
            at += n;
        }
    }
    let l = line().await;
    let (client_read, client_write) = l.client.into_split();
    let (server_read, server_write) = l.server.into_split();
    let apps = async {
        tokio::join!(
            send(client_write, pattern),
            send(server_write, |i| !pattern(i)),
            check(server_read, pattern),
            check(client_read, |i| !pattern(i)),
        )
    };
    let (transfer, ((), (), up, down)) = with_relay(l.downstream, l.upstream, apps).await;
    assert_eq!((up, down), (SIZE, SIZE));
    let size = SIZE as u64;
    let want = Transfer {
        received: size,
        sent: size,
    };
    assert_eq!(transfer.unwrap(), want);
}

#[tokio::test]
async fn a_reset_is_passed_on_and_is_no_error() {
    let mut l = line().await;
    let apps = async {
        l.client.write_all(b"x").await.unwrap();
        let mut byte = [0];
        l.server.read_exact(&mut byte).await.unwrap();
        l.client.abort();
        drop(l.client);
        let error = l.server.read(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    };
    let (transfer, ()) = with_relay(l.downstream, l.upstream, apps).await;
    assert_eq!(transfer.unwrap().received, 1);
}

#[tokio::test]
async fn an_early_answer_arrives_though_the_question_is_cut() {
    let mut l = line().await;
    let apps = async {
        l.server.write_all(b"413 too large").await.unwrap();
        // Closing with nothing unread: FIN now, RST to whatever comes later.
        drop(l.server);
        let mut answer = [0; 13];
        l.client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"413 too large");
        while l.client.write_all(&[0; 4096]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let (transfer, ()) = with_relay(l.downstream, l.upstream, apps).await;
    assert_eq!(transfer.unwrap().sent, 13);
}

#[tokio::test]
async fn a_stalled_reader_holds_the_writer_back() {
    let mut l = line().await;
    let meter = Arc::new(Meter::default());
    let counted = Arc::clone(&meter);
    let scope = ambit_runtime::Scope::new("test");
    scope.spawn("relay", async move {
        let _ = relay(l.downstream, l.upstream, &counted).await;
    });
    // The server reads nothing: in the end the client can't write any more.
    let stalled = async {
        loop {
            let write = l.client.write_all(&[7; 65_536]);
            if tokio::time::timeout(Duration::from_millis(500), write)
                .await
                .is_err()
            {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), stalled)
        .await
        .expect("back-pressure");
    let before = meter.received();
    let mut some = vec![0; 1 << 20];
    l.server.read_exact(&mut some).await.unwrap();
    assert!(before < 64 << 20, "kernel buffers only, not ours: {before}");
    scope.cancel();
}

/// An end whose source never has anything, and that counts what is held.
struct Quiet {
    rooms: Arc<AtomicUsize>,
}

impl Duplex for Quiet {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    fn poll_read(&mut self, _: &mut Context<'_>, _: usize) -> Poll<io::Result<Option<Chunk>>> {
        Poll::Pending
    }
    fn on_consumed(&mut self, _: usize) {}
    fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.rooms.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Ok(RELAY_BLOCK))
    }
    fn release_room(&mut self) {
        self.rooms.store(0, Ordering::SeqCst);
    }
    fn poll_write(&mut self, _: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<usize>> {
        let n = chunk.len();
        chunk.advance(n);
        Poll::Ready(Ok(n))
    }
    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_abandoned(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
    fn abort(&mut self) {}
}

#[tokio::test]
async fn an_idle_relay_holds_no_credit_and_no_buffer() {
    let (mut client, downstream) = pair().await;
    let rooms = Arc::new(AtomicUsize::new(0));
    let upstream = Quiet {
        rooms: Arc::clone(&rooms),
    };
    let meter = Meter::default();
    let mut copy = std::pin::pin!(relay(downstream, upstream, &meter));
    client.write_all(b"some").await.unwrap();
    while meter.received() < 4 {
        tokio::select! {
            biased;
            _ = &mut copy => panic!("ended"),
            () = tokio::task::yield_now() => {}
        }
    }
    // One more poll finds nothing to read.
    assert!(futures::poll!(copy.as_mut()).is_pending());
    assert_eq!(rooms.load(Ordering::SeqCst), 0);
}

#[test]
fn the_future_of_a_relay_is_small() {
    fn size_of_relay<F, A, B>(_: fn(A, B, &'static Meter) -> F) -> usize {
        size_of::<F>()
    }
    let size = size_of_relay(relay::<TcpStream, TcpStream>);
    println!("relay of two sockets: {size} bytes");
    assert!(size <= 256, "{size}");
}
