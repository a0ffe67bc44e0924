//! A Gateway as a waypoint (`control-plane-contract` 5.1): what it serves, for whom, where it is, and whether it can.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube::{Kind, ObjectKey};
use ambit_types::NamespacedName;

use crate::input::{Gateway, Labels, Listener, ListenerScope, parse_ip};
use crate::view::View;

/// What is known of a waypoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WaypointFact {
    pub(crate) gateway: NamespacedName,
    pub(crate) class: Arc<str>,
    /// Traffic that it takes.
    pub(crate) traffic: Traffic,
    /// Which namespaces may use it.
    pub(crate) scope: ListenerScope,
    /// Where node proxies find it.
    pub(crate) destination: Destination,
    /// Service accounts of its pods, and the one that it is rendered with; in its namespace.
    pub(crate) accounts: BTreeSet<Arc<str>>,
    /// Its Service has an address and one of its pods is ready; or its status has an address.
    pub(crate) ready: bool,
    /// Its Service has an address and one of its pods is ready, now.
    pub(crate) serving: bool,
    /// It was ready since its Gateway exists: matters only where going round it is allowed.
    pub(crate) served: bool,
    /// PROXY protocol, at this port where one is given.
    pub(crate) inbound: Option<Inbound>,
    /// The service account that it is for.
    pub(crate) for_account: Option<Arc<str>>,
    /// An authorization or authentication policy is attached to it or its class.
    pub(crate) guarded: bool,
}

/// Where a waypoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// In its own namespace.
    Hostname(Arc<str>),
    Address(IpAddr),
}

/// Which traffic a waypoint takes; not a scale: `waypoint-for` may name neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) services: bool,
    pub(crate) workloads: bool,
}

/// `ambient.istio.io/waypoint-inbound-binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inbound {
    pub(crate) proxy: bool,
    pub(crate) port: Option<u16>,
}

/// The classes that are waypoints by name; others by their controller.
pub(crate) const CLASSES: [&str; 2] = ["istio-waypoint", "ambit-waypoint"];
/// The controller of waypoint classes.
pub(crate) const CONTROLLER: &str = "istio.io/mesh-controller";
/// What traffic a waypoint is for.
pub(crate) const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// The HBONE port that is advertised, whatever a listener says.
pub(crate) const HBONE_PORT: u16 = 15008;

const INBOUND_BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";

/// What a Gateway is as a waypoint; none if it isn't one. `before` is what it was.
pub(crate) fn fact(
    view: &View<'_>,
    at: &NamespacedName,
    before: Option<&WaypointFact>,
) -> Option<WaypointFact> {
    let gateway = view.gateway(at)?;
    let class = view.gateway_class(&gateway.class);
    let addressed = address(&gateway);
    let ours = is_waypoint_class(view, &gateway.class);
    if !ours && gateway.addresses.is_empty() {
        return None;
    }
    let labels = class.as_ref();
    let told = gateway.labels.get(WAYPOINT_FOR);
    let told = told.or_else(|| labels.and_then(|class| class.labels.get(WAYPOINT_FOR)));
    let inbound = gateway.annotation(INBOUND_BINDING);
    let inbound = inbound.or_else(|| labels.and_then(|class| class.annotation(INBOUND_BINDING)));
    let inbound = inbound.and_then(Inbound::read);
    let service = gateway.service_name(&at.name);
    let instances = Instances::of(view, at);
    let address_of_service = view.has_address(&at.namespace, service);
    let serving = ours && address_of_service && instances.ready;
    let ready = addressed.is_some() || serving;
    let mut accounts = instances.accounts;
    if ours {
        accounts.insert(gateway.account(&at.name).into());
    }
    let for_account = gateway.for_account.clone();
    Some(WaypointFact {
        gateway: at.clone(),
        traffic: Traffic::read(told, for_account.is_some()),
        scope: scope(&gateway.listeners, inbound),
        destination: addressed
            .unwrap_or_else(|| Destination::Hostname(view.store.hostname(&at.namespace, service))),
        accounts,
        ready,
        serving,
        served: ready || before.is_some_and(|before| before.served),
        inbound,
        for_account,
        guarded: is_guarded(view, at, &gateway.class),
        class: gateway.class,
    })
}

