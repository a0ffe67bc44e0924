use super::*;
use crate::tests::Request;

#[test]
fn the_text_line_of_6_2() {
    let request = Request::new();
    let log = AccessLog::new(Encoding::Text, "", "").unwrap();
    assert_eq!(
        log.line(&request.record()).unwrap(),
        "[2026-11-21T12:00:00.250Z] \"GET /items?q=1 HTTP/1.1\" 200 - via_upstream - \"-\" 0 42 12 10 \"-\" \"curl/8.0\" \"id-1\" \"cart:8080\" \"10.0.0.7:8080\" inbound-vip|8080|http|cart.shop.svc.cluster.local - 10.96.0.1:8080 10.0.0.1:40000 - default\n"
    );
}

#[test]
fn the_json_line_of_6_2() {
    let request = Request::new();
    let log = AccessLog::new(Encoding::Json, "", "").unwrap();
    let line = log.line(&request.record()).unwrap();
    assert!(line.ends_with("}\n") && line.starts_with("{\"start_time\":\"2026-11-21T"));
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
    assert_eq!(object.len(), 24);
    assert_eq!(object["response_code"], 200);
    assert_eq!(object["duration"], 12);
    assert_eq!(object["upstream_service_time"], "10");
    assert_eq!(object["x_forwarded_for"], serde_json::Value::Null);
    assert_eq!(object["response_flags"], "-");
    assert_eq!(object["route_name"], "default");
}

#[test]
fn what_a_client_sends_ends_no_line() {
    let mut request = Request::new();
    let evil = http::HeaderValue::from_bytes(b"a\"b\\\tc\xff").unwrap();
    request.headers.insert("user-agent", evil);
    let log = AccessLog::new(Encoding::Text, "\"%REQ(User-Agent)%\" %REQ(x)%", "").unwrap();
    assert_eq!(
        log.line(&request.record()).unwrap(),
        "\"a\\\"b\\\\\\x09c\u{fffd}\" -\n"
    );
}

#[test]
fn operators_of_custom_formats() {
    let mut request = Request::new();
    request
        .headers
        .insert("x-envoy-original-path", "/was".parse().unwrap());
    let cases = [
        (
            "%START_TIME(%Y/%m/%dT%H:%M:%S.%3f%z)%",
            "2026/11/21T12:00:00.250+0000",
        ),
        ("%START_TIME(%s)%", "1795262400"),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/was"),
        ("%REQ(NO?USER-AGENT):4%", "curl"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1"),
        (
            "%DOWNSTREAM_PEER_URI_SAN%",
            "spiffe://cluster.local/ns/web/sa/client",
        ),
        ("%RESP(:STATUS)% 100%%", "200 100%"),
        ("%TRAILER(x)%", "-"),
        ("%GRPC_STATUS%", "-"),
    ];
    for (format, want) in cases {
        let log = AccessLog::new(Encoding::Text, format, "").unwrap();
        assert_eq!(
            log.line(&request.record()).unwrap(),
            format!("{want}\n"),
            "{format}"
        );
    }
}

#[test]
fn formats_that_cant_be_used_are_named() {
    let bad = |format: &str| {
        let error = AccessLog::new(Encoding::Text, format, "").unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    };
    assert_eq!(
        bad("%NOPE%"),
        "%NOPE% is not an operator that this proxy has"
    );
    assert_eq!(bad("a %REQ(X)"), "the operator \"REQ(X)\" has no end");
    assert!(bad("%START_TIME(%Q)%").starts_with("START_TIME(%Q)"));
    assert!(AccessLog::new(Encoding::Json, "[]", "").is_err());
    assert!(AccessLog::new(Encoding::Text, "", "response.codes > 1").is_err());
}

#[test]
fn only_what_the_filter_holds_for_is_written() {
    let request = Request::new();
    let log = AccessLog::new(Encoding::Text, "", "response.code >= 400").unwrap();
    let mut record = request.record();
    assert_eq!(log.line(&record), None);
    record.status = 503;
    assert!(log.line(&record).is_some());
}
