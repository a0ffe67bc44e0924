//! Test support: a sandbox of network namespaces with nodes and pods, child
//! processes in them, tokens, HTTP clients, packet captures, and an API server
//! in memory.
//!
//! Stands in for what surrounds the mesh (kubelet, kube-proxy, token issuer),
//! never for the mesh itself. A development dependency only.

pub mod apiserver;
pub mod capture;
pub mod client;
pub mod net;
pub mod process;
pub mod sandbox;
pub mod token;
mod wait;

pub use wait::{eventually, eventually_within};
