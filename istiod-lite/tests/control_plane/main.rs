//! The control plane on loopback, with the clients that node programs use.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's harness fails by panicking"
)]

mod authentication;
mod certificates;
mod discovery;
mod harness;
mod operation;
mod redirection;
mod waypoints;
