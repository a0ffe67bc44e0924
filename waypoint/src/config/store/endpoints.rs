//! Backends, their endpoints, and the clusters that are made of both.

use std::sync::Arc;
use std::time::Instant;

use ambit_proto::waypoint as pb;
use ambit_route::{RouteKind, Rule, Semantics};
use ambit_telemetry::ServiceLabels;
use ambit_upstream::{Backend as Settled, Cluster, Endpoint};
use tracing::warn;

use super::super::Key;
use super::super::service::{Service, Target};
use super::{Store, Taken, Touched, decode, refused};
use crate::dial::TlsOrigin;

impl Store {
    pub(super) fn take_backend(&mut self, name: &str, body: &[u8], touched: &mut Touched) -> Taken {
        let message = decode::<pb::Backend>(body)?;
        let settled = Settled::decode(&message).map_err(refused)?;
        let default_rule = match &message.default_rule {
            Some(rule) => Some(
                Rule::decode(rule, RouteKind::Http, Semantics::ServiceProfile).map_err(refused)?,
            ),
            None => None,
        };
        let key = backend_key(&message, name);
        let now = Instant::now();
        let old = self.backends.get(&key).and_then(|b| b.service.clone());
        let mut service = self.service(&key, message, settled, old.as_deref(), now);
        service.default_rule = default_rule;
        let entry = self.backends.entry(Arc::clone(&key)).or_default();
        entry.owner = name.to_owned();
        entry.service = Some(Arc::new(service));
        self.backend_names.insert(name.to_owned(), Arc::clone(&key));
        touched.backends.insert(key);
        Ok(())
    }

    /// A service whose clusters keep their state where they existed before.
    fn service(
        &self,
        key: &Key,
        message: pb::Backend,
        settled: Settled,
        old: Option<&Service>,
        now: Instant,
    ) -> Service {
        let labels = Arc::new(ServiceLabels {
            hostname: message.hostname.as_str().into(),
            namespace: message.namespace.as_str().into(),
            name: message.name.as_str().into(),
        });
        let mut targets = Vec::new();
        for (port, upstream, subset) in Service::shape(&message) {
            let Some(settings) = settled.settings(port, &subset) else {
                continue;
            };
            let before = old.and_then(|old| old.target(port, &subset).ok());
            let tls = settings.policy.tls.as_ref().map(|tls| {
                TlsOrigin::decode(&tls.0).map(Arc::new).map_err(|error| {
                    warn!(backend = %key, port, %error, "TLS can't be originated");
                    error.to_string().into()
                })
            });
            let cluster = match before {
                Some(before) => {
                    before.cluster.configure(settings, now);
                    before.cluster.clone()
                }
                None => Cluster::new(settings, Arc::clone(&self.local), now),
            };
            let host = message.hostname.as_str();
            targets.push(Arc::new(Target {
                service: Arc::clone(key),
                name: format!("outbound|{port}|{subset}|{host}").into(),
                port,
                subset,
                cluster,
                upstream,
                tls,
                labels: Arc::clone(&labels),
            }));
        }
        Service {
            key: Arc::clone(key),
            message: Arc::new(message),
            targets,
            default_rule: None,
        }
    }

    pub(super) fn drop_backend(&mut self, name: &str, touched: &mut Touched) {
        let Some(key) = self.backend_names.remove(name) else {
            return;
        };
        // Another resource may stand for the same backend by now.
        if let Some(entry) = self.backends.get_mut(&key)
            && entry.owner == name
        {
            entry.service = None;
            touched.backends.insert(key);
        }
    }

    pub(super) fn take_endpoints(
        &mut self,
        name: &str,
        body: &[u8],
        touched: &mut Touched,
    ) -> Taken {
        let message = decode::<pb::Endpoints>(body)?;
        let key: Key = match message.hostname.as_str() {
            "" => name.into(),
            host => format!("{}/{host}", message.namespace).into(),
        };
        let mut endpoints = Vec::with_capacity(message.endpoints.len());
        let mut named = Vec::new();
        for endpoint in message.endpoints {
            if !endpoint.hostname.is_empty() {
                named.push(Arc::new(endpoint));
                continue;
            }
            let decoded = Endpoint::decode(&endpoint);
            endpoints.push(Arc::new(decoded.map_err(refused)?));
        }
        self.endpoint_names
            .insert(name.to_owned(), Arc::clone(&key));
        let entry = self.backends.entry(Arc::clone(&key)).or_default();
        entry.named = named;
        entry.endpoints = endpoints;
        touched.backends.insert(key);
        Ok(())
    }

    pub(super) fn drop_endpoints(&mut self, name: &str, touched: &mut Touched) {
        let Some(key) = self.endpoint_names.remove(name) else {
            return;
        };
        if let Some(entry) = self.backends.get_mut(&key) {
            entry.named.clear();
            entry.endpoints.clear();
            touched.backends.insert(key);
        }
    }

    /// Puts touched services into the snapshot, their endpoints into their
    /// clusters.
    pub(super) fn update_services(&mut self, touched: &Touched, now: Instant) {
        for key in &touched.backends {
            let Some(entry) = self.backends.get(key) else {
                continue;
            };
            match &entry.service {
                Some(service) => {
                    self.resolver.set(service, &entry.named, &entry.endpoints);
                    // Where names have to be resolved, what is known stays
                    // until they are.
                    if entry.named.is_empty() {
                        for target in &service.targets {
                            target.cluster.update(&entry.endpoints, now);
                        }
                    }
                    self.config
                        .services
                        .insert_mut(Arc::clone(key), Arc::clone(service));
                }
                None => {
                    self.config.services.remove_mut(key);
                    self.resolver.remove(key);
                    if entry.endpoints.is_empty() && entry.named.is_empty() {
                        self.backends.remove(key);
                    }
                }
            }
        }
    }
}

/// Backends are found by namespace and host name; the resource's name is the
/// compiler's business.
fn backend_key(message: &pb::Backend, name: &str) -> Key {
    if message.hostname.is_empty() {
        name.into()
    } else {
        format!("{}/{}", message.namespace, message.hostname).into()
    }
}
