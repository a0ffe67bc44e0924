//! The gRPC channel from a node program to the control plane, and the
//! certificate client on it (`ztunnel-contract` 4.1, 4.6).
//!
//! Owns how the control plane is reached and proven: TLS against a root that is
//! read again for every connection, a token that is read again for every call,
//! keepalives and deadlines. It connects on first use and again whenever the
//! connection is lost. It knows nothing of what travels over it, except for
//! [`CaClient`].
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use ambit_channel::{ChannelConfig, RootSource, TokenSource, connect};
//!
//! let channel = connect(&ChannelConfig {
//!     address: "https://istiod.istio-system.svc:15012".into(),
//!     root: RootSource::parse("./var/run/secrets/istio/root-cert.pem"),
//!     alt_hostname: None,
//!     token: TokenSource::File("./var/run/secrets/tokens/istio-token".into()),
//!     cluster_id: "Kubernetes".into(),
//!     headers: Vec::new(),
//! })?;
//! # let _ = channel; Ok(()) }
//! ```

mod ca;
mod config;
mod connector;
mod credentials;

pub use ca::{CaClient, CertificateFor};
pub use config::{ChannelConfig, ChannelError, RootSource, TokenSource};
pub use connector::{ConnectError, ControlPlane, connect};
pub use credentials::Credentials;
