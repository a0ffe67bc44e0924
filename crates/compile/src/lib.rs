//! The config compiler: objects in, data-plane resources, statuses and diagnostics out; incremental and pure.
//!
//! Owns the meaning of the objects (`control-plane-contract` 1 to 5): which workloads and services exist, which
//! policies bind them, through which waypoint they are reached, what is wrong and what then holds. It does no I/O, has no clock and no tasks, and knows
//! neither sessions nor nodes: the control plane runs it on watches, the CLI on files, tests on fixtures.
//!
//! How a change becomes a delta: [`Compiler::apply`] keeps what it reads of an object (`input`, `policy`), or the
//! object as it is written (`store::Objects`), and marks the *units* of output that refer to it: those that the
//! indexes name (`ingest`), and those that asked for it when they were derived (`reads`, ADR 0008). Who selects whom
//! among thousands is looked up by label (`store::Table`). Facts that others
//! ask for come first (`facts`: services with their waypoints, and waypoints); then each marked unit is derived anew
//! (`derive`, `waypoint`), and compared with what it gave before (`outputs`). So the output is a function of the
//! objects; marks and reads only save work.
//!
//! What routes, destination rules and policies of waypoints mean is [`ambit_translate`]'s; when, for whom and with
//! which other objects is decided here. Left out on purpose: allocation of addresses for ServiceEntries (they are read
//! from statuses), gateways of other networks.
//!
//! ```
//! use ambit_compile::{Compiler, Settings};
//! use ambit_kube::{Change, read_manifest};
//!
//! let mut compiler = Compiler::new(Settings::default());
//! let loaded = read_manifest("mesh.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
//! let delta = compiler.apply(loaded.objects.into_iter().map(Change::Apply));
//! assert!(delta.addresses.changed.is_empty());
//! ```

mod about;
pub mod admission;
mod codes;
mod compiler;
mod derive;
mod dirty;
pub mod enrolment;
mod facts;
mod ingest;
mod input;
mod output;
mod outputs;
mod policy;
mod reads;
mod settings;
mod status;
mod store;
mod view;
mod vips;
mod waypoint;

pub use compiler::{Compiler, PodRecord};
pub use input::Discovery;
pub use output::{
    AddressKind, AddressResource, Audience, AuthorizationResource, Changes, Delta, Diagnostic,
    ResourceName, Snapshot, Version, WaypointChanges, WaypointResource,
};
pub use settings::Settings;
pub use status::{Address, Condition, Generation, Listener, Parent, Reference, Status};
pub use waypoint::Rendered;
