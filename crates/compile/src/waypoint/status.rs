//! What is said about waypoints on objects (`control-plane-contract` 5.2, 5.5), and to whoever runs `analyze`.

use std::sync::Arc;

use ambit_kube::gateway::{Gateway, GatewayClass};
use ambit_kube::{Kind, Object, ObjectKey, Problem};
use ambit_types::NamespacedName;

use super::binding::{Ask, Asker, Binding, Canary, Level, Outcome, USE_WAYPOINT, asked, bind};
use super::gateway::{CONTROLLER, Destination, HBONE_PORT, WaypointFact, is_waypoint_class};
use super::render;
use super::service::bypass;
use crate::about::About;
use crate::codes;
use crate::facts::ServiceFact;
use crate::input::{Gateway as Input, Labels, Listener as InputListener, Namespace};
use crate::outputs::Output;
use crate::status::{Address, Condition, Generation, Listener, Status, kind};
use crate::view::View;

/// What a Service or ServiceEntry is told about its waypoint, by its hosts.
pub(crate) fn service_status<T>(
    view: &View<'_>,
    about: &About<'_, T>,
    hosts: &[&Arc<str>],
) -> (Vec<Condition>, Vec<Problem>) {
    let facts = hosts.iter().filter_map(|host| {
        // The facts mark the object when they come out differently (`ingest::Spread`).
        view.facts.service(&about.key.namespace, host)
    });
    let Some(fact) = facts.into_iter().next() else {
        return (Vec::new(), Vec::new());
    };
    let mut conditions: Vec<_> = bound(fact).into_iter().collect();
    conditions.extend(missing(view, fact));
    (
        conditions,
        problems(about, &fact.binding).into_iter().collect(),
    )
}

/// What a pod or WorkloadEntry is told; pods have no conditions.
pub(crate) fn workload_status<T>(
    about: &About<'_, T>,
    binding: &Binding,
) -> (Vec<Condition>, Vec<Problem>) {
    let inherited = matches!(&binding.ask, Ask::For(_, level) if *level != Level::Object);
    if binding.outcome == Outcome::WrongType && inherited {
        return (Vec::new(), Vec::new());
    }
    let condition = condition(binding, "workload", false);
    let inherited = inherited && binding.outcome == Outcome::Bound;
    let told = (!inherited).then(|| problems(about, binding)).flatten();
    (condition.into_iter().collect(), told.into_iter().collect())
}

fn bound(fact: &ServiceFact) -> Option<Condition> {
    condition(&fact.binding, "service", fact.ingress)
}

fn condition(binding: &Binding, traffic: &str, ingress: bool) -> Option<Condition> {
    let (status, reason, mut message) = match (&binding.ask, binding.outcome) {
        (Ask::Nothing | Ask::OptOut, _) | (_, Outcome::Unasked) => return None,
        (Ask::Mixed(at), _) | (Ask::For(at, _), Outcome::Mixed) => (
            false,
            "MixedServiceAccounts",
            format!(
                "waypoint \"{at}\" is for a service account, and not all endpoints run under it"
            ),
        ),
        (Ask::For(at, _), Outcome::Bound) if binding.is_ready() => {
            (true, "WaypointAccepted", format!("bound to waypoint {at}"))
        }
        (Ask::For(at, _), Outcome::Bound | Outcome::Missing) => (
            false,
            "WaypointIsNotReady",
            format!("waypoint \"{at}\" is not ready"),
        ),
        (Ask::For(at, _), Outcome::Denied) => (
            false,
            "AttachmentDenied",
            format!("waypoint \"{at}\" doesn't allow this namespace to attach"),
        ),
        (Ask::For(at, _), Outcome::WrongType) => (
            false,
            "UnsupportedTrafficType",
            format!("waypoint \"{at}\" doesn't take traffic of type {traffic:?}"),
        ),
        (Ask::For(at, _), Outcome::CrossNamespace) => (
            false,
            "CrossNamespaceWaypointForbidden",
            format!(
                "waypoint \"{at}\" is in another namespace, and the entry is visible in its own only"
            ),
        ),
    };
    if status && ingress {
        message.push_str("; ingress traffic goes through it");
    }
    if let (true, Some(why)) = (status, canary(&binding.canary)) {
        message.push_str("; ");
        message.push_str(&why);
    }
    Some(Condition::new(kind::WAYPOINT_BOUND, status, reason).message(message))
}

fn canary(canary: &Canary) -> Option<String> {
    match canary {
        Canary::Refused(reason, why) => Some(format!("{reason}: {why}")),
        Canary::Bound(fact, _) if !fact.ready => Some(format!(
            "WaypointIsNotReady: canary waypoint \"{}\" is not ready",
            fact.gateway
        )),
        Canary::None | Canary::Bound(..) => None,
    }
}

