//! A second pair of eyes on what HTTP/1 clients send (`waypoint-contract` 7.3).
//!
//! The HTTP engine is lenient where servers traditionally were: it takes a bare
//! LF for a line's end, and lets `Transfer-Encoding` win over `Content-Length`
//! without a word. Whoever reads such a request in another way sees another
//! one. Here every head is followed byte by byte, and bodies by their length
//! only; at the first byte that could be read in two ways, that byte becomes
//! one that no parser takes, so that the engine answers 400 and closes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Watches what is read; writes pass untouched.
pub(crate) struct Guard<IO> {
    io: IO,
    scan: Scan,
    /// Of a head, from its first byte on.
    patience: Duration,
    late: Option<Pin<Box<Sleep>>>,
}

impl<IO> Guard<IO> {
    pub(crate) fn new(io: IO, patience: Duration) -> Self {
        Self {
            io,
            scan: Scan::default(),
            patience,
            late: None,
        }
    }
}

impl<IO> Guard<IO> {
    /// Ready when a head has been coming for too long: one byte a minute isn't
    /// a client.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.scan.mid_head() {
            return Poll::Pending;
        }
        let patience = self.patience;
        let late = self
            .late
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        late.as_mut().poll(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(read) => read?,
            Poll::Pending => {
                ready!(self.poll_late(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        let fresh = buf.filled_mut().get_mut(before..).unwrap_or_default();
        self.scan.pass(fresh);
        if !self.scan.mid_head() {
            self.late = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Where in the stream of requests we are.
#[derive(Debug, Default)]
struct Scan {
    at: At,
    head: Head,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// So many bytes of a body.
    Body(u64),
    /// A chunk's size, digits so far.
    Size(u64),
    /// What follows the size, up to the line's end.
    Extension(u64),
    /// So many bytes of a chunk, its line end included.
    Chunk(u64),
    /// Trailers: lines up to an empty one.
    Trailers { empty: bool },
    /// Not ours to follow: an upgrade was asked for, or it is refused already.
    Over,
}

/// What is known of a head.
#[derive(Debug, Default)]
struct Head {
    /// Lines that weren't empty.
    lines: u32,
    name: Text,
    value: Text,
    in_value: bool,
    line_length: usize,
    cr: bool,
    length: Option<u64>,
    encoded: bool,
    upgrade: bool,
}

/// The start of a text, lower-cased; more is only counted.
#[derive(Debug, Default)]
struct Text {
    bytes: [u8; 32],
    length: usize,
}

impl Text {
    fn push(&mut self, byte: u8) {
        self.extend(&[byte]);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let places = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (place, byte) in places.iter_mut().zip(bytes) {
            *place = byte.to_ascii_lowercase();
        }
        self.length += bytes.len();
    }

    fn get(&self) -> &[u8] {
        self.bytes
            .get(..self.length)
            .unwrap_or_default()
            .trim_ascii()
    }
}

impl Scan {
    /// Whether a head has begun and not ended.
    fn mid_head(&self) -> bool {
        self.at == At::Head && (self.head.lines > 0 || self.head.line_length > 0)
    }

    /// Looks at bytes on their way, and spoils what must not be understood.
    fn pass(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match &mut self.at {
                At::Over => return,
                At::Body(left) | At::Chunk(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= n as u64;
                    if *left == 0 {
                        self.at = match self.at {
                            At::Chunk(_) => At::Size(0),
                            _ => At::Head,
                        };
                    }
                    n
                }
                At::Head if self.head.can_run() => match self.head.run(rest) {
                    0 => self.step_first(rest),
                    n => n,
                },
                _ => self.step_first(rest),
            };
            rest = rest.get_mut(taken..).unwrap_or_default();
        }
    }

    fn step_first(&mut self, bytes: &mut [u8]) -> usize {
        if let Some(byte) = bytes.first_mut() {
            self.step(byte);
        }
        1
    }

    fn step(&mut self, byte: &mut u8) {
        match self.at {
            At::Head => {
                if self.head.step(*byte) {
                    self.end_of_line(byte);
                } else if self.head.broken(*byte) {
                    self.spoil(byte);
                }
            }
            At::Size(size) => {
                let digit = char::from(*byte).to_digit(16);
                self.at = match (digit, *byte) {
                    (Some(digit), _) => {
                        At::Size(size.saturating_mul(16).saturating_add(digit.into()))
                    }
                    (None, b'\n') => after_size(size),
                    (None, _) => At::Extension(size),
                };
            }
            At::Extension(size) if *byte == b'\n' => self.at = after_size(size),
            At::Trailers { empty } => match *byte {
                b'\n' if empty => self.at = At::Head,
                b'\n' => self.at = At::Trailers { empty: true },
                b'\r' => {}
                _ => self.at = At::Trailers { empty: false },
            },
            At::Extension(_) | At::Body(_) | At::Chunk(_) | At::Over => {}
        }
    }

    /// A line of a head is complete.
    fn end_of_line(&mut self, byte: &mut u8) {
        let head = &mut self.head;
        if head.line_length > 0 {
            let good = head.lines == 0 || head.field();
            head.next_line();
            if !good {
                self.spoil(byte);
            }
            return;
        }
        if head.lines == 0 {
            // An empty line before a request.
            head.cr = false;
            return;
        }
        let (length, encoded, upgrade) = (head.length, head.encoded, head.upgrade);
        self.head = Head::default();
        self.at = match (length, encoded) {
            (Some(_), true) => return self.spoil(byte),
            _ if upgrade => At::Over,
            (None, true) => At::Size(0),
            (None | Some(0), false) => At::Head,
            (Some(length), false) => At::Body(length),
        };
    }

    fn spoil(&mut self, byte: &mut u8) {
        *byte = 0;
        self.at = At::Over;
    }
}

fn after_size(size: u64) -> At {
    match size {
        0 => At::Trailers { empty: true },
        size => At::Chunk(size.saturating_add(2)),
    }
}

impl Head {
    /// Whether what comes may be taken as a run: inside of a line, where only a
    /// few bytes mean something.
    fn can_run(&self) -> bool {
        self.line_length > 0 && !self.cr
    }

    /// Takes what [`step`](Self::step) would take byte by byte, up to the next
    /// byte that may be [`broken`](Self::broken) or end the line.
    fn run(&mut self, bytes: &[u8]) -> usize {
        let special = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        let n = bytes.iter().position(special).unwrap_or(bytes.len());
        let mut run = bytes.get(..n).unwrap_or_default();
        self.line_length += n;
        if !self.in_value {
            let colon = run.iter().position(|byte| *byte == b':');
            let (name, value) = run.split_at(colon.unwrap_or(n));
            self.name.extend(name);
            self.in_value = colon.is_some();
            run = value.get(1..).unwrap_or_default();
        }
        self.value.extend(run);
        n
    }

    /// Takes a byte; true at a line's proper end.
    fn step(&mut self, byte: u8) -> bool {
        if byte == b'\n' && self.cr {
            return true;
        }
        if byte == b'\r' || byte == b'\n' {
            return false;
        }
        self.line_length += 1;
        if self.in_value {
            self.value.push(byte);
        } else if byte == b':' {
            self.in_value = true;
        } else {
            self.name.push(byte);
        }
        false
    }

    /// Whether the byte that was just taken can be read in two ways.
    fn broken(&mut self, byte: u8) -> bool {
        let after_cr = std::mem::replace(&mut self.cr, byte == b'\r');
        // A lone LF, something else after CR, NUL, or a folded line.
        let folded = self.line_length == 1 && self.lines > 0 && matches!(byte, b' ' | b'\t');
        byte == b'\n' || after_cr || byte == 0 || folded
    }

    /// Takes a whole field; false if it may not be.
    fn field(&mut self) -> bool {
        match self.name.get() {
            b"content-length" => {
                let text = std::str::from_utf8(self.value.get()).unwrap_or_default();
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                let length = text.parse().ok().filter(|_| digits);
                let same = self.length.is_none_or(|before| Some(before) == length);
                self.length = length;
                length.is_some() && same
            }
            b"transfer-encoding" => {
                let first = !std::mem::replace(&mut self.encoded, true);
                first && self.value.get() == b"chunked"
            }
            b"upgrade" => {
                // An offer of HTTP/2 is passed over, what follows is HTTP/1.
                self.upgrade |= self.value.get() != b"h2c";
                true
            }
            _ => true,
        }
    }

    fn next_line(&mut self) {
        self.lines = self.lines.saturating_add(1);
        self.name = Text::default();
        self.value = Text::default();
        self.in_value = false;
        self.line_length = 0;
        self.cr = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes after the guard, fed in pieces of `step`.
    fn through(text: &str, step: usize) -> String {
        let mut scan = Scan::default();
        let mut bytes = text.as_bytes().to_vec();
        for piece in bytes.chunks_mut(step) {
            scan.pass(piece);
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn proper_requests_pass_untouched() {
        let good = [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\na\nbGET / HTTP/1.1\r\n\r\n",
            "\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=\"y\"\r\na\nb\r\n0\r\nt: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n\n\0\n",
        ];
        for text in good {
            for step in [1, 2, 7, 1000] {
                assert_eq!(through(text, step), text, "by {step}");
            }
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_spoilt() {
        let bad = [
            "GET / HTTP/1.1\nhost: a\n\n",
            "GET / HTTP/1.1\r\nx: a\nb: c\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\rb: c\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\naGET / HTTP/1.1\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\nx\r\n\r\n",
        ];
        for text in bad {
            for step in [1, 3, 1000] {
                assert!(through(text, step).contains('\0'), "{text:?} by {step}");
            }
        }
    }
}
