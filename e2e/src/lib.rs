//! End to end: a cluster of network namespaces that runs Ambit's real programs
//! from Kubernetes manifests.
//!
//! Plays what surrounds the mesh: the kubelet (namespaces, addresses,
//! readiness, the CNI call), kube-proxy (virtual addresses for pods outside of
//! the mesh) and the token issuer. The mesh itself is the real programs only.
#![allow(
    clippy::indexing_slicing,
    reason = "indexing a JSON value answers null"
)]

pub mod bench;
pub mod cluster;
pub mod conformance;
pub mod demo;
pub mod http;
pub mod kube;
pub mod kubelet;
pub mod kubeproxy;
pub mod load;
pub mod manifests;
pub mod observe;
pub mod peer;
pub mod privilege;
pub mod programs;
pub mod scenario;
pub mod scrape;
pub mod serving;

pub use cluster::{Cluster, Options, WaypointPod, WaypointProgram};
