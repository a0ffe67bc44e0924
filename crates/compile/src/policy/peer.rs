//! PeerAuthentication, turned into policies that deny peers without an identity (`control-plane-contract` 4.7).
//!
//! One function says what holds at a workload's ports, and both the generated policies and the references to them
//! come from it. Upstream's two don't agree where an inherited STRICT is opened at one port by DISABLE; ours do.

use std::collections::BTreeMap;

use ambit_kube::{BrokenPolicy, MutualTlsMode, PeerAuthentication, Reach as BrokenReach};
use ambit_proto::security::{
    self, Action, Authorization, Clause, Match, Scope, StringMatch, string_match,
};

use super::{Fault, Reach, Refused};
use crate::input::{Age, Labels};

/// A PeerAuthentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) reach: Reach,
    mode: MutualTlsMode,
    /// Of the workload, not of a service.
    ports: BTreeMap<u16, MutualTlsMode>,
    /// Refused and never good: strict, and before all others.
    closed: bool,
    age: Age,
}

/// What a workload inherits from the policies of its namespace and of the mesh: whether mutual TLS is required.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PeerLevels {
    pub(crate) strict: bool,
}

/// The policy that requires an identity at every port.
pub(crate) const STATIC_STRICT: &str = "istio_converted_static_strict";

pub(super) const PORT_POLICY_PREFIX: &str = "converted_peer_authentication_";

impl Peer {
    pub(crate) fn read(object: &PeerAuthentication) -> Result<Self, Refused<Self>> {
        let spec = &object.spec;
        let mut faults = Vec::new();
        let reach = match Reach::of(spec.selector.as_ref(), &mut faults) {
            // Unlike an authorization policy's: an empty selector is none (contract 13, 17).
            Some(Reach::Selected(labels)) if labels.is_empty() => Some(Reach::All),
            reach => reach,
        };
        let ports: BTreeMap<_, _> = spec
            .port_level_mtls
            .iter()
            .map(|(port, mtls)| (*port, mtls.mode))
            .collect();
        if let Some(port) = ports.keys().next().filter(|_| reach == Some(Reach::All)) {
            faults.push(Fault {
                field: "spec.portLevelMtls".to_owned(),
                value: Some(port.to_string()),
                wrong: "ports are of workloads, and this policy selects none by label".to_owned(),
                remedy: "add a selector with the labels of the workloads",
            });
        }
        if ports.contains_key(&0) {
            faults.push(Fault {
                field: "spec.portLevelMtls.0".to_owned(),
                value: Some("0".to_owned()),
                wrong: "not a port".to_owned(),
                remedy: "write a number from 1 to 65535",
            });
        }
        if !faults.is_empty() {
            let closed = Self::closed(reach.unwrap_or(Reach::Namespace));
            return Err(Refused {
                faults,
                closed: Box::new(closed),
            });
        }
        Ok(Self {
            reach: reach.unwrap_or(Reach::Namespace),
            mode: spec.mtls.map(|mtls| mtls.mode).unwrap_or_default(),
            ports,
            closed: false,
            age: Age::of(&object.metadata),
        })
    }

    /// What stands in for a document that can't be read.
    pub(crate) fn broken(broken: &BrokenPolicy) -> Refused<Self> {
        let reach = match &broken.reach {
            BrokenReach::Selector(labels) if !labels.is_empty() => {
                Reach::Selected(Labels::of(labels))
            }
            BrokenReach::Selector(_) | BrokenReach::Namespace => Reach::All,
            BrokenReach::Unknown | BrokenReach::Targets(_) => Reach::Namespace,
        };
        Refused {
            faults: vec![Fault::unreadable(&broken.why)],
            closed: Box::new(Self::closed(reach)),
        }
    }

    fn closed(reach: Reach) -> Self {
        Self {
            reach,
            mode: MutualTlsMode::Strict,
            ports: BTreeMap::new(),
            closed: true,
            age: Age::default(),
        }
    }

