//! The bounds of 7.2 that one well-formed request or one idle peer can meet.

use std::time::{Duration, Instant};

use ambit_proto::waypoint as pb;
use anyhow::Result;
use http::Request;
use http_body_util::Full;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{hear, open, say};
use crate::frames::{END_HEADERS, END_STREAM, GET, H2, HEADERS, SETTINGS, block, frame};
use crate::support::raw::{Script, Then, fine};
use crate::support::{World, resources as res};

#[tokio::test]
async fn header_fields_and_bytes_are_counted_cookie_crumbs_too() -> Result<()> {
    let world = World::start().await?;
    let (cart, seen) = world.raw("cart", fine()).await?;
    world.settled(cart.vip, "/", 200).await?;
    seen.clear();
    let many = |n: usize| "x-n: 1\r\n".repeat(n);
    let cases = [
        ("99 fields", many(98), 200),
        ("101 fields", many(100), 431),
        ("5,000 fields", many(5000), 431),
        ("50 KiB", format!("x-l: {}\r\n", "x".repeat(50 << 10)), 200),
        ("61 KiB", format!("x-l: {}\r\n", "x".repeat(61 << 10)), 431),
        ("1 MiB", format!("x-l: {}\r\n", "x".repeat(1 << 20)), 431),
        (
            "61 KiB of name",
            format!("{}: x\r\n", "x".repeat(61 << 10)),
            431,
        ),
    ];
    for (name, fields, want) in cases {
        seen.clear();
        let text = format!("GET /x HTTP/1.1\r\nhost: a\r\n{fields}connection: close\r\n\r\n");
        let text = if want == 200 {
            text
        } else {
            text.replace("connection: close\r\n", "")
        };
        let said = say(&world, cart.vip, text.as_bytes()).await?;
        assert_eq!(said.status(), want, "{name}: {said:?}");
        assert_eq!(seen.text().is_empty(), want == 431, "{name}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(70 << 10));
    let said = say(&world, cart.vip, long.as_bytes()).await?;
    assert!([414, 431].contains(&said.status()), "{said:?}");

    let h2_cases = [
        ("90 crumbs", "cookie", 90, 1, 200),
        ("101 crumbs", "cookie", 101, 1, 431),
        ("101 fields", "x-n", 101, 1, 431),
        ("70 KiB in ten", "x-l", 10, 7 << 10, 431),
    ];
    for (name, field, n, length, want) in h2_cases {
        let mut request = Request::get("http://a/x");
        for _ in 0..n {
            request = request.header(field, "y".repeat(length));
        }
        let mut h2 = world.client.http2(cart.vip).await?;
        seen.clear();
        // h2 as a client refuses by the list size that we advertise.
        match h2.send(request.body(Full::default())?).await {
            Ok(answer) => assert_eq!(answer.status(), want, "{name}: {answer:?}"),
            Err(error) => assert_ne!(want, 200, "{name}: {error}"),
        }
        assert_eq!(
            seen.text().is_empty(),
            want == 431,
            "{name}: {}",
            seen.text()
        );
        if name == "90 crumbs" {
            let text = seen.text();
            assert_eq!(text.matches("cookie: ").count(), 1, "{text}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn http2_streams_and_header_lists_are_bounded_and_said() -> Result<()> {
    let world = World::start().await?;
    let (cart, _) = world.raw("cart", crate::upstream::silent()).await?;
    world.settled(cart.vip, "/ready", 200).await?;
    let mut h2 = H2::open(&world, cart.vip, &[]).await?;
    let heard = h2
        .hear(Duration::from_secs(3), |heard| !heard.frames.is_empty())
        .await;
    let settings = heard.frames.iter().find(|frame| frame.0 == SETTINGS);
    let (_, _, _, payload) = settings.unwrap();
    let value = |id: u16| {
        payload
            .chunks_exact(6)
            .find(|entry| entry[..2] == id.to_be_bytes())
            .map(|entry| u32::from_be_bytes(entry[2..].try_into().unwrap()))
    };
    assert_eq!(value(3), Some(100), "MAX_CONCURRENT_STREAMS");
    assert_eq!(value(6), Some(60 << 10), "MAX_HEADER_LIST_SIZE");
    // Streams over the limit are refused, the others live on.
    let mut all = Vec::new();
    for n in 0..110 {
        all.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * n + 1,
            &block(&GET),
        ));
    }
    h2.write(&all).await;
    let heard = h2
        .hear(Duration::from_secs(3), |heard| {
            heard.reset(219).is_some() || heard.closed
        })
        .await;
    assert_eq!(heard.reset(219), Some(7), "REFUSED_STREAM: {heard:?}");
    assert_eq!(heard.reset(1), None, "{heard:?}");
    Ok(())
}

/// Limits short enough for a test.
async fn impatient() -> Result<World> {
    let world = World::start_with(&[("AMBIT_HANDSHAKE_TIMEOUT", "1s")]).await?;
    let gateway = pb::Gateway {
        limits: Some(pb::Limits {
            header_timeout_ms: 700,
            connection_idle_ms: 1500,
            max_connections: 4,
            ..pb::Limits::default()
        }),
        ..res::gateway_message()
    };
    let control = &world.control;
    control.publish(res::GATEWAY, &[("shop/wp", gateway.encode_to_vec())]);
    Ok(world)
}

#[tokio::test]
async fn slow_heads_and_idle_connections_end() -> Result<()> {
    let world = impatient().await?;
    let (cart, seen) = world.raw("cart", fine()).await?;
    world.settled(cart.vip, "/", 200).await?;
    seen.clear();
    // A byte each 100 ms never makes a head.
    let mut io = open(&world, cart.vip).await?;
    let begun = Instant::now();
    for byte in "GET /x HTTP/1.1\r\nhost: a\r\nx-slow: "
        .bytes()
        .chain([b'x'; 40])
    {
        if io.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let said = hear(&mut io, Duration::from_secs(3)).await;
    assert!(said.closed, "slowloris lives: {said:?}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(seen.text().is_empty());
    // Half a head, then nothing.
    let mut io = open(&world, cart.vip).await?;
    io.write_all(b"GET /x HTTP/1.1\r\nhost").await?;
    assert!(hear(&mut io, Duration::from_secs(5)).await.closed);
    // A connection that asks once and stays.
    let mut io = open(&world, cart.vip).await?;
    io.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    let said = hear(&mut io, Duration::from_secs(5)).await;
    assert!(said.closed && said.status() == 200, "{said:?}");
    // The same over HTTP/2, where pings would be answered.
    let mut h2 = H2::open(&world, cart.vip, &[]).await?;
    h2.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GET)))
        .await;
    let heard = h2.hear(Duration::from_secs(6), |_| false).await;
    assert!(heard.closed || heard.goaway().is_some(), "{heard:?}");
    Ok(())
}

#[tokio::test]
async fn handshakes_and_connections_are_bounded() -> Result<()> {
    let world = impatient().await?;
    let (cart, _) = world.raw("cart", fine()).await?;
    world.settled(cart.vip, "/", 200).await?;
    let at = (world.waypoint.ip, 15008);
    // Silence instead of a ClientHello, and a byte of it.
    for first in [&b""[..], b"\x16"] {
        let mut stream = tokio::net::TcpStream::connect(at).await?;
        stream.write_all(first).await?;
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(4), stream.read(&mut byte)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    }
    // The limit is four, one is the client's: more are closed at once, and what
    // is open goes on.
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(tokio::net::TcpStream::connect(at).await?);
    }
    let mut closed = 0;
    for stream in &mut open {
        let mut byte = [0];
        let soon = Duration::from_millis(300);
        let read = tokio::time::timeout(soon, stream.read(&mut byte)).await;
        closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    assert!(closed >= 7, "{closed} of 10 closed");
    assert_eq!(world.client.get(cart.vip, "/").await?.status(), 200);
    Ok(())
}

/// A window that is never opened frees what waits for it (7.2).
#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() -> Result<()> {
    let world = impatient().await?;
    let body = vec![b'x'; 8 << 20];
    let mut large =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    large.extend(body);
    let script: Script = std::sync::Arc::new(move |head, _| {
        if head.starts_with("GET /x") {
            return (large.clone(), Then::Next);
        }
        let fine = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        (fine.into(), Then::Next)
    });
    let (cart, _) = world.raw("cart", script).await?;
    world.settled(cart.vip, "/", 200).await?;
    // INITIAL_WINDOW_SIZE 0, and one of a few bytes.
    for window in [0u8, 9] {
        let settings = [0, 4, 0, 0, 0, window];
        let mut h2 = H2::open(&world, cart.vip, &settings).await?;
        h2.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GET)))
            .await;
        let heard = h2.hear(Duration::from_secs(8), |_| false).await;
        assert!(heard.is_ok(1) && heard.closed, "{window}: {heard:?}");
    }
    Ok(())
}
