//! Changes to headers: remove, then set, then add (`waypoint-contract` 3.2).

use http::{HeaderMap, HeaderName, HeaderValue};

/// Changes to the headers of a request or a response.
#[derive(Debug, Clone, Default)]
pub struct HeaderOps {
    /// Gone first.
    pub remove: Vec<HeaderName>,
    /// Overwritten or created.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appended.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// `set` of `host` or `:authority`: the upstream's authority. A rewrite's
    /// hostname beats it (3.2).
    pub authority: Option<HeaderValue>,
}

impl HeaderOps {
    /// No change.
    #[must_use]
    pub const fn none() -> &'static Self {
        static NONE: HeaderOps = HeaderOps {
            remove: Vec::new(),
            set: Vec::new(),
            add: Vec::new(),
            authority: None,
        };
        &NONE
    }

    /// True when nothing would change.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.set.is_empty()
            && self.add.is_empty()
            && self.authority.is_none()
    }

    /// Applies them; the authority is the caller's to write.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }
}
