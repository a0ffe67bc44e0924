//! What goes on when a part of the mesh is away, and what comes back with it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

mod authority;
mod control_plane;
mod node;
mod pods;
mod steady;
mod upgrade;
