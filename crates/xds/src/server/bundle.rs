//! What one response carries: a few resources, or everything of a type, which
//! is put together once for all streams that open meanwhile.

use std::sync::{Arc, OnceLock, Weak};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::resource::{Resource, field_len, header};

/// The resources of one response, in the order in which they are written.
#[derive(Debug)]
pub(super) enum Resources {
    /// What changed, or what was asked for.
    Some(Vec<Arc<Resource>>),
    /// Everything of a type.
    All(Arc<Bundle>),
}

impl Resources {
    pub(super) const fn none() -> Self {
        Self::Some(Vec::new())
    }

    pub(super) fn as_slice(&self) -> &[Arc<Resource>] {
        match self {
            Self::Some(some) => some,
            Self::All(bundle) => &bundle.resources,
        }
    }
}

/// Everything of a type, as every stream that starts with nothing is sent it.
/// Lives as long as somebody is being sent it.
#[derive(Debug)]
pub(crate) struct Bundle {
    resources: Box<[Arc<Resource>]>,
    pieces: OnceLock<Box<[Bytes]>>,
}

impl Bundle {
    /// Sorts them by their names.
    pub(super) fn new(mut resources: Vec<Arc<Resource>>) -> Self {
        resources.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Self {
            resources: resources.into(),
            pieces: OnceLock::new(),
        }
    }

    /// The field `resources` of the response, cut between resources.
    pub(super) fn pieces(&self) -> &[Bytes] {
        self.pieces.get_or_init(|| {
            let mut pieces = Vec::new();
            let mut at = 0;
            while at < self.resources.len() {
                let mut piece = BytesMut::with_capacity(PIECE + PIECE / 8);
                while piece.len() < PIECE
                    && let Some(resource) = self.resources.get(at)
                {
                    at += 1;
                    write(resource, false, &mut piece);
                }
                pieces.push(piece.freeze());
            }
            pieces.into()
        })
    }
}

/// The bundle of a view while anybody uses it.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Weak<Bundle>>);

impl Clone for Shared {
    fn clone(&self) -> Self {
        Self(Mutex::new(Weak::clone(&self.0.lock())))
    }
}

impl Shared {
    /// The one that is there, or a new one.
    pub(super) fn get(&self, make: impl FnOnce() -> Vec<Arc<Resource>>) -> Arc<Bundle> {
        let mut shared = self.0.lock();
        if let Some(bundle) = shared.upgrade() {
            return bundle;
        }
        let bundle = Arc::new(Bundle::new(make()));
        *shared = Arc::downgrade(&bundle);
        bundle
    }

    /// Something changed.
    pub(super) fn forget(&mut self) {
        *self.0.get_mut() = Weak::new();
    }
}

/// Bytes of one resource in a response.
pub(super) fn len(resource: &Resource, with_aliases: bool) -> usize {
    field_len(RESOURCES, resource.wire_len(with_aliases))
}

/// Writes one resource of a response.
pub(super) fn write(resource: &Resource, with_aliases: bool, to: &mut BytesMut) {
    header(RESOURCES, resource.wire_len(with_aliases), to);
    resource.write(with_aliases, to);
}

/// Field number of `DeltaDiscoveryResponse.resources`.
const RESOURCES: u32 = 2;
/// Written at once, at least; a resource is never split.
pub(super) const PIECE: usize = 32 << 10;
