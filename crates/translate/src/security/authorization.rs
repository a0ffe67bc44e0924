//! AuthorizationPolicy as a waypoint enforces it (`waypoint-contract` 4.2 to 4.8).

use std::sync::Arc;

use ambit_kube::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, Kind, Located, Operation, Rule, Source,
};
use ambit_proto::waypoint as pb;
use ambit_proto::waypoint::AuthorizationAction;

use super::condition::condition;
use super::say::{Fault, Metadata, Say};
use super::selector::{Behind, behind};
use super::values::Values;
use super::{Audience, Bound, codes, needs, targets};
use crate::{MeshInfo, RouteCondition, Translated, World};

/// What waypoints enforce of a policy, and which do.
pub fn authorization(
    policy: &Located<Arc<AuthorizationPolicy>>,
    world: &dyn World,
) -> Translated<Vec<Bound<pb::Authorization>>> {
    let spec = &policy.object.spec;
    let metadata = Metadata::of(&policy.object.metadata);
    let mut say = Say::about(Kind::AuthorizationPolicy, &metadata, policy);
    let references = targets::references(spec.target_ref.as_ref(), &spec.target_refs);
    let name = format!(
        "AuthorizationPolicy/{}/{}",
        metadata.namespace, metadata.name
    );
    let (resources, condition) = if references.is_empty() {
        let resources = by_selector(policy, &metadata, &name, world, &mut say);
        (resources, None)
    } else {
        let body = body(policy, &metadata, world, &mut say);
        let body = if spec.selector.is_some() {
            refuse_selector(&mut say);
            closed(&body)
        } else {
            body
        };
        let bound = targets::resolve(&references, metadata.namespace, world, &mut say);
        let fault = say.first_error();
        let resources = bound.split(&name, world, |targets| pb::Authorization {
            targets,
            ..body.clone()
        });
        (resources, Some(bound.condition(fault)))
    };
    Translated {
        resource: (!resources.is_empty()).then_some(resources),
        parents: Vec::new(),
        conditions: condition.into_iter().collect::<Vec<RouteCondition>>(),
        problems: say.done(),
    }
}

/// A policy with a selector, where one waypoint stands before all that it selects.
fn by_selector(
    policy: &Located<Arc<AuthorizationPolicy>>,
    metadata: &Metadata<'_>,
    name: &str,
    world: &dyn World,
    say: &mut Say,
) -> Vec<Bound<pb::Authorization>> {
    let spec = &policy.object.spec;
    let Some(needed) = needs::only_at_waypoint(spec) else {
        return Vec::new();
    };
    match behind(spec.selector.as_ref(), metadata.namespace, world) {
        Behind::One(waypoint, workload_uids) => {
            say.info(
                codes::AT_WAYPOINT,
                Fault {
                    field: &needed,
                    value: None,
                    message: &format!(
                        "the rules need more than a node proxy sees; waypoint {}/{}, which all selected workloads \
                         are behind, enforces the policy",
                        waypoint.0, waypoint.1
                    ),
                    remedy: "",
                },
            );
            let body = body(policy, metadata, world, say);
            vec![Bound {
                name: name.to_owned(),
                audience: Audience::Waypoints(vec![waypoint]),
                resource: pb::Authorization {
                    targets: vec![pb::Target::default()],
                    workload_uids: workload_uids.iter().map(ToString::to_string).collect(),
                    ..body
                },
            }]
        }
        Behind::Off | Behind::Nothing => Vec::new(),
        other => {
            refuse_mixed(spec, &needed, &other, say);
            Vec::new()
        }
    }
}

