//! The nouns of the mesh: identities, addresses, names, and why a flow ended.
//!
//! No async, no I/O, no protobuf: every other crate may depend on this one.

mod addr;
mod flow;
mod identity;
mod name;
mod workload;

pub use addr::{Locality, NetworkAddr, canonical_ip, canonical_socket};
pub use flow::{Direction, Fault, FlowReason, ResponseFlag};
pub use identity::{DEFAULT_TRUST_DOMAIN, InvalidSpiffeId, SpiffeId};
pub use name::{InvalidName, NamespacedHostname, NamespacedName, WorkloadUid};
pub use workload::WorkloadType;

/// Ports, header names and ALPN strings of the contract, in one place.
pub mod wire {
    /// Captured egress, in each pod's namespace (`ztunnel-contract` 1.1).
    pub const OUTBOUND_PORT: u16 = 15001;
    /// Captured plaintext ingress, in each pod's namespace.
    pub const INBOUND_PASSTHROUGH_PORT: u16 = 15006;
    /// HBONE, in each pod's namespace.
    pub const HBONE_PORT: u16 = 15008;
    /// Captured DNS, in each pod's namespace.
    pub const DNS_PORT: u16 = 15053;
    /// SOCKS5, in each pod's namespace; off by default.
    pub const SOCKS5_PORT: u16 = 15080;
    /// Admin server of the node proxy, loopback.
    pub const ADMIN_PORT: u16 = 15000;
    /// Metrics of the node proxy.
    pub const STATS_PORT: u16 = 15020;
    /// Readiness of the node proxy.
    pub const READINESS_PORT: u16 = 15021;
    /// xDS and certificates of the control plane, TLS.
    pub const CONTROL_PLANE_PORT: u16 = 15012;
    /// ALPN of HBONE and of gRPC.
    pub const ALPN_H2: &[u8] = b"h2";
    /// Source workload metadata on CONNECT (`ztunnel-contract` 2.4).
    pub const BAGGAGE: &str = "baggage";
    /// RFC 7239, on CONNECT (`ztunnel-contract` 2.3).
    pub const FORWARDED: &str = "forwarded";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// Network of the original client, on the inner tunnel of double HBONE.
    pub const X_FORWARDED_NETWORK: &str = "x-forwarded-network";
    /// `SO_MARK` of every socket that the proxy opens in a pod's namespace.
    pub const PROXY_MARK: u32 = 0x539;
    /// Connection mark of flows that the proxy opened towards the application.
    pub const RETURN_MARK: u32 = 0x111;
    /// Mask of both marks.
    pub const MARK_MASK: u32 = 0xfff;
}
