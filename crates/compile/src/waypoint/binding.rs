//! Who asks for which waypoint, and what becomes of it (`control-plane-contract` 1.3, 5.2; `waypoint-contract` 1.14).
//!
//! A waypoint that is asked for is never gone round (ADR 0011): whoever asks for one that can't be had carries one on
//! the wire that doesn't resolve, so that every node proxy refuses (`ztunnel-contract` 3.2 row 3).

use std::sync::Arc;

use ambit_proto::workload::{
    GatewayAddress, NamespacedHostname, NetworkAddress, WeightedWaypoint, gateway_address,
};
use ambit_types::NamespacedName;

use super::gateway::{Destination, HBONE_PORT, WaypointFact};
use crate::input::Labels;
use crate::view::View;

/// Asks for a waypoint, by the name of its Gateway; `none` for none.
pub(crate) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// Where that Gateway is.
pub(crate) const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// A second waypoint that takes a share.
pub(crate) const CANARY: &str = "istio.io/use-waypoint-canary";
/// Where that one's Gateway is.
pub(crate) const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
/// Its share, in percent.
pub(crate) const CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";
/// `allow`: a service or namespace is reached without its waypoint while that can't serve.
pub(crate) const BYPASS: &str = "ambit.mesh/waypoint-bypass";
/// The service account that a Gateway is for.
pub(crate) const FOR_ACCOUNT: &str = "istio.io/for-service-account";

/// What asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// A label of the object itself.
    Object,
    /// A label of its namespace.
    Namespace,
    /// An annotation of the Gateway that names the account.
    Account,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    Nothing,
    OptOut,
    For(NamespacedName, Level),
    /// Its endpoints run under several accounts, of which some have a waypoint: the Gateway of one of them.
    Mixed(NamespacedName),
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A Service or ServiceEntry; hidden from other namespaces or not.
    Service {
        namespace_only: bool,
    },
    Workload,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing is asked for.
    Unasked,
    Bound,
    /// No such Gateway, or none that is a waypoint.
    Missing,
    /// It doesn't admit the namespace.
    Denied,
    /// It doesn't take such traffic.
    WrongType,
    /// It is in another namespace than what only its own namespace sees.
    CrossNamespace,
    /// See [`Ask::Mixed`].
    Mixed,
}

/// What is asked for and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Binding {
    pub(crate) ask: Ask,
    pub(crate) outcome: Outcome,
    /// As it is, bound or not.
    pub(crate) waypoint: Option<Arc<WaypointFact>>,
    pub(crate) canary: Canary,
    /// Going round a waypoint that can't serve is allowed.
    pub(crate) bypass: bool,
}

/// What became of a canary.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Canary {
    None,
    /// It takes this share of a hundred, once it is ready.
    Bound(Arc<WaypointFact>, u32),
    /// Why it takes none: a reason of the contract, and a sentence.
    Refused(&'static str, String),
}

impl Binding {
    /// Of an object that asks for nothing.
    pub(crate) fn none() -> Self {
        Self {
            ask: Ask::Nothing,
            outcome: Outcome::Unasked,
            waypoint: None,
            canary: Canary::None,
            bypass: false,
        }
    }

    /// The waypoints that serve it: the primary, then the canary.
    pub(crate) fn bound(&self) -> impl Iterator<Item = &Arc<WaypointFact>> {
        let primary = self.waypoint.as_ref();
        let primary = primary.filter(|_| self.outcome == Outcome::Bound);
        let canary = match &self.canary {
            Canary::Bound(canary, _) => primary.map(|_| canary),
            Canary::None | Canary::Refused(..) => None,
        };
        primary.into_iter().chain(canary)
    }

    /// Bound to one that has a way to serve now, or had.
    pub(crate) fn is_ready(&self) -> bool {
        self.outcome == Outcome::Bound && self.waypoint.as_ref().is_some_and(|fact| fact.ready)
    }

    /// What node proxies are told.
    pub(crate) fn wire(&self, network: &str) -> (Option<GatewayAddress>, Vec<WeightedWaypoint>) {
        let (Ask::For(asked, level), reason) = (&self.ask, self.unresolved()) else {
            return (None, Vec::new());
        };
        if let Some(reason) = reason {
            // A namespace's waypoint that isn't for this kind of traffic says so itself.
            let meant = self.outcome != Outcome::WrongType || *level == Level::Object;
            let refuse = meant && !self.bypass;
            return (refuse.then(|| nowhere(asked, reason)), Vec::new());
        }
        let Some(fact) = &self.waypoint else {
            return (None, Vec::new());
        };
        if self.bypass && !fact.served {
            return (None, Vec::new());
        }
        let primary = address(fact, network);
        let weighted = match &self.canary {
            Canary::Bound(canary, weight) if canary.ready => vec![
                WeightedWaypoint {
                    destination: Some(primary.clone()),
                    weight: 100_u32.saturating_sub(*weight),
                },
                WeightedWaypoint {
                    destination: Some(address(canary, network)),
                    weight: *weight,
                },
            ],
            Canary::None | Canary::Bound(..) | Canary::Refused(..) => Vec::new(),
        };
        (Some(primary), weighted)
    }

    /// Why there is no waypoint to name, as a label of a host name.
    fn unresolved(&self) -> Option<&'static str> {
        Some(match self.outcome {
            Outcome::Missing => "missing",
            Outcome::Denied => "denied",
            Outcome::WrongType => "wrong-traffic-type",
            Outcome::CrossNamespace => "cross-namespace",
            Outcome::Unasked | Outcome::Mixed | Outcome::Bound => return None,
        })
    }
}

