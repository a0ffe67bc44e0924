//! `traceparent` on CONNECT (W3C trace context, level 1).

use std::fmt;
use std::str::FromStr;

/// One flow's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Shared by everything in the trace; never 0.
    pub trace_id: u128,
    /// Who asked; never 0.
    pub parent_id: u64,
    /// Bit 0 is "sampled".
    pub flags: u8,
}

impl TraceParent {
    /// A new trace, not sampled (`ztunnel-contract` 2.3).
    pub fn generate() -> Self {
        Self {
            trace_id: rand::random::<u128>().max(1),
            parent_id: rand::random::<u64>().max(1),
            flags: 0,
        }
    }
}

/// A text that is no trace context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("traceparent is not of the form 00-TRACE-PARENT-FLAGS")]
pub struct InvalidTraceParent;

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.parent_id, self.flags
        )
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut part = |len: usize| {
            parts
                .next()
                .filter(|part| part.len() == len)
                .filter(|part| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
                .ok_or(InvalidTraceParent)
        };
        let (version, trace, parent, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let more = parts.next().is_some();
        if version == "ff" || (version == "00" && more) {
            return Err(InvalidTraceParent);
        }
        let invalid = |_| InvalidTraceParent;
        let context = Self {
            trace_id: u128::from_str_radix(trace, 16).map_err(invalid)?,
            parent_id: u64::from_str_radix(parent, 16).map_err(invalid)?,
            flags: u8::from_str_radix(flags, 16).map_err(invalid)?,
        };
        match (context.trace_id, context.parent_id) {
            (0, _) | (_, 0) => Err(InvalidTraceParent),
            _ => Ok(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn new_ones_are_valid_unsampled_and_different() {
        let (a, b) = (TraceParent::generate(), TraceParent::generate());
        assert_ne!(a.trace_id, b.trace_id);
        let text = a.to_string();
        assert_eq!((text.len(), &text[..3], &text[52..]), (55, "00-", "-00"));
    }

    #[test]
    fn malformed_ones_are_refused() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(good.parse::<TraceParent>().is_ok());
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(trace_id in 1u128.., parent_id in 1u64.., flags: u8) {
            let context = TraceParent { trace_id, parent_id, flags };
            prop_assert_eq!(context.to_string().parse(), Ok(context));
        }

        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            let _ = text.parse::<TraceParent>();
        }
    }
}
