//! Scalars that several APIs share: durations, string matches, weights.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A duration as Istio's and Linkerd's kinds write it: `1.5s`, `250ms`, `1h30m`; never negative.
///
/// Protobuf's JSON has seconds only; the API servers of both take Go's units too, and so do manifests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProtoDuration(pub Duration);

impl ProtoDuration {
    /// In milliseconds, saturating; what is left of a started millisecond counts as one.
    pub fn as_millis(self) -> u64 {
        let whole = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let rest = !self.0.subsec_nanos().is_multiple_of(1_000_000);
        whole.saturating_add(u64::from(rest))
    }

    /// Whether it is zero, which several fields give a meaning of its own.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// Reads the text form; none when it isn't one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('+').unwrap_or(text);
        if text == "0" {
            return Some(Self(Duration::ZERO));
        }
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .filter(|at| *at > 0)?;
            let (number, tail) = rest.split_at_checked(digits)?;
            let letters = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at_checked(letters)?;
            total = total.checked_add(part(number, unit)?)?;
            rest = tail;
        }
        (!text.is_empty()).then_some(Self(total))
    }
}

/// One number with its unit, exact to the nanosecond.
fn part(number: &str, unit: &str) -> Option<Duration> {
    let unit: u128 = match unit {
        "h" => 3_600_000_000_000,
        "m" => 60_000_000_000,
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        "us" | "µs" => 1_000,
        "ns" => 1,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() > MAX_DIGITS
        || fraction.contains('.')
        || (whole.is_empty() && fraction.is_empty())
    {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let fraction = fraction.get(..fraction.len().min(MAX_DIGITS))?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let nanos = whole
        .checked_mul(unit)?
        .checked_add(fraction.checked_mul(unit)?.checked_div(scale)?)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let below = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, below))
}

/// More digits than any duration that means something.
const MAX_DIGITS: usize = 12;

impl fmt::Display for ProtoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        if nanos == 0 {
            return write!(f, "{}s", self.0.as_secs());
        }
        let fraction = format!("{nanos:09}");
        write!(
            f,
            "{}.{}s",
            self.0.as_secs(),
            fraction.trim_end_matches('0')
        )
    }
}

impl Serialize for ProtoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProtoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = ProtoDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"1.5s\", \"250ms\" or \"1m\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ProtoDuration, E> {
                ProtoDuration::parse(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for ProtoDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// How a text is compared (`waypoint-contract` 3.2); exactly one is set, all empty means presence for headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StringMatch {
    /// Equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// Begins with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// RE2, the whole text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// A percentage, 0 to 100.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Percent {
    /// Percent; may have a fraction.
    pub value: f64,
}

/// A relative weight: a number, or a Kubernetes quantity such as `500m`; kept in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight {
    /// Thousandths of one.
    pub milli: u64,
}

impl Weight {
    /// Reads a quantity with no suffix or one of `m`, `k`, `M`; none for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, scale) = match text.as_bytes().last()? {
            b'm' => (text.get(..text.len() - 1)?, 1),
            b'k' => (text.get(..text.len() - 1)?, 1_000_000),
            b'M' => (text.get(..text.len() - 1)?, 1_000_000_000),
            _ => (text, 1_000_u64),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits =
            |text: &str| text.len() <= MAX_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        let numerator: u64 = if fraction.is_empty() {
            0
        } else {
            fraction.parse().ok()?
        };
        let denominator = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let below = u128::from(numerator) * u128::from(scale) / u128::from(denominator);
        let milli = whole
            .checked_mul(scale)?
            .checked_add(u64::try_from(below).ok()?)?;
        Some(Self { milli })
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.milli.is_multiple_of(1_000) {
            serializer.serialize_u64(self.milli / 1_000)
        } else {
            serializer.collect_str(&format_args!("{}m", self.milli))
        }
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Quantity;
        impl Visitor<'_> for Quantity {
            type Value = Weight;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a weight: a number such as 90, or a quantity such as \"500m\"")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Weight, E> {
                let milli = number.checked_mul(1_000);
                milli
                    .map(|milli| Weight { milli })
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Weight, E> {
                let number = u64::try_from(number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))?;
                self.visit_u64(number)
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Weight, E> {
                Weight::parse(&number.to_string())
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Weight, E> {
                Weight::parse(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Quantity)
    }
}

impl JsonSchema for Weight {
    fn schema_name() -> Cow<'static, str> {
        "Weight".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

#[cfg(test)]
mod tests {
    use super::{ProtoDuration, Weight};

    #[test]
    fn durations_have_protobufs_and_gos_forms() {
        for (text, millis) in [
            ("1.5s", Some(1_500)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("250ms", Some(250)),
            ("1h2m3s", Some(3_723_000)),
            ("0.0001s", Some(1)),
            ("1", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999999h", None),
        ] {
            assert_eq!(
                ProtoDuration::parse(text).map(ProtoDuration::as_millis),
                millis,
                "{text:?}"
            );
        }
        assert_eq!(ProtoDuration::parse("90m").unwrap().to_string(), "5400s");
        assert_eq!(ProtoDuration::parse("1.25s").unwrap().to_string(), "1.25s");
    }

    #[test]
    fn weights_are_numbers_or_quantities() {
        for (text, milli) in [
            ("90", Some(90_000)),
            ("500m", Some(500)),
            ("0.25", Some(250)),
            ("1k", Some(1_000_000)),
            ("0", Some(0)),
            ("-1", None),
            ("x", None),
            ("", None),
            ("m", None),
        ] {
            assert_eq!(
                Weight::parse(text).map(|weight| weight.milli),
                milli,
                "{text:?}"
            );
        }
        let read: Vec<Weight> = serde_json::from_str("[10, \"500m\", 0.5]").unwrap();
        let milli: Vec<u64> = read.iter().map(|weight| weight.milli).collect();
        assert_eq!(milli, [10_000, 500, 500]);
    }
}
