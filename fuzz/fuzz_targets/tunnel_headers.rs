//! Texts that travel on CONNECT: what is read and written again is the same.
#![no_main]

use ambit_hbone::{Authority, Baggage, Forwarded, TraceParent};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let baggage = Baggage::parse(text);
    assert_eq!(Baggage::parse(&baggage.to_string()), baggage);
    if let Ok(authority) = text.parse::<Authority>() {
        assert_eq!(authority.to_string().parse(), Ok(authority));
    }
    let _ = text.parse::<Forwarded>();
    if let Ok(trace) = text.parse::<TraceParent>() {
        assert_eq!(trace.to_string().parse::<TraceParent>().ok(), Some(trace));
    }
});
