//! The Kubernetes API: its client, watches, reviews and writes.
//!
//! Owns every conversation with an API server, for the control plane and the
//! node agent alike: kube-rs appears in no other crate, so that a new version
//! of it is one crate's business. What objects mean is the compiler's.

mod client;
mod watch;

pub use client::{ConnectError, Connection, connect};
pub use kube::Client;
pub use watch::{ApiSettings, ApiSource, Stage, Timing, Wanted, WatchState, Watches};
