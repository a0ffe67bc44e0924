//! What an inner connection speaks: declared by its port, or else told from
//! its first bytes, within a bound of time and length (`waypoint-contract` 1.8).
//!
//! A protocol in which the server speaks first shows no bytes at all: when the
//! time is up it is passed on as opaque bytes, so it stalls no longer than that.

mod sni;

use std::future::poll_fn;
use std::io;
use std::task::ready;
use std::time::Duration;

use ambit_net::{Chunk, Duplex};
use bytes::Bytes;

/// What a port was declared to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declared {
    /// HTTP of either version; the first bytes tell which.
    Http,
    /// Opaque.
    Tcp,
    /// Opaque, with a ClientHello first.
    Tls,
    /// Nothing was declared.
    Auto,
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    /// Opaque bytes; the server name of a ClientHello is looked for later.
    Opaque,
}

/// A connection's protocol and the bytes that told.
pub(crate) struct Sniffed {
    pub(crate) spoken: Spoken,
    pub(crate) read: Option<Chunk>,
    /// Of a ClientHello, where one was declared.
    pub(crate) sni: Option<Box<str>>,
}

/// Reads until it is known what `stream` speaks. `patience` bounds the wait
/// for undeclared protocols; HTTP that was declared waits for its own
/// deadlines.
///
/// # Errors
/// The stream failed before it said enough.
pub(crate) async fn sniff<D: Duplex>(
    stream: &mut D,
    declared: Declared,
    patience: Duration,
) -> io::Result<Sniffed> {
    match declared {
        Declared::Tcp => Ok(Sniffed::new(Spoken::Opaque, Vec::new())),
        Declared::Tls => {
            let mut seen = Vec::new();
            let named = read_server_name(stream, &mut seen);
            // A client that is slow to say hello goes on without a name.
            let sni = tokio::time::timeout(HELLO, named).await;
            let sni = sni.unwrap_or(Ok(None))?;
            Ok(Sniffed {
                sni,
                ..Sniffed::new(Spoken::Opaque, seen)
            })
        }
        Declared::Http => {
            let mut seen = Vec::new();
            let known = read_until_known(stream, &mut seen, Declared::Http);
            let spoken = tokio::time::timeout(FIRST_REQUEST, known)
                .await
                .unwrap_or(Ok(Spoken::Http1))?;
            Ok(Sniffed::new(spoken, seen))
        }
        Declared::Auto => {
            let mut seen = Vec::new();
            let known = read_until_known(stream, &mut seen, Declared::Auto);
            let spoken = if patience.is_zero() {
                known.await?
            } else {
                tokio::time::timeout(patience, known)
                    .await
                    .unwrap_or(Ok(Spoken::Opaque))?
            };
            Ok(Sniffed::new(spoken, seen))
        }
    }
}

impl Sniffed {
    fn new(spoken: Spoken, seen: Vec<u8>) -> Self {
        let read = (!seen.is_empty()).then(|| Chunk::from(Bytes::from(seen)));
        Self {
            spoken,
            read,
            sni: None,
        }
    }
}

async fn read_server_name<D: Duplex>(
    stream: &mut D,
    seen: &mut Vec<u8>,
) -> io::Result<Option<Box<str>>> {
    loop {
        match sni::server_name(seen) {
            sni::Hello::Name(name) => return Ok(Some(name)),
            sni::Hello::Nameless => return Ok(None),
            sni::Hello::Partial if seen.len() > MAX_HELLO => return Ok(None),
            sni::Hello::Partial => {
                if !read_more(stream, seen).await? {
                    return Ok(None);
                }
            }
        }
    }
}

/// Reads what there is; false at the stream's end. The credit for these bytes
/// goes back when they are taken.
async fn read_more<D: Duplex>(stream: &mut D, seen: &mut Vec<u8>) -> io::Result<bool> {
    let chunk = poll_fn(|cx| {
        ready!(stream.poll_readable(cx))?;
        stream.poll_read(cx, FIRST_READ)
    })
    .await?;
    let Some(mut chunk) = chunk else {
        return Ok(false);
    };
    while !chunk.is_empty() {
        let n = chunk.first().len();
        seen.extend_from_slice(chunk.first());
        chunk.advance(n);
    }
    Ok(true)
}

