//! The two ends of the view: one writer that publishes snapshots, many
//! readers that never wait for it.

use std::sync::Arc;
use std::time::Duration;

use ambit_policy::{Authorization, Scope};
use ambit_proto::security as policy_pb;
use ambit_proto::workload as pb;
use ambit_types::{NamespacedHostname, NamespacedName};
use arc_swap::ArcSwap;
use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::config::StateConfig;
use crate::decode::{DecodeError, Decoder};
use crate::intern::Interner;
use crate::model::{Service, Workload};
use crate::policies::Poison;
use crate::static_config::StaticConfig;
use crate::view::{Versions, View};

/// A resource that wasn't taken: its name, and why. What was known under that
/// name before stays.
pub type Rejected = (String, String);

/// An empty view and both ends of it.
pub fn new(config: StateConfig) -> (StateWriter, StateReader) {
    let view = View::new(Arc::new(config));
    let current = Arc::new(ArcSwap::from_pointee(view.clone()));
    let (versions, changed) = watch::channel(Versions::default());
    let writer = StateWriter {
        view,
        interner: Interner::default(),
        current: Arc::clone(&current),
        versions,
    };
    (writer, StateReader { current, changed })
}

/// Changes the view. Every call converts its whole input first, then
/// publishes one new snapshot.
pub struct StateWriter {
    view: View,
    interner: Interner,
    current: Arc<ArcSwap<View>>,
    versions: watch::Sender<Versions>,
}

/// Reads the view.
#[derive(Clone)]
pub struct StateReader {
    current: Arc<ArcSwap<View>>,
    changed: watch::Receiver<Versions>,
}

impl StateReader {
    /// The view as it is now; it never changes.
    pub fn view(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// Tells of new views, after they can be read.
    pub fn changed(&self) -> watch::Receiver<Versions> {
        self.changed.clone()
    }

    /// Waits until the configuration of a local pod is here, at most until
    /// `deadline` from now. The pod is named as the node agent names it.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn wait_local_workload(
        &self,
        name: &str,
        namespace: &str,
        service_account: &str,
        deadline: Duration,
    ) -> Option<Arc<Workload>> {
        let mut changed = self.changed();
        let deadline = Instant::now() + deadline;
        loop {
            changed.mark_unchanged();
            let view = self.view();
            if let Some(workload) = view.local_workload(name, namespace, service_account) {
                return Some(Arc::clone(workload));
            }
            match timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                // Too late, or nobody will ever write again.
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }
}

/// What one address resource says, once it is read.
enum Address {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
}

impl StateWriter {
    /// Takes workloads and services by resource name, after taking away the
    /// removed ones.
    pub fn apply_addresses(
        &mut self,
        changed: Vec<(String, pb::Address)>,
        removed: &[String],
    ) -> Vec<Rejected> {
        let changed = changed.into_iter().map(|(name, wire)| (name, Ok(wire)));
        self.apply_read_addresses(changed, removed)
    }

    /// [`StateWriter::apply_addresses`] for resources as they were received.
    pub fn apply_addresses_encoded(
        &mut self,
        changed: Vec<(String, Bytes)>,
        removed: &[String],
    ) -> Vec<Rejected> {
        let decode = |(name, body): (String, Bytes)| (name, pb::Address::decode(body));
        self.apply_read_addresses(changed.into_iter().map(decode), removed)
    }

    fn apply_read_addresses(
        &mut self,
        changed: impl Iterator<Item = (String, Result<pb::Address, prost::DecodeError>)>,
        removed: &[String],
    ) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let mut accepted = Vec::with_capacity(changed.size_hint().0);
        for (name, wire) in changed {
            let read = wire.map_err(DecodeError::Malformed);
            match read.and_then(|wire| self.read_address(wire)) {
                Ok(address) => accepted.push(address),
                Err(error) => rejected.push((name, error.to_string())),
            }
        }
        let mut any = !accepted.is_empty();
        for name in removed {
            any |= self.remove_address(name);
        }
        for address in accepted {
            match address {
                Address::Workload(workload) => self.view.insert_workload(workload),
                Address::Service(service) => self.view.insert_service(service),
            }
        }
        if any {
            self.view.versions.addresses += 1;
            self.publish();
        }
        rejected
    }

