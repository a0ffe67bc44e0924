//! Who may see what: a stream's rights, and a type as one stream sees it.
//!
//! A resource with an audience exists for the streams of that audience and for
//! nobody else: another stream is answered as if there were none. Whether a
//! stream belongs to an audience is for [`Admission`](super::Admission) to say.

use std::sync::Arc;

use super::bundle::Bundle;
use super::resource::{Resource, TypeView};

/// What a stream that was let in is and may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The caller's name, for logs and statuses.
    pub caller: Arc<str>,
    /// The audience that the stream belongs to. Without one it sees only what
    /// is for everybody.
    pub audience: Option<Arc<str>>,
    /// The only types that may be asked for; `None` for every type. Asking for
    /// another ends the stream (`PermissionDenied`).
    pub types: Option<Arc<[Arc<str>]>>,
}

impl Admitted {
    /// A caller that may read every type, of everything that is for everybody.
    pub fn everything(caller: impl Into<Arc<str>>) -> Self {
        Self {
            caller: caller.into(),
            audience: None,
            types: None,
        }
    }

    /// Whether the caller may ask for a type.
    pub(super) fn may_read(&self, type_url: &str) -> bool {
        let Some(types) = &self.types else {
            return true;
        };
        types.iter().any(|each| **each == *type_url)
    }
}

/// Where a stream stands: what decides which resources exist for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standpoint<'a> {
    /// The node's name, for what is sent there without asking.
    pub(super) node: Option<&'a str>,
    /// The stream's audience.
    pub(super) audience: Option<&'a str>,
}

/// One type of one snapshot as one stream sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visible<'a> {
    view: &'a TypeView,
    from: Standpoint<'a>,
}

impl<'a> Visible<'a> {
    pub(super) fn new(view: &'a TypeView, from: Standpoint<'a>) -> Self {
        Self { view, from }
    }

    pub(super) fn named(self, name: &str) -> Option<&'a Arc<Resource>> {
        self.view.named(name).filter(|r| self.shows(r))
    }

    pub(super) fn names(self) -> impl Iterator<Item = &'a Arc<str>> {
        let all = self.view.all();
        all.filter(move |r| self.shows(r)).map(|r| &r.name)
    }

    pub(super) fn all(self) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.view.all().filter(move |r| self.shows(r))
    }

    /// See [`TypeView::everything`]; none where it would be larger than a response.
    pub(super) fn everything(self, largest: usize) -> Option<Arc<Bundle>> {
        // Names and versions come on top of the bodies, a small part of them.
        let fits = self.view.bytes() < largest / 2;
        fits.then(|| self.view.everything()).flatten()
    }

    /// See [`TypeView::asked`].
    pub(super) fn asked(self, key: &str) -> Vec<Arc<Resource>> {
        let mut found = self.view.asked(key);
        found.retain(|r| self.shows(r));
        found
    }

    /// Names of what is sent to the stream's node without asking.
    pub(super) fn at_home(self) -> impl Iterator<Item = &'a Arc<str>> {
        let own = self.view.at_home(self.from.node.unwrap_or_default());
        own.filter(move |r| self.shows(r)).map(|r| &r.name)
    }

    /// Whether a resource belongs to the stream's node.
    pub(super) fn is_at_home(self, resource: &Resource) -> bool {
        resource.home.is_some() && resource.home.as_deref() == self.from.node
    }

    fn shows(self, resource: &Resource) -> bool {
        resource.is_for(self.from.audience)
    }
}