/// Says why no waypoint enforces a policy that needs one.
fn refuse_mixed(spec: &AuthorizationPolicySpec, needed: &str, behind: &Behind, say: &mut Say) {
    let why = match behind {
        Behind::Mesh => {
            "a policy of the root namespace reaches workloads of all namespaces".to_owned()
        }
        Behind::Mixed(groups) if groups.is_empty() => {
            "no waypoint stands before the selected workloads".to_owned()
        }
        Behind::Mixed(groups) => {
            let names = groups
                .keys()
                .map(|(namespace, name)| format!("{namespace}/{name}"));
            let names: Vec<String> = names.collect();
            format!(
                "not all selected workloads are behind one waypoint (found: {})",
                names.join(", ")
            )
        }
        _ => return,
    };
    let outcome = match spec.action {
        Action::Allow => "the node proxies refuse what only these rules would allow",
        Action::Deny => "the node proxies refuse more than the rules say",
        Action::Audit | Action::Custom => "nothing enforces the policy",
    };
    say.warning(
        codes::NOT_AT_WAYPOINT,
        Fault {
            field: needed,
            value: None,
            message: &format!("this needs a waypoint, and {why}; {outcome}"),
            remedy: "attach it: instead of the selector write targetRefs: [{group: \"\", kind: Service, name: NAME}], \
                     and give the service a waypoint",
        },
    );
}

fn refuse_selector(say: &mut Say) {
    say.error(
        codes::SELECTOR_AND_TARGETS,
        Fault {
            field: "spec.selector",
            value: None,
            message: "a policy has a selector or targetRefs, not both; it refuses everything until one is left",
            remedy: "keep the one that is meant",
        },
    );
}

/// Denies everything, in the name of the policy.
pub(super) fn closed(body: &pb::Authorization) -> pb::Authorization {
    pb::Authorization {
        action: AuthorizationAction::Deny.into(),
        rules: vec![pb::AuthorizationRule::default()],
        dry_run: false,
        provider: String::new(),
        ..body.clone()
    }
}

/// The policy without what it is bound to.
fn body(
    policy: &Located<Arc<AuthorizationPolicy>>,
    metadata: &Metadata<'_>,
    world: &dyn World,
    say: &mut Say,
) -> pb::Authorization {
    let spec = &policy.object.spec;
    let annotations = policy.object.metadata.annotations.as_ref();
    let dry_run = annotations
        .and_then(|annotations| annotations.get("istio.io/dry-run"))
        .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
    let has_dry_run = matches!(spec.action, Action::Allow | Action::Deny);
    if dry_run && !has_dry_run {
        say.warning(
            codes::NO_DRY_RUN,
            Fault {
                field: "metadata.annotations",
                value: Some("istio.io/dry-run"),
                message: "only ALLOW and DENY have a dry run; the policy is in force",
                remedy: "remove the annotation",
            },
        );
    }
    pb::Authorization {
        origin: Some(metadata.origin("AuthorizationPolicy")),
        action: action(spec.action).into(),
        targets: Vec::new(),
        rules: rules(spec, metadata, world.mesh(), say),
        dry_run: dry_run && has_dry_run,
        provider: provider(spec, world.mesh(), say),
        workload_uids: Vec::new(),
    }
}

fn action(action: Action) -> AuthorizationAction {
    match action {
        Action::Allow => AuthorizationAction::Allow,
        Action::Deny => AuthorizationAction::Deny,
        Action::Audit => AuthorizationAction::Audit,
        Action::Custom => AuthorizationAction::Custom,
    }
}

/// The provider of a CUSTOM; one that isn't there refuses.
fn provider(spec: &AuthorizationPolicySpec, mesh: &MeshInfo, say: &mut Say) -> String {
    let written = spec.provider.as_ref().map_or("", |provider| &provider.name);
    if spec.action != Action::Custom {
        if !written.is_empty() {
            say.warning(
                codes::INCOMPLETE,
                Fault {
                    field: "spec.provider",
                    value: Some(written),
                    message: "only CUSTOM has a provider; this one isn't asked",
                    remedy: "write action: CUSTOM or remove the provider",
                },
            );
        }
        return String::new();
    }
    if written.is_empty() {
        say.error(
            codes::INCOMPLETE,
            Fault {
                field: "spec.provider.name",
                value: None,
                message: "CUSTOM names no provider; what its rules match is refused",
                remedy: "name one of meshConfig.extensionProviders",
            },
        );
        return NOBODY.to_owned();
    }
    let mut providers = mesh.config.extension_providers.iter();
    let found = providers.find(|provider| provider.name == written);
    let decides = found
        .map(|found| found.envoy_ext_authz_http.is_some() || found.envoy_ext_authz_grpc.is_some());
    let message = match decides {
        Some(true) => return written.to_owned(),
        Some(false) => "this provider isn't one for authorization; what the rules match is refused",
        None => "the mesh has no such provider; what the rules match is refused",
    };
    say.error(
        codes::NO_PROVIDER,
        Fault {
            field: "spec.provider.name",
            value: Some(written),
            message,
            remedy: "name an envoyExtAuthzHttp or envoyExtAuthzGrpc of meshConfig.extensionProviders",
        },
    );
    written.to_owned()
}

