//! Names: `namespace/name`, `namespace/hostname`, workload uids.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The uid of a workload, for example `Kubernetes//Pod/shop/cart-0`
/// (`control-plane-contract` 2.1). Opaque to every reader.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct WorkloadUid(pub Arc<str>);

impl WorkloadUid {
    /// The uid as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for WorkloadUid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for WorkloadUid {
    fn from(uid: &str) -> Self {
        Self(uid.into())
    }
}

impl From<String> for WorkloadUid {
    fn from(uid: String) -> Self {
        Self(uid.into())
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! slashed_pair {
    ($(#[$doc:meta])* $type:ident, $second:ident, $second_doc:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type {
            /// Kubernetes namespace.
            pub namespace: Arc<str>,
            #[doc = $second_doc]
            pub $second: Arc<str>,
        }

        impl $type {
            /// A pair of its parts.
            pub fn new(namespace: impl Into<Arc<str>>, $second: impl Into<Arc<str>>) -> Self {
                Self { namespace: namespace.into(), $second: $second.into() }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.$second)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text.split_once('/') {
                    Some((namespace, rest)) if !rest.is_empty() && !rest.contains('/') => {
                        Ok(Self::new(namespace, rest))
                    }
                    _ => Err(InvalidName(text.into())),
                }
            }
        }
    };
}

slashed_pair!(
    /// A Kubernetes object's `namespace/name`, also the name of a policy.
    NamespacedName,
    name,
    "Object name."
);
slashed_pair!(
    /// A service's key, `namespace/hostname`.
    NamespacedHostname,
    hostname,
    "Fully qualified host name."
);

/// A text that isn't two parts with one slash between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form NAMESPACE/NAME")]
pub struct InvalidName(Arc<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_have_exactly_one_slash() {
        assert_eq!(
            "shop/cart".parse::<NamespacedName>().unwrap(),
            NamespacedName::new("shop", "cart")
        );
        for bad in ["shop", "shop/", "Kubernetes//Pod/a/b", "a/b/c"] {
            assert!(bad.parse::<NamespacedHostname>().is_err(), "{bad}");
        }
    }
}
