//! What may be chosen about HBONE; the defaults are the contract's.

use std::sync::Arc;
use std::time::Duration;

use ambit_net::DIAL_TIMEOUT;

/// Settings of connections and pools (`ztunnel-contract` 2.6, 2.7).
#[derive(Debug, Clone)]
pub struct HboneConfig {
    /// `HTTP2_STREAM_WINDOW_SIZE`: unread bytes that one stream may hold.
    pub stream_window: u32,
    /// `HTTP2_CONNECTION_WINDOW_SIZE`: unread bytes of all its streams.
    pub connection_window: u32,
    /// `HTTP2_FRAME_SIZE`: largest frame that we accept.
    pub frame_size: u32,
    /// Bytes that one stream may have waiting for the socket. The contract's
    /// client has a stream window of it; more than the socket takes in one go
    /// buys nothing and is memory that a stalled connection holds.
    pub send_buffer: usize,
    /// `POOL_MAX_STREAMS_PER_CONNECTION`; the peer's own limit counts too.
    pub max_streams_per_connection: usize,
    /// `POOL_UNUSED_RELEASE_TIMEOUT`: an idle connection is closed after this.
    pub unused_release: Duration,
    /// Connections that one pool may hold: a bound on what peers can cost us.
    pub max_connections: usize,
    /// Streams that a client may have open with us at once.
    pub accepted_streams: u32,
    /// Trust domains whose workloads are accepted besides our own: aliases of
    /// the mesh.
    pub trust_domains: Arc<[Arc<str>]>,
    /// The TCP part of a dial.
    pub dial_timeout: Duration,
    /// TLS and HTTP/2 preface together, on either side.
    pub handshake_timeout: Duration,
    /// Answer to CONNECT. Longer than the 10 s that the peer's own dial to the
    /// application may take, so that its refusal arrives before we give up.
    pub connect_timeout: Duration,
    /// Between pings, on either side.
    pub ping_interval: Duration,
    /// A ping that isn't answered within this ends the connection.
    pub ping_timeout: Duration,
}

impl Default for HboneConfig {
    fn default() -> Self {
        Self {
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            frame_size: 1 << 20,
            send_buffer: 400 << 10,
            max_streams_per_connection: 100,
            unused_release: Duration::from_secs(300),
            max_connections: 8192,
            accepted_streams: 200,
            trust_domains: Arc::default(),
            dial_timeout: DIAL_TIMEOUT,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(20),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }
}