/// What a ServiceEntry can't do without a waypoint.
fn missing(view: &View<'_>, fact: &ServiceFact) -> Option<Condition> {
    let info = &fact.info;
    if info.object.kind != Kind::ServiceEntry || fact.binding.outcome == Outcome::Bound {
        return None;
    }
    let object = view.raw(&info.object)?;
    let Object::ServiceEntry(entry) = &object.object else {
        return None;
    };
    let wildcard = entry.spec.hosts.iter().any(|host| host.starts_with('*'));
    let strategy = entry.metadata.annotations.as_ref();
    let strategy = strategy.and_then(|annotations| annotations.get("istio.io/connect-strategy"));
    let racing = strategy.is_some_and(|text| text == "RACE_FIRST_TCP_CONNECT");
    let (reason, message) = if wildcard {
        (
            "NoWaypointForWildcardService",
            "a host with a wildcard needs a waypoint, and there is none",
        )
    } else if racing {
        (
            "NoWaypointForRacingConnectStrategy",
            "the connect strategy needs a waypoint, and there is none",
        )
    } else {
        return None;
    };
    Some(Condition::new(kind::WAYPOINT_MISSING, true, reason).message(message))
}

/// What is wrong with what an object asks for.
fn problems<T>(about: &About<'_, T>, binding: &Binding) -> Option<Problem> {
    let label = format!("metadata.labels.{USE_WAYPOINT}");
    let (at, level) = match &binding.ask {
        Ask::For(at, level) => (at, *level),
        Ask::Mixed(at) => {
            let message = format!(
                "the Gateway {at} is for a service account, and not all endpoints of the service run under it: the service isn't bound"
            );
            let told = about.warning(codes::MIXED_ACCOUNTS, "spec.selector", message);
            return Some(told.remedy(
                "label the service with istio.io/use-waypoint, or give its pods one account",
            ));
        }
        Ask::Nothing | Ask::OptOut => return None,
    };
    let field = if level == Level::Object { &*label } else { "" };
    let effect = if binding.bypass {
        "traffic goes round it, as ambit.mesh/waypoint-bypass allows"
    } else {
        "traffic to it is refused until that is mended"
    };
    let (code, message, remedy) = match binding.outcome {
        // What a namespace asks for is said of the namespace, once.
        Outcome::Missing | Outcome::Denied if level == Level::Namespace => return None,
        Outcome::Missing => (
            codes::WAYPOINT_MISSING,
            format!("there is no waypoint {at}: {effect}"),
            "create the Gateway, correct the name, or write none",
        ),
        Outcome::Denied => (
            codes::WAYPOINT_DENIED,
            format!("the waypoint {at} doesn't admit this namespace: {effect}"),
            "allow it in the Gateway's listener: allowedRoutes.namespaces",
        ),
        Outcome::WrongType if level == Level::Object => (
            codes::WAYPOINT_TYPE,
            format!("the waypoint {at} isn't for traffic of this kind: {effect}"),
            "label the Gateway istio.io/waypoint-for: all, service or workload as is meant",
        ),
        Outcome::CrossNamespace => (
            codes::WAYPOINT_DENIED,
            format!(
                "only its own namespace sees the entry, and the waypoint {at} is in another: {effect}"
            ),
            "use a waypoint of the entry's namespace",
        ),
        // That it isn't ready is said of the Gateway.
        Outcome::Bound => match canary(&binding.canary) {
            Some(why) => (
                codes::CANARY,
                format!("the canary takes no share: {why}"),
                "correct its labels",
            ),
            None => return None,
        },
        Outcome::Unasked | Outcome::Mixed | Outcome::WrongType => return None,
    };
    let told = about.warning(code, field, message);
    Some(told.value(&at.name).remedy(remedy))
}

/// What is wrong with what a namespace asks for.
pub(crate) fn namespace_problem(view: &View<'_>, about: &About<'_, Namespace>) -> Option<Problem> {
    let name = &about.key.name;
    let object = &about.object.object;
    let none = Labels::default();
    let Ask::For(at, _) = asked(&object.labels, name, &none) else {
        return None;
    };
    let own = view.namespace_annotations(name);
    let bypass = bypass(view, &none, &own);
    let ask = Ask::For(at, Level::Object);
    let services = Asker::Service {
        namespace_only: false,
    };
    let binding = bind(view, (ask, services), name, bypass);
    // For workloads only, or for nothing, is a way to be meant.
    (binding.outcome != Outcome::WrongType)
        .then(|| problems(about, &binding))
        .flatten()
}

/// The status of a class of our controller (5.4); others' are theirs.
pub(super) fn gateway_class(class: &GatewayClass) -> Output {
    let ours = class.spec.controller_name == CONTROLLER;
    let generation = class.metadata.generation.map(Generation::Number);
    let accepted = Condition::new(kind::ACCEPTED, true, "Accepted")
        .message("Handled by Istio controller")
        .observed(generation);
    Output {
        status: ours.then(|| Status::of(vec![accepted])).flatten(),
        ..Output::default()
    }
}

