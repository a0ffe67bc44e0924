//! What the mesh wants of this waypoint: one immutable snapshot, shared by all
//! data threads, replaced whole and built from what changed.
//!
//! Owns the lookups that a data path needs: a frontend by address, its port's
//! routes and policies, a backend's clusters. `store` makes snapshots of the
//! resources that arrive; their meaning is in `route`, `policy`, `upstream`,
//! `jwt`.

mod before;
mod frontend;
mod gateway;
mod service;
mod store;

use std::net::IpAddr;
use std::sync::Arc;

use rpds::HashTrieMapSync;

pub(crate) use before::Before;
pub(crate) use frontend::{Frontend, Pod, Port, Upstream, block};
pub(crate) use gateway::{Gateway, HeaderLists, Limits, Provider, ProviderKind, ServerHeader};
pub(crate) use service::{Missing, Service, Target};
pub(crate) use store::Store;

/// `namespace/hostname`.
pub(crate) type Key = Arc<str>;

/// A snapshot.
#[derive(Clone, Default)]
pub(crate) struct Config {
    /// Counts snapshots.
    pub(crate) version: u64,
    pub(crate) gateway: Arc<Gateway>,
    frontends: HashTrieMapSync<Key, Arc<Frontend>>,
    vips: HashTrieMapSync<IpAddr, Arc<Frontend>>,
    /// CIDRs of ServiceEntries, the longest first.
    blocks: Arc<[Block]>,
    pods: HashTrieMapSync<IpAddr, Arc<Pod>>,
    services: HashTrieMapSync<Key, Arc<Service>>,
    /// What was in force before something was taken away.
    pub(crate) before: Before,
}

/// Addresses of a frontend.
#[derive(Clone)]
pub(crate) struct Block {
    net: ipnet::IpNet,
    frontend: Arc<Frontend>,
}

impl Config {
    /// The frontend that has this address.
    pub(crate) fn frontend_at(&self, ip: IpAddr) -> Option<&Arc<Frontend>> {
        self.vips.get(&ip).or_else(|| {
            let block = self.blocks.iter().find(|block| block.net.contains(&ip))?;
            Some(&block.frontend)
        })
    }

    /// A frontend by its key.
    pub(crate) fn frontend(&self, key: &str) -> Option<&Arc<Frontend>> {
        self.frontends.get(key)
    }

    /// The workload that has this address.
    pub(crate) fn pod_at(&self, ip: IpAddr) -> Option<&Arc<Pod>> {
        self.pods.get(&ip)
    }

    /// A backend by its key.
    pub(crate) fn service(&self, key: &str) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// All frontends, in no order.
    pub(crate) fn frontends(&self) -> impl Iterator<Item = &Arc<Frontend>> {
        self.frontends.values()
    }

    /// All backends, in no order.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}

/// An address of 4 or 16 bytes.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::from(v6).to_canonical())
}
