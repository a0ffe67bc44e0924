//! Sockets in a pod's network namespace, and the copy between two byte streams.
//!
//! Owns: making listeners and dials inside a pod's namespace with the mark and
//! the options of the contract ([`PodSockets`]), the original destination of a
//! captured connection ([`original_dst`]), UDP for names ([`Datagrams`]), source
//! preservation ([`PodSockets::connect_from`]), recycled buffers ([`Block`],
//! [`Chunk`]) and [`relay`], which moves bytes between any two [`Duplex`] ends.
//!
//! Doesn't own: which address to dial, policy, TLS or HTTP/2. `hbone` gives its
//! tunnels a [`Duplex`]; a session layer for resumable tunnels would be another
//! one (design D9), and nothing here would change.
//!
//! ```no_run
//! # async fn flow(sockets: ambit_net::PodSockets, app: std::net::SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
//! use ambit_net::{DIAL_TIMEOUT, ListenOptions, Meter, relay};
//! let listener = sockets.listen(15001, ListenOptions::default())?;
//! let (accepted, client) = listener.accept().await?;
//! let dialled = sockets.connect_from(client.ip(), app, DIAL_TIMEOUT).await?;
//! let meter = Meter::default();
//! let transfer = relay(accepted, dialled, &meter).await?;
//! # let _ = transfer; Ok(()) }
//! ```

mod block;
mod chunk;
mod connect;
mod datagram;
mod duplex;
mod hand_over;
mod io;
mod listen;
mod meter;
mod original;
mod relay;
mod sockets;

pub use block::{Block, RELAY_BLOCK, WIRE_BLOCK};
pub use chunk::Chunk;
pub use connect::{ConnectError, DIAL_TIMEOUT};
pub use datagram::{BoundDatagrams, Datagrams};
pub use duplex::{Duplex, is_benign};
pub use io::DuplexIo;
pub use listen::{BoundListener, ListenError, ListenOptions, Listener};
pub use meter::{Meter, Transfer};
pub use original::original_dst;
pub use relay::{RelayError, Side, relay};
pub use sockets::{Keepalive, PodSockets, Transparent};
