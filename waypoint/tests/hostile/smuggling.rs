//! Bytes of HTTP/1.1 that two readers could read in two ways (7.3): 400, the
//! connection closed, nothing of it at the backend.

use ambit_proto::waypoint as pb;
use anyhow::Result;

use crate::client::say;
use crate::support::raw::fine;
use crate::support::{World, resources as res};

/// What hides behind an ambiguous request.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

/// Fields of a `POST /x` with its `host`, and what follows them.
const FIELDS: &[(&str, &str)] = &[
    (
        "CL and TE",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "TE and CL",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    ),
    ("two CL", "content-length: 1\r\ncontent-length: 2\r\n\r\nab"),
    ("CL list", "content-length: 1, 2\r\n\r\nab"),
    ("CL +1 (CVE-2021-32715)", "content-length: +1\r\n\r\na"),
    ("CL -1", "content-length: -1\r\n\r\na"),
    ("CL hex", "content-length: 0x1\r\n\r\na"),
    ("CL with space", "content-length: 1 1\r\n\r\na"),
    ("CL empty", "content-length: \r\n\r\na"),
    (
        "CL overflow",
        "content-length: 18446744073709551617\r\n\r\na",
    ),
    (
        "TE not final",
        "transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ),
    (
        "TE twice in one line",
        "transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "TE in two lines",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("TE identity", "transfer-encoding: identity\r\n\r\n"),
    ("TE unknown", "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    (
        "TE with VT",
        "transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "TE quoted",
        "transfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    ),
    (
        "TE with parameter",
        "transfer-encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    ),
    ("folded by space", "x-a: b\r\n c\r\n\r\n"),
    ("folded by tab", "x-a: b\r\n\tc\r\n\r\n"),
    (
        "folded TE",
        "transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    ("bare LF", "x-a: b\nx-c: d\r\n\r\n"),
    ("bare LF at the end", "x-a: b\r\n\n"),
    ("bare CR", "x-a: b\rtransfer-encoding: chunked\r\n\r\n"),
    ("CR at a value's end", "x-a: b\r\r\n\r\n"),
    (
        "space before colon",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    ("tab before colon", "content-length\t: 1\r\n\r\na"),
    ("NUL in a value", "x-a: b\0c\r\n\r\n"),
    ("NUL in a name", "x\0a: b\r\n\r\n"),
    ("control character", "x-a: b\x01c\r\n\r\n"),
    ("DEL", "x-a: b\x7fc\r\n\r\n"),
    ("name outside token", "x(a): b\r\n\r\n"),
    ("name with space", "x a: b\r\n\r\n"),
    ("name empty", ": b\r\n\r\n"),
    ("no colon", "nonsense\r\n\r\n"),
    ("two hosts", "host: b\r\n\r\n"),
];

/// Whole first requests.
const WHOLE: &[(&str, &str)] = &[
    ("folded first field", "GET /x HTTP/1.1\r\n host: a\r\n\r\n"),
    ("no host", "GET /x HTTP/1.1\r\n\r\n"),
    ("host with user", "GET /x HTTP/1.1\r\nhost: u@a\r\n\r\n"),
    ("host with space", "GET /x HTTP/1.1\r\nhost: a b\r\n\r\n"),
    ("host with slash", "GET /x HTTP/1.1\r\nhost: a/b\r\n\r\n"),
    (
        "bare LF after the request line",
        "GET /x HTTP/1.1\nhost: a\r\n\r\n",
    ),
    (
        "CR in the request line",
        "GET /x\rHTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    ("two spaces", "GET  /x HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        "tab in the request line",
        "GET\t/x\tHTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "space in the target",
        "GET /x y HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    ("NUL in the target", "GET /x\0 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("target without slash", "GET x HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("version", "GET /x HTTP/1.2\r\nhost: a\r\n\r\n"),
    (
        "version in lower case",
        "GET /x http/1.1\r\nhost: a\r\n\r\n",
    ),
    ("no version", "GET /x\r\nhost: a\r\n\r\n"),
    ("method outside token", "G(T /x HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        "TE on HTTP/1.0",
        "POST /x HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
];

/// Chunked bodies that break off: what there was of them may have begun to go
/// on, but it never ends, and nothing after it is a request.
const CHUNKS: &[(&str, &str)] = &[
    (
        "size overflow (CVE-2021-32714)",
        "10000000000000001\r\na\r\n0\r\n\r\n",
    ),
    (
        "size overflow, all ones",
        "fffffffffffffffff\r\na\r\n0\r\n\r\n",
    ),
    ("size with sign", "+1\r\na\r\n0\r\n\r\n"),
    ("size hex prefix", "0x1\r\na\r\n0\r\n\r\n"),
    ("size empty", "\r\na\r\n0\r\n\r\n"),
    ("size with underscore", "1_0\r\na\r\n0\r\n\r\n"),
    ("bare LF after the size", "1\na\r\n0\r\n\r\n"),
    ("bare CR in an extension", "1;a\rb\r\na\r\n0\r\n\r\n"),
    ("bare LF in an extension", "1;a\nb\r\na\r\n0\r\n\r\n"),
    ("data longer than said", "1\r\nab\r\n0\r\n\r\n"),
    ("no line end after data", "1\r\na0\r\n\r\n"),
    ("bare LF after data", "1\r\na\n0\r\n\r\n"),
    ("bare LF in trailers", "1\r\na\r\n0\r\nx: y\nz: w\r\n\r\n"),
    ("folded trailer", "1\r\na\r\n0\r\nx: y\r\n z\r\n\r\n"),
    ("NUL in a trailer", "1\r\na\r\n0\r\nx: \0\r\n\r\n"),
];

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_400_and_goes_nowhere() -> Result<()> {
    let world = World::start().await?;
    let (cart, seen) = world.raw("cart", fine()).await?;
    world.settled(cart.vip, "/", 200).await?;
    let heads = seen.heads();
    seen.clear();
    let fields = FIELDS
        .iter()
        .map(|(name, rest)| (*name, format!("POST /x HTTP/1.1\r\nhost: a\r\n{rest}")));
    let whole = WHOLE.iter().map(|(name, text)| (*name, (*text).to_owned()));
    let mut wrong = Vec::new();
    for (name, first) in fields.chain(whole) {
        let said = say(&world, cart.vip, format!("{first}{HIDDEN}").as_bytes()).await?;
        let good = said.status() == 400 && said.closed && said.answers() == 1;
        if !good || seen.heads() != heads || !seen.text().is_empty() {
            wrong.push(format!("{name}: {said:?}, backend {:?}", seen.text()));
            seen.clear();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_broken_chunked_body_never_ends_and_hides_nothing() -> Result<()> {
    let world = World::start().await?;
    let (cart, seen) = world.raw("cart", crate::upstream::silent()).await?;
    world.settled(cart.vip, "/ready", 200).await?;
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(64 << 10));
    let trailers = format!("0\r\n{}\r\n", "x-t: 1\r\n".repeat(20_000));
    let mut cases: Vec<(&str, &str)> = CHUNKS.to_vec();
    cases.push(("extension of 64 KiB", &long));
    cases.push(("20,000 trailers", &trailers));
    let mut wrong = Vec::new();
    for (name, body) in cases {
        seen.clear();
        let first = "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let said = say(
            &world,
            cart.vip,
            format!("{first}{body}{HIDDEN}").as_bytes(),
        )
        .await?;
        let text = seen.text();
        let whole = text.contains("0\r\n\r\n");
        if !said.closed || said.answers() > 1 || whole || text.contains("smuggled") {
            wrong.push(format!("{name}: {said:?}, backend {text:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn what_is_unusual_but_clear_goes_on_in_one_form() -> Result<()> {
    let world = World::start().await?;
    let (cart, seen) = world.raw("cart", fine()).await?;
    world.settled(cart.vip, "/", 200).await?;
    // Absolute form: its authority counts, `Host` is overwritten (RFC 9112, 3.2.2).
    seen.clear();
    let text = "GET http://b/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let said = say(&world, cart.vip, text.as_bytes()).await?;
    assert_eq!(said.status(), 200, "{said:?}");
    let forwarded = seen.text();
    assert!(forwarded.starts_with("GET /x HTTP/1.1\r\n"), "{forwarded}");
    assert_eq!(
        forwarded.to_lowercase().matches("host: ").count(),
        1,
        "{forwarded}"
    );
    assert!(forwarded.contains("host: b\r\n"), "{forwarded}");
    // What `Connection` lists is for one hop, but for headers that others trust
    // (CVE-2022-31813).
    seen.clear();
    let text = "GET /x HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.1.1.1\r\nauthorization: b\r\n\
                mine: 1\r\nx-envoy-retry-on: 5xx\r\nx-forwarded-client-cert: By=me\r\n\
                connection: close, mine, x-forwarded-for, authorization, host, cookie\r\n\
                cookie: c\r\nkeep-alive: 1\r\nproxy-connection: x\r\n\r\n";
    let said = say(&world, cart.vip, text.as_bytes()).await?;
    assert_eq!(said.status(), 200, "{said:?}");
    let forwarded = seen.text().to_lowercase();
    for kept in [
        "x-forwarded-for: 10.1.1.1",
        "authorization: b",
        "host: a",
        "cookie: c",
    ] {
        assert!(
            forwarded.contains(&format!("{kept}\r\n")),
            "{kept}: {forwarded}"
        );
    }
    for gone in [
        "mine:",
        "x-envoy-retry-on",
        "client-cert",
        "keep-alive",
        "proxy-connection",
    ] {
        assert!(!forwarded.contains(gone), "{gone}: {forwarded}");
    }
    Ok(())
}

#[tokio::test]
async fn old_versions_and_connect_are_refused() -> Result<()> {
    let world = World::start().await?;
    let (cart, seen) = world.raw("cart", fine()).await?;
    world.settled(cart.vip, "/", 200).await?;
    seen.clear();
    let cases = [
        ("HTTP/1.0", "GET /x HTTP/1.0\r\nhost: a\r\n\r\n", &[426][..]),
        (
            "CONNECT",
            "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
            &[400, 404],
        ),
    ];
    for (name, text, want) in cases {
        let said = say(&world, cart.vip, format!("{text}{HIDDEN}").as_bytes()).await?;
        let status = said.text.replacen("HTTP/1.0", "HTTP/1.1", 1);
        let refused = want
            .iter()
            .any(|code| status.starts_with(&format!("HTTP/1.1 {code} ")));
        assert!(refused, "{name}: {said:?}");
        assert!(!seen.text().contains("CONNECT"), "{name}: {}", seen.text());
        assert!(
            said.closed && !seen.text().contains("smuggled"),
            "{name}: {said:?}"
        );
    }
    // A policy's path and the backend's are one, whatever its spelling.
    let name = "HTTPRoute/shop/cart";
    let rule = pb::Rule {
        matches: vec![res::at_path("/public")],
        ..pb::Rule::default()
    };
    let route = res::route("cart", vec![rule]);
    world.control.publish(res::ROUTE, &[(name, route)]);
    world.settled(cart.vip, "/private", 404).await?;
    for path in [
        "/public/../private",
        "/public/%2e%2e/private",
        "//private",
        "/public/..%2fprivate\\",
    ] {
        let text = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        seen.clear();
        let said = say(&world, cart.vip, text.as_bytes()).await?;
        let forwarded = seen.text();
        let line = forwarded.lines().next().unwrap_or_default().to_owned();
        let inside = line.is_empty() || line.starts_with("GET /public") && !line.contains("/../");
        assert!(inside, "{path}: {said:?}, {line}");
    }
    Ok(())
}
