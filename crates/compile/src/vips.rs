//! Which objects claim which virtual addresses: the one index that is over outputs, not inputs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ambit_kube::ObjectKey;
use ipnet::IpNet;

/// Claims by address, and addresses by host.
#[derive(Debug, Default)]
pub(crate) struct Vips {
    claims: BTreeMap<IpNet, BTreeSet<(Arc<str>, ObjectKey)>>,
    of_host: HashMap<Arc<str>, Vec<(IpNet, ObjectKey)>>,
}

impl Vips {
    /// Replaces the claims of a host; returns every address that it claimed or claims.
    pub(crate) fn replace(
        &mut self,
        host: &Arc<str>,
        claims: Vec<(IpNet, ObjectKey)>,
    ) -> BTreeSet<IpNet> {
        let mut touched = BTreeSet::new();
        for (net, key) in self.of_host.remove(host).unwrap_or_default() {
            touched.insert(net);
            if let Some(known) = self.claims.get_mut(&net) {
                known.remove(&(Arc::clone(host), key));
                if known.is_empty() {
                    self.claims.remove(&net);
                }
            }
        }
        for (net, key) in &claims {
            touched.insert(*net);
            let known = self.claims.entry(*net).or_default();
            known.insert((Arc::clone(host), key.clone()));
        }
        if !claims.is_empty() {
            self.of_host.insert(Arc::clone(host), claims);
        }
        touched
    }

    /// Hosts and objects that claim an address, in order.
    pub(crate) fn claims(&self, net: &IpNet) -> Vec<&(Arc<str>, ObjectKey)> {
        self.claims.get(net).into_iter().flatten().collect()
    }
}