/// The status of a Gateway that is a waypoint (5.5).
pub(super) fn gateway(view: &View<'_>, key: &ObjectKey, object: &Gateway) -> Output {
    let at = NamespacedName::new(Arc::clone(&key.namespace), Arc::clone(&key.name));
    let input = Input::new(object);
    let fact = view.waypoint_fact(&at);
    let Some(fact) = fact.filter(|fact| is_waypoint_class(view, &fact.class)) else {
        return Output::default();
    };
    let generation = object.metadata.generation.map(Generation::Number);
    let service = match &fact.destination {
        Destination::Hostname(hostname) => hostname.to_string(),
        Destination::Address(ip) => ip.to_string(),
    };
    let valid = input.listeners.iter().all(usable);
    let accepted = match render::check(view, object) {
        _ if !valid => Condition::new(kind::ACCEPTED, false, "ListenersNotValid")
            .message("a listener isn't HBONE on port 15008"),
        Err(unusable) => {
            Condition::new(kind::ACCEPTED, false, "InvalidParameters").message(unusable.0)
        }
        Ok(()) => Condition::new(kind::ACCEPTED, true, "Accepted").message("Resource accepted"),
    };
    let programmed = if fact.serving {
        Condition::new(kind::PROGRAMMED, true, "Programmed").message(format!(
            "Resource programmed, assigned to service(s) {service}:15008"
        ))
    } else {
        Condition::new(kind::PROGRAMMED, false, "AddressNotAssigned").message(format!(
            "Failed to assign to any requested addresses: no instances found for hostname \"{service}\""
        ))
    };
    let listeners = input.listeners.iter();
    let listeners = listeners.map(|of| listener(of, generation));
    let diagnostics = gateway_problems(view, key, &fact);
    let resolved = Condition::new(kind::RESOLVED_REFS, true, "ResolvedRefs")
        .message("All references resolved");
    let conditions = [accepted, programmed, resolved];
    let addresses = if fact.served {
        addresses(view, &fact.gateway, &input, &fact.destination)
    } else {
        Vec::new()
    };
    Output {
        status: Some(Status {
            conditions: conditions
                .map(|condition| condition.observed(generation))
                .into(),
            listeners: listeners.collect(),
            addresses,
            ..Status::default()
        }),
        diagnostics,
        ..Output::default()
    }
}

/// What a waypoint can serve.
fn usable(listener: &InputListener) -> bool {
    (&*listener.protocol == "HBONE" && listener.port == HBONE_PORT)
        || &*listener.protocol == "istio.io/PROXY"
}

fn listener(listener: &InputListener, generation: Option<Generation>) -> Listener {
    let usable = usable(listener);
    let accepted = if usable {
        Condition::new(kind::ACCEPTED, true, "Accepted").message("No errors found")
    } else {
        Condition::new(kind::ACCEPTED, false, "UnsupportedProtocol")
            .message("a waypoint's listener is HBONE on port 15008")
    };
    let conditions = [
        accepted,
        Condition::new(kind::CONFLICTED, false, "NoConflicts").message("No errors found"),
        Condition::new(
            kind::PROGRAMMED,
            usable,
            if usable { "Programmed" } else { "Invalid" },
        )
        .message("No errors found"),
        Condition::new(kind::RESOLVED_REFS, true, "ResolvedRefs").message("No errors found"),
    ];
    Listener {
        name: listener.name.to_string(),
        attached_routes: 0,
        supported_kinds: [],
        conditions: conditions
            .map(|condition| condition.observed(generation))
            .into(),
    }
}

/// What is wrong with a waypoint.
fn gateway_problems(view: &View<'_>, key: &ObjectKey, fact: &WaypointFact) -> Vec<Problem> {
    let Some(object) = view.raw(key).filter(|_| !fact.ready) else {
        return Vec::new();
    };
    let about = About { key, object };
    let message = "no pod of the waypoint is ready: traffic to what asks for it is refused";
    let told = about.warning(codes::WAYPOINT_NOT_READY, "", message);
    vec![told.remedy("look at its Deployment, its Service and its pods")]
}

/// The name of its Service and the address, or the one that an annotation asks for.
fn addresses(
    view: &View<'_>,
    at: &NamespacedName,
    input: &Input,
    destination: &Destination,
) -> Vec<Address> {
    let ip = |value: String| Address {
        kind: "IPAddress",
        value,
    };
    let mut addresses = Vec::new();
    match destination {
        Destination::Address(address) => addresses.push(ip(address.to_string())),
        Destination::Hostname(hostname) => {
            addresses.push(Address {
                kind: "Hostname",
                value: hostname.to_string(),
            });
            let service = input.service_name(&at.name);
            let space = view.store.space(&at.namespace);
            let service = space.and_then(|space| space.services.get(service));
            let vips = service.into_iter().flat_map(|service| &service.object.vips);
            addresses.extend(vips.map(|address| ip(address.to_string())));
        }
    }
    match input.annotation("networking.istio.io/address-type") {
        Some("IPAddress") => addresses.retain(|address| address.kind == "IPAddress"),
        Some("Hostname") => addresses.retain(|address| address.kind == "Hostname"),
        _ => {}
    }
    addresses
}
