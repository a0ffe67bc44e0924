//! Where configuration enters the server: batches become snapshots.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::resource::{Snapshot, Update};

/// What changed, of any number of types, to be seen as one step.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// One entry a type; the order doesn't matter.
    pub types: Vec<TypeDelta>,
}

/// What changed of one type.
#[derive(Debug, Clone, Default)]
pub struct TypeDelta {
    /// For example `type.googleapis.com/istio.workload.Address`.
    pub type_url: String,
    /// New and changed resources. Each is sent, even one that is as it was.
    pub changed: Vec<Update>,
    /// Names of resources that are gone.
    pub removed: Vec<String>,
}

/// What a publication did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Version of the snapshot that is now served.
    pub version: u64,
    /// Resources that changed or went, a type each, in delivery order.
    pub touched: Vec<(Arc<str>, usize)>,
}

/// Size of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeSize {
    /// The type.
    pub type_url: Arc<str>,
    /// Resources.
    pub resources: usize,
    /// Bytes of their bodies.
    pub bytes: usize,
}

/// Publishes configuration to every stream. Clones share one state.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    /// Until the first publication there is nothing to serve.
    current: Mutex<Option<Arc<Snapshot>>>,
    types: Vec<Arc<str>>,
    publications: broadcast::Sender<Publication>,
}

/// One publication, as streams see it.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub(crate) snapshot: Arc<Snapshot>,
    /// Names that changed or went, in the order of the snapshot's types.
    pub(crate) touched: Arc<[Vec<Arc<str>>]>,
    pub(crate) at: Instant,
}

impl Publisher {
    /// A publisher of these types. Their order is the order of delivery: what
    /// comes first is sent first, and is removed last (design D5).
    pub fn new(types: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        let (publications, _) = broadcast::channel(BACKLOG);
        Self {
            shared: Arc::new(Shared {
                current: Mutex::new(None),
                types: types.into_iter().map(Into::into).collect(),
                publications,
            }),
        }
    }

    /// Makes the batch visible in one step. The first publication opens the
    /// server for streams, whatever is in it; of a type that wasn't announced
    /// to [`new`](Self::new) nothing is taken.
    pub fn publish(&self, batch: Batch) -> Published {
        let mut current = self.shared.current.lock();
        let first = current.is_none();
        let mut next = match current.as_deref() {
            Some(snapshot) => Snapshot {
                version: snapshot.version + 1,
                types: snapshot.types.clone(),
            },
            None => Snapshot {
                version: 1,
                types: self.initial_types(),
            },
        };
        let mut touched: Vec<Vec<Arc<str>>> = vec![Vec::new(); next.types.len()];
        for delta in batch.types {
            let known = next.types.iter_mut().zip(&mut touched);
            let Some(((url, view), names)) = known
                .into_iter()
                .find(|((url, _), _)| url.as_ref() == delta.type_url)
            else {
                tracing::error!(type_url = delta.type_url, "publication of an unknown type");
                continue;
            };
            let removed = delta.removed.iter().filter_map(|name| view.remove(name));
            names.extend(removed.map(|resource| Arc::clone(&resource.name)));
            names.extend(delta.changed.into_iter().map(|u| view.put(url, u)));
        }
        if !first && touched.iter().all(Vec::is_empty) {
            return self.published(next.version - 1, &touched);
        }
        let published = self.published(next.version, &touched);
        let snapshot = Arc::new(next);
        *current = Some(Arc::clone(&snapshot));
        // Under the lock, so that a new stream sees each publication either in
        // its first snapshot or in its backlog. An error means: no streams.
        let _ = self.shared.publications.send(Publication {
            snapshot,
            touched: touched.into(),
            at: Instant::now(),
        });
        published
    }

    /// How much is being served.
    pub fn sizes(&self) -> Vec<TypeSize> {
        let current = self.shared.current.lock();
        let types = current.iter().flat_map(|snapshot| &snapshot.types);
        types
            .map(|(type_url, view)| TypeSize {
                type_url: Arc::clone(type_url),
                resources: view.len(),
                bytes: view.bytes(),
            })
            .collect()
    }

    /// The current state and everything after it; `None` before the first
    /// publication.
    pub(crate) fn follow(&self) -> Option<(Arc<Snapshot>, broadcast::Receiver<Publication>)> {
        let current = self.shared.current.lock();
        let snapshot = current.as_ref()?;
        Some((Arc::clone(snapshot), self.shared.publications.subscribe()))
    }

    fn initial_types(&self) -> Vec<(Arc<str>, super::resource::TypeView)> {
        let types = self.shared.types.iter();
        types
            .map(|t| (Arc::clone(t), super::resource::TypeView::default()))
            .collect()
    }

    fn published(&self, version: u64, touched: &[Vec<Arc<str>>]) -> Published {
        let counts = self.shared.types.iter().zip(touched);
        Published {
            version,
            touched: counts.map(|(t, n)| (Arc::clone(t), n.len())).collect(),
        }
    }
}

/// Publications that a stream may be behind; one that is further behind is
/// ended and comes back with what it holds.
const BACKLOG: usize = 128;
