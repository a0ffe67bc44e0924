//! Backends, endpoints and rate limits of any bytes: read or refused, never a
//! panic, and what was read can be asked.
#![no_main]

use std::time::Instant;

use ambit_proto::waypoint;
use ambit_upstream::{Backend, Endpoint, LimitRequest, RateLimit};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use rand::SeedableRng;

fuzz_target!(|input: (&[u8], &str, &str, u16)| {
    let (bytes, name, value, port) = input;
    let mut headers = HeaderMap::new();
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    if let Ok(message) = waypoint::Backend::decode(bytes)
        && let Ok(backend) = Backend::decode(&message)
        && let Some(settings) = backend.settings(port, name)
        && let Some(hash) = &settings.policy.balancer.hash
    {
        let source = std::net::Ipv4Addr::LOCALHOST.into();
        let _ = hash.key(&headers, Some(value), source, &mut rng);
    }
    if let Ok(message) = waypoint::Endpoint::decode(bytes) {
        let _ = Endpoint::decode(&message);
    }
    if let Ok(message) = waypoint::RateLimit::decode(bytes) {
        let now = Instant::now();
        if let Ok(limit) = RateLimit::decode("LocalRateLimit/a/b", &message, now) {
            let request = LimitRequest {
                principal: Some(name),
                headers: &headers,
            };
            let _ = limit.check(&request, now, &mut rng);
            let again = RateLimit::decode("LocalRateLimit/a/b", &message, now);
            let _ = again.map(|next| next.inheriting(&limit));
        }
    }
});
