//! RequestAuthentication as a waypoint enforces it (`waypoint-contract` 4.9).

use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube::{JwtRule, Kind, Located, RequestAuthentication, RequestAuthenticationSpec};
use ambit_proto::waypoint as pb;
use ambit_proto::waypoint::jwt_rule::Keys;

use super::say::{Fault, Metadata, Say};
use super::selector::{Behind, behind};
use super::{Audience, Bound, codes, is_token, targets};
use crate::{RouteCondition, Translated, World};

/// What waypoints accept as tokens, and which do.
pub fn authentication(
    object: &Located<Arc<RequestAuthentication>>,
    world: &dyn World,
) -> Translated<Vec<Bound<pb::Authentication>>> {
    let spec = &object.object.spec;
    let metadata = Metadata::of(&object.object.metadata);
    let mut say = Say::about(Kind::RequestAuthentication, &metadata, object);
    let rules = spec.jwt_rules.iter().enumerate();
    let body = pb::Authentication {
        origin: Some(metadata.origin("RequestAuthentication")),
        rules: rules
            .map(|(at, rule)| jwt_rule(at, rule, &mut say))
            .collect(),
        ..pb::Authentication::default()
    };
    let references = targets::references(spec.target_ref.as_ref(), &spec.target_refs);
    let name = format!(
        "RequestAuthentication/{}/{}",
        metadata.namespace, metadata.name
    );
    let (resources, condition) = if references.is_empty() {
        (
            by_selector(spec, &metadata, &name, &body, world, &mut say),
            None,
        )
    } else {
        if spec.selector.is_some() {
            say.error(
                codes::SELECTOR_AND_TARGETS,
                Fault {
                    field: "spec.selector",
                    value: None,
                    message: "an object has a selector or targetRefs, not both; targetRefs are used",
                    remedy: "keep the one that is meant",
                },
            );
        }
        let bound = targets::resolve(&references, metadata.namespace, world, &mut say);
        let fault = say.first_error();
        let resources = bound.split(&name, world, |targets| pb::Authentication {
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

/// With a selector, or for a namespace: each waypoint for the workloads behind it.
fn by_selector(
    spec: &RequestAuthenticationSpec,
    metadata: &Metadata<'_>,
    name: &str,
    body: &pb::Authentication,
    world: &dyn World,
    say: &mut Say,
) -> Vec<Bound<pb::Authentication>> {
    let why = match behind(spec.selector.as_ref(), metadata.namespace, world) {
        Behind::Nothing => return Vec::new(),
        Behind::One(waypoint, workloads) => {
            return vec![for_workloads(name, body, waypoint, &workloads)];
        }
        Behind::Off => "the mesh is set to upstream's way",
        Behind::Mesh => "an object of the root namespace reaches workloads of all namespaces",
        Behind::Mixed(groups) if groups.is_empty() => {
            "no waypoint stands before the selected workloads"
        }
        Behind::Mixed(groups) => {
            refuse(
                say,
                "not all selected workloads are behind one waypoint; at the others",
            );
            return groups
                .into_iter()
                .map(|(waypoint, workloads)| {
                    let name = format!("{name}/workloads/{}/{}", waypoint.0, waypoint.1);
                    for_workloads(&name, body, waypoint, &workloads)
                })
                .collect();
        }
    };
    refuse(say, &format!("{why}, and"));
    Vec::new()
}

fn refuse(say: &mut Say, why: &str) {
    say.warning(
        codes::NOT_AT_WAYPOINT,
        Fault {
            field: "spec",
            value: None,
            message: &format!("{why} node proxies see no tokens: none is judged"),
            remedy: "attach it: instead of the selector write targetRefs: [{group: \"\", kind: Service, name: NAME}], \
                     and give the service a waypoint",
        },
    );
}

fn for_workloads(
    name: &str,
    body: &pb::Authentication,
    waypoint: (Arc<str>, Arc<str>),
    workloads: &[Arc<str>],
) -> Bound<pb::Authentication> {
    Bound {
        name: name.to_owned(),
        audience: Audience::Waypoints(vec![waypoint]),
        resource: pb::Authentication {
            targets: vec![pb::Target::default()],
            workload_uids: workloads.iter().map(ToString::to_string).collect(),
            ..body.clone()
        },
    }
}

fn jwt_rule(at: usize, rule: &JwtRule, say: &mut Say) -> pb::JwtRule {
    let path = format!("spec.jwtRules[{at}]");
    let keys = keys(&path, rule, say);
    pb::JwtRule {
        issuer: match rule.issuer.as_str() {
            "" => NOBODY.to_owned(),
            issuer => issuer.to_owned(),
        },
        audiences: rule
            .audiences
            .iter()
            .filter(|audience| !audience.is_empty())
            .cloned()
            .collect(),
        keys: Some(keys),
        from_headers: from_headers(&path, rule, say),
        from_params: filled(&format!("{path}.fromParams"), &rule.from_params, say),
        from_cookies: filled(&format!("{path}.fromCookies"), &rule.from_cookies, say),
        forward_original_token: rule.forward_original_token,
        output_payload_to_header: payload_header(&path, rule, say),
        output_claims: output_claims(&path, rule, say),
        fetch_timeout_ms: rule
            .timeout
            .filter(|timeout| !timeout.is_zero())
            .map_or(FETCH_TIMEOUT_MS, |timeout| {
                timeout.as_millis().min(MAX_FETCH_MS)
            }),
        space_delimited_claims: filled(
            &format!("{path}.spaceDelimitedClaims"),
            &rule.space_delimited_claims,
            say,
        ),
    }
}

/// Where the keys come from; what can't be used refuses the issuer's tokens.
fn keys(path: &str, rule: &JwtRule, say: &mut Say) -> Keys {
    let unusable =
        |say: &mut Say, code, field: &str, value: Option<&str>, message: &str, remedy: &str| {
            let field = format!("{path}.{field}");
            say.error(
                code,
                Fault {
                    field: &field,
                    value,
                    message: &format!("{message}; tokens of this issuer are refused"),
                    remedy,
                },
            );
            Keys::Unusable(pb::Invalid {
                reason: format!("{field}: {message}"),
                status: 401,
            })
        };
    if rule.issuer.is_empty() {
        let remedy = "write the issuer as tokens have it in `iss`";
        return unusable(
            say,
            codes::BAD_JWT_RULE,
            "issuer",
            None,
            "a rule without an issuer",
            remedy,
        );
    }
    let inline = rule.jwks.as_deref().filter(|jwks| !jwks.trim().is_empty());
    let uri = rule.jwks_uri.as_deref().filter(|uri| !uri.is_empty());
    if let Some(jwks) = inline {
        if uri.is_some() {
            say.info(
                codes::BAD_KEYS,
                Fault {
                    field: &format!("{path}.jwksUri"),
                    value: uri,
                    message: "jwks is written too, and wins; this isn't fetched",
                    remedy: "remove one of them",
                },
            );
        }
        return match jwks_fault(jwks) {
            None => Keys::InlineJwks(jwks.to_owned()),
            Some(wrong) => unusable(
                say,
                codes::BAD_KEYS,
                "jwks",
                None,
                wrong,
                "write {\"keys\": [...]} (RFC 7517)",
            ),
        };
    }
    let Some(uri) = uri else {
        let address = uri_fault(&rule.issuer);
        return match address {
            None => Keys::Discover(true),
            Some(_) => unusable(
                say,
                codes::BAD_KEYS,
                "jwksUri",
                None,
                "there are no keys, and the issuer isn't an address to ask for them",
                "write jwks or jwksUri",
            ),
        };
    };
    match uri_fault(uri) {
        None => Keys::JwksUri(uri.to_owned()),
        Some(wrong) => unusable(
            say,
            codes::BAD_KEYS,
            "jwksUri",
            Some(uri),
            wrong,
            "write the https address of the issuer's keys, or the keys themselves as jwks",
        ),
    }
}

fn jwks_fault(jwks: &str) -> Option<&'static str> {
    let Ok(document) = serde_json::from_str::<serde_json::Value>(jwks) else {
        return Some("the keys aren't JSON");
    };
    match document.get("keys").and_then(serde_json::Value::as_array) {
        None => Some("the document has no list of keys"),
        Some(keys) if keys.is_empty() => Some("the list of keys is empty"),
        Some(_) => None,
    }
}

/// What keeps an address from being fetched: its form, or where it leads (4.9).
/// What a name resolves to is judged when it is fetched.
fn uri_fault(uri: &str) -> Option<&'static str> {
    let rest = uri
        .strip_prefix("https://")
        .or_else(|| uri.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Some("not an http or https address");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some("an address with credentials in it");
    }
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host),
    };
    if host.is_empty() {
        return Some("an address without a host");
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if matches!(host.as_str(), "metadata.google.internal" | "metadata") {
        return Some("a cloud's metadata service isn't asked for keys");
    }
    let local = match host.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified() || ip == AWS_METADATA,
    };
    local.then_some("a link-local address isn't asked for keys")
}

