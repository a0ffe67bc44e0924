//! Objects whose meaning translations tell: what each gives, to whom, and what is said of it.

use std::sync::Arc;

use ambit_kube::core::ObjectMeta;
use ambit_kube::{Located, Object, ObjectKey, Problem};
use ambit_proto::waypoint::Backend;
use ambit_translate::{ServiceInfo, gateway_api, istio, linkerd, security, telemetry};

use super::{status, translated};
use crate::about::About;
use crate::codes;
use crate::outputs::Output;
use crate::view::View;

/// What an object of a kind that has no store of its own gives.
pub(crate) fn object(view: &View<'_>, key: &ObjectKey) -> Option<Output> {
    let located = view.store.raw(key)?;
    let of = (
        key,
        located.object.metadata().and_then(|meta| meta.generation),
    );
    Some(match &located.object {
        Object::Gateway(gateway) => status::gateway(view, key, gateway),
        Object::GatewayClass(class) => status::gateway_class(class),
        Object::HttpRoute(route) => {
            let route = gateway_api::http_route(&with(located, route), view);
            translated::routes(view, of, route, gateway_api::route_name)
        }
        Object::GrpcRoute(route) => {
            let route = gateway_api::grpc_route(&with(located, route), view);
            translated::routes(view, of, route, gateway_api::route_name)
        }
        Object::TcpRoute(route) => {
            let route = gateway_api::tcp_route(&with(located, route), view);
            translated::routes(view, of, route, gateway_api::route_name)
        }
        Object::TlsRoute(route) => {
            let route = gateway_api::tls_route(&with(located, route), view);
            translated::routes(view, of, route, gateway_api::route_name)
        }
        Object::VirtualService(service) => {
            let routes = istio::virtual_service(&with(located, service), view);
            translated::routes(view, of, routes, istio::route_name)
        }
        Object::ServiceProfile(profile) => {
            let routes = linkerd::service_profile(&with(located, profile), view);
            translated::routes(view, of, routes, istio::route_name)
        }
        Object::TrafficSplit(split) => {
            let routes = linkerd::traffic_split(&with(located, split), view);
            translated::routes(view, of, routes, istio::route_name)
        }
        _ => return policy(view, of, view.store.objects.in_force(key)?),
    })
}

fn policy(
    view: &View<'_>,
    of: (&ObjectKey, Option<i64>),
    located: &Located<Object>,
) -> Option<Output> {
    let key = of.0;
    Some(match &located.object {
        Object::DestinationRule(rule) => {
            let told = istio::destination_rule(&with(located, rule), view);
            translated::said(key, of.1, told)
        }
        Object::Telemetry(recorded) => {
            let told = telemetry::object(&with(located, recorded), view);
            translated::said(key, of.1, told)
        }
        Object::BackendTlsPolicy(policy) => {
            let told = gateway_api::backend_tls_policy(&with(located, policy), view);
            translated::said(key, of.1, told)
        }
        Object::XBackendTrafficPolicy(policy) => {
            let told = gateway_api::backend_traffic_policy(&with(located, policy), view);
            translated::said(key, of.1, told)
        }
        Object::RequestAuthentication(policy) => {
            let bound = security::authentication(&with(located, policy), view);
            let mut output = translated::policies(view, of, bound);
            output.diagnostics.extend(last_good(view, key));
            output
        }
        Object::LocalRateLimit(limit) => {
            let bound = security::local_rate_limit(&with(located, limit), view);
            translated::policies(view, of, bound)
        }
        Object::HttpLocalRateLimitPolicy(limit) => {
            let bound = security::http_local_rate_limit(&with(located, limit), view);
            translated::policies(view, of, bound)
        }
        Object::Broken(broken) => {
            let bound = security::broken(&with(located, broken), view);
            translated::policies(view, of, bound)
        }
        Object::Reported(_) => {
            let mut told = istio::unused(located);
            told.extend(linkerd::unused(located));
            Output {
                diagnostics: told,
                ..Output::default()
            }
        }
        _ => return None,
    })
}

/// That an authentication policy isn't in force as it is written.
fn last_good(view: &View<'_>, key: &ObjectKey) -> Option<Problem> {
    let object = view.store.raw(key)?;
    let broken = matches!(object.object, Object::Broken(_));
    let message = "the policy is refused as it is written now; its last good form stays in force";
    broken.then(|| {
        let about = About { key, object };
        let told = about.warning(codes::POLICY_LAST_GOOD, "", message);
        told.remedy("correct the policy")
    })
}

/// An authorization policy to the waypoints that enforce it.
pub(crate) fn authorization(view: &View<'_>, key: &ObjectKey) -> Option<Output> {
    view.store.raw(key)?;
    let located = view.store.objects.in_force(key)?;
    let generation = |meta: &ObjectMeta| meta.generation;
    let of = (key, located.object.metadata().and_then(generation));
    match &located.object {
        Object::AuthorizationPolicy(policy) => {
            let bound = security::authorization(&with(located, policy), view);
            Some(translated::policies(view, of, bound))
        }
        Object::Broken(broken) => {
            let bound = security::broken(&with(located, broken), view);
            Some(translated::policies(view, of, bound))
        }
        _ => None,
    }
}

/// A service as waypoints of a namespace call it.
pub(super) fn backend(
    view: &View<'_>,
    info: &ServiceInfo,
    waypoint_namespace: &str,
) -> (Backend, Vec<Problem>) {
    let translated = istio::backend(info, waypoint_namespace, view);
    (translated.resource.unwrap_or_default(), translated.problems)
}

/// One variant of an object, where the object stands.
pub(super) fn with<T>(located: &Located<Object>, object: &Arc<T>) -> Located<Arc<T>> {
    Located {
        object: Arc::clone(object),
        origin: located.origin.clone(),
        lines: located.lines.clone(),
    }
}
