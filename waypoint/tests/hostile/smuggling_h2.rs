//! HTTP/2 that would be something else as HTTP/1.1 (7.3): nothing of it reaches
//! the backend, which here speaks HTTP/1.1.

use std::time::Duration;

use anyhow::Result;

use crate::frames::{DATA, END_HEADERS, END_STREAM, GET, H2, HEADERS, block, frame};
use crate::support::World;
use crate::support::raw::fine;

type Fields = &'static [(&'static str, &'static str)];

/// What is added to an ordinary request.
const ADDED: &[(&str, Fields)] = &[
    ("connection", &[("connection", "close")]),
    ("keep-alive", &[("keep-alive", "5")]),
    ("proxy-connection", &[("proxy-connection", "x")]),
    ("transfer-encoding", &[("transfer-encoding", "chunked")]),
    ("upgrade", &[("upgrade", "websocket")]),
    ("TE but trailers", &[("te", "gzip")]),
    ("upper case", &[("X-A", "b")]),
    (
        "upper-case transfer-encoding",
        &[("Transfer-Encoding", "chunked")],
    ),
    ("CR LF in a value", &[("x-a", "b\r\nx-c: d")]),
    ("LF in a value", &[("x-a", "b\nc")]),
    ("CR in a value", &[("x-a", "b\rc")]),
    ("NUL in a value", &[("x-a", "b\0c")]),
    ("colon in a name", &[("x:a", "b")]),
    ("CR LF in a name", &[("x\r\nhost", "b")]),
    ("space in a name", &[("x a", "b")]),
    ("empty name", &[("", "b")]),
    ("late pseudo-header", &[("x-a", "b"), (":path", "/y")]),
    ("two paths", &[(":path", "/y")]),
    ("two methods", &[(":method", "POST")]),
    ("two authorities", &[(":authority", "b")]),
    ("pseudo-header of a response", &[(":status", "200")]),
    ("unknown pseudo-header", &[(":foo", "200")]),
    ("another host", &[("host", "b")]),
    ("two hosts", &[("host", "a"), ("host", "a")]),
    ("length without a body", &[("content-length", "5")]),
    (
        "two lengths",
        &[("content-length", "0"), ("content-length", "1")],
    ),
    ("length with sign", &[("content-length", "+0")]),
    ("length not a number", &[("content-length", "x")]),
];

/// Whole requests.
const WHOLE: &[(&str, Fields)] = &[
    (
        "no path",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a")],
    ),
    (
        "no method",
        &[(":path", "/"), (":scheme", "http"), (":authority", "a")],
    ),
    (
        "no scheme",
        &[(":method", "GET"), (":path", "/"), (":authority", "a")],
    ),
    (
        "no authority",
        &[(":method", "GET"), (":scheme", "http"), (":path", "/")],
    ),
    (
        "empty path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", ""),
        ],
    ),
    (
        "path without slash",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "x"),
        ],
    ),
    (
        "path with space",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/x HTTP/1.1"),
        ],
    ),
    (
        "path with CR LF",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/x\r\nx-a: b"),
        ],
    ),
    (
        "path with NUL",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/x\0"),
        ],
    ),
    (
        "method with space",
        &[
            (":method", "GET /y"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ],
    ),
    (
        "authority with user",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "u@a"),
            (":path", "/"),
        ],
    ),
    (
        "authority with CR LF",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a\r\nx-a: b"),
            (":path", "/"),
        ],
    ),
    (
        "authority with slash",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a/b"),
            (":path", "/"),
        ],
    ),
    ("CONNECT", &[(":method", "CONNECT"), (":authority", "a:80")]),
    (
        "extended CONNECT",
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ],
    ),
];

#[tokio::test]
async fn requests_that_http1_would_read_otherwise_are_refused() -> Result<()> {
    let world = World::start().await?;
    let (cart, seen) = world.raw("cart", fine()).await?;
    world.settled(cart.vip, "/", 200).await?;
    seen.clear();
    let added = ADDED
        .iter()
        .map(|(name, more)| (*name, [&GET[..], more].concat()));
    let whole = WHOLE.iter().map(|(name, all)| (*name, all.to_vec()));
    let mut wrong = Vec::new();
    for (name, fields) in added.chain(whole) {
        let mut h2 = H2::open(&world, cart.vip, &[]).await?;
        h2.write(&frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &block(&fields),
        ))
        .await;
        let heard = h2
            .hear(Duration::from_millis(1500), |heard| {
                heard.response(1).is_some() || heard.reset(1).is_some() || heard.goaway().is_some()
            })
            .await;
        let answered = heard.closed
            || heard.response(1).is_some()
            || heard.reset(1).is_some()
            || heard.goaway().is_some();
        if !answered || heard.is_ok(1) || !seen.text().is_empty() {
            wrong.push(format!("{name}: {heard:?}, backend {:?}", seen.text()));
            seen.clear();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // And the ordinary one is one.
    let mut h2 = H2::open(&world, cart.vip, &[]).await?;
    h2.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GET)))
        .await;
    let heard = h2
        .hear(Duration::from_secs(5), |heard| heard.is_ok(1))
        .await;
    assert!(heard.is_ok(1), "{heard:?}");
    Ok(())
}

#[tokio::test]
async fn bodies_that_are_not_as_long_as_said_never_end() -> Result<()> {
    let world = World::start().await?;
    let (cart, seen) = world.raw("cart", crate::upstream::silent()).await?;
    world.settled(cart.vip, "/ready", 200).await?;
    let post = |length: &'static str| {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/x"),
            ("content-length", length),
        ];
        frame(HEADERS, END_HEADERS, 1, &block(&fields))
    };
    let hidden = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let unsized_post = frame(
        HEADERS,
        END_HEADERS,
        1,
        &block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/x"),
        ]),
    );
    let trailers = block(&[(":path", "/smuggled")]);
    let cases: [(&str, Vec<Vec<u8>>, &str); 5] = [
        (
            "more than said",
            vec![post("1"), frame(DATA, END_STREAM, 1, hidden)],
            "smuggled",
        ),
        (
            "more than none",
            vec![post("0"), frame(DATA, END_STREAM, 1, hidden)],
            "smuggled",
        ),
        (
            "less than said",
            vec![post("50"), frame(DATA, END_STREAM, 1, b"short")],
            "short\r\n",
        ),
        (
            "pseudo-header in trailers",
            vec![
                unsized_post.clone(),
                frame(DATA, 0, 1, b"abc"),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers),
            ],
            // h2 drops them without a word: the body ends, they go nowhere.
            "smuggled",
        ),
        (
            "trailers that don't end the stream",
            vec![
                unsized_post,
                frame(DATA, 0, 1, b"abc"),
                frame(HEADERS, END_HEADERS, 1, &block(&[("x-t", "1")])),
            ],
            "0\r\n\r\n",
        ),
    ];
    for (name, frames, never) in cases {
        seen.clear();
        let mut h2 = H2::open(&world, cart.vip, &[]).await?;
        h2.write(&frames.concat()).await;
        let heard = h2
            .hear(Duration::from_secs(2), |heard| {
                heard.reset(1).is_some() || heard.goaway().is_some()
            })
            .await;
        assert!(!heard.is_ok(1), "{name}: {heard:?}");
        let text = seen.text();
        assert!(!text.contains(never), "{name}: {heard:?}, {text}");
    }
    Ok(())
}
