//! `meshConfig.extensionProviders` that decide for CUSTOM policies (`waypoint-contract` 4.5).

use ambit_kube::{
    ExtAuthzBody, ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider, Problem, ProtoDuration,
};
use ambit_proto::waypoint as pb;
use ambit_proto::waypoint::authorization_provider::Kind as Sort;
use serde_json::Value;

use super::say::{Fault, Say};
use super::{DEFAULT_TIMEOUT_MS, codes, header_forms, is_token};
use crate::World;

/// The providers that decide, for every waypoint; one that can't be used refuses.
/// Providers of other sorts are telemetry's. The problems are the mesh
/// configuration's, with its fields and without its place.
pub fn providers(world: &dyn World) -> (Vec<pb::AuthorizationProvider>, Vec<Problem>) {
    let mut say = Say::mesh();
    let written = world.mesh().config.extension_providers.iter().enumerate();
    let all = written
        .filter_map(|(at, provider)| one(at, provider, world, &mut say))
        .collect();
    (all, say.done())
}

/// What both sorts have.
struct Common<'a> {
    service: &'a str,
    port: u32,
    timeout: Option<ProtoDuration>,
    fail_open: bool,
    status_on_error: Option<&'a Value>,
    clear_route_cache: bool,
    body: Option<&'a ExtAuthzBody>,
}

fn one(
    at: usize,
    provider: &ExtensionProvider,
    world: &dyn World,
    say: &mut Say,
) -> Option<pb::AuthorizationProvider> {
    let path = format!("extensionProviders[{at}]");
    let (field, common, sort) = match (
        &provider.envoy_ext_authz_http,
        &provider.envoy_ext_authz_grpc,
    ) {
        (Some(http), _) => {
            let field = format!("{path}.envoyExtAuthzHttp");
            let sort = Sort::Http(http_provider(&field, http, say));
            (field, Common::of_http(http), sort)
        }
        (None, Some(grpc)) => {
            let field = format!("{path}.envoyExtAuthzGrpc");
            (
                field,
                Common::of_grpc(grpc),
                Sort::Grpc(pb::GrpcProvider {}),
            )
        }
        (None, None) => return None,
    };
    let target = find(&common, world);
    let (service, kind) = match target {
        Ok(service) => (service, sort),
        Err((part, reason)) => {
            let written = format!("{}:{}", common.service, common.port);
            say.error(
                codes::BAD_PROVIDER,
                Fault {
                    field: &format!("{field}.{part}"),
                    value: Some(&written),
                    message: &format!("{reason}; requests that policies send to this provider are refused"),
                    remedy: "write service: [NAMESPACE/]HOSTNAME of a Service or ServiceEntry, and a port that it has",
                },
            );
            let invalid = pb::Invalid {
                reason: format!("{field}.{part}: {reason}"),
                status: 403,
            };
            (String::new(), Sort::Invalid(invalid))
        }
    };
    Some(pb::AuthorizationProvider {
        name: provider.name.clone(),
        timeout_ms: common
            .timeout
            .filter(|timeout| !timeout.is_zero())
            .map_or(DEFAULT_TIMEOUT_MS, ProtoDuration::as_millis),
        fail_open: common.fail_open,
        status_on_error: status(&field, common.status_on_error, say),
        clear_route_cache: common.clear_route_cache,
        body_limit: common
            .body
            .map_or(0, |body| u64::from(body.max_request_bytes)),
        allow_partial_body: common.body.is_some_and(|body| body.allow_partial_message),
        pack_as_bytes: common.body.is_some_and(|body| body.pack_as_bytes),
        service,
        port: common.port,
        kind: Some(kind),
    })
}

impl<'a> Common<'a> {
    fn of_http(http: &'a ExtAuthzHttp) -> Self {
        Self {
            service: &http.service,
            port: http.port,
            timeout: http.timeout,
            fail_open: http.fail_open,
            status_on_error: http.status_on_error.as_ref(),
            clear_route_cache: http.clear_route_cache,
            body: http.include_request_body_in_check.as_ref(),
        }
    }

