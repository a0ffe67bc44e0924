//! Both halves against each other, over links that break.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's harness fails by panicking"
)]

mod harness;
mod on_demand;
mod property;
mod property_on_demand;
mod wildcard;
