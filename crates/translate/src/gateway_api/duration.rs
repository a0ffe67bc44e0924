//! Durations of Gateway API (GEP-2257): `^([0-9]{1,5}(h|m|s|ms)){1,4}$`, no
//! sign, no decimals; `waypoint-contract` 2.6.

/// Milliseconds, or none for what the grammar doesn't have.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    for _ in 0..PARTS {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > DIGITS {
            return None;
        }
        let (number, after) = rest.split_at_checked(digits)?;
        let (unit, after) = unit(after)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        if after.is_empty() {
            return Some(total);
        }
        rest = after;
    }
    None
}

fn unit(text: &str) -> Option<(u64, &str)> {
    // `ms` before `m`: the longer one is meant.
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    UNITS
        .iter()
        .find_map(|(unit, ms)| text.strip_prefix(unit).map(|rest| (*ms, rest)))
}

/// Components of one duration.
const PARTS: usize = 4;
/// Digits of one component.
const DIGITS: usize = 5;

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn grammar() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("1h30m", Some(5_400_000)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("99999h", Some(359_996_400_000)),
            ("10s5s", Some(15_000)),
            ("", None),
            ("0", None),
            ("1.5s", None),
            ("-1s", None),
            ("+1s", None),
            ("1d", None),
            ("1us", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
            ("1 s", None),
            ("s", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }
}
