//! What a policy's references bind to (`waypoint-contract` 4.1,
//! `control-plane-contract` 4.6).

use std::sync::Arc;

use ambit_kube::{Code, Kind, Object, ObjectKey, PolicyTargetReference};
use ambit_proto::waypoint as pb;

use super::say::{Fault, Say};
use super::{AMBIT_WAYPOINT, Audience, Bound, CONTROLLER, ISTIO_WAYPOINT, codes};
use crate::{RouteCondition, ServiceInfo, World};

/// A waypoint, by the Gateway's namespace and name.
pub(super) type Waypoint = (Arc<str>, Arc<str>);

/// What references bind to, and which couldn't.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// Everything that the waypoints of these classes serve.
    pub(super) classes: Vec<Arc<str>>,
    /// Everything that these waypoints serve.
    pub(super) gateways: Vec<Waypoint>,
    /// Single services.
    pub(super) services: Vec<Attached>,
    failures: Vec<Failure>,
    asked: usize,
}

/// A service, or one port of it.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    pub(super) service: Arc<ServiceInfo>,
    /// 0: all.
    pub(super) port: u16,
}

#[derive(Debug)]
struct Failure {
    target: String,
    reason: &'static str,
}

/// Finds what a policy's references bind to.
pub(super) fn resolve(
    references: &[(String, PolicyTargetReference)],
    namespace: &str,
    world: &dyn World,
    say: &mut Say,
) -> Targets {
    let mut targets = Targets {
        asked: references.len(),
        ..Targets::default()
    };
    for (at, (field, reference)) in references.iter().enumerate() {
        let mut one = One {
            field,
            reference,
            namespace,
            world,
            say,
        };
        let bound = if at < MAX_TARGETS {
            one.bind(&mut targets)
        } else {
            Err(one.bad(
                "a policy has 16 targetRefs at most",
                "write a second policy",
            ))
        };
        if let Err(reason) = bound {
            let target = format!(
                "{}.{}:{}/{}",
                reference.kind, reference.group, namespace, reference.name
            );
            targets.failures.push(Failure { target, reason });
        }
    }
    targets
}

/// All references of a spec with their fields, the older single one first.
pub(super) fn references(
    one: Option<&PolicyTargetReference>,
    many: &[PolicyTargetReference],
) -> Vec<(String, PolicyTargetReference)> {
    let one = one.map(|one| ("spec.targetRef".to_owned(), one.clone()));
    let many = many.iter().enumerate();
    let many = many.map(|(at, one)| (format!("spec.targetRefs[{at}]"), one.clone()));
    one.into_iter().chain(many).collect()
}

/// One reference.
struct One<'a> {
    field: &'a str,
    reference: &'a PolicyTargetReference,
    namespace: &'a str,
    world: &'a dyn World,
    say: &'a mut Say,
}

impl One<'_> {
    fn bind(&mut self, targets: &mut Targets) -> Result<(), &'static str> {
        let own = self.reference.namespace.as_deref();
        if own.is_some_and(|namespace| !namespace.is_empty() && namespace != self.namespace) {
            return Err(self.bad(
                "a policy attaches to what is in its own namespace only",
                "leave namespace out and put the policy where its target is",
            ));
        }
        let group = self.reference.group.as_str();
        match (group, self.reference.kind.as_str()) {
            ("" | "core", "Service") => {
                let service = self.world.service(self.namespace, &self.reference.name);
                self.services(service.into_iter().collect(), targets)
            }
            ("networking.istio.io", "ServiceEntry") => {
                let name = &self.reference.name;
                let services = self.world.service_entry(self.namespace, name);
                self.services(services, targets)
            }
            (GATEWAY_API, "Gateway") => self.gateway(targets),
            (GATEWAY_API, "GatewayClass") => self.class(targets),
            (_, kind) => {
                let remedy = match kind {
                    "Service" => "write group: \"\"",
                    "ServiceEntry" => "write group: networking.istio.io",
                    "Gateway" | "GatewayClass" => "write group: gateway.networking.k8s.io",
                    _ => "refer to a Service, ServiceEntry, Gateway or GatewayClass",
                };
                Err(self.bad("a policy can't attach to this kind", remedy))
            }
        }
    }

    fn services(
        &mut self,
        services: Vec<Arc<ServiceInfo>>,
        targets: &mut Targets,
    ) -> Result<(), &'static str> {
        if services.is_empty() {
            return Err(self.missing("there is no such service"));
        }
        let bound = services
            .into_iter()
            .filter(|service| !service.waypoints.is_empty());
        let before = targets.services.len();
        targets
            .services
            .extend(bound.map(|service| Attached { service, port: 0 }));
        if targets.services.len() == before {
            self.fault(
                false,
                codes::NOT_BOUND,
                "no waypoint serves this, so nothing enforces the policy",
                "label it, or its namespace, istio.io/use-waypoint: NAME",
            );
            return Err("AncestorNotBound");
        }
        Ok(())
    }

    fn gateway(&mut self, targets: &mut Targets) -> Result<(), &'static str> {
        let name = &self.reference.name;
        if let Some(waypoint) = self.world.waypoint(self.namespace, name) {
            let waypoint = (Arc::clone(&waypoint.namespace), Arc::clone(&waypoint.name));
            targets.gateways.push(waypoint);
            return Ok(());
        }
        let key = ObjectKey::new(Kind::Gateway, self.namespace, name.as_str());
        match self.world.object(&key) {
            Some(_) => Err(self.bad(
                "this Gateway isn't a waypoint",
                "refer to a Gateway of class istio-waypoint or ambit-waypoint",
            )),
            None => Err(self.missing("there is no such Gateway")),
        }
    }

    fn class(&mut self, targets: &mut Targets) -> Result<(), &'static str> {
        let root = &self.world.mesh().root_namespace;
        if self.namespace != &**root {
            let remedy = format!("put the policy into {root}, or refer to a Gateway");
            return Err(self.bad(
                "only a policy of the root namespace attaches to a GatewayClass",
                &remedy,
            ));
        }
        let name = self.reference.name.as_str();
        let key = ObjectKey::new(Kind::GatewayClass, "", name);
        let ours = match self.world.object(&key).map(|class| class.object) {
            Some(Object::GatewayClass(class)) => class.spec.controller_name == CONTROLLER,
            Some(_) => false,
            // The control plane makes these.
            None if name == ISTIO_WAYPOINT || name == AMBIT_WAYPOINT => true,
            None => return Err(self.missing("there is no such GatewayClass")),
        };
        if !ours {
            return Err(self.bad(
                "no waypoint has this class",
                "refer to istio-waypoint, ambit-waypoint or another class of istio.io/mesh-controller",
            ));
        }
        targets.classes.push(Arc::from(name));
        Ok(())
    }

    fn bad(&mut self, message: &str, remedy: &str) -> &'static str {
        self.fault(true, codes::BAD_TARGET, message, remedy);
        "Invalid"
    }

    fn missing(&mut self, message: &str) -> &'static str {
        self.fault(
            true,
            codes::NO_TARGET,
            message,
            "check the name, and that it is in the policy's namespace",
        );
        "TargetNotFound"
    }

    fn fault(&mut self, error: bool, code: Code, message: &str, remedy: &str) {
        let named = format!("{} {}", self.reference.kind, self.reference.name);
        let fault = Fault {
            field: self.field,
            value: Some(&named),
            message,
            remedy,
        };
        if error {
            self.say.error(code, fault);
        } else {
            self.say.warning(code, fault);
        }
    }
}

