//! What a channel needs to know.

use std::path::PathBuf;

/// How to reach the control plane and prove ourselves to it.
#[derive(Debug, Clone)]
pub struct ChannelConfig {
    /// `https://host:port`; nothing but https is taken.
    pub address: String,
    /// Whom to believe.
    pub root: RootSource,
    /// A second server name that is as good as the address's host.
    pub alt_hostname: Option<String>,
    /// What to say who we are.
    pub token: TokenSource,
    /// Value of the `clusterid` header.
    pub cluster_id: String,
    /// Further headers of each call (`XDS_HEADER_*`, `CA_HEADER_*`).
    pub headers: Vec<(String, String)>,
}

/// Where the control plane's root certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// A PEM file, read again for every connection.
    Path(PathBuf),
    /// The system's roots.
    System,
    /// PEM text.
    Inline(String),
}

impl RootSource {
    /// Reads a setting: `SYSTEM`, PEM text, or else a path.
    pub fn parse(text: &str) -> Self {
        if text == "SYSTEM" {
            Self::System
        } else if text.contains("-----BEGIN") {
            Self::Inline(text.to_owned())
        } else {
            Self::Path(text.into())
        }
    }
}

/// Where the bearer token comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A file, read again for every call; an empty one is an error.
    File(PathBuf),
    /// The token.
    Literal(String),
    /// No `authorization` header.
    None,
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Literal(_) => f.write_str("Literal(redacted)"),
            Self::None => f.write_str("None"),
        }
    }
}

/// A channel that can't be made of its configuration.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The address isn't one.
    #[error("control plane address {address:?} is not a URL of the form https://HOST:PORT")]
    Address {
        /// As configured.
        address: String,
    },
    /// The address isn't https.
    #[error("control plane address {address:?} must begin with https://")]
    NotHttps {
        /// As configured.
        address: String,
    },
    /// A server name isn't one.
    #[error("{name:?} is not a server name")]
    ServerName {
        /// As configured.
        name: String,
    },
    /// A header isn't one.
    #[error("header {name:?} is not valid gRPC metadata")]
    Header {
        /// Its name; the value may be a secret.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_system_text_or_path() {
        let pem = "-----BEGIN CERTIFICATE-----\n";
        let cases = [
            ("SYSTEM", RootSource::System),
            ("./root.pem", RootSource::Path("./root.pem".into())),
            (pem, RootSource::Inline(pem.into())),
        ];
        for (text, want) in cases {
            assert_eq!(RootSource::parse(text), want);
        }
    }

    #[test]
    fn a_token_never_shows_in_debug() {
        let shown = format!("{:?}", TokenSource::Literal("s3cret".into()));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
