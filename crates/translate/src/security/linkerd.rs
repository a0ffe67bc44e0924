//! Linkerd's HTTPLocalRateLimitPolicy with its Server (`waypoint-contract` 8.4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ambit_kube::core::{IntOrString, LabelSelector, Service};
use ambit_kube::{
    ClientRef, HttpLocalRateLimitPolicy, Kind, LinkerdServer, Located, Object, ObjectKey,
    RateLimitAmount,
};
use ambit_proto::waypoint as pb;

use super::rate_limit::{Reach, bad};
use super::say::{Fault, Metadata, Say};
use super::values::with_aliases;
use super::{Bound, codes};
use crate::{Translated, World};

/// The limits of a Server's pods, as limits of the services that these are behind.
pub fn http_local_rate_limit(
    object: &Located<Arc<HttpLocalRateLimitPolicy>>,
    world: &dyn World,
) -> Translated<Vec<Bound<pb::RateLimit>>> {
    let spec = &object.object.spec;
    let metadata = Metadata::of(&object.object.metadata);
    let mut say = Say::about(Kind::HttpLocalRateLimitPolicy, &metadata, object);
    let mut reach = Reach::default();
    let target = &spec.target_ref;
    if target.kind == "Server" {
        let key = ObjectKey::new(
            Kind::LinkerdServer,
            metadata.namespace,
            target.name.as_str(),
        );
        match world.object(&key).map(|found| found.object) {
            Some(Object::LinkerdServer(server)) => {
                attach(&server, metadata.namespace, world, &mut reach, &mut say)
            }
            _ => reach.missing("spec.targetRef", &target.name, &mut say),
        }
    } else {
        let remedy = "refer to a Server, or use LocalRateLimit (ambit.mesh/v1alpha1)";
        bad(
            &mut say,
            "spec.targetRef.kind",
            Some(&target.kind),
            "this policy attaches to a Server only",
            remedy,
        );
    }
    let body = pb::RateLimit {
        origin: Some(metadata.origin("HTTPLocalRateLimitPolicy")),
        targets: Vec::new(),
        rules: rules(object, metadata.namespace, world, &mut say),
    };
    let name = format!(
        "HTTPLocalRateLimitPolicy/{}/{}",
        metadata.namespace, metadata.name
    );
    let condition = reach.condition(say.first_error());
    let resources = if body.rules.is_empty() {
        Vec::new()
    } else {
        reach.split(&name, &body)
    };
    Translated {
        resource: (!resources.is_empty()).then_some(resources),
        conditions: vec![condition],
        problems: say.done(),
        ..Translated::default()
    }
}

/// Total first, then the client's own, then each other client's.
fn rules(
    object: &Located<Arc<HttpLocalRateLimitPolicy>>,
    namespace: &str,
    world: &dyn World,
    say: &mut Say,
) -> Vec<pb::RateLimitRule> {
    let spec = &object.object.spec;
    let mut rules = Vec::new();
    if let Some(total) = amount("spec.total", spec.total, say) {
        rules.push(pb::RateLimitRule {
            also_next: true,
            ..rule("total", total)
        });
    }
    for (at, one) in spec.overrides.iter().enumerate() {
        let field = format!("spec.overrides[{at}]");
        let written = RateLimitAmount {
            requests_per_second: one.requests_per_second,
        };
        let Some(rate) = amount(&field, Some(written), say) else {
            continue;
        };
        let principals: Vec<pb::StringMatch> = one
            .client_refs
            .iter()
            .enumerate()
            .flat_map(|(at, client)| {
                principals(
                    &format!("{field}.clientRefs[{at}]"),
                    client,
                    namespace,
                    world,
                    say,
                )
            })
            .collect();
        if principals.is_empty() {
            bad(
                say,
                &format!("{field}.clientRefs"),
                None,
                "an override for nobody",
                "name the ServiceAccounts",
            );
            continue;
        }
        rules.push(pb::RateLimitRule {
            principals,
            ..rule(&format!("override-{at}"), rate)
        });
    }
    if let Some(identity) = amount("spec.identity", spec.identity, say) {
        rules.push(pb::RateLimitRule {
            per_client: true,
            ..rule("identity", identity)
        });
    }
    rules
}

/// Each second as many as a bucket holds.
fn rule(name: &str, rate: u32) -> pb::RateLimitRule {
    pb::RateLimitRule {
        name: name.to_owned(),
        max_tokens: rate,
        tokens_per_fill: rate,
        fill_interval_ms: 1_000,
        enforced_share: 1_000_000,
        grpc_resource_exhausted: true,
        smooth: true,
        ..pb::RateLimitRule::default()
    }
}

