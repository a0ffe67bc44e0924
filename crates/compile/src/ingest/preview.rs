//! An object on trial: taken in, looked at, and taken out again.

use ambit_kube::{Kind, Located, Object, ObjectKey};

use super::Ingest;
use crate::input::{ServiceEntry, WorkloadEntry};
use crate::policy::{Kept, Peer};
use crate::store::{Objects, PolicyEntry};

/// Everything that is kept of one object.
pub(crate) struct Saved {
    object: Option<Located<Object>>,
    good: Option<Located<Object>>,
    entry: Option<Located<ServiceEntry>>,
    workload: Option<Located<WorkloadEntry>>,
    policy: Option<Located<PolicyEntry>>,
    peer: Option<Located<Kept<Peer>>>,
}

impl Ingest<'_> {
    /// Whether objects of a kind can be tried: those that a webhook judges, and on which little else hangs.
    pub(crate) fn tries(kind: Kind) -> bool {
        matches!(
            kind,
            Kind::ServiceEntry
                | Kind::WorkloadEntry
                | Kind::AuthorizationPolicy
                | Kind::PeerAuthentication
                | Kind::RequestAuthentication
                | Kind::VirtualService
                | Kind::DestinationRule
                | Kind::Telemetry
                | Kind::LocalRateLimit
                | Kind::HttpRoute
                | Kind::GrpcRoute
                | Kind::TcpRoute
                | Kind::TlsRoute
                | Kind::BackendTlsPolicy
                | Kind::XBackendTrafficPolicy
        )
    }

    /// What is kept of an object now.
    pub(crate) fn save(&self, key: &ObjectKey) -> Saved {
        let space = self.store.spaces.get(&key.namespace);
        let objects = &self.store.objects;
        Saved {
            object: objects.get(key).cloned(),
            good: objects.good(key).cloned(),
            entry: space.and_then(|space| space.entries.get(&key.name).cloned()),
            workload: space.and_then(|space| space.workloads.get(&key.name).cloned()),
            policy: space.and_then(|space| space.policies.get(&key.name).cloned()),
            peer: space.and_then(|space| space.peers.get(&key.name).cloned()),
        }
    }

    /// Puts back what was saved. What hangs on the object is marked, and is as it was: the marks may be dropped
    /// together with those of taking it in.
    pub(crate) fn restore(&mut self, key: &ObjectKey, saved: Saved) {
        let Saved {
            object,
            good,
            entry,
            workload,
            policy,
            peer,
        } = saved;
        if Objects::keeps(key.kind) {
            self.keep(key, None);
            // First as it was good last, so that this is what is in force.
            for object in good.into_iter().chain(object) {
                self.keep(key, Some(object));
            }
        }
        match key.kind {
            Kind::ServiceEntry => self.service_entry(key, entry),
            Kind::WorkloadEntry => self.workload_entry(key, workload),
            Kind::AuthorizationPolicy => self.policy(key, policy),
            Kind::PeerAuthentication => self.peer(key, peer),
            _ => {}
        }
    }
}
