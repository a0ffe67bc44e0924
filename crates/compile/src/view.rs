//! The store and the facts as one unit sees them while it is derived: every question is noted (ADR 0008).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_kube::{Kind, Located, Object, ObjectKey};
use ambit_translate::{MeshInfo, ServiceInfo};
use ambit_types::NamespacedName;

use crate::facts::{Facts, ServiceFact};
use crate::input::{Gateway, GatewayClass, Labels, Pod};
use crate::reads::Read;
use crate::store::Store;
use crate::vips::Vips;
use crate::waypoint::{Audiences, WaypointFact};

mod world;

/// What there is, and what was asked of it.
pub(crate) struct View<'a> {
    /// For what has marks of its own (`ingest::marks`); everything else is asked for through the view.
    pub(crate) store: &'a Store,
    pub(crate) facts: &'a Facts,
    pub(crate) vips: &'a Vips,
    pub(crate) audiences: &'a Audiences,
    reads: RefCell<BTreeSet<Read>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(
        (store, facts): (&'a Store, &'a Facts),
        vips: &'a Vips,
        audiences: &'a Audiences,
    ) -> Self {
        Self {
            store,
            facts,
            vips,
            audiences,
            reads: RefCell::default(),
        }
    }

    /// What was asked.
    pub(crate) fn into_reads(self) -> BTreeSet<Read> {
        self.reads.into_inner()
    }

    pub(crate) fn note(&self, read: Read) {
        self.reads.borrow_mut().insert(read);
    }

    /// An object of a namespace that is discovered.
    pub(crate) fn raw(&self, key: &ObjectKey) -> Option<&'a Located<Object>> {
        self.note(Read::Object(key.clone()));
        self.store.raw(key)
    }

    /// A Gateway.
    pub(crate) fn gateway(&self, at: &NamespacedName) -> Option<Gateway> {
        let key = ObjectKey::new(
            Kind::Gateway,
            Arc::clone(&at.namespace),
            Arc::clone(&at.name),
        );
        match &self.raw(&key)?.object {
            Object::Gateway(object) => Some(Gateway::new(object)),
            _ => None,
        }
    }

    /// A GatewayClass.
    pub(crate) fn gateway_class(&self, name: &str) -> Option<GatewayClass> {
        match &self
            .raw(&ObjectKey::new(Kind::GatewayClass, "", name))?
            .object
        {
            Object::GatewayClass(object) => Some(GatewayClass::new(object)),
            _ => None,
        }
    }

    /// A Gateway as a waypoint, if it is one.
    pub(crate) fn waypoint_fact(&self, at: &NamespacedName) -> Option<Arc<WaypointFact>> {
        self.note(Read::Waypoint(at.clone()));
        self.facts.waypoint(at).cloned()
    }

    /// The service of a host in one namespace, as translations see it.
    pub(crate) fn service_info(&self, namespace: &str, host: &str) -> Option<Arc<ServiceInfo>> {
        self.note(Read::Service(namespace.into(), host.into()));
        let fact = self.facts.service(namespace, host)?;
        Some(Arc::clone(&fact.info))
    }

    /// The service of a host in one namespace, with everything that is known of its waypoints.
    pub(crate) fn service_fact(&self, namespace: &str, host: &str) -> Option<Arc<ServiceFact>> {
        self.note(Read::Binding(namespace.into(), host.into()));
        self.facts.service(namespace, host).cloned()
    }

    /// The service that a key `namespace/hostname` names.
    pub(crate) fn service_by_key(&self, key: &str) -> Option<Arc<ServiceFact>> {
        let (namespace, host) = key.split_once('/')?;
        self.service_fact(namespace, host)
    }

    /// The labels of a namespace; none if it isn't known.
    pub(crate) fn namespace_labels(&self, namespace: &str) -> Labels {
        self.note(Read::Object(ObjectKey::new(Kind::Namespace, "", namespace)));
        self.store.namespace_labels(namespace)
    }

    /// The annotations of a namespace; none if it isn't known.
    pub(crate) fn namespace_annotations(&self, namespace: &str) -> Labels {
        let object = self.raw(&ObjectKey::new(Kind::Namespace, "", namespace));
        let meta = object.and_then(|object| object.object.metadata());
        Labels::new(meta.and_then(|meta| meta.annotations.as_ref()))
    }

    /// Whether Gateways of a namespace are for service accounts.
    pub(crate) fn has_account_waypoints(&self, namespace: &str) -> bool {
        self.note(Read::Accounts(namespace.into()));
        self.store.accounts.contains_key(namespace)
    }

    /// Whether the mesh allows to go round waypoints that can't serve.
    pub(crate) fn waypoint_bypass(&self) -> bool {
        // When the mesh differs, everything is derived again.
        self.store.mesh.waypoint_bypass
    }

    /// Whether a Service has an address.
    pub(crate) fn has_address(&self, namespace: &str, name: &str) -> bool {
        self.note(Read::Object(ObjectKey::new(Kind::Service, namespace, name)));
        let space = self.store.space(namespace);
        let service = space.and_then(|space| space.services.get(name));
        service.is_some_and(|service| !service.object.vips.is_empty())
    }

    /// The pods of a waypoint.
    pub(crate) fn instances(&self, at: &NamespacedName) -> impl Iterator<Item = &'a Pod> + use<'a> {
        self.note(Read::Instances(at.clone()));
        let space = self.store.space(&at.namespace);
        let names = self.store.instances.get(at).into_iter().flatten();
        names.filter_map(move |name| space?.pods.get(name).map(|pod| &pod.object))
    }

    /// Whether an authorization or authentication policy that refuses is attached to an object.
    pub(crate) fn guards(&self, target: &ObjectKey) -> bool {
        self.note(Read::Attached(target.clone()));
        let root = &self.store.mesh.root_namespace;
        let of_class = target.kind == Kind::GatewayClass;
        let mut policies = self.store.objects.attached(target);
        policies.any(|policy| {
            (!of_class || policy.namespace == *root)
                && self.store.space(&policy.namespace).is_some()
        })
    }

    /// What holds for the mesh as a whole.
    pub(crate) fn mesh_info(&self) -> &'a MeshInfo {
        self.note(Read::Mesh);
        &self.store.mesh_info
    }
}
