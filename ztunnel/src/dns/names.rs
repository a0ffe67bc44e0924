//! What a name means to a pod: the hosts of the mesh, as the pod's namespace
//! sees them (`ztunnel-contract` 8.4). Pure: a view and a name in, addresses out.

use std::net::IpAddr;
use std::sync::Arc;

use ambit_state::{Health, HealthPolicy, IpFamilies, Service, View};

use super::message::Records;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client<'a> {
    /// Its namespace.
    pub(super) namespace: &'a str,
    /// The network that it is on.
    pub(super) network: &'a str,
    /// `CLUSTER_DOMAIN`.
    pub(super) domain: &'a str,
}

/// The family of addresses that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    V4,
    V6,
    /// No address will do: of a family that is switched off.
    Nothing,
}

impl Asked {
    fn takes(self, ip: IpAddr) -> bool {
        match self {
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
            Self::Nothing => false,
        }
    }
}

impl Client<'_> {
    /// The addresses of a host of the mesh; `None` if the name is none of them.
    pub(super) fn resolve(&self, view: &View, name: &str, asked: Asked) -> Option<Records> {
        if let Some((service, _)) = self.host(view, name) {
            return Some(Records {
                alias: None,
                ips: self.addresses(view, &service, asked),
            });
        }
        let (bare, service, exact) = self.without_search(view, name)?;
        Some(Records {
            // What a wildcard covers has the name that was asked for.
            alias: exact.then(|| bare.to_owned()),
            ips: self.addresses(view, &service, asked),
        })
    }

    /// Names that a resolver has put a search domain behind.
    fn without_search<'n>(
        &self,
        view: &View,
        name: &'n str,
    ) -> Option<(&'n str, Arc<Service>, bool)> {
        let (namespace, domain) = (self.namespace, self.domain);
        let search = [
            format!(".{namespace}.svc.{domain}"),
            format!(".svc.{domain}"),
            format!(".{domain}"),
        ];
        search.iter().find_map(|suffix| {
            let bare = name.strip_suffix(suffix.as_str())?;
            let (service, exact) = self.host(view, bare)?;
            Some((bare, service, exact))
        })
    }

    /// The host that a name means, and whether it is that host's own name.
    fn host(&self, view: &View, name: &str) -> Option<(Arc<Service>, bool)> {
        let mut found = self.named(view, name);
        for full in self.expansions(name) {
            found = found.or_else(|| self.named(view, &full));
        }
        found
    }

    /// What is short for a name in the cluster.
    fn expansions(&self, name: &str) -> Vec<String> {
        let (namespace, domain) = (self.namespace, self.domain);
        let in_namespace = || format!("{name}.{namespace}.svc.{domain}");
        let of_namespace = || format!("{name}.svc.{domain}");
        let of_cluster = || format!("{name}.{domain}");
        let is_full = name.ends_with(".svc");
        match name.split('.').count() {
            1 => vec![in_namespace()],
            2 => vec![of_namespace(), in_namespace()],
            3 if is_full => vec![of_cluster()],
            3 => vec![of_namespace()],
            4 if is_full => vec![of_cluster()],
            _ => Vec::new(),
        }
    }

    /// The host of exactly this name, else the closest wildcard.
    fn named(&self, view: &View, name: &str) -> Option<(Arc<Service>, bool)> {
        let host = |host: &str| {
            let found = view.service_named(host, Some(self.namespace))?;
            self.is_answered(found).then(|| Arc::clone(found))
        };
        if let Some(found) = host(name) {
            return Some((found, true));
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = host(&format!("*.{parent}")) {
                return Some((found, false));
            }
            rest = parent;
        }
        None
    }

    /// Hosts without a virtual address are the DNS servers' matter, except the
    /// cluster's own.
    fn is_answered(&self, service: &Service) -> bool {
        let own = || {
            let host = service.key.hostname.strip_suffix(self.domain);
            host.is_some_and(|host| host.ends_with(".svc."))
        };
        !service.vips.is_empty() || own()
    }

    fn addresses(&self, view: &View, service: &Service, asked: Asked) -> Vec<IpAddr> {
        let taken = |ip: &IpAddr| {
            let families = service.ip_families.unwrap_or(IpFamilies::Dual);
            asked.takes(*ip) && families.accepts(*ip)
        };
        if !service.vips.is_empty() {
            let here = service
                .vips
                .iter()
                .filter(|vip| *vip.network == *self.network);
            return here.map(|vip| vip.ip).filter(taken).collect();
        }
        let all = service.load_balancing.health_policy == HealthPolicy::AllowAll;
        let mut ips: Vec<IpAddr> = view
            .endpoints(&service.key)
            .filter(|one| *one.network == *self.network && (all || one.health == Health::Healthy))
            .filter_map(|one| one.ips.iter().copied().find(&taken))
            .collect();
        ips.sort_unstable();
        ips.dedup();
        ips
    }
}

#[cfg(test)]
mod tests;
