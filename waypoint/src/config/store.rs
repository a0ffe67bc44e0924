//! Makes snapshots of the resources that arrive (`ambit.waypoint.v1`).
//!
//! One response is applied whole and makes one snapshot. A resource that can't
//! be used is refused by name and what it would have replaced stays. What
//! changed decides what is built anew: a route costs its frontends, endpoints
//! cost their service.

mod bind;
mod endpoints;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use ambit_jwt::Authentication;
use ambit_policy::http::HttpAuthorization;
use ambit_proto::waypoint as pb;
use ambit_route::{Route, Routes};
use ambit_types::NamespacedName;
use ambit_upstream::{Endpoint, Local, RateLimit};
use ambit_xds::{ReceivedResource, Rejection, ResourceSink};
use arc_swap::ArcSwap;
use prost::Message;
use tracing::{info, warn};

use super::gateway::Gateway;
use super::service::Service;
use super::{Config, Key};
use crate::keys::Keys;
use crate::resolve::Resolver;

/// Where resources go. Lives on the control thread; what it holds beside the
/// snapshot is what the next change is compared with.
pub(crate) struct Store {
    published: Arc<ArcSwap<Config>>,
    config: Config,
    local: Arc<Local>,
    frontends: BTreeMap<Key, Arc<pb::Frontend>>,
    pods: HashMap<String, Arc<pb::Workload>>,
    routes: HashMap<Key, Arc<Routes>>,
    route_parents: HashMap<String, Arc<Route>>,
    policies: BTreeMap<String, Policy>,
    backends: HashMap<Key, Backend>,
    backend_names: HashMap<String, Key>,
    endpoint_names: HashMap<String, Key>,
    authentications: BTreeMap<String, Arc<Authentication>>,
    limits: BTreeMap<String, Arc<RateLimit>>,
    keys: Arc<Keys>,
    resolver: Arc<Resolver>,
    /// Types of which no response was taken so far.
    missing: BTreeSet<&'static str>,
}

/// An authorization policy, or the key of one that never could be read.
enum Policy {
    Read(Arc<HttpAuthorization>),
    Unreadable(NamespacedName, Vec<pb::Target>),
}

/// A backend and its endpoints, whichever came first.
#[derive(Default)]
pub(super) struct Backend {
    /// Name of the resource that the service is of.
    owner: String,
    service: Option<Arc<Service>>,
    named: Vec<Arc<pb::Endpoint>>,
    endpoints: Vec<Arc<Endpoint>>,
}

/// What a response touched.
#[derive(Default)]
struct Touched {
    frontends: BTreeSet<Key>,
    backends: BTreeSet<Key>,
    pods: bool,
    addresses: bool,
    /// Token rules changed: so did what keys are needed.
    keys: bool,
}

impl Store {
    /// An empty store that publishes to `published`.
    pub(crate) fn new(
        published: Arc<ArcSwap<Config>>,
        local: Arc<Local>,
        keys: Arc<Keys>,
        resolver: Arc<Resolver>,
    ) -> Self {
        Self {
            config: Config::clone(&published.load()),
            published,
            local,
            frontends: BTreeMap::new(),
            pods: HashMap::new(),
            routes: HashMap::new(),
            route_parents: HashMap::new(),
            policies: BTreeMap::new(),
            backends: HashMap::new(),
            backend_names: HashMap::new(),
            endpoint_names: HashMap::new(),
            authentications: BTreeMap::new(),
            limits: BTreeMap::new(),
            keys,
            resolver,
            missing: pb::TYPES.into_iter().collect(),
        }
    }

    fn take(&mut self, type_url: &str, one: &ReceivedResource, touched: &mut Touched) -> Taken {
        let body = one.body.as_ref();
        let name = one.name.as_str();
        match type_url {
            pb::GATEWAY_TYPE => self.take_gateway(body, touched),
            pb::ENDPOINTS_TYPE => self.take_endpoints(name, body, touched),
            pb::BACKEND_TYPE => self.take_backend(name, body, touched),
            pb::WAYPOINT_AUTHORIZATION_TYPE => self.take_policy(name, body, touched),
            pb::AUTHENTICATION_TYPE => self.take_authentication(name, body, touched),
            pb::RATE_LIMIT_TYPE => self.take_limit(name, body, touched),
            pb::ROUTE_TYPE => self.take_route(name, body, touched),
            pb::FRONTEND_TYPE => self.take_frontend(name, body, touched),
            pb::POD_TYPE => self.take_pod(name, body, touched),
            _ => Ok(()),
        }
    }

