//! Peers that mean harm: `waypoint-contract` 7.2 to 7.4 and what the issue lists
//! as bad input, against the real program. Every table says in its first column
//! what is attacked.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests, which clippy.toml does not recognise as tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod config;
mod floods;
mod frames;
mod limits;
mod smuggling;
mod smuggling_h2;
mod surprises;
mod tokens;
mod upgrades;
mod upstream;
