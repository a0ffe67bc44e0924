use std::io::Read;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn ask(request: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let scope = Scope::new("test");
    let routes = Routes::new().route("/hello", |_| async { text(StatusCode::OK, "hi") });
    let server = scope.clone();
    scope.spawn(
        "server",
        async move { serve(listener, routes, &server).await },
    );
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    // Half-closing after the request must not lose the answer.
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    scope.cancel();
    answer
}

#[tokio::test]
async fn paths_are_served_and_others_are_an_empty_404() {
    let answer = ask("GET /hello?x=1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhi"),
        "{answer}"
    );
    let answer = ask("GET /other HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 404") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let answer = ask(&format!("GET /hello HTTP/1.1\r\nx: {}", "a".repeat(9000))).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn readiness_names_what_is_pending() {
    let ready = Readiness::new();
    let b = ready.register("workload proxy manager");
    let _a = ready.register("state manager");
    let answer = readiness(&Method::GET, &ready);
    assert_eq!(answer.status(), 500);
    b.ready();
    let post = readiness(&Method::POST, &ready);
    assert_eq!(post.status(), 405);
}

#[test]
fn metrics_are_negotiated() {
    let mut registry = Metrics::new();
    registry.register_build("ztunnel", "");
    let plain = registry.encode().unwrap();
    assert!(
        plain.contains("istio_build{component=\"ztunnel\",tag=\"unknown\"} 1"),
        "{plain}"
    );
    let asked = |accept: &str, encoding: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        headers.insert(ACCEPT_ENCODING, encoding.parse().unwrap());
        metrics(&headers, &registry)
    };
    let answer = asked("*/*", "identity");
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
    assert!(!answer.headers().contains_key(CONTENT_ENCODING));
    let answer = asked(
        "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
        "gzip;q=0",
    );
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.headers()[CONTENT_TYPE], open);
    assert!(!answer.headers().contains_key(CONTENT_ENCODING));
    for (encoding, name) in Encoding::ALL.map(|e| (e, e.name())) {
        assert_eq!(asked("*/*", name).headers()[CONTENT_ENCODING], name);
        assert_eq!(
            decompress(encoding, &encoding.compress(plain.as_bytes()).unwrap()),
            plain
        );
    }
}

fn decompress(encoding: Encoding, body: &[u8]) -> String {
    let mut text = String::new();
    match encoding {
        Encoding::Zstd => {
            text = String::from_utf8(zstd::stream::decode_all(body).unwrap()).unwrap();
        }
        Encoding::Br => {
            brotli::Decompressor::new(body, 4096)
                .read_to_string(&mut text)
                .unwrap();
        }
        Encoding::Gzip => {
            flate2::read::GzDecoder::new(body)
                .read_to_string(&mut text)
                .unwrap();
        }
        Encoding::Deflate => {
            flate2::read::ZlibDecoder::new(body)
                .read_to_string(&mut text)
                .unwrap();
        }
    }
    text
}