    /// The order among several of one level: the first holds. What is closed comes first, then the oldest.
    pub(crate) fn rank(&self) -> impl Ord + use<'_> {
        (!self.closed, &self.age)
    }

    /// Whether identity is required where this one leaves it to `inherited` or says so itself.
    pub(crate) fn strict(&self, inherited: bool) -> bool {
        strict(self.mode, inherited)
    }

    /// Whether it is about all of its namespace.
    pub(crate) fn is_level(&self) -> bool {
        matches!(self.reach, Reach::All | Reach::Namespace)
    }

    /// Whether it is about all of the mesh, if it lies in the root namespace.
    pub(crate) fn is_mesh_wide(&self) -> bool {
        self.reach == Reach::All
    }

    /// The ports that differ from all others.
    fn exceptions(&self, base: bool) -> Vec<u16> {
        let differ = self
            .ports
            .iter()
            .filter(|(_, mode)| strict(**mode, base) != base);
        differ.map(|(port, _)| *port).collect()
    }
}

impl PeerLevels {
    /// The policy that a workload references, given the policy that selects it by label.
    pub(crate) fn reference(
        self,
        root_namespace: &str,
        own: Option<(&str, &str, &Peer)>,
    ) -> Option<String> {
        let base = own.map_or(self.strict, |(_, _, peer)| peer.strict(self.strict));
        if let Some((namespace, name, peer)) = own
            && !peer.exceptions(base).is_empty()
        {
            return Some(format!("{namespace}/{}", port_policy_name(name)));
        }
        base.then(|| format!("{root_namespace}/{STATIC_STRICT}"))
    }
}

fn strict(mode: MutualTlsMode, inherited: bool) -> bool {
    match mode {
        MutualTlsMode::Strict => true,
        MutualTlsMode::Permissive | MutualTlsMode::Disable => false,
        MutualTlsMode::Unset => inherited,
    }
}

/// The name of the policy that is generated for a PeerAuthentication with ports.
pub(crate) fn port_policy_name(name: &str) -> String {
    format!("{PORT_POLICY_PREFIX}{name}")
}

/// The policy for a PeerAuthentication whose ports differ; none where they don't.
///
/// Exceptions are part of the one DENY, because a second policy couldn't exempt anything from the first.
pub(crate) fn port_policy(
    namespace: &str,
    name: &str,
    peer: &Peer,
    levels: PeerLevels,
) -> Option<Authorization> {
    let base = peer.strict(levels.strict);
    let ports = peer.exceptions(base);
    if ports.is_empty() {
        return None;
    }
    let rules = if base {
        let exempt = ports.iter().map(|port| {
            clause(Match {
                not_destination_ports: vec![(*port).into()],
                ..Match::default()
            })
        });
        let clauses = std::iter::once(no_identity()).chain(exempt).collect();
        vec![security::Rule { clauses }]
    } else {
        let required = ports.iter().map(|port| security::Rule {
            clauses: vec![
                no_identity(),
                clause(Match {
                    destination_ports: vec![(*port).into()],
                    ..Match::default()
                }),
            ],
        });
        required.collect()
    };
    Some(deny(namespace, port_policy_name(name), rules))
}

/// The policy that requires an identity at every port.
pub(crate) fn static_strict(root_namespace: &str) -> Authorization {
    let rule = security::Rule {
        clauses: vec![no_identity()],
    };
    deny(root_namespace, STATIC_STRICT.to_owned(), vec![rule])
}

fn deny(namespace: &str, name: String, rules: Vec<security::Rule>) -> Authorization {
    Authorization {
        name,
        namespace: namespace.to_owned(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        rules,
        ..Authorization::default()
    }
}

/// Holds for a peer without an identity.
fn no_identity() -> Clause {
    let anybody = string_match::MatchType::Presence(string_match::Presence {});
    clause(Match {
        not_principals: vec![StringMatch {
            match_type: Some(anybody),
        }],
        ..Match::default()
    })
}

fn clause(part: Match) -> Clause {
    Clause {
        matches: vec![part],
    }
}
