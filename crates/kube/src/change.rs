//! What a source of objects tells the compiler.

use std::sync::Arc;

use crate::{Located, Object, ObjectKey, Problem};

/// One event from a source of objects, whatever the source is.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The object is now as given.
    Apply(Located<Object>),
    /// The object is gone.
    Delete(ObjectKey),
    /// The full set of what can't be read or is doubtful in the source at the moment; replaces the set before.
    Problems(Vec<Problem>),
    /// A node agent says how far the capture of a pod has come.
    Redirection {
        /// The pod's namespace.
        namespace: Arc<str>,
        /// The pod's name.
        name: Arc<str>,
        /// The pod's uid, so that a report on a pod of the same name before isn't believed.
        uid: Arc<str>,
        /// How far.
        state: Redirection,
    },
    /// Everything that was there at the start has been told.
    Synced,
}

/// How far the capture of a pod's traffic has come (`control-plane-contract` 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Redirection {
    /// Not captured.
    None,
    /// Rules are in place, the proxy hasn't confirmed.
    Pending,
    /// Captured; only this makes a workload HBONE.
    Enabled,
}