fn rules(
    spec: &AuthorizationPolicySpec,
    metadata: &Metadata<'_>,
    mesh: &MeshInfo,
    say: &mut Say,
) -> Vec<pb::AuthorizationRule> {
    if spec.rules.is_empty() && matches!(spec.action, Action::Deny | Action::Custom) {
        say.error(
            codes::INCOMPLETE,
            Fault {
                field: "spec.rules",
                value: None,
                message: "a DENY or CUSTOM without rules says nothing; until it has some it holds for everything",
                remedy: "write the rules, or one empty rule ({}) for everything",
            },
        );
        return vec![pb::AuthorizationRule::default()];
    }
    let rules = spec.rules.iter().enumerate();
    rules
        .map(|(at, written)| {
            let values = Values {
                namespace: metadata.namespace,
                mesh,
                say,
                unusable: None,
            };
            rule(at, written, spec.action == Action::Custom, values)
        })
        .collect()
}

fn rule(at: usize, written: &Rule, custom: bool, mut values: Values<'_>) -> pb::AuthorizationRule {
    let path = format!("spec.rules[{at}]");
    let mut from = Vec::new();
    for (at, one) in written.from.iter().enumerate() {
        let field = format!("{path}.from[{at}].source");
        let one = if custom {
            &known_early(&field, &one.source, &mut values)
        } else {
            &one.source
        };
        from.push(source(&field, one, &mut values));
    }
    let mut to = Vec::new();
    for (at, one) in written.to.iter().enumerate() {
        let field = format!("{path}.to[{at}].operation");
        to.push(operation(&field, &one.operation, &mut values));
    }
    let mut when = Vec::new();
    for (at, one) in written.when.iter().enumerate() {
        let field = format!("{path}.when[{at}]");
        if custom && is_identity_key(&one.key) {
            not_for_custom(&format!("{field}.key"), Some(&one.key), &mut values);
        } else {
            when.extend(condition(&field, one, &mut values));
        }
    }
    pb::AuthorizationRule {
        from,
        to,
        when,
        index: u32::try_from(at).unwrap_or(u32::MAX),
        unusable: values.unusable.unwrap_or_default(),
    }
}

