//! Who is on the other end of a stream, and whether it may be.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prost_types::Struct;
use tonic::{Extensions, Status};

use ambit_proto::discovery::Node;

use super::audience::Admitted;
use crate::node::string_field;

/// What a node says of itself in its first request.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// The whole id.
    pub id: Arc<str>,
    /// First part of the id.
    pub kind: NodeKind,
    /// Third part of the id, `pod.namespace`.
    pub workload: String,
    metadata: Option<Struct>,
}

/// What kind of proxy a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A node proxy of the ambient mesh.
    Ztunnel,
    /// An HTTP proxy of the ambient mesh.
    Waypoint,
    /// An Envoy beside its application.
    Sidecar,
    /// A gateway.
    Router,
    /// agentgateway as a waypoint or gateway.
    AgentGateway,
}

impl NodeInfo {
    /// Checks a node (`control-plane-contract` 6.3).
    pub(super) fn parse(node: Option<Node>) -> Result<Self, Status> {
        let node = node.ok_or_else(|| invalid("the first request names no node"))?;
        let parts: Vec<&str> = node.id.split('~').collect();
        let [kind, ip, workload, _domain] = parts.as_slice() else {
            return Err(invalid("a node id has four parts: TYPE~IP~NAME~DOMAIN"));
        };
        let kind = NodeKind::parse(kind).ok_or_else(|| invalid("unknown node type"))?;
        let more = string_field(node.metadata.as_ref(), "INSTANCE_IPS").unwrap_or_default();
        let is_ip = |text: &str| text.trim().parse::<IpAddr>().is_ok();
        if !is_ip(ip) && !more.split(',').any(is_ip) {
            return Err(invalid("no valid IP address in the node id"));
        }
        Ok(Self {
            kind,
            workload: (*workload).to_owned(),
            id: node.id.as_str().into(),
            metadata: node.metadata,
        })
    }

    /// A string of the metadata.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        string_field(self.metadata.as_ref(), name)
    }
}

impl NodeKind {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "ztunnel" => Some(Self::Ztunnel),
            "waypoint" => Some(Self::Waypoint),
            "sidecar" => Some(Self::Sidecar),
            "router" => Some(Self::Router),
            "agentgateway" => Some(Self::AgentGateway),
            _ => None,
        }
    }
}

fn invalid(why: &str) -> Status {
    Status::invalid_argument(why)
}

/// Decides who may open a stream.
pub trait Admission: Send + Sync + 'static {
    /// `call` holds what earlier layers learnt of the caller. What the stream
    /// may see is decided here, once, from what the caller proved and not from
    /// what the node says of itself.
    ///
    /// # Errors
    /// The status that ends the stream.
    fn admit(&self, call: &Extensions, node: &NodeInfo) -> Result<Admitted, Status>;
}

/// What the server counts. Every method has an empty default.
pub trait ServerObserver: Send + Sync + 'static {
    /// A stream was admitted.
    fn opened(&self, _node: &NodeInfo) {}
    /// An admitted stream ended.
    fn closed(&self, _node: &NodeInfo) {}
    /// A response was handed to the transport.
    fn pushed(&self, _type_url: &str, _resources: usize, _bytes: usize) {}
    /// A client rejected something: the name of the first resource of them, as
    /// far as it says so.
    fn rejected(&self, _node: &NodeInfo, _type_url: &str, _resource: &str) {}
    /// An answer to something that isn't the last response.
    fn stale_nonce(&self, _type_url: &str) {}
    /// A client has taken everything of a publication, that long after it.
    fn converged(&self, _after: Duration) {}
    /// A client didn't read for too long.
    fn write_timeout(&self) {}
    /// A client was too far behind and was sent away to start over.
    fn fell_behind(&self) {}
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl ServerObserver for NoObserver {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metadata;

    #[test]
    fn a_node_has_four_parts_a_known_type_and_an_address() {
        let cases = [
            ("ztunnel~10.0.0.1~zt.istio-system~x", "", true),
            ("ztunnel~~zt.istio-system~x", "nonsense, fd00::1", true),
            ("ztunnel~~zt.istio-system~x", "", false),
            ("ztunnel~10.0.0.1~zt", "", false),
            ("toaster~10.0.0.1~zt.istio-system~x", "", false),
            ("", "", false),
        ];
        for (id, ips, good) in cases {
            let metadata = Metadata::new().string("INSTANCE_IPS", ips).into_struct();
            let node = Node {
                id: id.into(),
                metadata: Some(metadata),
                ..Node::default()
            };
            assert_eq!(NodeInfo::parse(Some(node)).is_ok(), good, "{id} {ips}");
        }
        assert!(NodeInfo::parse(None).is_err());
    }
}
