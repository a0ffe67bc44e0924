//! The few DER forms that a certificate needs. Names and keys are copied as
//! they came, byte for byte: re-encoding them could break a chain.

use std::net::IpAddr;
use std::time::SystemTime;

const OID_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const OID_SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const OID_BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const OID_AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
const OID_EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const OID_SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const OID_CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;

/// One tag, its length and its content.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(len + 6);
    out.push(tag);
    let bytes = len.to_be_bytes();
    let significant = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    match bytes.get(significant..) {
        Some([short]) if *short < 0x80 => out.push(*short),
        Some([]) | None => out.push(0),
        Some(long) => {
            // At most eight bytes of length.
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            out.extend_from_slice(long);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, parts)
}

pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    tlv(OID, &[content])
}

pub(crate) fn null() -> Vec<u8> {
    tlv(NULL, &[])
}

/// `[n]` around a whole element.
pub(crate) fn explicit(n: u8, inner: &[u8]) -> Vec<u8> {
    tlv(0xa0 | n, &[inner])
}

/// A positive integer from big-endian bytes.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    let value = bytes.get(start..).unwrap_or_default();
    match value.first() {
        None => tlv(INTEGER, &[&[0]]),
        Some(first) if *first >= 0x80 => tlv(INTEGER, &[&[0], value]),
        Some(_) => tlv(INTEGER, &[value]),
    }
}

/// A bit string of whole bytes.
pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes])
}

/// A time as RFC 5280 wants it: two-digit years up to 2049.
pub(crate) fn time(at: SystemTime) -> Vec<u8> {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_digit).collect();
    if text.as_str() < "2050" {
        tlv(UTC_TIME, &[digits.get(2..).unwrap_or_default(), b"Z"])
    } else {
        tlv(GENERALIZED_TIME, &[&digits, b"Z"])
    }
}

fn extension(oid_content: &[u8], critical: Criticality, value: &[u8]) -> Vec<u8> {
    let critical = match critical {
        Criticality::Critical => tlv(BOOLEAN, &[&[0xff]]),
        Criticality::Optional => Vec::new(),
    };
    sequence(&[&oid(oid_content), &critical, &tlv(OCTET_STRING, &[value])])
}

enum Criticality {
    Critical,
    Optional,
}

/// digitalSignature and keyEncipherment, critical.
pub(crate) fn leaf_key_usage() -> Vec<u8> {
    // Five unused bits; the first and the third bit are set.
    let usage = tlv(BIT_STRING, &[&[5, 0b1010_0000]]);
    extension(OID_KEY_USAGE, Criticality::Critical, &usage)
}

/// serverAuth and clientAuth.
pub(crate) fn leaf_extended_key_usage() -> Vec<u8> {
    let usages = sequence(&[&oid(OID_SERVER_AUTH), &oid(OID_CLIENT_AUTH)]);
    extension(OID_EXTENDED_KEY_USAGE, Criticality::Optional, &usages)
}

/// CA false, critical.
pub(crate) fn not_a_ca() -> Vec<u8> {
    extension(OID_BASIC_CONSTRAINTS, Criticality::Critical, &sequence(&[]))
}

/// The signer's key identifier.
pub(crate) fn authority_key_id(key_id: &[u8]) -> Vec<u8> {
    let value = sequence(&[&tlv(0x80, &[key_id])]);
    extension(OID_AUTHORITY_KEY_ID, Criticality::Optional, &value)
}

/// A name of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AltName {
    Uri(String),
    Dns(String),
    Ip(IpAddr),
}

impl AltName {
    /// Names are IA5 strings: printable ASCII without blanks, and not empty.
    pub(crate) fn unwritable(&self) -> Option<&str> {
        let text = match self {
            Self::Uri(text) | Self::Dns(text) => text,
            Self::Ip(_) => return None,
        };
        let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        (!good).then_some(text)
    }
}

/// The names, critical because the subject is empty.
pub(crate) fn alt_names(names: &[AltName]) -> Vec<u8> {
    let encoded: Vec<Vec<u8>> = names.iter().map(general_name).collect();
    let parts: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
    extension(
        OID_SUBJECT_ALT_NAME,
        Criticality::Critical,
        &sequence(&parts),
    )
}

fn general_name(name: &AltName) -> Vec<u8> {
    match name {
        AltName::Dns(dns) => tlv(0x82, &[dns.as_bytes()]),
        AltName::Uri(uri) => tlv(0x86, &[uri.as_bytes()]),
        AltName::Ip(IpAddr::V4(ip)) => tlv(0x87, &[&ip.octets()]),
        AltName::Ip(IpAddr::V6(ip)) => tlv(0x87, &[&ip.octets()]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        for (len, head) in [
            (0, &[0x30, 0x00][..]),
            (0x7f, &[0x30, 0x7f]),
            (0x80, &[0x30, 0x81, 0x80]),
            (0x100, &[0x30, 0x82, 0x01, 0x00]),
        ] {
            let der = sequence(&[&vec![0; len]]);
            assert_eq!(&der[..head.len()], head);
            assert_eq!(der.len(), head.len() + len);
        }
    }

    #[test]
    fn integers_are_positive_and_minimal() {
        assert_eq!(unsigned(&[0, 0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(unsigned(&[0, 0]), [2, 1, 0]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
    }

    #[test]
    fn times_change_their_form_in_2050() {
        let at = |text: &str| humantime::parse_rfc3339(text).unwrap();
        assert_eq!(time(at("2026-11-21T09:08:07Z"))[2..], *b"261121090807Z");
        assert_eq!(time(at("2049-12-31T23:59:59Z"))[0], UTC_TIME);
        let later = time(at("2049-12-31T23:59:59Z") + Duration::from_secs(1));
        assert_eq!(later[0], GENERALIZED_TIME);
        assert_eq!(later[2..], *b"20500101000000Z");
    }
}
