//! The Backend of a service at the waypoints of a namespace: everything that
//! has a say in how its endpoints are called, merged (3.4, 3.5, 1.8).
//!
//! Owns the order: DestinationRule, then ServiceProfile and Linkerd's
//! annotations, then Gateway API's policies, each filling only what is unset.

use std::collections::{BTreeMap, BTreeSet};

use ambit_kube::{DrPortPolicy, DrTrafficPolicy, Kind, Object, Problem, Resolution as Lookup};
use ambit_proto::waypoint::{
    Backend, BackendPort, Label, Origin, Protocol, Resolution, Subset, SubsetPort,
    TopologyPreference, TopologyScope, TrafficPolicy,
};

use super::destination_rule::{self, Blocks, InForce, PolicyScope, Says, Secrets, traffic_policy};
use super::mesh::MeshDefaults;
use super::say::Say;
use crate::{ServiceInfo, ServiceKind, Translated, World, gateway_api, linkerd};

/// The Backend of a service, as waypoints of a namespace call it. There always
/// is one; its problems are those of this service at these waypoints only.
pub fn backend(
    service: &ServiceInfo,
    waypoint_namespace: &str,
    world: &dyn World,
) -> Translated<Backend> {
    let own = Own::of(service, world);
    let mut built = bare(service, &own, world);
    let found = destination_rule::in_force(service, waypoint_namespace, world);
    let mesh = MeshDefaults::of(world.mesh());
    let scope = PolicyScope {
        hostname: &service.hostname,
        topology: built.topology.is_some(),
        mesh: &mesh,
        secrets: Some(Secrets {
            world,
            namespace: waypoint_namespace,
        }),
    };
    let mut problems = rules(&mut built, &found, &scope);
    problems.extend(linkerd::service_policies(&mut built, service, world));
    gateway_api::apply_backend_policies(&mut built, service, world);
    let mut said = BTreeSet::new();
    problems.retain(|problem| said.insert((problem.field.clone(), problem.message.clone())));
    Translated {
        resource: Some(built),
        problems,
        ..Translated::default()
    }
}

/// What the Service or ServiceEntry says itself.
#[derive(Default)]
struct Own {
    origin: Origin,
    topology: Option<TopologyPreference>,
    publish_not_ready: bool,
    persistent: bool,
    in_turn: bool,
}

impl Own {
    fn of(service: &ServiceInfo, world: &dyn World) -> Self {
        let key = &service.object;
        let mut own = Self {
            origin: Origin {
                kind: key.kind.as_str().to_owned(),
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                generation: 0,
            },
            ..Self::default()
        };
        let Some(found) = world.object(key).map(|located| located.object) else {
            return own;
        };
        if let Some(meta) = found.metadata() {
            own.origin.generation = meta.generation.unwrap_or_default();
            let labels = meta.labels.as_ref();
            own.persistent = labels.is_some_and(|l| l.contains_key("istio.io/persistent-session"));
        }
        let annotations = found.metadata().and_then(|meta| meta.annotations.clone());
        let mut spec_value = None;
        match &found {
            Object::Service(object) => {
                let spec = object.spec.as_ref();
                own.publish_not_ready =
                    spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
                let policy = spec.and_then(|spec| spec.internal_traffic_policy.as_deref());
                if policy == Some("Local") {
                    own.topology = Some(TopologyPreference {
                        strict: true,
                        scopes: vec![TopologyScope::Node.into()],
                    });
                    return own;
                }
                spec_value = spec.and_then(|spec| spec.traffic_distribution.clone());
            }
            Object::ServiceEntry(entry) => {
                own.in_turn = entry.spec.resolution == Lookup::DnsRoundRobin;
            }
            _ => {}
        }
        own.topology = distribution(spec_value.as_deref(), annotations.as_ref(), key, world);
        own
    }
}

/// `spec.trafficDistribution`, then the object's annotation, then the
/// namespace's (`control-plane-contract` 1.3 and 3.3).
fn distribution(
    spec: Option<&str>,
    annotations: Option<&BTreeMap<String, String>>,
    key: &ambit_kube::ObjectKey,
    world: &dyn World,
) -> Option<TopologyPreference> {
    const ANNOTATION: &str = "networking.istio.io/traffic-distribution";
    let known =
        spec.filter(|spec| matches!(*spec, "PreferClose" | "PreferSameZone" | "PreferSameNode"));
    let value = known.map(str::to_owned).or_else(|| {
        let own = annotations.and_then(|annotations| annotations.get(ANNOTATION).cloned());
        own.or_else(|| {
            let key = ambit_kube::ObjectKey::new(Kind::Namespace, "", key.namespace.clone());
            let namespace = world.object(&key)?.object;
            namespace
                .metadata()?
                .annotations
                .as_ref()?
                .get(ANNOTATION)
                .cloned()
        })
    });
    const NEAR: [TopologyScope; 5] = [
        TopologyScope::Network,
        TopologyScope::Region,
        TopologyScope::Zone,
        TopologyScope::Subzone,
        TopologyScope::Node,
    ];
    let count = match value?.to_ascii_lowercase().as_str() {
        "preferclose" | "prefersamezone" => 3,
        "prefersamenode" => 5,
        _ => return None,
    };
    Some(TopologyPreference {
        strict: false,
        scopes: NEAR
            .iter()
            .take(count)
            .map(|scope| (*scope).into())
            .collect(),
    })
}

