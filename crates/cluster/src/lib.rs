//! The Kubernetes API: its client, watches, reviews and writes.
//!
//! Owns every conversation with an API server, for the control plane and the
//! node agent alike: kube-rs appears in no other crate, so that a new version
//! of it is one crate's business. What objects mean is the compiler's.

pub mod apply;
mod client;
mod follow;
pub mod lease;
mod metadata;
pub mod node;
mod resource;
mod review;
mod root_maps;
mod root_secret;
#[cfg(test)]
mod scripted;
pub mod status;
mod watch;
mod webhooks;

pub use client::{ConnectError, Connection, connect, connect_as_user};
pub use follow::{Name, Stage, Timing, WatchState, Watches};
pub use kube::Client;
pub use metadata::{Metadata, Seen, Watched, watch_metadata};
pub use review::{ReviewError, ReviewLimits, Reviewed, ReviewedPod, TokenReviewer, Unavailable};
pub use root_maps::{Discovers, Published, RootMapObserver, keep_root_maps};
pub use root_secret::{KeptRoot, RootSecret, SecretError};
pub use watch::{ApiSettings, ApiSource, Look, Unread, Wanted};
pub use webhooks::{
    ALWAYS_REJECT, ALWAYS_REJECTED, PatchObserver, WebhookConfigs, keep_webhook_configs,
};
