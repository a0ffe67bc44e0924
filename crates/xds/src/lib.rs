//! Delta ADS, both halves (`ztunnel-contract` 4.1, `control-plane-contract` 6).
//!
//! Owns sessions: who holds what, what is sent next, in which order. It sees a
//! resource only as type, name, version, bytes and a few opaque keys, so that
//! any model can travel over it. It knows nothing of transports (the client
//! takes any gRPC service, the server is one), of TLS or of who may call:
//! those come in as arguments.
//!
//! The state machines ([`Session`] here, `stream` on the server) are sans-I/O;
//! [`run_client`] and [`AdsServer`] are thin shells around them.
//!
//! A resource may have an audience ([`Update::audience`]): it exists for the
//! streams that [`Admission`] says are of it, and for no other.
//!
//! Left out on purpose: state-of-the-world xDS, persistence.
//!
//! ```
//! use ambit_xds::{Batch, Publisher, TypeDelta, Update};
//!
//! // Policies before workloads, and the other way round when they go.
//! let publisher = Publisher::new(["policy", "workload"]);
//! let published = publisher.publish(Batch {
//!     types: vec![TypeDelta {
//!         type_url: "policy".into(),
//!         changed: vec![Update {
//!             name: "shop/deny".into(),
//!             version: "1".into(),
//!             body: b"encoded".as_slice().into(),
//!             ..Update::default()
//!         }],
//!         removed: Vec::new(),
//!     }],
//! });
//! assert_eq!(published.version, 1);
//! assert_eq!(published.touched[0].1, 1);
//! ```

mod client;
mod node;
mod server;

pub use client::{
    ClientConfig, ClientMetrics, Demand, DemandQueue, NoMetrics, ReceivedResource, Rejection,
    Reply, ResourceSink, Session, Termination, TypeMode, TypeSub, demand, run_client,
};
pub use node::Metadata;
pub use server::{
    Admission, Admitted, AdsServer, Batch, ConnectionStatus, NoObserver, NodeInfo, NodeKind,
    Published, Publisher, ServerObserver, TypeDelta, TypeSize, TypeStatus, TypeSync, Update,
};

pub use ambit_proto::discovery::Node;