    fn take_gateway(&mut self, body: &[u8], touched: &mut Touched) -> Taken {
        let message = decode::<pb::Gateway>(body)?;
        let gateway = Gateway::decode(message).map_err(refused)?;
        self.config.gateway = Arc::new(gateway);
        touched.frontends.extend(self.frontends.keys().cloned());
        Ok(())
    }

    fn take_route(&mut self, name: &str, body: &[u8], touched: &mut Touched) -> Taken {
        let message = decode::<pb::Route>(body)?;
        let route = Arc::new(Route::decode(name, &message).map_err(refused)?);
        self.drop_route(name, touched);
        for key in parents(&route) {
            let routes = self.routes.entry(Arc::clone(&key));
            let routes = routes.or_insert_with(|| Arc::new(Routes::new(&key)));
            let mut edit = routes.edit();
            edit.set(Arc::clone(&route));
            *routes = Arc::new(edit.finish());
            touched.frontends.insert(key);
        }
        self.route_parents.insert(name.to_owned(), route);
        Ok(())
    }

    fn drop_route(&mut self, name: &str, touched: &mut Touched) {
        let Some(old) = self.route_parents.remove(name) else {
            return;
        };
        for key in parents(&old) {
            if let Some(routes) = self.routes.get_mut(&key) {
                let mut edit = routes.edit();
                edit.remove(name);
                *routes = Arc::new(edit.finish());
                if routes.is_empty() {
                    self.routes.remove(&key);
                }
            }
            touched.frontends.insert(key);
        }
    }

    fn take_policy(&mut self, name: &str, body: &[u8], touched: &mut Touched) -> Taken {
        let message = decode::<pb::Authorization>(body)?;
        let targets = message.targets.clone();
        let (namespace, object) = match &message.origin {
            Some(origin) => (origin.namespace.clone(), origin.name.clone()),
            None => (String::new(), name.to_owned()),
        };
        match HttpAuthorization::try_from(message) {
            Ok(policy) => {
                self.touch_policy(name, touched);
                let policy = Policy::Read(Arc::new(policy));
                self.policies.insert(name.to_owned(), policy);
                self.touch_policy(name, touched);
                Ok(())
            }
            Err(error) => {
                // One that was never understood closes what it is bound to; one
                // that was stays as it was.
                if !self.policies.contains_key(name) {
                    let key = NamespacedName::new(namespace, object);
                    let policy = Policy::Unreadable(key, targets);
                    self.policies.insert(name.to_owned(), policy);
                    self.touch_policy(name, touched);
                }
                Err(refused(error))
            }
        }
    }

    /// What a policy is bound to now has to be bound anew.
    fn touch_policy(&self, name: &str, touched: &mut Touched) {
        let targets: Vec<Option<String>> = match self.policies.get(name) {
            None => return,
            Some(Policy::Read(policy)) => {
                let targets = policy.targets.iter();
                targets
                    .map(|target| target.frontend.as_ref().map(ToString::to_string))
                    .collect()
            }
            Some(Policy::Unreadable(_, targets)) => {
                let named = |target: &pb::Target| {
                    (!target.frontend.is_empty()).then(|| target.frontend.clone())
                };
                targets.iter().map(named).collect()
            }
        };
        touched.pods = true;
        if targets.is_empty() || targets.iter().any(Option::is_none) {
            touched.frontends.extend(self.frontends.keys().cloned());
        } else {
            let named = targets.into_iter().flatten().map(Key::from);
            touched.frontends.extend(named);
        }
    }

    fn take_authentication(&mut self, name: &str, body: &[u8], touched: &mut Touched) -> Taken {
        let message = decode::<pb::Authentication>(body)?;
        let targets = message.targets.clone();
        let origin = message.origin.clone().unwrap_or_default();
        let unreadable = unreadable_name(name);
        match Authentication::try_from(message) {
            Ok(read) => {
                self.touch_policy(&unreadable, touched);
                self.policies.remove(&unreadable);
                self.authentications.insert(name.to_owned(), Arc::new(read));
                self.touch_all(touched);
                Ok(())
            }
            Err(error) => {
                // Requests that it was to check aren't let in unchecked.
                if !self.authentications.contains_key(name) {
                    let key = NamespacedName::new(origin.namespace, origin.name);
                    let policy = Policy::Unreadable(key, targets);
                    self.policies.insert(unreadable.clone(), policy);
                    self.touch_policy(&unreadable, touched);
                }
                Err(refused(error))
            }
        }
    }

