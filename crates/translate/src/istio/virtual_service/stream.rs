//! TLS and TCP rules of a VirtualService (1.13, 3.1).

use std::collections::BTreeMap;

use ambit_kube::{VirtualServiceSpec, VsDestinationWeight};
use ambit_proto::waypoint::{Invalid, Match, Rule};

use super::{Scope, UNUSABLE, destination, matches};
use crate::istio::say::{Fault, Say};
use crate::istio::{codes, hosts};

/// One rule an entry, since each has names of its own.
pub(super) fn tls_rules(say: &mut Say, spec: &VirtualServiceSpec, scope: &Scope<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (at, route) in spec.tls.iter().enumerate() {
        let path = format!("spec.tls[{at}]");
        if route.matches.is_empty() {
            say.error(
                codes::BAD_ACTION,
                Fault {
                    field: &path,
                    value: "",
                    message: "a TLS rule needs a match with sniHosts, so it isn't used",
                    remedy: "name the host in match[].sniHosts, or use tcp",
                },
            );
        }
        for (entry_at, entry) in route.matches.iter().enumerate() {
            let field = format!("{path}.match[{entry_at}]");
            let condition = Condition {
                gateways: &entry.gateways,
                labels: &entry.source_labels,
                destinations: &entry.destination_subnets,
                source: None,
                port: entry.port,
                namespace: entry.source_namespace.as_deref(),
            };
            let Some(matched) = condition.matched(say, &field, scope) else {
                continue;
            };
            if !names(say, &entry.sni_hosts, &spec.hosts, &field, scope) {
                continue;
            }
            let mut rule = forward(say, &route.route, &path, scope);
            rule.sni = entry
                .sni_hosts
                .iter()
                .map(|sni| sni.to_ascii_lowercase())
                .collect();
            rule.matches
                .extend((matched != Match::default()).then_some(matched));
            rules.push(rule);
        }
    }
    rules
}

/// Whether the names may be matched: each must be one of the object's hosts.
fn names(say: &mut Say, sni: &[String], own: &[String], field: &str, scope: &Scope<'_>) -> bool {
    let stray = sni.iter().find(|name| {
        let name = name.to_ascii_lowercase();
        !own.iter().any(|host| {
            hosts::covers(&hosts::expand(host, scope.namespace, scope.world), &name)
                || host.eq_ignore_ascii_case(&name)
        })
    });
    if let Some(stray) = stray {
        say.error(
            codes::BAD_HOST,
            Fault {
                field: &format!("{field}.sniHosts"),
                value: stray,
                message: "the name isn't one of the VirtualService's hosts, so the match isn't used",
                remedy: "add it to spec.hosts",
            },
        );
        return false;
    }
    if sni.is_empty() {
        say.error(
            codes::BAD_HOST,
            Fault {
                field: &format!("{field}.sniHosts"),
                value: "",
                message: "a TLS match needs a name, so it isn't used",
                remedy: "name the host, or use tcp",
            },
        );
    }
    !sni.is_empty()
}

/// TCP rules in order, up to the first that takes every connection.
pub(super) fn tcp_rules(say: &mut Say, spec: &VirtualServiceSpec, scope: &Scope<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (at, route) in spec.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{at}]");
        let mut matched = Vec::new();
        for (entry_at, entry) in route.matches.iter().enumerate() {
            let condition = Condition {
                gateways: &entry.gateways,
                labels: &entry.source_labels,
                destinations: &entry.destination_subnets,
                source: entry.source_subnet.as_deref(),
                port: entry.port,
                namespace: entry.source_namespace.as_deref(),
            };
            matched.extend(condition.matched(say, &format!("{path}.match[{entry_at}]"), scope));
        }
        if matched.is_empty() && !route.matches.is_empty() {
            continue;
        }
        let mut rule = forward(say, &route.route, &path, scope);
        rule.matches = matched;
        let last = rule.matches.is_empty() || rule.matches.contains(&Match::default());
        rules.push(rule);
        if last && at + 1 < spec.tcp.len() {
            say.warning(
                codes::UNREACHABLE,
                Fault {
                    field: &format!("spec.tcp[{}]", at + 1),
                    value: "",
                    message: &format!("no connection gets here: {path} takes all of them"),
                    remedy: "put it before that rule, or remove it",
                },
            );
            break;
        }
    }
    rules
}

/// What a TLS and a TCP match have in common.
struct Condition<'a> {
    gateways: &'a [String],
    labels: &'a BTreeMap<String, String>,
    destinations: &'a [String],
    source: Option<&'a str>,
    port: Option<u32>,
    namespace: Option<&'a str>,
}

impl Condition<'_> {
    /// None where a waypoint can't judge it, which is said.
    fn matched(&self, say: &mut Say, path: &str, scope: &Scope<'_>) -> Option<Match> {
        if matches::not_for_us(say, path, self.gateways, self.labels) {
            return None;
        }
        let subnets = [
            ("destinationSubnets", self.destinations.join(", ")),
            ("sourceSubnet", self.source.unwrap_or_default().to_owned()),
        ];
        for (field, value) in subnets {
            if !value.is_empty() {
                say.warning(
                    codes::MATCH_NOT_USED,
                    Fault {
                        field: &format!("{path}.{field}"),
                        value: &value,
                        message: "a waypoint chooses by service and port, not by address: the match is left out",
                        remedy: "use port, sourceNamespace, or a ServiceEntry of its own for the address",
                    },
                );
                return None;
            }
        }
        if let Some(port) = self.port
            && !scope.ports.iter().any(|known| u32::from(*known) == port)
        {
            say.warning(
                codes::NO_PORT,
                Fault {
                    field: &format!("{path}.port"),
                    value: &port.to_string(),
                    message: "no host of the VirtualService has this service port",
                    remedy: "write a port of the Service, not a target port",
                },
            );
        }
        Some(Match {
            port: self.port.unwrap_or_default(),
            source_namespaces: self.namespace.map(str::to_owned).into_iter().collect(),
            ..Match::default()
        })
    }
}

fn forward(say: &mut Say, route: &[VsDestinationWeight], path: &str, scope: &Scope<'_>) -> Rule {
    let backends = if route.is_empty() {
        let reason = "it has no destination".to_owned();
        say.error(
            codes::BAD_ACTION,
            Fault {
                field: &format!("{path}.route"),
                value: "",
                message: &format!("{reason}, so its connections are closed"),
                remedy: "add a destination",
            },
        );
        Err(reason)
    } else {
        for (at, entry) in route.iter().enumerate() {
            if entry.headers.is_some() {
                say.error(
                    codes::FIELD_REFUSED,
                    Fault {
                        field: &format!("{path}.route[{at}].headers"),
                        value: "",
                        message: "there are no headers in opaque traffic",
                        remedy: "remove it, or make the port an HTTP port",
                    },
                );
            }
        }
        destination::weighted(say, route, path, scope)
    };
    match backends {
        Ok(backends) => Rule {
            backends,
            ..Rule::default()
        },
        Err(reason) => Rule {
            invalid: Some(Invalid {
                reason,
                status: UNUSABLE,
            }),
            ..Rule::default()
        },
    }
}
