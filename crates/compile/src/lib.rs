//! The config compiler: objects in, data-plane resources, statuses and diagnostics out; incremental and pure.
//!
//! Owns the meaning of the objects (`control-plane-contract` 1 to 4): which workloads and services exist, which
//! policies bind them, what is wrong and what then holds. It does no I/O, has no clock and no tasks, and knows
//! neither sessions nor nodes: the control plane runs it on watches, the CLI on files, tests on fixtures.
//!
//! How a change becomes a delta: [`Compiler::apply`] keeps what it reads of an object (`input`, `policy`) in the
//! store, and marks the *units* of output that refer to it (`ingest`). Each marked unit is then derived anew from the
//! store alone (`derive`), and compared with what it gave before (`outputs`). So the output is a function of the
//! store; the marks only save work.
//!
//! Left out on purpose: waypoints (labels that ask for one get a diagnostic), allocation of addresses for
//! ServiceEntries (they are read from statuses), gateways of other networks.
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
pub use output::{
    AddressKind, AddressResource, Audience, AuthorizationResource, Changes, Delta, Diagnostic,
    ResourceName, Snapshot, Version, WaypointChanges, WaypointResource,
};
pub use settings::Settings;
pub use status::{Address, Condition, Generation, Listener, Parent, Reference, Status};
pub use waypoint::Rendered;
