//! Authorization policies of any bytes, and requests of any text: decoding never
//! panics, and the traced run decides as the plain one.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ambit_policy::http::{HttpAttrs, HttpAuthorization, HttpPolicies, HttpRequest, HttpTrace};
use ambit_proto::waypoint;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|input: (&[u8], &str, &str, u16)| {
    let (message, host, path, port) = input;
    let Ok(message) = waypoint::Authorization::decode(message) else {
        return;
    };
    let Ok(policy) = HttpAuthorization::try_from(message) else {
        return;
    };
    let policies = HttpPolicies::bind(&[Arc::new(policy)], None, port);
    let headers = HeaderMap::new();
    let attrs = HttpAttrs {
        source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        remote_ip: None,
        peer: None,
        destination_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        destination_port: port,
        sni: None,
        http: Some(HttpRequest {
            method: "GET",
            host,
            path,
            headers: &headers,
            auth: None,
        }),
    };
    let plain = policies.evaluate(&attrs).verdict.is_allow();
    let mut trace = HttpTrace::default();
    let traced = policies.evaluate_with(&attrs, &mut trace).verdict.is_allow();
    assert_eq!(plain, traced);
});
