//! Server names of TLS routes: exact, or `*.` for one or more labels.

/// One name of a TLS route (`waypoint-contract` 2.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniPattern {
    /// Lower case; with a wildcard: from the dot on (`.example.com`).
    text: Box<str>,
    wildcard: bool,
}

impl SniPattern {
    /// From `a.example.com` or `*.example.com`; `*` alone is any name.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix('*') {
            Some(rest) => Self {
                text: rest.into(),
                wildcard: true,
            },
            None => Self {
                text: lower.into(),
                wildcard: false,
            },
        }
    }

    /// Whether `name` (of a ClientHello) is one of these. Case doesn't count.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (name, text) = (name.as_bytes(), self.text.as_bytes());
        if !self.wildcard {
            return name.eq_ignore_ascii_case(text);
        }
        name.len() > text.len()
            && name
                .get(name.len() - text.len()..)
                .is_some_and(|tail| tail.eq_ignore_ascii_case(text))
    }

    /// Orders exact names first, then the longer wildcard.
    pub(crate) const fn unspecific(&self) -> (bool, usize) {
        (self.wildcard, usize::MAX - self.text.len())
    }
}
