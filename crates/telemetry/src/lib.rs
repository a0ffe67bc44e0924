//! What the mesh says of itself: traffic metrics, the access log, log format
//! and level, and the small HTTP servers that serve them.
//!
//! Owns names, labels and formats (`ztunnel-contract` 9). It decides nothing
//! and reads no configuration.

pub mod access;
pub mod http;
mod labels;
pub mod logging;
mod metrics;
mod process;
mod traffic;

pub use labels::{EndLabels, ServiceLabels, TrafficLabels};
pub use metrics::{Metrics, UNSTABLE};
pub use process::ProcessCollector;
pub use traffic::{RefusalMetrics, Series, SocketsOpen, TrafficMetrics};