/// A waypoint that never resolves (RFC 6761), and says why to whoever reads the refusal.
fn nowhere(asked: &NamespacedName, reason: &str) -> GatewayAddress {
    let hostname = format!(
        "{}.{}.{reason}.waypoint.invalid",
        asked.name, asked.namespace
    );
    gateway(&asked.namespace, &hostname)
}

fn address(fact: &WaypointFact, network: &str) -> GatewayAddress {
    match &fact.destination {
        Destination::Hostname(hostname) => gateway(&fact.gateway.namespace, hostname),
        Destination::Address(ip) => GatewayAddress {
            destination: Some(gateway_address::Destination::Address(NetworkAddress {
                network: network.to_owned(),
                address: crate::input::octets(ip),
                length: None,
            })),
            hbone_mtls_port: HBONE_PORT.into(),
        },
    }
}

fn gateway(namespace: &str, hostname: &str) -> GatewayAddress {
    GatewayAddress {
        destination: Some(gateway_address::Destination::Hostname(NamespacedHostname {
            namespace: namespace.to_owned(),
            hostname: hostname.to_owned(),
        })),
        hbone_mtls_port: HBONE_PORT.into(),
    }
}

/// What an object asks for by labels: its own, else its namespace's. An empty name is a name.
pub(crate) fn asked(own: &Labels, namespace: &str, inherited: &Labels) -> Ask {
    for (labels, level) in [(own, Level::Object), (inherited, Level::Namespace)] {
        let Some(name) = labels.get(USE_WAYPOINT) else {
            continue;
        };
        if name == "none" {
            return Ask::OptOut;
        }
        let at = labels.get(USE_WAYPOINT_NAMESPACE).unwrap_or(namespace);
        return Ask::For(NamespacedName::new(at, name), level);
    }
    Ask::Nothing
}

/// What becomes of what is asked for by an object of a namespace.
pub(crate) fn bind(
    view: &View<'_>,
    (ask, asker): (Ask, Asker),
    namespace: &str,
    bypass: bool,
) -> Binding {
    let mut binding = Binding {
        bypass,
        ..Binding::none()
    };
    match &ask {
        Ask::Nothing | Ask::OptOut => {}
        Ask::Mixed(_) => binding.outcome = Outcome::Mixed,
        Ask::For(at, _) => {
            let (outcome, fact) = judge(view, at, asker, namespace);
            binding.outcome = outcome;
            binding.waypoint = fact;
        }
    }
    binding.ask = ask;
    binding
}

/// Whether a waypoint takes an asker of a namespace.
pub(crate) fn judge(
    view: &View<'_>,
    at: &NamespacedName,
    asker: Asker,
    namespace: &str,
) -> (Outcome, Option<Arc<WaypointFact>>) {
    let Some(fact) = view.waypoint_fact(at) else {
        return (Outcome::Missing, None);
    };
    let takes = match asker {
        Asker::Service { .. } => fact.traffic.services,
        Asker::Workload => fact.traffic.workloads,
    };
    let namespace_only = asker
        == (Asker::Service {
            namespace_only: true,
        });
    let outcome = if namespace_only && *fact.gateway.namespace != *namespace {
        Outcome::CrossNamespace
    } else if !fact.admits(namespace, &view.namespace_labels(namespace)) {
        Outcome::Denied
    } else if takes {
        Outcome::Bound
    } else {
        Outcome::WrongType
    };
    (outcome, Some(fact))
}

/// The canary of a bound service: labels, and the share as its annotation has it.
pub(crate) fn canary(
    view: &View<'_>,
    binding: &Binding,
    (namespace, asker): (&str, Asker),
    (labels, weight): (&Labels, Option<&str>),
) -> Canary {
    let name = labels.get(CANARY).filter(|name| !name.is_empty());
    let (Some(name), Some(primary), Outcome::Bound) = (name, &binding.waypoint, binding.outcome)
    else {
        return Canary::None;
    };
    let at = labels.get(CANARY_NAMESPACE).unwrap_or(namespace);
    let at = NamespacedName::new(at, name);
    let share = weight.map_or(Some(0), |text| text.parse().ok());
    let Some(share) = share.filter(|share| *share <= 100) else {
        let told = weight.unwrap_or_default();
        let message = format!("canary weight {told:?} of \"{at}\" isn't a number of 0 to 100");
        return Canary::Refused("CanaryInvalidWeight", message);
    };
    if at == primary.gateway {
        let message = format!("canary waypoint \"{at}\" is the primary one");
        return Canary::Refused("CanarySameAsPrimary", message);
    }
    match judge(view, &at, asker, namespace) {
        (Outcome::Bound, Some(fact)) => Canary::Bound(fact, share),
        (Outcome::Denied | Outcome::CrossNamespace, _) => Canary::Refused(
            "AttachmentDenied",
            format!("canary waypoint \"{at}\" doesn't allow namespace {namespace:?}"),
        ),
        (Outcome::WrongType, _) => Canary::Refused(
            "UnsupportedTrafficType",
            format!("canary waypoint \"{at}\" doesn't take traffic of services"),
        ),
        _ => Canary::Refused(
            "WaypointIsNotReady",
            format!("canary waypoint \"{at}\" is not ready"),
        ),
    }
}
