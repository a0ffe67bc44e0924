//! Two ztunnels started by hand carry traffic between two pods: static
//! configuration, a foreign node agent, a foreign certificate service, and
//! rules typed into `nft`. Nothing of ours but the proxy is used.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

mod agent;
mod ca;
mod names;
mod protocol;
mod traffic;
mod world;
