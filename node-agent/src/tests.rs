//! The agent against real namespaces, a real ZDS client and a real gRPC
//! server; only what a proxy does with a pod is left out.

mod annotations;
mod enrol;
mod leave;
mod restart;
mod start;
pub(crate) mod world;
