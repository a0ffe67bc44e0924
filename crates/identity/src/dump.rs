//! The `certificates` part of `config_dump` (`ztunnel-contract` 9.2).

use std::time::{Duration, SystemTime};

use ambit_types::SpiffeId;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use serde::Serialize;

/// One identity's certificates. The fields are in the order of the dump's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertDump {
    /// Leaf first, then the intermediates.
    pub cert_chain: Vec<CertificateText>,
    /// The SPIFFE URI.
    pub identity: SpiffeId,
    /// The trust bundle.
    pub root_certs: Vec<CertificateText>,
    /// `Initializing`, `Available` or `Unavailable: <error>`.
    pub state: String,
}

/// One certificate in text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateText {
    /// RFC 3339, UTC.
    pub expiration_time: String,
    /// Base64 of the PEM text.
    pub pem: String,
    /// Decimal.
    pub serial_number: String,
    /// RFC 3339, UTC.
    pub valid_from: String,
}

impl CertificateText {
    /// The texts of one certificate; the three parsed fields are empty for
    /// something that isn't one.
    pub fn new(der: &CertificateDer<'_>) -> Self {
        let pem = STANDARD.encode(to_pem(der));
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(der) else {
            return Self {
                expiration_time: String::new(),
                pem,
                serial_number: String::new(),
                valid_from: String::new(),
            };
        };
        let validity = parsed.validity();
        Self {
            expiration_time: rfc3339(validity.not_after.timestamp()),
            pem,
            serial_number: parsed.tbs_certificate.serial.to_string(),
            valid_from: rfc3339(validity.not_before.timestamp()),
        }
    }
}

fn rfc3339(seconds: i64) -> String {
    let since_epoch = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_epoch).to_string()
}

/// The PEM text of a certificate, lines of 64 characters.
pub fn to_pem(der: &CertificateDer<'_>) -> String {
    let body = STANDARD.encode(der);
    let mut pem = String::with_capacity(body.len() + body.len() / 64 + 60);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
