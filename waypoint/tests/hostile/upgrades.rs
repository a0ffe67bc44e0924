//! Upgrades (7.3): nothing is a tunnel before the backend's 101, and nothing
//! that follows a refused one is a request (CVE-2024-23326, CVE-2025-64763,
//! CVE-2026-2833).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{hear, open, say};
use crate::support::World;
use crate::support::raw::{Script, Then};

const ASK: &str =
    "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

fn answering(answer: &'static str) -> Script {
    Arc::new(move |head, _| {
        let plain = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let asked = head.starts_with("GET /ws");
        let text = if asked { answer } else { plain };
        (text.as_bytes().to_vec(), Then::Next)
    })
}

#[tokio::test]
async fn what_follows_a_refused_upgrade_is_no_request() -> Result<()> {
    let world = World::start().await?;
    let answers = [
        ("ok", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (
            "forbidden",
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "ok with upgrade",
            "HTTP/1.1 200 OK\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n",
        ),
    ];
    for (name, answer) in answers {
        let (chat, seen) = world.raw(name, answering(answer)).await?;
        world.settled(chat.vip, "/", 200).await?;
        let hidden = "GET /smuggled HTTP/1.1\nhost: a\n\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        // In one piece with the request.
        seen.clear();
        let said = say(&world, chat.vip, format!("{ASK}{hidden}").as_bytes()).await?;
        assert_eq!(said.answers(), 1, "{name}: {said:?}");
        assert!(said.closed && said.status() != 101, "{name}: {said:?}");
        assert!(!seen.text().contains("smuggled"), "{name}: {}", seen.text());
        // After the answer.
        seen.clear();
        let mut io = open(&world, chat.vip).await?;
        io.write_all(ASK.as_bytes()).await?;
        let mut first = vec![0; 4096];
        let n = io.read(&mut first).await?;
        let first = String::from_utf8_lossy(&first[..n]).into_owned();
        assert!(first.starts_with("HTTP/1.1 "), "{name}: {first}");
        assert!(first.contains("connection: close"), "{name}: {first}");
        let _ = io.write_all(hidden.as_bytes()).await;
        let rest = hear(&mut io, Duration::from_secs(2)).await;
        assert_eq!(rest.answers(), 0, "{name}: {rest:?}");
        assert!(rest.closed, "{name}: {rest:?}");
        assert!(!seen.text().contains("smuggled"), "{name}: {}", seen.text());
    }
    Ok(())
}

#[tokio::test]
async fn bytes_before_the_101_wait_for_it() -> Result<()> {
    let world = World::start().await?;
    let script: Script = Arc::new(|head, _| {
        if !head.starts_with("GET /ws") {
            return (
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
                Then::Next,
            );
        }
        std::thread::sleep(Duration::from_millis(200));
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                      upgrade: websocket\r\n\r\nhello";
        (answer.as_bytes().to_vec(), Then::Next)
    });
    let (chat, seen) = world.raw("chat", script).await?;
    world.settled(chat.vip, "/", 200).await?;
    seen.clear();
    let said = say(&world, chat.vip, format!("{ASK}early").as_bytes()).await?;
    assert_eq!(said.status(), 101, "{said:?}");
    assert!(said.text.ends_with("\r\n\r\nhello"), "{said:?}");
    let text = seen.text();
    assert!(text.ends_with("\r\n\r\nearly"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_an_error() -> Result<()> {
    let world = World::start().await?;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                  upgrade: websocket\r\n\r\n";
    let script: Script = Arc::new(move |head, _| {
        if head.starts_with("GET /plain") {
            return (answer.as_bytes().to_vec(), Then::Next);
        }
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
            Then::Next,
        )
    });
    let (chat, seen) = world.raw("chat", script).await?;
    world.settled(chat.vip, "/", 200).await?;
    let text = "GET /plain HTTP/1.1\r\nhost: a\r\n\r\n";
    let said = say(&world, chat.vip, format!("{text}raw bytes").as_bytes()).await?;
    assert_eq!(said.status(), 503, "{said:?}");
    assert!(!seen.text().contains("raw bytes"));
    Ok(())
}

#[tokio::test]
async fn an_offer_of_h2c_is_passed_over() -> Result<()> {
    let world = World::start().await?;
    let (cart, seen) = world.raw("cart", crate::support::raw::fine()).await?;
    world.settled(cart.vip, "/", 200).await?;
    seen.clear();
    let offer = "GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\n\
                 upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    let second = "GET /y HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let said = say(&world, cart.vip, format!("{offer}{second}").as_bytes()).await?;
    assert_eq!((said.status(), said.answers()), (200, 2), "{said:?}");
    let text = seen.text();
    assert!(
        !text.contains("h2c") && !text.contains("http2-settings"),
        "{text}"
    );
    // What follows is watched as ever.
    let bad = "GET /smuggled HTTP/1.1\nhost: a\r\n\r\n";
    let said = say(&world, cart.vip, format!("{offer}{bad}").as_bytes()).await?;
    assert!(said.closed, "{said:?}");
    assert!(!seen.text().contains("smuggled"), "{}", seen.text());
    Ok(())
}
