//! Certificates, as a table.

use std::time::SystemTime;

use super::dump::{Certificate, Certificates, Dump};
use crate::table::render;

pub(super) fn table(dump: &Dump, now: SystemTime) -> String {
    let mut identities: Vec<_> = dump.certificates.iter().collect();
    identities.sort_by_key(|one| &one.identity);
    let rows: Vec<_> = identities.iter().flat_map(|one| rows(one, now)).collect();
    let header = [
        "CERTIFICATE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
    ];
    render(header, &rows, GAP)
}

fn rows(identity: &Certificates, now: SystemTime) -> Vec<[String; 7]> {
    // The reason of a failure follows the state; it would break the column.
    let state = identity.state.split(':').next().unwrap_or_default();
    let row = |kind: &str, valid: bool, rest: [String; 3]| {
        let [serial, after, before] = rest;
        let name = identity.identity.clone();
        [
            name,
            kind.into(),
            state.into(),
            valid.to_string(),
            serial,
            after,
            before,
        ]
    };
    let of = |kind: &str, certificate: &Certificate| {
        let times = [&certificate.expiration_time, &certificate.valid_from].map(|time| or_na(time));
        let [after, before] = times;
        row(
            kind,
            is_valid(certificate, now),
            [hex(&certificate.serial_number), after, before],
        )
    };
    let chain = identity.cert_chain.iter().enumerate();
    let mut rows: Vec<_> = chain
        .map(|(depth, certificate)| {
            of(
                if depth == 0 { "Leaf" } else { "Intermediate" },
                certificate,
            )
        })
        .collect();
    rows.extend(
        identity
            .root_certs
            .iter()
            .map(|certificate| of("Root", certificate)),
    );
    if rows.is_empty() {
        rows.push(row("NA", false, ["NA", "NA", "NA"].map(str::to_owned)));
    }
    rows
}

fn or_na(text: &str) -> String {
    if text.is_empty() {
        "NA".into()
    } else {
        text.into()
    }
}

fn is_valid(certificate: &Certificate, now: SystemTime) -> bool {
    let time = |text: &str| humantime::parse_rfc3339_weak(text).ok();
    match (
        time(&certificate.valid_from),
        time(&certificate.expiration_time),
    ) {
        (Some(from), Some(until)) => from <= now && now <= until,
        _ => false,
    }
}

/// A decimal number of any length in hex; `NA` for anything else.
fn hex(decimal: &str) -> String {
    if decimal.is_empty() || !decimal.bytes().all(|digit| digit.is_ascii_digit()) {
        return "NA".into();
    }
    // Little-endian digits in base 16.
    let mut digits: Vec<u32> = vec![0];
    for decimal in decimal.chars().filter_map(|digit| digit.to_digit(10)) {
        let mut carry = decimal;
        for digit in &mut digits {
            let value = *digit * 10 + carry;
            (*digit, carry) = (value % 16, value / 16);
        }
        while carry > 0 {
            digits.push(carry % 16);
            carry /= 16;
        }
    }
    digits
        .iter()
        .rev()
        .filter_map(|digit| char::from_digit(*digit, 16))
        .collect()
}

/// Certificate tables are spread wider than the others.
const GAP: usize = 5;

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn serial_numbers_of_any_length_become_hex() {
        for (decimal, want) in [
            ("0", "0"),
            ("255", "ff"),
            ("4096", "1000"),
            (
                "340282366920938463463374607431768211455",
                "ffffffffffffffffffffffffffffffff",
            ),
            ("", "NA"),
            ("12x", "NA"),
        ] {
            assert_eq!(hex(decimal), want, "{decimal}");
        }
    }
}