fn from_headers(path: &str, rule: &JwtRule, say: &mut Say) -> Vec<pb::TokenHeader> {
    let headers = rule.from_headers.iter().enumerate();
    headers
        .filter_map(|(at, header)| {
            let field = format!("{path}.fromHeaders[{at}].name");
            header_name(&field, &header.name, say)?;
            Some(pb::TokenHeader {
                name: header.name.to_ascii_lowercase(),
                prefix: header.prefix.clone().unwrap_or_default(),
            })
        })
        .collect()
}

fn payload_header(path: &str, rule: &JwtRule, say: &mut Say) -> String {
    let written = rule.output_payload_to_header.as_deref().unwrap_or_default();
    if written.is_empty() {
        return String::new();
    }
    let field = format!("{path}.outputPayloadToHeader");
    header_name(&field, written, say).map_or_else(String::new, |()| written.to_ascii_lowercase())
}

fn output_claims(path: &str, rule: &JwtRule, say: &mut Say) -> Vec<pb::ClaimHeader> {
    let claims = rule.output_claim_to_headers.iter().enumerate();
    claims
        .filter_map(|(at, output)| {
            let field = format!("{path}.outputClaimToHeaders[{at}]");
            header_name(&format!("{field}.header"), &output.header, say)?;
            if output.claim.split('.').any(str::is_empty) {
                setting(
                    say,
                    &format!("{field}.claim"),
                    &output.claim,
                    "not the name of a claim; the header isn't set",
                    "write NAME, or A.B for a nested one",
                );
                return None;
            }
            Some(pb::ClaimHeader {
                header: output.header.to_ascii_lowercase(),
                claim: output.claim.clone(),
            })
        })
        .collect()
}

