//! The L7 proxy that a namespace, service or service account opts in to.
//!
//! A reader finds the path of a request in these modules, in this order:
//! `accept` → `tunnel` (`destination` → `protocol`) → `http` (`server` → `head`
//! → `request` → `forward` → `exchange`) or `tcp`; `dial` makes and keeps
//! connections to endpoints, `observer` leaves the record. Around the path:
//! `settings` (what we were told at start), `config` (what the mesh wants),
//! `discovery` (where that comes from), `node` (what is shared), `threads`,
//! `process`, `admin`, `keys` (of tokens), `resolve` (names of endpoints),
//! `spans`, `upkeep`, `trim` (idle memory).
//!
//! Left out on purpose: decisions (`route`, `policy`, `jwt`, `upstream`),
//! protocols (`hbone`, `xds`, hyper), names and formats of what is observed
//! (`observe`). This crate wires them.

pub mod settings;

mod accept;
mod admin;
mod config;
mod destination;
mod dial;
mod discovery;
mod http;
mod keys;
mod memory;
mod node;
mod observer;
mod process;
mod protocol;
mod resolve;
mod spans;
mod spawn;
mod tcp;
mod tunnel;
mod upkeep;

pub use process::main;
