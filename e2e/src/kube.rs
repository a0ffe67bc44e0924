//! A real Kubernetes cluster on one machine: etcd, API server, controllers,
//! nodes with kubelet and containerd, all inside namespaces of their own.
//!
//! Owns what brings the box up, what it is made of and its removal without a
//! trace, also after a killed run. Knows nothing of the mesh: what is installed
//! on it is the caller's. `docs/cluster.md` says what is built and from where.

pub mod api;
pub mod build;
pub mod certs;
pub mod cgroups;
pub mod cluster;
pub mod control;
pub mod image;
pub mod images;
pub mod init;
pub mod install;
pub mod node;
pub mod options;
pub mod paths;
pub mod relay;
pub mod run;
mod snapshot;
pub mod space;
pub mod suite;

pub use api::Api;
pub use cluster::{Cluster, ClusterOptions};
pub use control::ControlPlane;
pub use options::ControlPlaneOptions;
pub use run::Run;
