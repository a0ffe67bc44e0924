//! Questions that span objects: who owns a host, which policies bind a workload.

use super::{
    Arc, Kind, Labels, ObjectKey, Peer, PeerLevels, ServiceEntry, Store, Visibility, sent_name,
};

/// The object that a host name belongs to, in one namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HostOwner<'a> {
    Service(&'a Arc<str>),
    Entry(&'a Arc<str>, &'a ServiceEntry),
}

impl Store {
    /// The owner of a host in a namespace: the Service, else the oldest ServiceEntry that is sent.
    pub(crate) fn host_owner<'a>(&'a self, namespace: &str, host: &str) -> Option<HostOwner<'a>> {
        let space = self.space(namespace)?;
        let claims = self.hosts.get(host)?.iter();
        let mut oldest: Option<(&Arc<str>, &ServiceEntry)> = None;
        for claim in claims.filter(|claim| *claim.namespace == *namespace) {
            if claim.kind == Kind::Service {
                return Some(HostOwner::Service(&claim.name));
            }
            let Some(entry) = space.entries.get(&claim.name).map(|entry| &entry.object) else {
                continue;
            };
            let older =
                oldest.is_none_or(|(name, best)| (&entry.age, &claim.name) < (&best.age, name));
            if older && self.is_sent(namespace, entry) {
                oldest = Some((&claim.name, entry));
            }
        }
        oldest.map(|(name, entry)| HostOwner::Entry(name, entry))
    }

    /// Who owns a host name, by namespace.
    pub(crate) fn owners<'a>(&'a self, host: &str) -> Vec<(Arc<str>, HostOwner<'a>)> {
        let claims = self.hosts.get(host).into_iter().flatten();
        let mut namespaces: Vec<_> = claims.map(|claim| Arc::clone(&claim.namespace)).collect();
        namespaces.sort();
        namespaces.dedup();
        let owned = namespaces.into_iter().filter_map(|namespace| {
            let owner = self.host_owner(&namespace, host)?;
            Some((namespace, owner))
        });
        owned.collect()
    }

    /// Whether a ServiceEntry of a namespace gives anything at all.
    pub(crate) fn is_sent(&self, namespace: &str, entry: &ServiceEntry) -> bool {
        entry.addresses.is_ok() && self.visibility(namespace) != Visibility::Hidden
    }

    /// Who sees the ServiceEntries of a namespace.
    pub(crate) fn visibility(&self, namespace: &str) -> Visibility {
        let none = Labels::default();
        let known = self
            .spaces
            .get(namespace)
            .and_then(|space| space.namespace.as_ref());
        let labels = known.map_or(&none, |known| &known.object.labels);
        self.mesh.visibility(namespace, labels)
    }

    /// The hosts that a ServiceEntry has kept against others of its namespace.
    pub(crate) fn hosts_of<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        entry: &'a ServiceEntry,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        entry.hosts.iter().filter(move |host| {
            matches!(self.host_owner(namespace, host),
                Some(HostOwner::Entry(owner, _)) if **owner == *name)
        })
    }

    /// The policies that bind a workload with these labels, in the order of the contract (4.5).
    pub(crate) fn policies_for(&self, namespace: &str, labels: &Labels) -> Vec<String> {
        let root = &*self.mesh.root_namespace;
        let other = (root != namespace).then_some(root);
        let mut names = Vec::new();
        for from in std::iter::once(namespace).chain(other) {
            let space = self.space(from).into_iter();
            for (name, _) in space.flat_map(|space| space.policies.selecting(labels)) {
                names.push(format!("{from}/{}", sent_name(name)));
            }
        }
        names.sort();
        let own = self.own_peer(namespace, labels);
        let own = own.map(|(name, peer)| (namespace, &**name, peer));
        names.extend(self.peer_levels(namespace).reference(root, own));
        names
    }

    /// What workloads of a namespace inherit.
    pub(crate) fn peer_levels(&self, namespace: &str) -> PeerLevels {
        let first = |of: &str, wanted: fn(&Peer) -> bool| {
            let peers = self.space(of).into_iter().flat_map(|space| &space.peers);
            let peers = peers.map(|(name, peer)| (peer.object.in_force(), name));
            peers
                .filter(|(peer, _)| wanted(peer))
                .min_by(|(a, a_name), (b, b_name)| (a.rank(), a_name).cmp(&(b.rank(), b_name)))
                .map(|(peer, _)| peer)
        };
        let mesh = first(&self.mesh.root_namespace, Peer::is_mesh_wide);
        let mesh = mesh.is_some_and(|peer| peer.strict(false));
        let own = first(namespace, Peer::is_level);
        PeerLevels {
            strict: own.map_or(mesh, |peer| peer.strict(mesh)),
        }
    }

    /// The PeerAuthentication that selects a workload by label.
    fn own_peer(&self, namespace: &str, labels: &Labels) -> Option<(&Arc<str>, &Peer)> {
        let peers = self.space(namespace)?.peers.selecting(labels);
        let peers = peers.map(|(name, peer)| (name, peer.object.in_force()));
        peers.min_by(|(a_name, a), (b_name, b)| (a.rank(), a_name).cmp(&(b.rank(), b_name)))
    }

    /// Whether there is any PeerAuthentication.
    pub(crate) fn has_peers(&self) -> bool {
        self.discovered().any(|(_, space)| !space.peers.is_empty())
    }

    /// Whether a selector of a namespace picks a pod that runs or will, or a WorkloadEntry.
    pub(crate) fn selects_any(&self, namespace: &str, selector: &Labels) -> bool {
        self.space(namespace).is_some_and(|space| {
            let mut pods = space.pods.selected(selector);
            pods.any(|(_, pod)| !pod.object.terminal)
                || space.workloads.selected(selector).next().is_some()
        })
    }

    /// The key of a namespaced object.
    pub(crate) fn key(kind: Kind, namespace: &Arc<str>, name: &Arc<str>) -> ObjectKey {
        ObjectKey::new(kind, Arc::clone(namespace), Arc::clone(name))
    }
}