fn header_name(field: &str, name: &str, say: &mut Say) -> Option<()> {
    if is_token(name) {
        return Some(());
    }
    setting(
        say,
        field,
        name,
        "not the name of a header; the setting is left out",
        "write a name such as x-token",
    );
    None
}

fn filled(field: &str, list: &[String], say: &mut Say) -> Vec<String> {
    let mut all = Vec::with_capacity(list.len());
    for (at, text) in list.iter().enumerate() {
        if text.is_empty() {
            let field = format!("{field}[{at}]");
            setting(
                say,
                &field,
                text,
                "an empty name; it is left out",
                "write a name",
            );
        } else {
            all.push(text.clone());
        }
    }
    all
}

fn setting(say: &mut Say, field: &str, value: &str, message: &str, remedy: &str) {
    say.error(
        codes::JWT_SETTING,
        Fault {
            field,
            value: Some(value),
            message,
            remedy,
        },
    );
}

/// The issuer of a rule that names none: no token is of it, so those where the
/// rule looks are refused.
const NOBODY: &str = "(none)";
/// `waypoint-contract` 4.9.
const FETCH_TIMEOUT_MS: u64 = 5_000;
/// Longer than that nobody waits for keys; ours.
const MAX_FETCH_MS: u64 = 60_000;
/// Where the metadata service of one cloud is in IPv6.
const AWS_METADATA: std::net::Ipv6Addr =
    std::net::Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);
