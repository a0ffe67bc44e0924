//! Peers and callers that don't play by the rules: each is refused, counted and
//! logged by reason, and nothing grows without bound.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

mod callers;
mod flood;
mod inside;
mod local;
mod peers;
mod strange;
