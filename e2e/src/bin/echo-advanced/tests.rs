//! Client and server against each other, read as the suite reads them: its
//! patterns are searched in the whole output, first match wins.

use std::net::SocketAddr;

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{client, server};

async fn server(tls: Option<tokio_rustls::TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    ambit_e2e::serving::detach(async move {
        server::serve(listener, tls).await.unwrap();
    });
    at
}

/// Every value of a key, in order.
fn values<'a>(output: &'a str, key: &str) -> Vec<&'a str> {
    let key = format!("{key}=");
    let lines = output.lines();
    lines
        .filter_map(|line| line.find(&key).and_then(|at| line.get(at + key.len()..)))
        .collect()
}

async fn ask(arguments: &[&str]) -> (String, bool) {
    let all = ["client"].iter().chain(arguments);
    let wanted = client::Wanted::parse_from(all);
    let mut output = Vec::new();
    let good = client::run(&wanted, &mut output).await.is_ok();
    (String::from_utf8(output).unwrap(), good)
}

#[tokio::test]
async fn a_request_is_told_line_by_line() {
    let at = server(None).await;
    let url = format!("http://{at}/one/two?animal=whale");
    let headers = ["-H", "X-Header-Add:a", "-H", "x-header-add: b"];
    let (output, good) = ask(&[&[&*url, "--method=PUT"], &headers[..]].concat()).await;
    assert!(good, "{output}");
    assert_eq!(values(&output, "[0] Url"), [url]);
    assert_eq!(values(&output, "StatusCode"), ["200"]);
    assert_eq!(values(&output, "Method"), ["PUT"]);
    assert_eq!(values(&output, "URL"), ["/one/two?animal=whale"]);
    assert_eq!(values(&output, "Host"), [at.to_string()]);
    assert_eq!(values(&output, "ServicePort"), [at.port().to_string()]);
    assert_eq!(values(&output, "Proto"), ["HTTP/1.1"]);
    assert_eq!(values(&output, "IP"), ["127.0.0.1"]);
    let headers = values(&output, "RequestHeader");
    assert_eq!(headers, ["X-Header-Add:a", "X-Header-Add:b"]);
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(values(&output, "[0 body] Hostname"), [hostname.trim()]);
    let told = values(&output, "[0] ResponseHeader");
    assert!(
        told.iter()
            .any(|h| h.starts_with("Content-Type:text/plain"))
    );
}

#[tokio::test]
async fn another_host_is_a_header_and_the_connection_goes_where_the_url_says() {
    let at = server(None).await;
    let (output, good) = ask(&[&format!("http://{at}"), "-H", "Host:echo-v1"]).await;
    assert!(good, "{output}");
    assert_eq!(values(&output, "Host"), ["echo-v1"]);
    assert_eq!(values(&output, "URL"), ["/"]);
}

#[tokio::test]
async fn many_answers_are_told_apart_by_empty_lines() {
    let at = server(None).await;
    let (output, good) = ask(&[&format!("http://{at}/"), "--count=20"]).await;
    assert!(good, "{output}");
    let answers: Vec<_> = output.trim().split("\n\n").collect();
    assert_eq!(answers.len(), 20);
    for answer in answers {
        assert_eq!(values(answer, "StatusCode"), ["200"]);
        assert_eq!(values(answer, "Hostname").len(), 1);
    }
}

#[tokio::test]
async fn grpc_is_told_like_http_and_its_success_is_200() {
    let at = server(None).await;
    let url = format!("grpc://{at}");
    let (output, good) = ask(&[&url, "--count=3", "-H", "X-Header-Set:a"]).await;
    assert!(good, "{output}");
    assert_eq!(values(&output, "StatusCode"), ["200"; 3]);
    assert_eq!(values(&output, "Proto"), ["HTTP/2.0"; 3]);
    assert_eq!(values(&output, "URL"), ["/proto.EchoTestService/Echo"; 3]);
    assert_eq!(values(&output, "Hostname").len(), 3);
    assert_eq!(values(&output, "Echo"), ["hello"; 3]);
    let headers = values(&output, "RequestHeader");
    assert!(headers.contains(&"X-Header-Set:a"), "{headers:?}");
}

#[tokio::test]
async fn redirects_are_not_followed_and_other_bodies_are_told_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    ambit_e2e::serving::detach(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = [0; 1024];
        let length = stream.read(&mut heard).await.unwrap();
        let heard = String::from_utf8_lossy(&heard[..length]).into_owned();
        // The suite sends lower case names, and its own client changes them.
        assert!(heard.contains("\r\nX-Some-Header: v\r\n"), "{heard}");
        let answer = "HTTP/1.1 302 Found\r\nlocation: http://example.org:8083/x\r\n\
                      content-length: 12\r\n\r\nmoved\n\naway\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let (output, good) = ask(&[&format!("http://{at}/"), "-H", "x-some-header:v"]).await;
    assert!(good, "{output}");
    assert_eq!(values(&output, "StatusCode"), ["302"]);
    let told = values(&output, "ResponseHeader");
    assert_eq!(told[0], "Location:http://example.org:8083/x");
    assert!(output.contains("[0 body] moved\n[0 body] away\n\n"));
}

#[tokio::test]
async fn what_has_no_answer_is_an_error_and_the_rest_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let (output, good) = ask(&[&format!("http://{at}/"), "--count=2"]).await;
    assert!(!good);
    assert_eq!(values(&output, "Error").len(), 2, "{output}");
    let (_, good) = ask(&["tcp://127.0.0.1:1"]).await;
    assert!(!good);
}

#[tokio::test]
async fn tls_says_what_it_agreed_on() {
    let made = rcgen::generate_simple_self_signed(["echo".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (crt, key) = (dir.path().join("crt"), dir.path().join("key"));
    std::fs::write(&crt, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let at = server(Some(ambit_e2e::serving::tls(&crt, &key).unwrap())).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(ambit_identity::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(at).await.unwrap();
    let mut stream = tls
        .connect("echo".try_into().unwrap(), stream)
        .await
        .unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(values(&answer, "Alpn"), ["http/1.1"]);
}

#[tokio::test]
async fn tcp_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    ambit_e2e::serving::detach(async move {
        server::serve_tcp(listener).await.unwrap();
    });
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello");
}

#[test]
fn the_suites_arguments_are_understood_and_none_are_fine() {
    let suites = "--tcp=9090 --port=8080 --grpc=7070 --port=8443 --tls=8443 --crt=/c --key=/k";
    let all = ["server"].into_iter().chain(suites.split(' '));
    let ports = server::Ports::try_parse_from(all).unwrap();
    assert_eq!(ports.port, [8080, 8443]);
    assert_eq!(
        (ports.tls, ports.grpc, ports.tcp),
        (vec![8443], vec![7070], vec![9090])
    );
    let ports = server::Ports::try_parse_from(["server"]).unwrap();
    assert_eq!((ports.port, ports.tls), (vec![8080], vec![]));
    assert!(server::Ports::try_parse_from(["server", "--tls=1"]).is_err());
}