fn amount(field: &str, written: Option<RateLimitAmount>, say: &mut Say) -> Option<u32> {
    let rate = written?.requests_per_second;
    if rate == 0 {
        let field = format!("{field}.requestsPerSecond");
        bad(
            say,
            &field,
            Some("0"),
            "not an amount; the limit is left out",
            "write 1 or more",
        );
        return None;
    }
    Some(rate)
}

fn principals(
    field: &str,
    client: &ClientRef,
    namespace: &str,
    world: &dyn World,
    say: &mut Say,
) -> Vec<pb::StringMatch> {
    if client.kind != "ServiceAccount" || !matches!(client.group.as_str(), "" | "core") {
        let remedy = "refer to a ServiceAccount";
        bad(
            say,
            &format!("{field}.kind"),
            Some(&client.kind),
            "a client is a ServiceAccount",
            remedy,
        );
        return Vec::new();
    }
    let namespace = client.namespace.as_deref().unwrap_or(namespace);
    let mesh = world.mesh();
    let principal = format!("{}/ns/{namespace}/sa/{}", mesh.trust_domain, client.name);
    with_aliases(mesh, &principal)
}

/// Binds to the service ports that lead to the Server's port.
fn attach(
    server: &LinkerdServer,
    namespace: &str,
    world: &dyn World,
    reach: &mut Reach,
    say: &mut Say,
) {
    let field = "spec.targetRef";
    let name = server.metadata.name.as_deref().unwrap_or_default();
    let Some(labels) = server.spec.pod_selector.as_ref().and_then(plain_labels) else {
        let remedy = "select pods by matchLabels, or use LocalRateLimit (ambit.mesh/v1alpha1) with targetRefs";
        return bad(
            say,
            field,
            Some(name),
            "the Server selects no pods by matchLabels alone",
            remedy,
        );
    };
    let uids = |labels: &BTreeMap<String, String>| -> BTreeSet<Arc<str>> {
        let selected = world.selected(namespace, labels).into_iter();
        selected.map(|workload| workload.uid).collect()
    };
    let pods = uids(&labels);
    let (mut led, mut bound) = (false, false);
    for located in world.objects(Kind::Service, namespace) {
        let Object::Service(service) = &located.object else {
            continue;
        };
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.clone())
            .unwrap_or_default();
        if selector.is_empty() {
            continue;
        }
        let behind = uids(&selector);
        if behind.is_disjoint(&pods) {
            continue;
        }
        let ports = ports_to(service, server.spec.port.as_ref());
        led |= !ports.is_empty();
        let service_name = service.metadata.name.as_deref().unwrap_or_default();
        let Some(info) = world
            .service(namespace, service_name)
            .filter(|info| !info.waypoints.is_empty())
        else {
            continue;
        };
        if !ports.is_empty() && !behind.is_subset(&pods) {
            say.warning(
                codes::NO_SERVER_PORT,
                Fault {
                    field,
                    value: Some(service_name),
                    message: "the service has pods that the Server doesn't select; they are limited too",
                    remedy: "use LocalRateLimit (ambit.mesh/v1alpha1) with targetRefs",
                },
            );
        }
        for port in ports {
            reach.service(&info, port);
            bound = true;
        }
    }
    if !led {
        say.error(
            codes::NO_SERVER_PORT,
            Fault {
                field,
                value: Some(name),
                message: "no service leads to the port of this Server, so nobody counts",
                remedy: "check the Server's podSelector and port against a Service's targetPort",
            },
        );
    } else if !bound {
        reach.unbound(field, name, say);
    }
}

/// The labels of a selector that has nothing else.
fn plain_labels(selector: &LabelSelector) -> Option<BTreeMap<String, String>> {
    let plain = selector
        .match_expressions
        .as_ref()
        .is_none_or(Vec::is_empty);
    plain.then(|| selector.match_labels.clone().unwrap_or_default())
}

/// The service's ports whose target is the Server's port.
fn ports_to(service: &Service, port: Option<&IntOrString>) -> Vec<u16> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let leads = |target: Option<&IntOrString>, number: i32| match (target, port) {
        (_, None) => false,
        (None | Some(IntOrString::Int(0)), Some(IntOrString::Int(wanted))) => number == *wanted,
        (Some(target), Some(wanted)) => target == wanted,
        (None, Some(IntOrString::String(_))) => false,
    };
    let found = ports.into_iter().flatten();
    found
        .filter(|one| leads(one.target_port.as_ref(), one.port))
        .filter_map(|one| u16::try_from(one.port).ok())
        .collect()
}
