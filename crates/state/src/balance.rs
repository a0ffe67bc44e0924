//! Choosing an endpoint of a service (`ztunnel-contract` 3.5): weighted random
//! by capacity among those that are eligible, per connection.

use std::net::IpAddr;
use std::sync::Arc;

use rand::{Rng, RngExt};

use crate::endpoints::EndpointSet;
use crate::model::{
    Health, HealthPolicy, IpFamilies, LoadBalancingMode, RoutingScope, Service, Workload,
};

/// One connection that wants an endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) source: &'a Workload,
    pub(crate) service: &'a Service,
    /// Port of the service.
    pub(crate) port: u16,
    /// The address that the application dialled.
    pub(crate) dialled: IpAddr,
    /// It is a waypoint's service, which need not list the port if the endpoint
    /// stands behind a tunnel (`ztunnel-contract` 3.5).
    pub(crate) is_waypoint: bool,
}

/// A usable endpoint of a service.
#[derive(Clone, Copy)]
pub(crate) struct Chosen<'a> {
    pub(crate) workload: &'a Arc<Workload>,
    /// Port to use on it.
    pub(crate) port: u16,
}

impl Wanted<'_> {
    /// Chooses among the endpoints; `None` if none of them may be used.
    pub(crate) fn choose<'e>(
        &self,
        endpoints: &'e EndpointSet,
        rng: &mut (impl Rng + ?Sized),
    ) -> Option<Chosen<'e>> {
        let chosen = self
            .sample(endpoints, rng)
            .or_else(|| self.scan(endpoints, rng))?;
        Some(Chosen {
            workload: chosen,
            port: self.target_port(chosen)?,
        })
    }

    /// How many endpoints may be used, for a trace.
    pub(crate) fn eligible(&self, endpoints: &EndpointSet) -> usize {
        endpoints
            .iter()
            .filter(|one| self.rank(one).is_some())
            .count()
    }

    /// Draws endpoints until one is eligible and its capacity is drawn too: the
    /// same distribution as a scan gives, in constant time where most endpoints
    /// are eligible. Ranks need all of them, so FAILOVER always scans.
    fn sample<'e>(
        &self,
        endpoints: &'e EndpointSet,
        rng: &mut (impl Rng + ?Sized),
    ) -> Option<&'e Arc<Workload>> {
        let ranked = self.service.load_balancing.mode == LoadBalancingMode::Failover;
        if ranked || endpoints.len() < FEW || endpoints.max_capacity() == 0 {
            return None;
        }
        (0..DRAWS).find_map(|_| {
            let one = endpoints.at(rng.random_range(0..endpoints.len()))?;
            let drawn = rng.random_range(0..endpoints.max_capacity()) < one.capacity;
            (drawn && self.rank(one).is_some()).then_some(one)
        })
    }

    /// Looks at every endpoint: of those with the highest rank, each one is
    /// kept with the probability of its share so far.
    fn scan<'e>(
        &self,
        endpoints: &'e EndpointSet,
        rng: &mut (impl Rng + ?Sized),
    ) -> Option<&'e Arc<Workload>> {
        let (mut best, mut total, mut chosen) = (0, 0_u64, None);
        for one in endpoints.iter() {
            let Some(rank) = self.rank(one) else {
                continue;
            };
            if rank > best {
                (best, total, chosen) = (rank, 0, None);
            }
            let capacity = u64::from(one.capacity);
            if rank < best || capacity == 0 {
                continue;
            }
            total += capacity;
            if rng.random_range(0..total) < capacity {
                chosen = Some(one);
            }
        }
        chosen
    }

    /// How well an endpoint fits; `None` if it may not be used.
    fn rank(&self, endpoint: &Workload) -> Option<usize> {
        let balancing = &self.service.load_balancing;
        let healthy =
            endpoint.health == Health::Healthy || balancing.health_policy == HealthPolicy::AllowAll;
        if !healthy || self.target_port(endpoint).is_none() || !self.is_reachable(endpoint) {
            return None;
        }
        let scopes = &balancing.routing_preferences;
        match balancing.mode {
            LoadBalancingMode::Standard => Some(0),
            LoadBalancingMode::Strict => scopes
                .iter()
                .all(|scope| shares(*scope, self.source, endpoint))
                .then_some(0),
            LoadBalancingMode::Failover => Some(failover_rank(scopes, self.source, endpoint)),
            LoadBalancingMode::Passthrough => None,
        }
    }

    /// The endpoint's own port, then the service's, then, for an application
    /// behind a tunnel port, the service port itself (`ztunnel-contract` 3.2).
    fn target_port(&self, endpoint: &Workload) -> Option<u16> {
        let of_service = match self.service.ports.target(self.port) {
            Some(target) => target,
            None if self.is_waypoint && endpoint.application_tunnel.is_some() => self.port,
            None => return None,
        };
        let of_endpoint = endpoint
            .ports_in(&self.service.key)
            .and_then(|ports| ports.target(self.port));
        let named = of_endpoint.filter(|port| *port != 0);
        named
            .or((of_service != 0).then_some(of_service))
            .or_else(|| {
                let tunnel = endpoint.application_tunnel?;
                tunnel.port.map(|_| self.port)
            })
    }

    /// Without an address an endpoint must be found by name, or through the
    /// gateway of its network.
    fn is_reachable(&self, endpoint: &Workload) -> bool {
        if endpoint.ips.is_empty() {
            let elsewhere = endpoint.network != self.source.network;
            return !endpoint.hostname.is_empty()
                || (elsewhere && endpoint.network_gateway.is_some());
        }
        endpoint.network != self.source.network
            || pick_ip(endpoint, self.service.ip_families, self.dialled).is_some()
    }
}

