//! Which endpoint gets a request, and whether it may: balancing, ejection,
//! limits, budgets; pure.
//!
//! Owns `waypoint-contract` 3.5 and 5: a [`Cluster`] is one target set (a
//! backend's port, or a subset of it) that all data threads share. Choosing
//! takes no lock: threads read one immutable view and count with atomics. Time
//! and randomness are arguments. Rate limits (7.1) are here too, as they are
//! the other thing that is counted across threads.
//!
//! Left out on purpose: connections (`waypoint` dials and pools them), name
//! resolution (the shell puts addresses into endpoints), and which backend a
//! request is for (`route`).

mod balance;
mod breaker;
mod budget;
mod cluster;
mod decode;
mod hash;
mod host;
mod limit;
mod locality;
mod model;
mod outlier;
mod table;
mod view;

pub use breaker::{Overflow, Permit, Resource};
pub use budget::BudgetRule;
pub use cluster::{Cluster, HostSnapshot, Pick, PickContext, PickError, Snapshot};
pub use decode::{InvalidBackend, Wrong};
pub use hash::{HashKey, HashPolicy};
pub use host::HostState;
pub use limit::decode::InvalidRateLimit;
pub use limit::{LimitRequest, LimitTarget, LimitVerdict, Limited, RateLimit, Standing};
pub use model::{
    Algorithm, Backend, Balancer, Distribute, Endpoint, Health, KeepAlive, Local,
    LocalityBalancing, Policy, Pool, Port, Refusal, Resolution, Settings, Subset, Tls, Topology,
    TopologyScope, Warmup, WorkloadNames,
};
pub use outlier::{Accrual, LocalFailure, Outcome, Outlier};
