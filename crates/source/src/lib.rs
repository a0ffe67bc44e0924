//! Where objects come from: a watched directory of manifests.
//!
//! Owns finding and reading the files, noticing that they change, and deciding which of several documents of one
//! object is in force. What a document says is `ambit-kube`'s business, what an object means the compiler's. A
//! later source, the Kubernetes API, tells the same [`Change`]s.
//!
//! Nothing that was good goes out of force because of a fault: a file or document that can't be read keeps the
//! last good form of its objects until it is good again or removed, and so does a directory that vanishes. Broken
//! *policies* are passed on as such, because the compiler knows what closing them means.

mod files;
mod held;
mod manifests;
mod notes;
mod scanner;
mod watch;

pub use ambit_kube::Change;
pub use files::{Listing, MAX_FILE_BYTES, list};
pub use manifests::Manifests;
pub use watch::DirSource;
