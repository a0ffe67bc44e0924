//! The L7 proxy that a namespace, service or service account opts in to.
