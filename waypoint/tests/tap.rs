//! The stream of requests for `ambit tap` and `observe`: authenticated,
//! filtered, bounded (issue item 10).

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ambit_proto::waypoint as pb;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use support::World;

/// The head's status, and what follows.
async fn tap(world: &World, token: &str, query: &str) -> Result<(u16, BufReader<TcpStream>)> {
    let stream = TcpStream::connect((world.waypoint.ip, 15000)).await?;
    let mut stream = BufReader::new(stream);
    let head =
        format!("GET /tap?{query} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).context("no status")?.parse()?;
    while line != "\r\n" {
        line.clear();
        ensure!(stream.read_line(&mut line).await? > 0, "head cut");
    }
    Ok((status, stream))
}

/// The next JSON line of a chunked body.
async fn next(stream: &mut BufReader<TcpStream>) -> Result<Value> {
    loop {
        let mut line = String::new();
        let read = timeout(Duration::from_secs(5), stream.read_line(&mut line));
        ensure!(read.await?? > 0, "the stream ended");
        if line.starts_with('{') {
            return Ok(serde_json::from_str(&line)?);
        }
    }
}

#[tokio::test]
async fn requests_are_streamed_to_those_who_have_the_token() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("token");
    std::fs::write(&file, "somebody's guess")?;
    let path = file.to_str().context("path")?;
    let world = World::start_with(&[("AMBIT_TAP_TOKEN_FILE", path)]).await?;
    let token = std::fs::read_to_string(&file)?;
    assert_ne!(token, "somebody's guess");
    assert_eq!(
        std::fs::metadata(&file)?.permissions().mode() & 0o777,
        0o600
    );

    for wrong in ["", "somebody's guess", &token[1..], &format!("{token}0")] {
        assert_eq!(tap(&world, wrong, "").await?.0, 401, "{wrong}");
    }
    assert_eq!(tap(&world, &token, "filter=request.").await?.0, 400);
    assert_eq!(tap(&world, &token, "nonsense=1").await?.0, 400);

    let cart = world.service("cart", pb::Protocol::Http).await?;
    world.settled(cart.vip, "/", 200).await?;
    let (status, mut all) = tap(&world, &token, "").await?;
    assert_eq!(status, 200);
    let filter = "filter=request.url_path.startsWith(%27/only%27)&max=1";
    let (status, mut only) = tap(&world, &token, filter).await?;
    assert_eq!(status, 200);
    for path in ["/other?secret=1", "/only/this"] {
        assert_eq!(world.client.get(cart.vip, path).await?.status(), 200);
    }
    let first = next(&mut all).await?;
    assert_eq!(
        (&first["path"], &first["status"]),
        (&"/other".into(), &200.into())
    );
    assert_eq!(next(&mut all).await?["path"], "/only/this");
    let one = next(&mut only).await?;
    assert_eq!(one["path"], "/only/this");
    assert_eq!(one["sourcePrincipal"], support::CLIENT);
    assert!(next(&mut only).await.is_err(), "max was 1");
    Ok(())
}

#[tokio::test]
async fn readers_are_few_and_without_a_token_file_there_are_none() -> Result<()> {
    let world = World::start().await?;
    assert_eq!(tap(&world, "x", "").await?.0, 403);

    let dir = tempfile::tempdir()?;
    let file = dir.path().join("token");
    let path = file.to_str().context("path")?;
    let world = World::start_with(&[("AMBIT_TAP_TOKEN_FILE", path)]).await?;
    let token = std::fs::read_to_string(&file)?;
    let mut open = Vec::new();
    for _ in 0..16 {
        let (status, stream) = tap(&world, &token, "").await?;
        assert_eq!(status, 200);
        open.push(stream);
    }
    assert_eq!(tap(&world, &token, "").await?.0, 429);
    open.pop();
    ambit_testkit::eventually("a place", async || {
        let (status, _) = tap(&world, &token, "").await?;
        ensure!(status == 200, "{status}");
        Ok(())
    })
    .await
}
