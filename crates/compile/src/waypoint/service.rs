//! Services as translations and waypoints see them, and the waypoint of each (`control-plane-contract` 5.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::core::ObjectMeta;
use ambit_kube::{Kind, Located, Object, ObjectKey, Resolution};
use ambit_translate::{ServiceInfo, ServiceKind};
use ambit_types::NamespacedName;

use super::binding::{
    Ask, Asker, BYPASS, Binding, CANARY_WEIGHT, Canary, Level, Outcome, asked, bind, canary,
};
use super::protocol;
use crate::facts::ServiceFact;
use crate::input::{Labels, Visibility};
use crate::reads::Read;
use crate::store::{HostOwner, Store};
use crate::view::View;

/// The services of one host name, by namespace.
pub(crate) fn facts(view: &View<'_>, host: &str) -> BTreeMap<Arc<str>, ServiceFact> {
    let owners = view.store.owners(host);
    let has_service = owners
        .iter()
        .any(|(_, owner)| matches!(owner, HostOwner::Service(_)));
    let mut oldest = None;
    let mut facts = BTreeMap::new();
    for (namespace, owner) in owners {
        let hidden = view.store.visibility(&namespace) == Visibility::Namespace;
        let (key, kind) = match owner {
            HostOwner::Service(name) => (
                Store::key(Kind::Service, &namespace, name),
                ServiceKind::ClusterIp,
            ),
            HostOwner::Entry(name, entry) => {
                let rank = (entry.age.clone(), Arc::clone(&namespace));
                if !hidden && oldest.as_ref().is_none_or(|best| rank < *best) {
                    oldest = Some(rank);
                }
                let kind = match entry.resolution {
                    Resolution::None => ServiceKind::EntryNone,
                    Resolution::Static => ServiceKind::Entry,
                    Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns => {
                        ServiceKind::EntryDns
                    }
                };
                (Store::key(Kind::ServiceEntry, &namespace, name), kind)
            }
        };
        let Some(object) = view.raw(&key) else {
            continue;
        };
        let hidden = hidden && key.kind == Kind::ServiceEntry;
        if let Some(fact) = fact(view, (key, object), (host, kind), hidden) {
            facts.insert(namespace, fact);
        }
    }
    let canonical = oldest
        .map(|(_, namespace)| namespace)
        .filter(|_| !has_service);
    for (namespace, fact) in &mut facts {
        let of_cluster = fact.info.object.kind == Kind::Service;
        fact.canonical = of_cluster || canonical.as_ref() == Some(namespace);
    }
    facts
}

fn fact(
    view: &View<'_>,
    (key, object): (ObjectKey, &Located<Object>),
    (host, kind): (&str, ServiceKind),
    hidden: bool,
) -> Option<ServiceFact> {
    let meta = object.object.metadata()?;
    let (ports, kind) = match &object.object {
        Object::Service(service) => {
            let headless = service
                .spec
                .as_ref()
                .and_then(|spec| spec.cluster_ip.as_deref());
            let kind = if headless == Some("None") {
                ServiceKind::Headless
            } else {
                kind
            };
            (protocol::ports_of_service(service), kind)
        }
        Object::ServiceEntry(entry) => (protocol::ports_of_entry(entry), kind),
        _ => return None,
    };
    let labels = Labels::new(meta.labels.as_ref());
    let binding = binding(view, &key, (meta, &labels), (host, hidden));
    let waypoints = binding.bound().map(|fact| {
        let at = &fact.gateway;
        (Arc::clone(&at.namespace), Arc::clone(&at.name))
    });
    let info = ServiceInfo {
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
        hostname: host.into(),
        ports,
        kind,
        annotations: annotations(meta),
        waypoints: waypoints.collect(),
        object: key,
    };
    Some(ServiceFact {
        guarded: guarded(view, &binding, &info) || selected(view, &binding, &info),
        ingress: ingress(view, &info.namespace, &labels),
        info: Arc::new(info),
        binding,
        canonical: false,
        hidden,
    })
}

/// An alias of a DNS name, which nobody but a translation asks for.
pub(crate) fn external_name(
    key: &ObjectKey,
    object: &Located<Object>,
    host: Arc<str>,
) -> Option<ServiceInfo> {
    let Object::Service(service) = &object.object else {
        return None;
    };
    let kind = service.spec.as_ref()?.type_.as_deref();
    (kind == Some("ExternalName")).then(|| ServiceInfo {
        object: key.clone(),
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
        hostname: host,
        ports: protocol::ports_of_service(service),
        kind: ServiceKind::ExternalName,
        annotations: annotations(&service.metadata),
        waypoints: Vec::new(),
    })
}