fn source(path: &str, written: &Source, values: &mut Values<'_>) -> pb::Source {
    let at = |name: &str| format!("{path}.{name}");
    if *written == Source::default() && values.unusable.is_none() {
        values.refuse(
            codes::BAD_VALUE,
            Fault {
                field: path,
                value: None,
                message: "a source without a condition",
                remedy: "say whom it is about, or leave it out",
            },
        );
    }
    let accounts = !written.service_accounts.is_empty() || !written.not_service_accounts.is_empty();
    let others = [
        &written.principals,
        &written.not_principals,
        &written.namespaces,
        &written.not_namespaces,
    ];
    if accounts && others.iter().any(|list| !list.is_empty()) {
        values.refuse(
            codes::BAD_VALUE,
            Fault {
                field: &at("serviceAccounts"),
                value: None,
                message: "serviceAccounts don't go together with principals or namespaces",
                remedy: "use one of them",
            },
        );
    }
    pb::Source {
        principals: values.principals(&at("principals"), &written.principals),
        not_principals: values.principals(&at("notPrincipals"), &written.not_principals),
        request_principals: values
            .request_principals(&at("requestPrincipals"), &written.request_principals),
        not_request_principals: values
            .request_principals(&at("notRequestPrincipals"), &written.not_request_principals),
        namespaces: values.texts(&at("namespaces"), &written.namespaces),
        not_namespaces: values.texts(&at("notNamespaces"), &written.not_namespaces),
        service_accounts: values.accounts(&at("serviceAccounts"), &written.service_accounts),
        not_service_accounts: values
            .accounts(&at("notServiceAccounts"), &written.not_service_accounts),
        trust_domains: values.trust_domains(&at("trustDomains"), &written.trust_domains),
        not_trust_domains: values.trust_domains(&at("notTrustDomains"), &written.not_trust_domains),
        ip_blocks: values.blocks(&at("ipBlocks"), &written.ip_blocks),
        not_ip_blocks: values.blocks(&at("notIpBlocks"), &written.not_ip_blocks),
        remote_ip_blocks: values.blocks(&at("remoteIpBlocks"), &written.remote_ip_blocks),
        not_remote_ip_blocks: values
            .blocks(&at("notRemoteIpBlocks"), &written.not_remote_ip_blocks),
    }
}

fn operation(path: &str, written: &Operation, values: &mut Values<'_>) -> pb::Operation {
    let at = |name: &str| format!("{path}.{name}");
    if *written == Operation::default() {
        values.refuse(
            codes::BAD_VALUE,
            Fault {
                field: path,
                value: None,
                message: "an operation without a condition",
                remedy: "say what it is about, or leave it out",
            },
        );
    }
    pb::Operation {
        hosts: values.hosts(&at("hosts"), &written.hosts),
        not_hosts: values.hosts(&at("notHosts"), &written.not_hosts),
        ports: values.ports(&at("ports"), &written.ports),
        not_ports: values.ports(&at("notPorts"), &written.not_ports),
        methods: values.methods(&at("methods"), &written.methods),
        not_methods: values.methods(&at("notMethods"), &written.not_methods),
        paths: values.paths(&at("paths"), &written.paths),
        not_paths: values.paths(&at("notPaths"), &written.not_paths),
    }
}

/// A source of a CUSTOM without what the provider is asked before (4.5).
fn known_early(path: &str, written: &Source, values: &mut Values<'_>) -> Source {
    let mut left = written.clone();
    for (name, list) in [
        ("principals", &mut left.principals),
        ("notPrincipals", &mut left.not_principals),
        ("requestPrincipals", &mut left.request_principals),
        ("notRequestPrincipals", &mut left.not_request_principals),
        ("namespaces", &mut left.namespaces),
        ("notNamespaces", &mut left.not_namespaces),
        ("serviceAccounts", &mut left.service_accounts),
        ("notServiceAccounts", &mut left.not_service_accounts),
        ("trustDomains", &mut left.trust_domains),
        ("notTrustDomains", &mut left.not_trust_domains),
    ] {
        if let Some(first) = list.first() {
            not_for_custom(&format!("{path}.{name}"), Some(first), values);
            list.clear();
        }
    }
    left
}

fn not_for_custom(field: &str, value: Option<&str>, values: &mut Values<'_>) {
    values.refuse(
        codes::NOT_FOR_CUSTOM,
        Fault {
            field,
            value,
            message: "a CUSTOM rule can't depend on identities or tokens; without it the provider is asked more often",
            remedy: "use hosts, methods, paths, ports, ipBlocks, remoteIpBlocks or request.headers, \
                     and put the identity into an ALLOW or DENY",
        },
    );
}

fn is_identity_key(key: &str) -> bool {
    const KEYS: [&str; 4] = [
        "source.principal",
        "source.namespace",
        "source.serviceAccount",
        "source.trustDomain",
    ];
    KEYS.contains(&key) || key.starts_with("request.auth.")
}

/// The provider of a CUSTOM that names none: no provider can be called so.
const NOBODY: &str = "(none)";
