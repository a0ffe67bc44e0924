//! Values as users write them: shares, gRPC codes, patterns, header names. Pure; it says nothing, callers do.

use ambit_proto::waypoint::StringMatch;
use ambit_proto::waypoint::string_match::Kind;

/// Parts of a million of a percentage; none outside 0 to 100.
pub(crate) fn share(percent: f64) -> Option<u32> {
    if !(0.0..=100.0).contains(&percent) {
        return None;
    }
    // At most a million, and not negative.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1,000,000 by the check above"
    )]
    Some((percent * 10_000.0).round() as u32)
}

/// All of them, in parts of a million.
pub(crate) const WHOLE: u32 = 1_000_000;

/// The number of a gRPC status by name, case-insensitively, or by number.
pub(crate) fn grpc_code(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    if let Ok(number) = name.parse::<u32>() {
        return (number <= 16).then_some(number);
    }
    let wanted = name.replace('-', "_").to_ascii_uppercase();
    let wanted = if wanted == "CANCELED" {
        "CANCELLED".to_owned()
    } else {
        wanted
    };
    NAMES
        .iter()
        .position(|known| *known == wanted)
        .and_then(|at| u32::try_from(at).ok())
}

/// Whether a text is a token of RFC 9110, as header names are.
pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether an expression can be used where RE2 is meant, within the bounds that
/// waypoints have for it.
pub(crate) fn is_regex(pattern: &str) -> bool {
    const LENGTH: usize = 4096;
    const PROGRAM: usize = 1 << 20;
    let builds = |pattern: &str| {
        let mut builder = regex::RegexBuilder::new(pattern);
        builder.size_limit(PROGRAM).build().is_ok()
    };
    // What is inside must stand alone: `a)|(b` would not.
    pattern.len() <= LENGTH && builds(pattern) && builds(&format!("^(?:{pattern})$"))
}

/// An exact match.
pub(crate) fn exact(text: &str) -> StringMatch {
    string_match(Kind::Exact(text.to_owned()))
}

/// Any value, as long as it is there.
pub(crate) fn present() -> StringMatch {
    string_match(Kind::Presence(true))
}

/// A match that minds case.
pub(crate) fn string_match(kind: Kind) -> StringMatch {
    StringMatch {
        kind: Some(kind),
        ignore_case: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_codes() {
        assert_eq!(share(0.1), Some(1_000));
        assert_eq!(share(100.0), Some(WHOLE));
        assert_eq!(share(100.1), None);
        assert_eq!(share(f64::NAN), None);
        assert_eq!(grpc_code("unavailable"), Some(14));
        assert_eq!(grpc_code("resource-exhausted"), Some(8));
        assert_eq!(grpc_code("17"), None);
        assert_eq!(grpc_code("NOPE"), None);
    }
}