async fn read_until_known<D: Duplex>(
    stream: &mut D,
    seen: &mut Vec<u8>,
    declared: Declared,
) -> io::Result<Spoken> {
    loop {
        match judge(seen, declared) {
            Some(spoken) => return Ok(spoken),
            None => {
                if !read_more(stream, seen).await? {
                    // Ended: what there is goes on as it is.
                    return Ok(match declared {
                        Declared::Http => Spoken::Http1,
                        _ => Spoken::Opaque,
                    });
                }
            }
        }
    }
}

/// What the bytes so far are, if they say.
fn judge(seen: &[u8], declared: Declared) -> Option<Spoken> {
    if seen.is_empty() {
        return None;
    }
    let common = seen.len().min(PREFACE.len());
    if seen.get(..common) == PREFACE.get(..common) {
        return (seen.len() >= PREFACE.len()).then_some(Spoken::Http2);
    }
    if declared == Declared::Http {
        return Some(Spoken::Http1);
    }
    match method_and_target(seen) {
        Some(true) => Some(Spoken::Http1),
        Some(false) => Some(Spoken::Opaque),
        None => None,
    }
}

/// Whether the bytes start like an HTTP/1 request: a method of upper-case
/// letters, one space, then a target. `None`: too few to tell.
fn method_and_target(seen: &[u8]) -> Option<bool> {
    // Servers skip empty lines before a request.
    let start = seen.iter().position(|b| !matches!(b, b'\r' | b'\n'))?;
    let seen = seen.get(start..).unwrap_or_default();
    let method = seen
        .iter()
        .take_while(|b| b.is_ascii_uppercase() || **b == b'-')
        .count();
    if method > MAX_METHOD {
        return Some(false);
    }
    match (seen.get(method), seen.get(method + 1)) {
        (None, _) => None,
        (Some(b' '), _) if method == 0 => Some(false),
        (Some(b' '), None) => None,
        (Some(b' '), Some(_)) if METHODS.contains(&seen.get(..method).unwrap_or_default()) => {
            Some(true)
        }
        (Some(b' '), Some(_)) => whole_line(seen),
        (Some(_), _) => Some(false),
    }
}

/// An unusual word: the line's end says whether it was a method.
fn whole_line(seen: &[u8]) -> Option<bool> {
    match seen.iter().position(|b| *b == b'\n') {
        Some(end) => {
            let line = seen.get(..end).unwrap_or_default();
            Some(line.windows(VERSION.len()).any(|part| part == VERSION))
        }
        None if seen.len() > MAX_LINE => Some(false),
        None => None,
    }
}

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a request line has near its end.
const VERSION: &[u8] = b" HTTP/1.";
/// Methods that settle it at once: those of RFC 9110 and 5789.
const METHODS: [&[u8]; 9] = [
    b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE",
];
/// Of a ClientHello.
const HELLO: Duration = Duration::from_secs(5);
const MAX_HELLO: usize = 18 << 10;
/// How far the end of a line is looked for.
const MAX_LINE: usize = 8192;
/// Longer words aren't methods that anybody uses.
const MAX_METHOD: usize = 24;
/// How much is read at a time before the protocol is known.
const FIRST_READ: usize = 4096;
/// A declared HTTP connection that says nothing: it is kept as long as an idle
/// one would be, then closed by the HTTP server's own deadline.
const FIRST_REQUEST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell() {
        let cases: [(&[u8], Option<Spoken>); 16] = [
            (b"", None),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\r\nGET /x", Some(Spoken::Http1)),
            (b"OPTIONS *", Some(Spoken::Http1)),
            (b"CONNECT a:1", Some(Spoken::Http1)),
            (b"GET", None),
            (b"GET ", None),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", None),
            (b"\x16\x03\x01\x02\x00", Some(Spoken::Opaque)),
            (b"EHLO", None),
            (b"EHLO mail.example\r\n", Some(Spoken::Opaque)),
            (b"PURGE /x HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"HELO\r\n", Some(Spoken::Opaque)),
            (b"*1\r\n$4\r\nPING", Some(Spoken::Opaque)),
        ];
        for (bytes, want) in cases {
            assert_eq!(judge(bytes, Declared::Auto), want, "{bytes:?}");
        }
    }

    #[test]
    fn declared_http_is_one_of_two() {
        assert_eq!(judge(b"garbage", Declared::Http), Some(Spoken::Http1));
        assert_eq!(judge(b"PRI * HTTP/2.0\r\n", Declared::Http), None);
        assert_eq!(judge(PREFACE, Declared::Http), Some(Spoken::Http2));
    }
}