/// Whether Gateways of a class are waypoints that we render.
pub(crate) fn is_waypoint_class(view: &View<'_>, class: &str) -> bool {
    match view.gateway_class(class) {
        Some(found) => &*found.controller == CONTROLLER,
        None => CLASSES.contains(&class),
    }
}

/// Policies attached to the Gateway, or, in the root namespace, to its class.
fn is_guarded(view: &View<'_>, at: &NamespacedName, class: &str) -> bool {
    let gateway = ObjectKey::new(Kind::Gateway, &*at.namespace, &*at.name);
    let class = ObjectKey::new(Kind::GatewayClass, "", class);
    view.guards(&gateway) || view.guards(&class)
}

/// The first host name of its status, else the first address; an address without a type isn't looked at.
fn address(gateway: &Gateway) -> Option<Destination> {
    let mut listed = gateway.addresses.iter();
    let hostname = listed.find(|(kind, _)| &**kind == "Hostname");
    let hostname = hostname.map(|(_, name)| Destination::Hostname(Arc::from(&**name)));
    hostname.or_else(|| {
        let mut ips = gateway
            .addresses
            .iter()
            .filter(|(kind, _)| &**kind == "IPAddress");
        let ip = ips.find_map(|(_, value)| parse_ip(value));
        ip.map(Destination::Address)
    })
}

/// Which namespaces the listener that takes HBONE admits.
fn scope(listeners: &[Listener], inbound: Option<Inbound>) -> ListenerScope {
    let bound = inbound.and_then(|inbound| match inbound.port {
        Some(port) => listeners.iter().find(|listener| listener.port == port),
        None if inbound.proxy => {
            let proxy = |listener: &&Listener| &*listener.protocol == "istio.io/PROXY";
            listeners.iter().find(proxy)
        }
        None => None,
    });
    let hbone =
        |listener: &&Listener| &*listener.protocol == "HBONE" && listener.port == HBONE_PORT;
    let chosen = bound.or_else(|| listeners.iter().find(hbone));
    chosen.map_or(ListenerScope::Same, |listener| listener.scope.clone())
}

impl WaypointFact {
    /// `namespace/gateway`: its audience.
    pub(crate) fn key(&self) -> Arc<str> {
        self.gateway.to_string().into()
    }

    /// Whether a namespace may use it.
    pub(crate) fn admits(&self, namespace: &str, labels: &Labels) -> bool {
        match &self.scope {
            ListenerScope::All => true,
            ListenerScope::Same => *self.gateway.namespace == *namespace,
            ListenerScope::Selected(selector) => selector.matches(labels),
            ListenerScope::None => false,
        }
    }
}

impl Traffic {
    fn read(told: Option<&str>, of_account: bool) -> Self {
        let (services, workloads) = match told {
            Some("service") => (true, false),
            Some("workload") => (false, true),
            Some("all") => (true, true),
            Some(_) => (false, false),
            // For an account, it is for all of its traffic unless it says otherwise.
            None => (true, of_account),
        };
        Self {
            services,
            workloads,
        }
    }
}

impl Inbound {
    /// `PROTO` or `PROTO/port`; a port that isn't one counts as 0, another protocol as nothing.
    fn read(text: &str) -> Option<Self> {
        let (protocol, port) = match text.split_once('/') {
            Some((protocol, port)) => (protocol, Some(port.parse().unwrap_or(0))),
            None => (text, None),
        };
        match protocol {
            "PROXY" => Some(Self { proxy: true, port }),
            "NONE" => Some(Self { proxy: false, port }),
            _ => None,
        }
    }
}

/// What its pods say of it.
#[derive(Default)]
struct Instances {
    accounts: BTreeSet<Arc<str>>,
    ready: bool,
}

impl Instances {
    fn of(view: &View<'_>, at: &NamespacedName) -> Self {
        let mut found = Self::default();
        for pod in view.instances(at) {
            if pod.terminal {
                continue;
            }
            found.accounts.insert(pod.account().into());
            found.ready |= pod.healthy && pod.is_endpoint();
        }
        found
    }
}
