//! The one crypto provider: which suites, groups and versions every handshake
//! of the workspace may use.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::{SupportedProtocolVersion, version};

/// Which TLS versions are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersions {
    /// The default.
    #[default]
    Tls13,
    /// `TLS12_ENABLED=true`.
    Tls12And13,
}

/// Which key exchanges are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyExchange {
    /// X25519, P-256, P-384, then the hybrid X25519MLKEM768.
    #[default]
    Standard,
    /// `COMPLIANCE_POLICY=pqc`: X25519MLKEM768 only.
    PostQuantum,
}

/// What may be chosen about TLS; everything else is fixed (`ztunnel-contract` 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// The versions.
    pub versions: TlsVersions,
    /// The key exchanges.
    pub key_exchange: KeyExchange,
}

impl TlsOptions {
    /// The versions in rustls' terms.
    pub fn protocol_versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];
        static TLS12_AND_13: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
        match self.versions {
            TlsVersions::Tls13 => TLS13,
            TlsVersions::Tls12And13 => TLS12_AND_13,
        }
    }
}

/// The provider with the standard key exchanges. Always the same `Arc`.
pub fn provider() -> Arc<CryptoProvider> {
    provider_with(KeyExchange::Standard)
}

/// The provider with the given key exchanges. Always the same `Arc` per choice.
pub fn provider_with(key_exchange: KeyExchange) -> Arc<CryptoProvider> {
    // Immutable tables, built once because every configuration holds one.
    static STANDARD: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(build(KeyExchange::Standard)));
    static POST_QUANTUM: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(build(KeyExchange::PostQuantum)));
    match key_exchange {
        KeyExchange::Standard => Arc::clone(&STANDARD),
        KeyExchange::PostQuantum => Arc::clone(&POST_QUANTUM),
    }
}

/// Somebody installed a process-wide provider before us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another crypto provider is already installed in this process")]
pub struct ProviderAlreadyInstalled;

/// Makes [`provider`] the process's default. Call it first in `main`: libraries
/// that ask for the default must not get to choose it.
///
/// # Errors
/// A default other than ours is already installed.
pub fn install() -> Result<(), ProviderAlreadyInstalled> {
    build(KeyExchange::Standard)
        .install_default()
        .map_err(|_| ProviderAlreadyInstalled)
}

/// Name of the library behind [`provider`], as the `version` page shows it.
pub const PROVIDER_NAME: &str = if cfg!(feature = "boring") {
    "boring"
} else {
    "aws-lc"
};

#[cfg(not(feature = "boring"))]
fn build(key_exchange: KeyExchange) -> CryptoProvider {
    use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};

    CryptoProvider {
        // AES-GCM only, the stronger first; the TLS 1.2 suites are used only
        // where that version is enabled.
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ],
        kx_groups: match key_exchange {
            KeyExchange::Standard => vec![
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
                kx_group::X25519MLKEM768,
            ],
            KeyExchange::PostQuantum => vec![kx_group::X25519MLKEM768],
        },
        ..default_provider()
    }
}

#[cfg(feature = "boring")]
fn build(key_exchange: KeyExchange) -> CryptoProvider {
    use boring_rustls_provider::{provider, tls12, tls13};
    use rustls::{NamedGroup, SupportedCipherSuite};

    let wanted: &[NamedGroup] = match key_exchange {
        KeyExchange::Standard => &[
            NamedGroup::X25519,
            NamedGroup::secp256r1,
            NamedGroup::secp384r1,
            NamedGroup::X25519MLKEM768,
        ],
        KeyExchange::PostQuantum => &[NamedGroup::X25519MLKEM768],
    };
    let base = provider();
    let group = |name: &NamedGroup| base.kx_groups.iter().find(|g| g.name() == *name).copied();
    CryptoProvider {
        cipher_suites: vec![
            SupportedCipherSuite::Tls13(&tls13::AES_256_GCM_SHA384),
            SupportedCipherSuite::Tls13(&tls13::AES_128_GCM_SHA256),
            SupportedCipherSuite::Tls12(&tls12::ECDHE_ECDSA_AES256_GCM_SHA384),
            SupportedCipherSuite::Tls12(&tls12::ECDHE_RSA_AES256_GCM_SHA384),
            SupportedCipherSuite::Tls12(&tls12::ECDHE_ECDSA_AES128_GCM_SHA256),
            SupportedCipherSuite::Tls12(&tls12::ECDHE_RSA_AES128_GCM_SHA256),
        ],
        kx_groups: wanted.iter().filter_map(group).collect(),
        ..base
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CipherSuite, NamedGroup};

    use super::*;

    #[test]
    fn suites_and_groups_are_the_contracts_in_order() {
        let provider = provider();
        let suites: Vec<_> = provider.cipher_suites.iter().map(|s| s.suite()).collect();
        assert_eq!(
            suites,
            [
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            ]
        );
        let groups: Vec<_> = provider.kx_groups.iter().map(|g| g.name()).collect();
        assert_eq!(
            groups,
            [
                NamedGroup::X25519,
                NamedGroup::secp256r1,
                NamedGroup::secp384r1,
                NamedGroup::X25519MLKEM768,
            ]
        );
    }

    #[test]
    fn the_library_is_the_one_that_is_named() {
        let random = format!("{:?}", provider().secure_random);
        assert_eq!(
            random.contains("AwsLc"),
            PROVIDER_NAME == "aws-lc",
            "{random}"
        );
    }

    #[test]
    fn post_quantum_offers_one_group() {
        let provider = provider_with(KeyExchange::PostQuantum);
        let groups: Vec<_> = provider.kx_groups.iter().map(|g| g.name()).collect();
        assert_eq!(groups, [NamedGroup::X25519MLKEM768]);
    }
}
