//! What the view must know about the node it is for.

use std::sync::Arc;

use ambit_types::wire;

/// Settings of the view; they don't change while the program runs.
#[derive(Debug, Clone)]
pub struct StateConfig {
    /// This node's network.
    pub network: Arc<str>,
    /// This node's name; without one every workload counts as local.
    pub local_node: Option<Arc<str>>,
    /// What to do about a policy that a workload lists and that isn't known.
    pub unknown_policy: UnknownPolicy,
    /// Ports of the proxy itself: connections to them would come back.
    pub illegal_ports: Vec<u16>,
    /// The port on which workloads take HBONE.
    pub hbone_port: u16,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            network: "".into(),
            local_node: None,
            unknown_policy: UnknownPolicy::default(),
            // `ztunnel-contract` 1.2; SOCKS5 adds its own while it is on.
            illegal_ports: vec![
                wire::OUTBOUND_PORT,
                wire::INBOUND_PASSTHROUGH_PORT,
                wire::HBONE_PORT,
            ],
            hbone_port: wire::HBONE_PORT,
        }
    }
}

impl StateConfig {
    /// True if a connection to this port would come back to the proxy.
    pub(crate) fn is_illegal(&self, port: u16) -> bool {
        self.illegal_ports.contains(&port)
    }
}

/// What an unknown listed policy does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum UnknownPolicy {
    /// It denies: nobody knows what it would have said.
    #[default]
    Deny,
    /// It is skipped, as upstream does.
    Skip,
}
