//! Texts that travel on CONNECT: what was written once is read and written again
//! as it is. Only what a header can hold gets here (RFC 9110 5.5).
#![no_main]

use ambit_hbone::{Authority, Baggage, Forwarded, TraceParent};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if http::HeaderValue::from_str(text).is_err() {
        return;
    }
    // A type without a name says nothing, and isn't written.
    let once = Baggage::parse(&Baggage::parse(text).to_string());
    assert_eq!(Baggage::parse(&once.to_string()), once);
    if let Ok(authority) = text.parse::<Authority>() {
        assert_eq!(authority.to_string().parse(), Ok(authority));
    }
    let _ = text.parse::<Forwarded>();
    if let Ok(trace) = text.parse::<TraceParent>() {
        assert_eq!(trace.to_string().parse::<TraceParent>().ok(), Some(trace));
    }
});