impl Targets {
    /// Whether nothing is bound.
    pub(super) fn is_empty(&self) -> bool {
        self.classes.is_empty() && self.gateways.is_empty() && self.services.is_empty()
    }

    /// `WaypointAccepted` (4.6); a fault of the policy itself shows in it too.
    pub(super) fn condition(&self, fault: Option<String>) -> RouteCondition {
        let failed: Vec<&str> = self
            .failures
            .iter()
            .map(|one| one.target.as_str())
            .collect();
        let list = failed.join(", ");
        let has = |reason: &str| self.failures.iter().any(|one| one.reason == reason);
        let (status, reason, message) = if self.is_empty() {
            let reason = ["Invalid", "AncestorNotBound"]
                .into_iter()
                .find(|reason| has(reason));
            let reason = reason.unwrap_or("TargetNotFound");
            (false, reason, format!("not bound to any waypoint: {list}"))
        } else if !failed.is_empty() {
            let message = format!(
                "bound to {} of {} targets; failed: {list}",
                self.asked - failed.len(),
                self.asked
            );
            (true, "PartiallyInvalid", message)
        } else if let Some(fault) = fault {
            (true, "PartiallyInvalid", fault)
        } else {
            (true, "Accepted", "bound to its waypoints".to_owned())
        };
        RouteCondition {
            kind: "WaypointAccepted",
            status,
            reason,
            message,
        }
    }

    /// The resources of a policy, so that each waypoint gets what holds for it:
    /// what is bound to a waypoint as a whole says nothing at another.
    pub(super) fn split<R>(
        &self,
        name: &str,
        world: &dyn World,
        make: impl Fn(Vec<pb::Target>) -> R,
    ) -> Vec<Bound<R>> {
        let everything = || vec![pb::Target::default()];
        let mut all: Vec<Bound<R>> = Vec::new();
        let mut classes = self.classes.clone();
        classes.sort();
        classes.dedup();
        for class in &classes {
            all.push(Bound {
                name: format!("{name}/class/{class}"),
                audience: Audience::Class(Arc::clone(class)),
                resource: make(everything()),
            });
        }
        let of_class = |waypoint: &Waypoint| {
            let info = (!classes.is_empty())
                .then(|| world.waypoint(&waypoint.0, &waypoint.1))
                .flatten();
            info.is_some_and(|info| classes.contains(&info.class))
        };
        let mut gateways = self.gateways.clone();
        gateways.sort();
        gateways.dedup();
        gateways.retain(|waypoint| !of_class(waypoint));
        let mut others: Vec<Waypoint> = self
            .services
            .iter()
            .flat_map(|one| one.service.waypoints.clone())
            .collect();
        others.sort();
        others.dedup();
        others.retain(|waypoint| !gateways.contains(waypoint) && !of_class(waypoint));
        if !gateways.is_empty() {
            all.push(Bound {
                name: format!("{name}/gateway"),
                audience: Audience::Waypoints(gateways),
                resource: make(everything()),
            });
        }
        if !others.is_empty() {
            let frontends = self.services.iter().map(|one| pb::Target {
                frontend: one.service.key(),
                port: one.port.into(),
                ..pb::Target::default()
            });
            all.push(Bound {
                name: name.to_owned(),
                audience: Audience::Waypoints(others),
                resource: make(frontends.collect()),
            });
        }
        all
    }
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// `waypoint-contract` 4.1.
const MAX_TARGETS: usize = 16;
