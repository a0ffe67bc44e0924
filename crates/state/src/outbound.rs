//! Where a captured outbound connection goes: `ztunnel-contract` 3.2, row by row.

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_types::{SpiffeId, canonical_socket};
use rand::{Rng, RngExt};

use crate::balance::{Chosen, Wanted, pick_ip};
use crate::lookup::Found;
use crate::model::{
    GatewayAddress, GatewayDestination, LoadBalancingMode, Protocol, Service, Workload,
};
use crate::route::{Feature, OutboundRoute, RouteError, Row};
use crate::trace::{RouteStep, RouteTracer};
use crate::view::View;

impl View {
    /// Decides where a connection from `source` to `dst` goes.
    ///
    /// # Errors
    /// Each refusal of the table, by name. What this build can't do is refused
    /// too; it never takes another way.
    pub fn route_outbound(
        &self,
        source: &Workload,
        dst: SocketAddr,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<OutboundRoute, RouteError> {
        self.route_outbound_with(source, dst, rng, &mut ())
    }

    /// [`View::route_outbound`], telling each step to `tracer`.
    ///
    /// # Errors
    /// As without it.
    pub fn route_outbound_with<T: RouteTracer>(
        &self,
        source: &Workload,
        dst: SocketAddr,
        rng: &mut (impl Rng + ?Sized),
        tracer: &mut T,
    ) -> Result<OutboundRoute, RouteError> {
        let dst = canonical_socket(dst);
        if dst.ip().is_loopback() && self.config.is_illegal(dst.port()) {
            tracer.step(RouteStep::Decided(Row::RecursiveCall));
            return Err(RouteError::Recursive(dst));
        }
        // Load balancing asks for a service first; "what is this address" asks
        // for a workload first, and only decides where both exist (12.A 1).
        let network = &self.config.network;
        let client = Some(&*source.namespace);
        let service = self.service_at(network, dst.ip(), client);
        if let Some(service) = service {
            tracer.step(RouteStep::Found(Some(Found::Service(service))));
            return self.to_service(source, service, dst, rng, tracer);
        }
        let workload = self.workload_at(network, dst.ip());
        tracer.step(RouteStep::Found(workload.map(Found::Workload)));
        match workload {
            Some(workload) => self.to_workload(source, workload, dst, rng, tracer),
            None => {
                let row = Row::UnknownDestination;
                tracer.step(RouteStep::Decided(row));
                Ok(OutboundRoute::Passthrough { dst, row })
            }
        }
    }

    /// Rows 3 to 5: the destination is a service's virtual address. One that
    /// has a waypoint is never reached round it (design D4), not even where
    /// the address is a workload's too.
    fn to_service<T: RouteTracer>(
        &self,
        source: &Workload,
        service: &Arc<Service>,
        dst: SocketAddr,
        rng: &mut (impl Rng + ?Sized),
        tracer: &mut T,
    ) -> Result<OutboundRoute, RouteError> {
        if let Some(waypoint) = sample_waypoint(service, rng) {
            let via = Via {
                row: Row::ServiceWaypoint,
                waypoint,
                service: Some(service),
            };
            return self.to_waypoint(source, via, dst, rng, tracer);
        }
        if service.load_balancing.mode == LoadBalancingMode::Passthrough {
            let row = Row::ServicePassthrough;
            tracer.step(RouteStep::Decided(row));
            return Ok(OutboundRoute::Passthrough { dst, row });
        }
        let wanted = Wanted {
            source,
            service,
            port: dst.port(),
            dialled: dst.ip(),
            is_waypoint: false,
        };
        let endpoints = self.endpoints.get(&service.key);
        if T::ENABLED {
            tracer.step(RouteStep::Endpoints {
                known: endpoints.map_or(0, |set| set.len()),
                eligible: endpoints.map_or(0, |set| wanted.eligible(set)),
            });
        }
        let Some(chosen) = endpoints.and_then(|set| wanted.choose(set, rng)) else {
            tracer.step(RouteStep::Decided(Row::NoEndpoint));
            return Err(RouteError::NoHealthyUpstream(dst));
        };
        tracer.step(RouteStep::Chosen(chosen.workload));
        self.dial(source, chosen, Some(service), dst, tracer)
    }

    /// Row 8: the destination is a workload's own address.
    fn to_workload<T: RouteTracer>(
        &self,
        source: &Workload,
        workload: &Arc<Workload>,
        dst: SocketAddr,
        rng: &mut (impl Rng + ?Sized),
        tracer: &mut T,
    ) -> Result<OutboundRoute, RouteError> {
        if workload.network == source.network
            && let Some(waypoint) = &workload.waypoint
            && !self.is_one_of(source, waypoint)
        {
            let via = Via {
                row: Row::WorkloadWaypoint,
                waypoint,
                service: None,
            };
            return self.to_waypoint(source, via, dst, rng, tracer);
        }
        let chosen = Chosen {
            workload,
            port: dst.port(),
        };
        self.dial(source, chosen, None, dst, tracer)
    }

    /// Rows 7, 9 and 10: the next hop is a workload.
    fn dial<T: RouteTracer>(
        &self,
        source: &Workload,
        chosen: Chosen<'_>,
        service: Option<&Arc<Service>>,
        dst: SocketAddr,
        tracer: &mut T,
    ) -> Result<OutboundRoute, RouteError> {
        let workload = chosen.workload;
        if workload.network != source.network {
            tracer.step(RouteStep::Decided(Row::OtherNetwork));
            return Err(other_network(workload));
        }
        let families = service.and_then(|service| service.ip_families);
        let Some(ip) = pick_ip(workload, families, dst.ip()) else {
            tracer.step(RouteStep::Decided(Row::NoEndpoint));
            return Err(RouteError::Unsupported {
                feature: Feature::ResolvedWorkloads,
                needed_by: Arc::clone(&workload.uid.0),
            });
        };
        let target = SocketAddr::new(ip, chosen.port);
        let service = service.cloned();
        Ok(match workload.protocol {
            Protocol::Hbone => {
                tracer.step(RouteStep::Decided(Row::Hbone));
                OutboundRoute::Hbone {
                    row: Row::Hbone,
                    dial: SocketAddr::new(ip, self.config.hbone_port),
                    authority: target.to_string(),
                    expected: expected(workload, service.as_deref()),
                    workload: Arc::clone(workload),
                    service,
                }
            }
            Protocol::Tcp => {
                tracer.step(RouteStep::Decided(Row::Tcp));
                OutboundRoute::Tcp {
                    dst: target,
                    workload: Arc::clone(workload),
                    service,
                }
            }
        })
    }

    /// Rows 3 and 8: the next hop is a waypoint, whatever it says of itself. One
    /// that can't be found or has no usable endpoint is refused by name; there
    /// is no way round it.
    fn to_waypoint<T: RouteTracer>(
        &self,
        source: &Workload,
        via: Via<'_>,
        dst: SocketAddr,
        rng: &mut (impl Rng + ?Sized),
        tracer: &mut T,
    ) -> Result<OutboundRoute, RouteError> {
        tracer.step(RouteStep::Decided(via.row));
        let unknown = || RouteError::UnknownWaypoint(via.waypoint.to_string().into());
        // Named by address, it is reached by that address's family, else by
        // the caller's.
        let dialled = match &via.waypoint.destination {
            GatewayDestination::Address(address) => address.ip.to_canonical(),
            GatewayDestination::Hostname(_) => dst.ip(),
        };
        let port = via.waypoint.hbone_mtls_port;
        let (chosen, its_service) = match self.gateway(via.waypoint).ok_or_else(unknown)? {
            Found::Workload(workload) => (Chosen { workload, port }, None),
            Found::Service(service) => {
                let wanted = Wanted {
                    source,
                    service,
                    port,
                    dialled,
                    is_waypoint: true,
                };
                let endpoints = self.endpoints.get(&service.key).ok_or_else(unknown)?;
                let chosen = wanted.choose(endpoints, rng).ok_or_else(unknown)?;
                (chosen, Some(service))
            }
        };
        let Chosen { workload, port } = chosen;
        tracer.step(RouteStep::Chosen(workload));
        if workload.network != source.network {
            return Err(other_network(workload));
        }
        let families = its_service.and_then(|service| service.ip_families);
        let ip = pick_ip(workload, families, dialled).ok_or_else(unknown)?;
        Ok(OutboundRoute::Hbone {
            row: via.row,
            dial: SocketAddr::new(ip, port),
            authority: dst.to_string(),
            expected: expected(workload, its_service.map(AsRef::as_ref)),
            workload: Arc::clone(workload),
            service: via.service.cloned(),
        })
    }

    /// True if a workload is one of a waypoint's own: identity and address
    /// must both match (`ztunnel-contract` 12.A 2).
    fn is_one_of(&self, source: &Workload, waypoint: &GatewayAddress) -> bool {
        self.gateway_workloads(waypoint).any(|one| {
            one.identity().is_some()
                && one.identity() == source.identity()
                && one.ips.iter().any(|ip| source.ips.contains(ip))
        })
    }

    /// The workloads that a waypoint's or gateway's address leads to.
    pub(crate) fn gateway_workloads(
        &self,
        gateway: &GatewayAddress,
    ) -> impl Iterator<Item = &Arc<Workload>> {
        let (one, service) = match self.gateway(gateway) {
            Some(Found::Workload(workload)) => (Some(workload), None),
            Some(Found::Service(service)) => (None, Some(service)),
            None => (None, None),
        };
        let endpoints = service.map(|service| self.endpoints(&service.key));
        one.into_iter().chain(endpoints.into_iter().flatten())
    }
}

/// A waypoint on the way, by which row, and the service that is behind it.
#[derive(Clone, Copy)]
struct Via<'v> {
    row: Row,
    waypoint: &'v GatewayAddress,
    service: Option<&'v Arc<Service>>,
}