    fn of_grpc(grpc: &'a ExtAuthzGrpc) -> Self {
        Self {
            service: &grpc.service,
            port: grpc.port,
            timeout: grpc.timeout,
            fail_open: grpc.fail_open,
            status_on_error: grpc.status_on_error.as_ref(),
            clear_route_cache: grpc.clear_route_cache,
            body: grpc.include_request_body_in_check.as_ref(),
        }
    }
}

/// The service's name among the backends.
fn find(common: &Common<'_>, world: &dyn World) -> Result<String, (&'static str, &'static str)> {
    let service =
        service_named(common.service, world).ok_or(("service", "there is no such service"))?;
    let mut ports = service.ports.iter();
    if ports.any(|port| u32::from(port.number) == common.port) {
        Ok(service.key())
    } else {
        Err(("port", "the service has no such port"))
    }
}

/// A service by `[namespace/]hostname`, as the mesh configuration writes it.
pub(crate) fn service_named(
    written: &str,
    world: &dyn World,
) -> Option<std::sync::Arc<crate::ServiceInfo>> {
    let (namespace, hostname) = match written.split_once('/') {
        Some((namespace, hostname)) => (Some(namespace), hostname),
        None => (None, written),
    };
    let from = namespace.unwrap_or(&world.mesh().root_namespace);
    let found = world.host(hostname, from)?;
    namespace
        .is_none_or(|namespace| *found.namespace == *namespace)
        .then_some(found)
}

fn http_provider(field: &str, http: &ExtAuthzHttp, say: &mut Say) -> pb::HttpProvider {
    let mut forwarded = http.include_request_headers_in_check.clone();
    forwarded.extend(http.include_headers_in_check.iter().cloned());
    let mut additional = Vec::new();
    for (name, value) in &http.include_additional_headers_in_check {
        if is_token(name) {
            additional.push(pb::Header {
                name: name.to_ascii_lowercase(),
                value: value.clone(),
            });
        } else {
            say.error(
                codes::BAD_PROVIDER,
                Fault {
                    field: &format!("{field}.includeAdditionalHeadersInCheck"),
                    value: Some(name),
                    message: "not the name of a header; it isn't sent",
                    remedy: "write a name such as x-caller",
                },
            );
        }
    }
    let prefix = http.path_prefix.clone().unwrap_or_default();
    if !prefix.is_empty() && !prefix.starts_with('/') {
        say.error(
            codes::BAD_PROVIDER,
            Fault {
                field: &format!("{field}.pathPrefix"),
                value: Some(&prefix),
                message: "a path begins with /; it is put before this one",
                remedy: "write /PREFIX",
            },
        );
    }
    pb::HttpProvider {
        path_prefix: match prefix.as_str() {
            "" => prefix,
            written if written.starts_with('/') => prefix,
            written => format!("/{written}"),
        },
        request_headers: header_forms(&forwarded),
        additional_headers: additional,
        headers_to_upstream: header_forms(&http.headers_to_upstream_on_allow),
        headers_to_downstream_on_deny: header_forms(&http.headers_to_downstream_on_deny),
        headers_to_downstream_on_allow: header_forms(&http.headers_to_downstream_on_allow),
    }
}

/// The status of an error: a number, or a number as text; 403 where there is none.
fn status(field: &str, written: Option<&Value>, say: &mut Say) -> u32 {
    let Some(written) = written else {
        return FORBIDDEN;
    };
    let number = match written {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let status = number.and_then(|number| u32::try_from(number).ok());
    match status.filter(|status| (200..=599).contains(status)) {
        Some(status) => status,
        None => {
            say.error(
                codes::BAD_PROVIDER,
                Fault {
                    field: &format!("{field}.statusOnError"),
                    value: Some(&written.to_string()),
                    message: "not a status; 403 is used",
                    remedy: "write a number from 200 to 599, in quotes",
                },
            );
            FORBIDDEN
        }
    }
}

const FORBIDDEN: u32 = 403;