/// The address of a workload to use (`ztunnel-contract` 3.2, dual-stack pick).
pub(crate) fn pick_ip(
    workload: &Workload,
    families: Option<IpFamilies>,
    dialled: IpAddr,
) -> Option<IpAddr> {
    if workload.ips.contains(&dialled) {
        return Some(dialled);
    }
    let mut usable = workload
        .ips
        .iter()
        .copied()
        .filter(|ip| families.is_none_or(|families| families.accepts(*ip)));
    let first = usable.clone().next();
    usable
        .find(|ip| ip.is_ipv4() == dialled.is_ipv4())
        .or(first)
}

/// How many leading preferences match. NETWORK in front is special: any
/// endpoint in the network beats any outside, and outside the rest still counts.
fn failover_rank(scopes: &[RoutingScope], source: &Workload, endpoint: &Workload) -> usize {
    let leading = |scopes: &[RoutingScope]| {
        scopes
            .iter()
            .take_while(|scope| shares(**scope, source, endpoint))
            .count()
    };
    match scopes {
        [RoutingScope::Network, rest @ ..] => {
            let in_network = shares(RoutingScope::Network, source, endpoint);
            let bonus = if in_network { 1 + rest.len() } else { 0 };
            bonus + leading(rest)
        }
        _ => leading(scopes),
    }
}

/// Whether two workloads have the same value; empty equals empty.
fn shares(scope: RoutingScope, a: &Workload, b: &Workload) -> bool {
    match scope {
        RoutingScope::Region => a.locality.region == b.locality.region,
        RoutingScope::Zone => a.locality.zone == b.locality.zone,
        RoutingScope::Subzone => a.locality.subzone == b.locality.subzone,
        RoutingScope::Node => a.node == b.node,
        RoutingScope::Cluster => a.cluster_id == b.cluster_id,
        RoutingScope::Network => a.network == b.network,
    }
}

/// Below this many endpoints a scan is as cheap as drawing.
const FEW: usize = 8;
/// Draws before giving up on luck: with one in five endpoints eligible, 3 in
/// 100 connections scan.
const DRAWS: usize = 16;

#[cfg(test)]
mod tests;
