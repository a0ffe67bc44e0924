//! SPIFFE identities as the mesh uses them: `spiffe://TD/ns/NS/sa/SA`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Trust domain where none is configured.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// A workload identity, compared whole: never by prefix.
///
/// Grammar (`ztunnel-contract` 2.1): exactly five path parts after the scheme;
/// empty namespace or account parts parse, a trailing slash doesn't.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl SpiffeId {
    /// An identity from its three parts.
    ///
    /// # Errors
    /// A part that contains `/` would change the grammar and is refused, as is
    /// an empty trust domain.
    pub fn new(
        trust_domain: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        service_account: impl Into<Arc<str>>,
    ) -> Result<Self, InvalidSpiffeId> {
        let id = Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        let slash = [&id.trust_domain, &id.namespace, &id.service_account]
            .iter()
            .any(|part| part.contains('/'));
        if slash || id.trust_domain.is_empty() {
            return Err(InvalidSpiffeId(format!("{id:?}").into()));
        }
        Ok(id)
    }

    /// The trust domain, for example `cluster.local`.
    pub fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// The service account's name.
    pub fn service_account(&self) -> &Arc<str> {
        &self.service_account
    }

    /// The form that policies compare: the URI without `spiffe://`.
    pub fn principal(&self) -> Principal<'_> {
        Principal(self)
    }
}

/// Displays `TD/ns/NS/sa/SA`, the principal of an identity.
pub struct Principal<'a>(&'a SpiffeId);

impl fmt::Display for Principal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SpiffeId {
            trust_domain,
            namespace,
            service_account,
        } = self.0;
        write!(f, "{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.principal())
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSpiffeId(uri.into());
        // A NUL or a line break is read differently by whoever else reads the
        // name (CVE-2025-66220, CVE-2026-47778).
        if uri.chars().any(char::is_control) {
            return Err(invalid());
        }
        let rest = uri.strip_prefix("spiffe://").ok_or_else(invalid)?;
        let mut parts = rest.split('/');
        let (Some(td), Some("ns"), Some(ns), Some("sa"), Some(sa), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(invalid());
        };
        if td.is_empty() {
            return Err(invalid());
        }
        Ok(Self {
            trust_domain: td.into(),
            namespace: ns.into(),
            service_account: sa.into(),
        })
    }
}

/// A text that isn't a workload identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an identity of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT"
)]
pub struct InvalidSpiffeId(Arc<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_exactly_five_parts() {
        let cases = [
            ("spiffe://cluster.local/ns/shop/sa/cart", true),
            ("spiffe://td/ns//sa/", true),
            ("spiffe://td/ns/a/sa/b/", false),
            ("spiffe://td/ns/a/sa", false),
            ("spiffe://td/sa/a/ns/b", false),
            ("spiffe:///ns/a/sa/b", false),
            ("td/ns/a/sa/b", false),
            ("https://td/ns/a/sa/b", false),
            ("spiffe://td/ns/a/sa/b\0", false),
            ("spiffe://td/ns/a\0/sa/b", false),
            ("spiffe://td/ns/a/sa/b\n", false),
        ];
        for (text, good) in cases {
            assert_eq!(text.parse::<SpiffeId>().is_ok(), good, "{text}");
        }
    }

    #[test]
    fn display_round_trips() {
        let id = SpiffeId::new("td.example", "shop", "cart").unwrap();
        assert_eq!(id.to_string(), "spiffe://td.example/ns/shop/sa/cart");
        assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        assert_eq!(id.principal().to_string(), "td.example/ns/shop/sa/cart");
    }

    #[test]
    fn a_slash_in_a_part_is_refused() {
        assert!(SpiffeId::new("td", "a/sa/b", "c").is_err());
        assert!(SpiffeId::new("", "a", "c").is_err());
    }
}
