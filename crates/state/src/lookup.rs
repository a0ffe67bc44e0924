//! What an address, a name or a reference stands for (`ztunnel-contract` 3.1).

use std::net::IpAddr;
use std::sync::Arc;

use ambit_types::{NamespacedHostname, NamespacedName, SpiffeId};

use crate::endpoints::EndpointSet;
use crate::model::{GatewayAddress, GatewayDestination, Protocol, Service, Workload};
use crate::network::pick;
use crate::view::View;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'v> {
    /// A workload.
    Workload(&'v Arc<Workload>),
    /// A service.
    Service(&'v Arc<Service>),
}

impl View {
    /// The workload with this uid.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workload at an address. Workloads on their node's address aren't
    /// found; of several, pods come first, then those that take HBONE, then
    /// the newest.
    pub fn workload_at(&self, network: &str, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.networks
            .get(network)
            .and_then(|index| index.workload(ip.to_canonical()))
    }

    /// The service with this key.
    pub fn service(&self, key: &NamespacedHostname) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The service at a virtual address, as a client of this namespace sees
    /// it; without a namespace, as one who sees all.
    pub fn service_at(
        &self,
        network: &str,
        ip: IpAddr,
        client: Option<&str>,
    ) -> Option<&Arc<Service>> {
        self.networks
            .get(network)
            .and_then(|index| index.service(ip.to_canonical(), client))
    }

    /// What an address *is*: a workload first, then a service.
    pub fn at(&self, network: &str, ip: IpAddr, client: Option<&str>) -> Option<Found<'_>> {
        let workload = self.workload_at(network, ip).map(Found::Workload);
        workload.or_else(|| self.service_at(network, ip, client).map(Found::Service))
    }

    /// The service that a client of this namespace means by a hostname.
    pub fn service_named(&self, hostname: &str, client: Option<&str>) -> Option<&Arc<Service>> {
        self.service_hosts
            .get(hostname)
            .and_then(|few| pick(few, client))
    }

    /// What a namespaced hostname stands for: a service first, then a workload.
    pub fn named(&self, key: &NamespacedHostname) -> Option<Found<'_>> {
        let service = self.services.get(key).map(Found::Service);
        service.or_else(|| {
            let few = self.workload_hosts.get(key)?;
            few.first().map(Found::Workload)
        })
    }

    /// What a waypoint's or gateway's address refers to.
    pub fn gateway(&self, gateway: &GatewayAddress) -> Option<Found<'_>> {
        match &gateway.destination {
            GatewayDestination::Hostname(key) => self.named(key),
            GatewayDestination::Address(addr) => self.at(&addr.network, addr.ip, None),
        }
    }

    /// The endpoints of a service, healthy or not, in no order.
    pub fn endpoints(&self, key: &NamespacedHostname) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints
            .get(key)
            .into_iter()
            .flat_map(EndpointSet::iter)
    }

    /// The workload of a pod on this node, as the node agent names it; never
    /// by address.
    pub fn local_workload(
        &self,
        name: &str,
        namespace: &str,
        service_account: &str,
    ) -> Option<&Arc<Workload>> {
        let few = self.locals.get(&NamespacedName::new(namespace, name))?;
        few.iter()
            .find(|one| *one.service_account == *service_account)
    }

    /// The workloads of this node, in no order.
    pub fn local_workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.locals.values().flatten()
    }

    /// The identities whose certificates this node needs (`ztunnel-contract` 5.2).
    pub fn local_identities(&self) -> std::collections::BTreeSet<SpiffeId> {
        self.local_workloads()
            .filter(|one| one.protocol == Protocol::Hbone || one.native_tunnel)
            .filter_map(|one| one.identity().cloned())
            .collect()
    }

    /// Stands in for a pod whose configuration hasn't arrived, so that it can
    /// dial out: made from a workload of the same identity on this node, since
    /// only then is its trust domain known. It has no address, no service and
    /// no policy; nothing inbound may be decided with it.
    pub fn stand_in(
        &self,
        name: &str,
        namespace: &str,
        service_account: &str,
    ) -> Option<Arc<Workload>> {
        let alike = self
            .local_workloads()
            .find(|one| *one.namespace == *namespace && *one.service_account == *service_account)?;
        Some(Arc::new(Workload {
            uid: format!("{}//Pod/{namespace}/{name}", alike.cluster_id).into(),
            name: name.into(),
            ips: Vec::new(),
            services: Vec::new(),
            waypoint: None,
            authorization_policies: Vec::new(),
            application_tunnel: None,
            network_gateway: None,
            hostname: "".into(),
            ..Workload::clone(alike)
        }))
    }
}
