//! Where objects come from: a watched directory of manifests.