/// The waypoint for this connection: one of the weighted ones by weight, or
/// the single one if there are none or all weigh nothing (row 3).
fn sample_waypoint<'s>(
    service: &'s Service,
    rng: &mut (impl Rng + ?Sized),
) -> Option<&'s GatewayAddress> {
    let weighted = &service.weighted_waypoints;
    let total: u64 = weighted.iter().map(|one| u64::from(one.weight)).sum();
    if total == 0 {
        return service.waypoint.as_ref();
    }
    let mut left = rng.random_range(0..total);
    let drawn = weighted.iter().find(|one| {
        let weight = u64::from(one.weight);
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    });
    drawn.map(|one| &one.destination)
}

fn other_network(workload: &Workload) -> RouteError {
    if workload.network_gateway.is_none() {
        return RouteError::NoGateway {
            workload: Arc::clone(&workload.uid.0),
            network: Arc::clone(&workload.network),
        };
    }
    RouteError::Unsupported {
        feature: Feature::OtherNetworks,
        needed_by: Arc::clone(&workload.uid.0),
    }
}

/// What the next hop must prove (`ztunnel-contract` 2.2): through a service one
/// of the service's identities or its own, by address its own.
fn expected(workload: &Workload, service: Option<&Service>) -> Arc<[SpiffeId]> {
    match service {
        Some(service) if !service.identities.is_empty() => {
            let own = workload.identity();
            service.identities.iter().chain(own).cloned().collect()
        }
        _ => Arc::clone(&workload.expected),
    }
}
