//! How a control plane is made: what runs, and in which ranges.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// How a control plane is made.
#[derive(Debug, Clone)]
pub struct ControlPlaneOptions {
    /// Runs controllers and scheduler too. Without them nothing makes pods of
    /// Deployments or endpoints of Services, and namespaces stay when they are
    /// deleted.
    pub controllers: bool,
    /// The network of the nodes; the control plane has its first address.
    pub nodes: Ipv4Net,
    /// Addresses of pods; node N has the Nth /24 of it.
    pub pods: Ipv4Net,
    /// Addresses of services; DNS has the tenth.
    pub services: Ipv4Net,
    /// Further arguments of kube-apiserver.
    pub api_server: Vec<String>,
    /// Port on this machine's loopback that leads to the API server; 0 is any.
    pub port: u16,
}

impl Default for ControlPlaneOptions {
    fn default() -> Self {
        let range = |a, b, length| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), length);
        Self {
            controllers: false,
            nodes: range(172, 20, 24),
            pods: range(10, 244, 16),
            services: range(10, 96, 16),
            api_server: Vec::new(),
            port: 0,
        }
    }
}

impl ControlPlaneOptions {
    /// With controllers and scheduler.
    pub fn whole() -> Self {
        Self {
            controllers: true,
            ..Self::default()
        }
    }

    /// Where the API server is, for nodes.
    pub fn address(&self) -> Ipv4Addr {
        nth(self.nodes, 1)
    }

    /// Where DNS is, for pods.
    pub fn dns(&self) -> Ipv4Addr {
        nth(self.services, 10)
    }
}

/// The nth address of a range.
pub(crate) fn nth(range: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()).wrapping_add(n))
}
