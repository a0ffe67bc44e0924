//! What clients' headers are read for besides routing: sessions, cookies,
//! deadlines of gRPC, trace context. A session that is read is one that could
//! have been written.
#![no_main]

use ambit_observe::{Chance, Propagation, Sampling, begin, inject};
use ambit_route::timeout::grpc_timeout;
use ambit_route::{Carrier, SessionPersistence, cookie};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 10] = [
    "cookie",
    "x-session",
    "grpc-timeout",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-sampled",
    "x-request-id",
];

fuzz_target!(|fields: Vec<(u8, &[u8])>| {
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter().take(32) {
        let name = NAMES[usize::from(*name) % NAMES.len()];
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let _ = grpc_timeout(&headers);
    let _ = cookie(&headers, "session");
    let session = SessionPersistence {
        carrier: Carrier::Header(HeaderName::from_static("x-session")),
        absolute_timeout: None,
    };
    if let Some(token) = session.read(&headers) {
        let (name, value) = session
            .write(&token.endpoint, token.issued_ms)
            .expect("what was read can be written");
        let written = HeaderMap::from_iter([(name, value)]);
        assert_eq!(session.read(&written), Some(token));
    }
    for propagation in [Propagation::W3c, Propagation::B3, Propagation::Both] {
        let mut headers = headers.clone();
        let context = begin(&mut headers, Sampling::default(), Chance::draw());
        inject(&mut headers, propagation, &context, context.span);
        let seen = ambit_observe::extract(&headers).expect("what was written is read");
        assert_eq!(seen.trace, context.trace);
    }
});