fn bare(service: &ServiceInfo, own: &Own, world: &dyn World) -> Backend {
    let opaque = linkerd::opaque(service, world);
    let resolution = match service.kind {
        ServiceKind::ClusterIp | ServiceKind::Headless | ServiceKind::Entry => Resolution::Static,
        ServiceKind::EntryDns if own.in_turn => Resolution::DnsRoundRobin,
        ServiceKind::ExternalName | ServiceKind::EntryDns => Resolution::Dns,
        ServiceKind::EntryNone => Resolution::Passthrough,
    };
    let ports = service.ports.iter().map(|port| {
        let protocol = if opaque.contains(&port.number) {
            Protocol::Tcp
        } else {
            port.protocol
        };
        BackendPort {
            number: port.number.into(),
            name: port.name.to_string(),
            protocol: protocol.into(),
            policy: None,
        }
    });
    Backend {
        origin: Some(own.origin.clone()),
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        hostname: service.hostname.to_string(),
        ports: ports.collect(),
        resolution: resolution.into(),
        publish_not_ready: own.publish_not_ready,
        persistent_sessions: own.persistent,
        topology: own.topology.clone(),
        ..Backend::default()
    }
}

/// Puts the rules in force into the Backend, every level merged.
fn rules(built: &mut Backend, found: &InForce, scope: &PolicyScope<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let whole = found.policy();
    for rule in &found.rules {
        let meta = &rule.object.metadata;
        built.policy_origins.push(Origin {
            kind: Kind::DestinationRule.as_str().to_owned(),
            namespace: meta
                .namespace
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            name: meta.name.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
        });
    }
    let base = whole.map_or_else(Blocks::default, |(_, policy)| Blocks::of(policy));
    let numbers: Vec<u32> = built.ports.iter().map(|port| port.number).collect();
    let of_ports = whole.map(|(_, policy)| policy);
    let mut says = says(whole.map(|(rule, _)| rule));
    let top = traffic_policy(&mut says, &base, "spec.trafficPolicy", scope);
    built.policy = (top != TrafficPolicy::default()).then_some(top);
    for (port, settings, at) in levels(&numbers, of_ports) {
        let path = format!("spec.trafficPolicy.portLevelSettings[{at}]");
        let blocks = Blocks::of_port(settings, base);
        let policy = traffic_policy(&mut says, &blocks, &path, scope);
        if let Some(port) = built.ports.iter_mut().find(|known| known.number == port) {
            port.policy = Some(policy);
        }
    }
    problems.extend(says.secrets.into_problems());
    for (rule, at, subset) in found.subsets() {
        let mut says = self::says(Some(rule));
        let own = subset.traffic_policy.as_ref();
        let blocks = own.map_or_else(Blocks::default, Blocks::of).over(base);
        let path = format!("spec.subsets[{at}].trafficPolicy");
        let policy = traffic_policy(&mut says, &blocks, &path, scope);
        let labels = subset.labels.iter().map(|(key, value)| Label {
            key: key.clone(),
            value: value.clone(),
        });
        // A port that the subset doesn't list is as the whole lists it.
        let mut ports: BTreeMap<u32, &DrPortPolicy> = BTreeMap::new();
        for policy in [of_ports, own] {
            ports.extend(levels(&numbers, policy).map(|(port, settings, _)| (port, settings)));
        }
        let ports = ports.into_iter().map(|(number, settings)| SubsetPort {
            number,
            policy: Some(traffic_policy(
                &mut says,
                &Blocks::of_port(settings, blocks),
                &path,
                scope,
            )),
        });
        built.subsets.push(Subset {
            name: subset.name.clone(),
            labels: labels.collect(),
            ports: ports.collect(),
            policy: (policy != TrafficPolicy::default()).then_some(policy),
        });
        problems.extend(says.secrets.into_problems());
    }
    problems
}

/// The port settings of a policy that are of the service's ports; the first of each.
fn levels<'a>(
    numbers: &[u32],
    policy: Option<&'a DrTrafficPolicy>,
) -> impl Iterator<Item = (u32, &'a DrPortPolicy, usize)> {
    let settings = policy.map_or(&[][..], |policy| &policy.port_level_settings);
    let mut seen = BTreeSet::new();
    let numbers = numbers.to_vec();
    settings.iter().enumerate().filter_map(move |(at, entry)| {
        let number = entry.port?.number;
        (numbers.contains(&number) && seen.insert(number)).then_some((number, entry, at))
    })
}

/// Fields are judged by the rule's own unit; here only secrets are.
fn says(rule: Option<&ambit_kube::Located<std::sync::Arc<ambit_kube::DestinationRule>>>) -> Says {
    let secrets = rule.map_or_else(
        || {
            let key = ambit_kube::ObjectKey::new(Kind::DestinationRule, "", "");
            Say::at(
                key,
                ambit_kube::Origin {
                    file: "".into(),
                    document: 0,
                    line: 0,
                },
            )
        },
        |rule| {
            let meta = &rule.object.metadata;
            let namespace = meta.namespace.as_deref().unwrap_or("default");
            let name = meta.name.as_deref().unwrap_or_default();
            Say::about(
                ambit_kube::ObjectKey::new(Kind::DestinationRule, namespace, name),
                rule,
            )
        },
    );
    Says {
        fields: secrets.silent(),
        secrets,
    }
}
