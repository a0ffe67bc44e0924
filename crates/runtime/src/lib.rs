//! What every program needs around its work: task scopes, drain, readiness,
//! backoff, the environment and the signals that end it.
//!
//! Owns *how long things live*. It knows nothing of the mesh.

mod backoff;
mod drain;
mod due;
mod duration;
mod env;
pub mod processor;
mod ready;
mod scope;
mod seldom;
mod signal;
mod threads;
mod trim;

pub use backoff::Backoff;
pub use drain::{DrainMode, DrainTrigger, DrainWatch, drain};
pub use due::sleep_maybe;
pub use duration::{InvalidDuration, parse_duration};
pub use env::{Env, MapEnv, ProcessEnv};
pub use ready::{Readiness, ReadyGuard};
pub use scope::Scope;
pub use seldom::{Seldom, seldom};
pub use signal::{ShutdownSignal, Signals};
pub use threads::DataThreads;
pub use tokio_util::sync::CancellationToken;
pub use trim::keep_trimmed;
