//! Answers to translations.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::{Kind, Located, Object, ObjectKey};
use ambit_translate::{
    Claim, MeshInfo, Referent, Referrer, SelectedWorkload, ServiceInfo, WaypointInfo, World,
};
use ambit_types::NamespacedName;

use super::View;
use crate::facts::ServiceFact;
use crate::input::Labels;
use crate::reads::{Read, is_below};
use crate::waypoint;

impl World for View<'_> {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<ServiceInfo>> {
        let host = self.store.hostname(namespace, name);
        let known = self.service_info(namespace, &host);
        let known = known.filter(|info| info.object.kind == Kind::Service);
        if known.is_some() {
            return known;
        }
        // An ExternalName has no place among what proxies know.
        let key = ObjectKey::new(Kind::Service, namespace, name);
        waypoint::external_name(&key, self.raw(&key)?, host).map(Arc::new)
    }

    fn service_entry(&self, namespace: &str, name: &str) -> Vec<Arc<ServiceInfo>> {
        let key = ObjectKey::new(Kind::ServiceEntry, namespace, name);
        self.note(Read::Object(key.clone()));
        let space = self.store.space(namespace);
        let Some(entry) = space.and_then(|space| space.entries.get(name)) else {
            return Vec::new();
        };
        let hosts = entry.object.hosts.iter();
        let infos = hosts.filter_map(|host| self.service_info(namespace, host));
        infos.filter(|info| info.object == key).collect()
    }

    fn host(&self, hostname: &str, client_namespace: &str) -> Option<Arc<ServiceInfo>> {
        self.note(Read::Host(hostname.into()));
        seen_by(self.facts.host(hostname), client_namespace).map(|fact| Arc::clone(&fact.info))
    }

    fn hosts_under(&self, suffix: &str, client_namespace: &str) -> Vec<Arc<ServiceInfo>> {
        self.note(Read::Suffix(suffix.into()));
        let hosts = self.facts.hosts().filter(|host| is_below(host, suffix));
        let seen = hosts.filter_map(|host| seen_by(self.facts.host(host), client_namespace));
        let mut infos: Vec<_> = seen.map(|fact| Arc::clone(&fact.info)).collect();
        infos.sort_by(|a, b| (&a.hostname, &a.namespace).cmp(&(&b.hostname, &b.namespace)));
        infos
    }

    fn namespace_exists(&self, namespace: &str) -> bool {
        self.note(Read::Space(namespace.into()));
        self.store.space(namespace).is_some()
    }

    fn granted(&self, from: &Referrer<'_>, to: &Referent<'_>) -> bool {
        let grants = self.objects(Kind::ReferenceGrant, to.namespace);
        grants.iter().any(|grant| match &grant.object {
            Object::ReferenceGrant(grant) => waypoint::grants(grant, from, to),
            _ => false,
        })
    }

    fn config_map(&self, namespace: &str, name: &str, key: &str) -> Option<Arc<str>> {
        let object = self.raw(&ObjectKey::new(Kind::ConfigMap, namespace, name))?;
        match &object.object {
            Object::ConfigMap(map) => {
                let value = map.data.get(key)?;
                Some(value.as_str().into())
            }
            _ => None,
        }
    }

    fn secret(&self, namespace: &str, name: &str, key: &str) -> Option<Arc<[u8]>> {
        let object = self.raw(&ObjectKey::new(Kind::Secret, namespace, name))?;
        match &object.object {
            Object::Secret(secret) => secret.value(key).map(Into::into),
            _ => None,
        }
    }

    fn objects(&self, kind: Kind, namespace: &str) -> Vec<Located<Object>> {
        let namespace = Arc::from(namespace);
        self.note(Read::Kind(kind, Arc::clone(&namespace)));
        if self.store.space(&namespace).is_none() {
            return Vec::new();
        }
        let objects = self.store.objects.of(kind, &namespace);
        objects.map(|(_, object)| object.clone()).collect()
    }

    fn claims(&self, kind: Kind, namespace: &str, service: &ObjectKey) -> Vec<Claim> {
        let namespace = Arc::from(namespace);
        self.note(Read::Claims(kind, Arc::clone(&namespace), service.clone()));
        if self.store.space(&namespace).is_none() {
            return Vec::new();
        }
        self.store.objects.claims.of(service, kind, &namespace)
    }

    fn object(&self, key: &ObjectKey) -> Option<Located<Object>> {
        self.raw(key).cloned()
    }

    fn namespaces_with(&self, kind: Kind) -> Vec<Arc<str>> {
        self.note(Read::Spaces(kind));
        let namespaces = self.store.objects.namespaces(kind);
        let discovered = namespaces.filter(|namespace| self.store.space(namespace).is_some());
        discovered.cloned().collect()
    }

    fn waypoint(&self, namespace: &str, name: &str) -> Option<Arc<WaypointInfo>> {
        let fact = self.waypoint_fact(&NamespacedName::new(namespace, name))?;
        Some(Arc::new(waypoint::info(&fact)))
    }

    fn selected(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<SelectedWorkload> {
        waypoint::selected(self, namespace, &Labels::of(labels))
    }

    fn mesh(&self) -> &MeshInfo {
        self.mesh_info()
    }
}

/// Of several services of one host: the client's own namespace's, then the canonical one.
fn seen_by<'a>(
    facts: impl Iterator<Item = &'a Arc<ServiceFact>>,
    client_namespace: &str,
) -> Option<&'a Arc<ServiceFact>> {
    let own = |fact: &ServiceFact| *fact.info.namespace == *client_namespace;
    let seen = facts.filter(|fact| !fact.hidden || own(fact));
    seen.min_by_key(|fact| (!own(fact), !fact.canonical))
}
