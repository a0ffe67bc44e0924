//! HBONE: CONNECT tunnels over mutually authenticated HTTP/2 (`ztunnel-contract`
//! section 2).
//!
//! Owns: the TLS record layer under HTTP/2 with large reads and coalesced
//! writes, the HTTP/2 settings, pings and deadlines, the dialer and its
//! [`Pool`], the acceptor ([`serve_tls`]), and the texts that travel on CONNECT
//! ([`Baggage`], [`Forwarded`], [`TraceParent`], [`Authority`]).
//!
//! Doesn't own: whom to dial, who may enter, which certificate is ours, or the
//! copying of bytes: a [`Tunnel`] is a [`Duplex`](ambit_net::Duplex) for
//! [`relay`](ambit_net::relay). One module, `engine`, knows the `h2` crate, so
//! that another HTTP/2 implementation can take its place.
//!
//! Everything of a connection stays on the thread whose runtime made it. A pool
//! belongs to one pod and one data thread; its locks are never contended there.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn flow(app: tokio::net::TcpStream, svid: Arc<ambit_identity::Svid>, key: ambit_hbone::PoolKey) -> Result<(), Box<dyn std::error::Error>> {
//! use ambit_hbone::{ConnectRequest, HboneConfig, Pool};
//! let scope = ambit_runtime::Scope::new("pod");
//! let pool = Pool::new(HboneConfig::default(), ambit_net::PodSockets::default(), &scope);
//! let request = ConnectRequest { authority: "10.0.0.7:80".into(), ..ConnectRequest::default() };
//! let tunnel = pool.open(&key, || async move { Ok(svid) }, &request).await?;
//! let meter = ambit_net::Meter::default();
//! ambit_net::relay(app, tunnel, &meter).await?;
//! # Ok(()) }
//! ```

mod accept;
mod authority;
mod baggage;
mod config;
mod dial;
mod engine;
mod error;
mod forwarded;
mod gate;
mod handshake;
mod pool;
mod request;
mod trace;
mod tunnel;
mod wire;

pub use accept::{InboundStream, ServerConnection, serve_tls};
pub use authority::{Authority, InvalidAuthority};
pub use baggage::Baggage;
pub use config::HboneConfig;
pub use error::{AcceptError, ConnectionError, DialError, OpenError, RequestError, StreamError};
pub use forwarded::{Forwarded, InvalidForwarded};
pub use gate::HandshakeGate;
pub use pool::{Pool, PoolKey};
pub use request::ConnectRequest;
pub use trace::{InvalidTraceParent, TraceParent};
pub use tunnel::Tunnel;