    fn take_limit(&mut self, name: &str, body: &[u8], touched: &mut Touched) -> Taken {
        let message = decode::<pb::RateLimit>(body)?;
        let limit = RateLimit::decode(name, &message, Instant::now()).map_err(refused)?;
        let limit = match self.limits.get(name) {
            Some(before) => limit.inheriting(before),
            None => limit,
        };
        self.limits.insert(name.to_owned(), Arc::new(limit));
        self.touch_all(touched);
        Ok(())
    }

    fn touch_all(&self, touched: &mut Touched) {
        touched.pods = true;
        touched.keys = true;
        touched.frontends.extend(self.frontends.keys().cloned());
    }

    fn take_frontend(&mut self, name: &str, body: &[u8], touched: &mut Touched) -> Taken {
        let message = decode::<pb::Frontend>(body)?;
        for cidr in &message.addresses {
            if super::frontend::block(cidr).is_none() {
                return Err("addresses: neither 4 nor 16 bytes, or longer than they are".into());
            }
        }
        let key: Key = name.into();
        self.frontends.insert(Arc::clone(&key), Arc::new(message));
        touched.frontends.insert(key);
        touched.addresses = true;
        Ok(())
    }

    fn take_pod(&mut self, name: &str, body: &[u8], touched: &mut Touched) -> Taken {
        let message = decode::<pb::Workload>(body)?;
        let endpoint = message.endpoint.as_ref().ok_or("endpoint: absent")?;
        Endpoint::decode(endpoint).map_err(refused)?;
        self.pods.insert(name.to_owned(), Arc::new(message));
        touched.pods = true;
        Ok(())
    }

    fn drop_one(&mut self, type_url: &str, name: &str, touched: &mut Touched) {
        match type_url {
            pb::GATEWAY_TYPE => {
                // A waypoint whose gateway is gone keeps what it has: it is
                // about to be ended, and must not open anything.
                warn!(
                    name,
                    "the gateway was removed: its last configuration stays"
                );
            }
            pb::ENDPOINTS_TYPE => self.drop_endpoints(name, touched),
            pb::BACKEND_TYPE => self.drop_backend(name, touched),
            pb::WAYPOINT_AUTHORIZATION_TYPE => {
                self.touch_policy(name, touched);
                self.policies.remove(name);
            }
            pb::AUTHENTICATION_TYPE => {
                let unreadable = unreadable_name(name);
                self.touch_policy(&unreadable, touched);
                self.policies.remove(&unreadable);
                self.authentications.remove(name);
                self.touch_all(touched);
            }
            pb::RATE_LIMIT_TYPE => {
                self.limits.remove(name);
                self.touch_all(touched);
            }
            pb::ROUTE_TYPE => self.drop_route(name, touched),
            pb::FRONTEND_TYPE => {
                let key: Key = name.into();
                self.frontends.remove(&key);
                touched.frontends.insert(key);
                touched.addresses = true;
            }
            pb::POD_TYPE => {
                self.pods.remove(name);
                touched.pods = true;
            }
            _ => {}
        }
    }

    fn publish(&mut self, touched: &Touched, less: bool) {
        let last = less.then(|| self.config.clone());
        self.config.before = self
            .config
            .before
            .followed_by(last.as_ref(), Instant::now());
        self.bind(touched);
        if touched.keys {
            self.retain_keys();
        }
        self.update_services(touched, Instant::now());
        self.config.version += 1;
        self.published.store(Arc::new(self.config.clone()));
    }
}

impl ResourceSink for Store {
    fn apply(
        &mut self,
        type_url: &str,
        changed: Vec<ReceivedResource>,
        removed: Vec<String>,
    ) -> Vec<Rejection> {
        let mut touched = Touched::default();
        let mut rejected = Vec::new();
        for one in &changed {
            if let Err(reason) = self.take(type_url, one, &mut touched) {
                let name = one.name.clone();
                warn!(type_url, name, reason, "resource rejected");
                rejected.push(Rejection { name, reason });
            }
        }
        for name in &removed {
            self.drop_one(type_url, name, &mut touched);
        }
        self.publish(&touched, !removed.is_empty());
        if self.missing.remove(type_url) && self.missing.is_empty() {
            info!("the first configuration is complete");
        }
        rejected
    }
}

/// Where a RequestAuthentication that can't be read is kept among the policies.
fn unreadable_name(name: &str) -> String {
    format!("RequestAuthentication/{name}")
}

/// Why a resource wasn't taken.
type Taken = Result<(), String>;

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|error| format!("not a message of its type: {error}"))
}

fn refused(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Frontends that a route is attached to, each once.
fn parents(route: &Route) -> BTreeSet<Key> {
    let parents = route.parents.iter();
    parents.map(|parent| Key::from(&*parent.frontend)).collect()
}