    fn read_address(&mut self, wire: pb::Address) -> Result<Address, DecodeError> {
        let mut decoder = Decoder {
            interner: &mut self.interner,
        };
        Ok(match wire.r#type.ok_or(DecodeError::Empty)? {
            pb::address::Type::Workload(wire) => {
                Address::Workload(Arc::new(decoder.workload(wire)?))
            }
            pb::address::Type::Service(wire) => Address::Service(Arc::new(decoder.service(wire)?)),
        })
    }

    /// A name is a workload's uid, or else a service's `namespace/hostname`.
    /// Uids contain slashes too, so a name with more of them than a service's
    /// is only a uid that wasn't known (`ztunnel-contract` 4.1, 12.A 26).
    fn remove_address(&mut self, name: &str) -> bool {
        if self.view.remove_workload(name) {
            return true;
        }
        name.parse::<NamespacedHostname>()
            .is_ok_and(|key| self.view.remove_service(&key))
    }

    /// Takes policies by resource name, after taking away the removed ones. A
    /// policy that can't be read is rejected and keeps its last good form; one
    /// that never had a good form denies whatever it would bind.
    pub fn apply_authorizations(
        &mut self,
        changed: Vec<(String, policy_pb::Authorization)>,
        removed: &[String],
    ) -> Vec<Rejected> {
        let changed = changed.into_iter().map(|(name, wire)| (name, Ok(wire)));
        self.apply_read_authorizations(changed, removed)
    }

    /// [`StateWriter::apply_authorizations`] for resources as they were received.
    pub fn apply_authorizations_encoded(
        &mut self,
        changed: Vec<(String, Bytes)>,
        removed: &[String],
    ) -> Vec<Rejected> {
        let decode = |(name, body): (String, Bytes)| (name, policy_pb::Authorization::decode(body));
        self.apply_read_authorizations(changed.into_iter().map(decode), removed)
    }

    fn apply_read_authorizations(
        &mut self,
        changed: impl Iterator<Item = (String, Result<policy_pb::Authorization, prost::DecodeError>)>,
        removed: &[String],
    ) -> Vec<Rejected> {
        let changed: Vec<_> = changed
            .map(|(name, wire)| (read_policy(&name, wire), name))
            .collect();
        let mut any = !changed.is_empty();
        for name in removed {
            let key = name.parse::<NamespacedName>();
            any |= key.is_ok_and(|key| self.view.policies.remove(&key));
        }
        let mut rejected = Vec::new();
        for (read, name) in changed {
            match read {
                Ok(policy) => self.view.policies.insert_good(policy),
                Err(poison) => {
                    rejected.push((name.clone(), poison.reason.to_string()));
                    match name.parse::<NamespacedName>() {
                        Ok(key) => self.view.policies.insert_unreadable(key, poison),
                        // It names no namespace that it could be about.
                        Err(_) => debug!(%name, "rejected a policy that has no namespace"),
                    }
                }
            }
        }
        if any {
            self.view.versions.policies += 1;
            self.publish();
        }
        rejected
    }

    /// Replaces everything by the content of a static file.
    pub fn load_static(&mut self, config: StaticConfig) {
        let mut view = View::new(Arc::clone(&self.view.config));
        view.versions = Versions {
            addresses: self.view.versions.addresses + 1,
            policies: self.view.versions.policies + 1,
        };
        for service in config.services() {
            view.insert_service(Arc::clone(service));
        }
        for workload in config.workloads() {
            view.insert_workload(Arc::clone(workload));
        }
        for policy in config.policies() {
            view.policies.insert_good(policy.clone());
        }
        view.static_config = Some(Arc::new(config));
        self.view = view;
        self.publish();
    }

    /// Readers see the new view before they are told of it.
    fn publish(&self) {
        self.current.store(Arc::new(self.view.clone()));
        self.versions.send_replace(self.view.versions);
    }
}

/// Reads a policy; what can't be read leaves what is needed to deny in its place.
fn read_policy(
    name: &str,
    wire: Result<policy_pb::Authorization, prost::DecodeError>,
) -> Result<Authorization, Poison> {
    let wire = wire.map_err(|error| Poison {
        scope: None,
        dry_run: false,
        reason: error.to_string().into(),
    })?;
    let (scope, dry_run) = (Scope::from_wire(wire.scope).ok(), wire.dry_run);
    let poison = |reason: String| Poison {
        scope,
        dry_run,
        reason: reason.into(),
    };
    let policy = Authorization::try_from(wire).map_err(|error| poison(error.to_string()))?;
    // Workloads list policies by this name (`ztunnel-contract` 12.A 36).
    if policy.key.to_string() != name {
        return Err(poison(format!(
            "the resource is named {name:?}, its policy {}",
            policy.key
        )));
    }
    Ok(policy)
}

#[cfg(test)]
mod tests;