fn binding(
    view: &View<'_>,
    key: &ObjectKey,
    (meta, labels): (&ObjectMeta, &Labels),
    (host, hidden): (&str, bool),
) -> Binding {
    let namespace = &*key.namespace;
    if is_of_waypoint(labels) {
        return Binding::none();
    }
    let inherited = view.namespace_labels(namespace);
    let mut ask = asked(labels, namespace, &inherited);
    if ask == Ask::Nothing {
        ask = super::account::asked(view, namespace, host);
    }
    if matches!(ask, Ask::Nothing | Ask::OptOut) {
        return Binding::none();
    }
    let annotations = Labels::new(meta.annotations.as_ref());
    let of_namespace = view.namespace_annotations(namespace);
    let own_level = labels.get(super::binding::USE_WAYPOINT).is_some();
    let bypass = bypass(view, &annotations, &of_namespace);
    let asker = Asker::Service {
        namespace_only: hidden,
    };
    let mut binding = bind(view, (ask, asker), namespace, bypass);
    let has_own = labels
        .get(super::binding::CANARY)
        .is_some_and(|name| !name.is_empty());
    let (from, weight) = if has_own || own_level {
        (labels, annotations.get(CANARY_WEIGHT))
    } else {
        let weight = annotations.get(CANARY_WEIGHT);
        (
            &inherited,
            weight.or_else(|| of_namespace.get(CANARY_WEIGHT)),
        )
    };
    let share = canary(view, &binding, (namespace, asker), (from, weight));
    binding.canary = share;
    binding
}

/// Whether going round a waypoint that can't serve is allowed: by the object, its namespace, or the mesh.
pub(crate) fn bypass(view: &View<'_>, own: &Labels, of_namespace: &Labels) -> bool {
    let told = own.get(BYPASS).or_else(|| of_namespace.get(BYPASS));
    match told {
        Some(text) => text == "allow",
        None => view.waypoint_bypass(),
    }
}

/// The Services of waypoints and gateways themselves, which would loop (contract 13, 23).
fn is_of_waypoint(labels: &Labels) -> bool {
    labels.get(MANAGED).is_some_and(|by| {
        matches!(
            by,
            "istio.io-mesh-controller"
                | "istio.io-eastwest-controller"
                | "istio.io-agentgateway-waypoint-controller"
        )
    })
}

/// Says who made a generated object.
pub(crate) const MANAGED: &str = "gateway.istio.io/managed";

/// Whether the workloads of a service admit its waypoint only: it asks for one, a policy is attached to it or to the
/// waypoint, and it is reached by an address of its own.
fn guarded(view: &View<'_>, binding: &Binding, info: &ServiceInfo) -> bool {
    let Ask::For(at, level) = &binding.ask else {
        return false;
    };
    let inherited = binding.outcome == Outcome::WrongType && *level != Level::Object;
    if binding.bypass || inherited || info.kind == ServiceKind::Headless {
        return false;
    }
    let gateway = ObjectKey::new(Kind::Gateway, &*at.namespace, &*at.name);
    view.guards(&info.object) || view.guards(&gateway) || binding.bound().any(|fact| fact.guarded)
}

/// Whether a policy that only the waypoint can enforce selects workloads of a service that has one.
fn selected(view: &View<'_>, binding: &Binding, info: &ServiceInfo) -> bool {
    let served = binding.outcome == Outcome::Bound && !binding.bypass;
    if !served || info.kind == ServiceKind::Headless {
        return false;
    }
    let namespace = &info.namespace;
    view.note(Read::Selecting(Arc::clone(namespace)));
    let mut policies = view.store.objects.selecting(namespace).peekable();
    if policies.peek().is_none() {
        return false;
    }
    view.note(Read::Workloads(Arc::clone(namespace)));
    let members = super::account::members(view.store, namespace, &info.hostname);
    policies.any(|selector| members.iter().any(|labels| selector.selects(labels)))
}

fn ingress(view: &View<'_>, namespace: &str, labels: &Labels) -> bool {
    match labels.get(INGRESS) {
        Some(own) => matches!(own, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        None => {
            let inherited = view.namespace_labels(namespace);
            inherited
                .get(INGRESS)
                .is_some_and(|text| text.eq_ignore_ascii_case("true"))
        }
    }
}

const INGRESS: &str = "istio.io/ingress-use-waypoint";

/// Those that mean something to a mesh.
fn annotations(meta: &ObjectMeta) -> Vec<(Arc<str>, Arc<str>)> {
    let all = meta.annotations.iter().flatten();
    let meant = all.filter(|(key, _)| {
        let group = key.split('/').next().unwrap_or_default();
        ["istio.io", "linkerd.io", "ambit.mesh"]
            .iter()
            .any(|ours| group.ends_with(ours))
    });
    meant
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

/// The waypoint of a workload's own addresses.
pub(crate) fn of_workload(
    view: &View<'_>,
    namespace: &str,
    labels: &Labels,
    account: &str,
) -> Binding {
    if let Some(gateway) = labels.get(super::GATEWAY_NAME)
        && view
            .waypoint_fact(&NamespacedName::new(namespace, gateway))
            .is_some()
    {
        return Binding::none();
    }
    let inherited = view.store.namespace_labels(namespace);
    let mut ask = asked(labels, namespace, &inherited);
    if ask == Ask::Nothing {
        ask = super::account::of_workload(view, namespace, account);
    }
    if matches!(ask, Ask::Nothing | Ask::OptOut) {
        return Binding::none();
    }
    let bypass = bypass(
        view,
        &Labels::default(),
        &view.namespace_annotations(namespace),
    );
    let binding = bind(view, (ask, Asker::Workload), namespace, bypass);
    debug_assert!(binding.canary == Canary::None, "workloads have no canary");
    binding
}
