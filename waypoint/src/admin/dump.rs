//! `/config_dump`: everything that is configured and known, with the object
//! that each part came from. Secrets aren't in it: keys of TLS stay out, and
//! tokens are never kept.

use std::time::Instant;

use ambit_proto::waypoint as pb;
use serde_json::{Value, json};

use crate::config::{Config, Frontend, Service, Target};
use crate::node::Node;

/// The whole of it.
pub(super) fn dump(node: &Node) -> Value {
    let config = node.config.load_full();
    json!({
        "version": config.version,
        "settings": &*node.settings,
        "identity": node.id.to_string(),
        "certificates": node.certs.dump(),
        "connections": node.connections.now(),
        "gateway": gateway(&config),
        "frontends": sorted(config.frontends().map(|one| frontend(one))),
        "backends": sorted(config.services().map(|one| service(one))),
        "keys": keys(node),
    })
}

/// By name, so that two dumps can be compared.
fn sorted(values: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut all: Vec<Value> = values.collect();
    all.sort_by_key(|value| value.get("name").map(Value::to_string));
    all
}

pub(super) fn origin(origin: Option<&pb::Origin>) -> Value {
    origin.map_or(Value::Null, |origin| {
        json!({
            "kind": origin.kind,
            "namespace": origin.namespace,
            "name": origin.name,
            "generation": origin.generation,
        })
    })
}

fn gateway(config: &Config) -> Value {
    let gateway = &config.gateway;
    let message = &gateway.message;
    let providers = message.authorization_providers.iter();
    let providers = providers.map(|provider| {
        json!({
            "name": provider.name,
            "service": provider.service,
            "port": provider.port,
            "failOpen": provider.fail_open,
        })
    });
    json!({
        "origin": origin(message.origin.as_ref()),
        "known": gateway.known,
        "trustDomain": message.trust_domain,
        "trustDomainAliases": message.trust_domain_aliases,
        "servesServices": gateway.serves_services,
        "servesWorkloads": gateway.serves_workloads,
        "pathNormalization": format!("{:?}", gateway.normalization),
        "connectTimeoutMs": gateway.connect_timeout.as_millis(),
        "protocolDetectionMs": gateway.detection.as_millis(),
        "trustedProxies": gateway.trusted_proxies,
        "defaultRetries": gateway.default_retry.attempts,
        "limits": {
            "headerBytes": gateway.limits.header_bytes,
            "headerCount": gateway.limits.header_count,
            "maxStreams": gateway.limits.max_streams,
            "maxConnections": gateway.limits.max_connections,
        },
        "authorizationProviders": providers.collect::<Vec<_>>(),
    })
}

fn frontend(frontend: &Frontend) -> Value {
    let message = &frontend.message;
    let ports = frontend.ports.iter().map(|port| {
        let policies = port.policies.policies().map(|policy| {
            json!({
                "name": policy.key.to_string(),
                "action": policy.action.as_str(),
                "dryRun": policy.dry_run,
                "rules": policy.rules.len(),
            })
        });
        json!({
            "number": port.number,
            "protocol": format!("{:?}", port.declared),
            "policies": policies.collect::<Vec<_>>(),
            "authenticates": !port.authenticator.is_empty(),
            "rateLimits": port.limits.iter().map(|limit| &*limit.name).collect::<Vec<_>>(),
        })
    });
    let routes = frontend.routes.iter().map(|route| {
        let rules = route.rules.iter().map(|rule| {
            let backends = rule.backends.iter().map(|backend| {
                json!({
                    "service": &*backend.service,
                    "port": backend.port,
                    "subset": &*backend.subset,
                    "weight": backend.weight,
                    "invalid": backend.invalid.as_ref().map(|invalid| &*invalid.reason),
                })
            });
            json!({
                "name": &*rule.name,
                "matches": rule.matches.len(),
                "backends": backends.collect::<Vec<_>>(),
                "timeoutMs": rule.timeout.map(|timeout| timeout.as_millis()),
                "retries": rule.retry.as_ref().map(|retry| retry.attempts),
            })
        });
        json!({
            "name": &*route.name,
            "origin": {
                "kind": &*route.origin.kind,
                "namespace": &*route.origin.namespace,
                "name": &*route.origin.name,
                "generation": route.origin.generation,
            },
            "rules": rules.collect::<Vec<_>>(),
        })
    });
    json!({
        "name": &*frontend.key,
        "origin": origin(message.origin.as_ref()),
        "addresses": message.addresses.iter().filter_map(address).collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "routes": sorted(routes),
    })
}

fn address(cidr: &pb::Cidr) -> Option<String> {
    crate::config::block(cidr).map(|net| net.to_string())
}

fn service(service: &Service) -> Value {
    let message = &service.message;
    let origins = message.policy_origins.iter().map(|one| origin(Some(one)));
    json!({
        "name": &*service.key,
        "origin": origin(message.origin.as_ref()),
        "policyOrigins": origins.collect::<Vec<_>>(),
        "clusters": service.targets.iter().map(|one| target(one)).collect::<Vec<_>>(),
    })
}

/// A cluster with its endpoints as they stand.
pub(super) fn target(target: &Target) -> Value {
    let snapshot = target.cluster.snapshot(Instant::now());
    let hosts = snapshot.hosts.iter().map(|host| {
        let endpoint = &host.endpoint;
        let addresses = endpoint.addresses.iter().map(ToString::to_string);
        json!({
            "uid": &*endpoint.uid,
            "addresses": addresses.collect::<Vec<_>>(),
            "port": endpoint.target(target.port),
            "hbone": endpoint.hbone,
            "identity": endpoint.identity.as_ref().map(ToString::to_string),
            "health": format!("{:?}", endpoint.health),
            "healthy": host.healthy,
            "weight": endpoint.weight,
        })
    });
    let policy = &target.cluster.settings().policy;
    json!({
        "name": &*target.name,
        "service": &*target.service,
        "port": target.port,
        "subset": &*target.subset,
        "balancer": format!("{:?}", policy.balancer.algorithm),
        "outlierDetection": policy.outlier.is_some(),
        "tls": policy.tls.as_ref().map(|tls| format!("{tls:?}")),
        "tlsError": match &target.tls {
            Some(Err(error)) => Some(error.to_string()),
            Some(Ok(_)) | None => None,
        },
        "endpoints": hosts.collect::<Vec<_>>(),
    })
}

fn keys(node: &Node) -> Vec<Value> {
    let all = node.keys.cache.status().into_iter();
    all.map(|status| {
        json!({
            "url": status.source.url,
            "keys": status.keys,
            "failures": status.failures,
            "error": status.error.map(|error| error.to_string()),
        })
    })
    .collect()
}
