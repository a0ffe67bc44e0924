//! Redirection in real namespaces, with a proxy of a few lines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod capture;
mod leave;
mod probes;
mod repair;
mod world;
