//! Texts of users that are compiled: log formats, filters, path templates. They
//! are read or refused, and matching is never a panic.
#![no_main]

use ambit_observe::{AccessLog, Encoding, Expression, Telemetry};
use ambit_policy::http::PathTemplate;
use ambit_proto::waypoint;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|input: (&str, &str, &[u8])| {
    let (text, other, bytes) = input;
    if let Ok(filter) = text.parse::<Expression>() {
        let again = filter.written().parse::<Expression>();
        assert!(again.is_ok(), "{text:?} was read once only");
    }
    let _ = AccessLog::new(Encoding::Text, text, other);
    let _ = AccessLog::new(Encoding::Json, text, "");
    if let Ok(template) = PathTemplate::parse(text) {
        let _ = template.matches(other);
    }
    if let Ok(message) = waypoint::Telemetry::decode(bytes) {
        let _ = Telemetry::decode(&message);
    }
});
