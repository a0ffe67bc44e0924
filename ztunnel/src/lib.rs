//! The node proxy: L4 HBONE for the pods of one node.
//!
//! A reader finds the path of a byte in these modules, in this order:
//! `accept` → `identify` → `decide` → `authorize` → `connect` → `copy` →
//! `report`; `outbound`, `inbound` and `passthrough` are one function each that
//! calls them. `dns` answers names beside them. Around the paths: `config`
//! (what we were told), `enrol` (which pods we serve), `discovery` and
//! `certificates` (what we know), `flow` (what runs now), `threads`, `start` and
//! `pod` (where it runs), `admin` and `metrics` (what we show), `process`
//! (start, drain, end), `trim` (idle memory).
//!
//! Left out on purpose: decisions (`state`, `policy`), protocols (`hbone`,
//! `xds`, `redirect::zds`), sockets and copying (`net`). This crate wires them.

pub mod config;
pub mod enrol;

mod accept;
mod admin;
mod announce;
mod authorize;
mod certificates;
mod cli;
mod connect;
mod copy;
mod decide;
mod discovery;
mod dns;
mod error;
mod flow;
mod identify;
mod inbound;
mod metrics;
mod node;
mod outbound;
mod passthrough;
mod pod;
mod process;
mod report;
mod settings;
mod start;

pub use process::main;
