//! What a VirtualService rule answers by itself, or does to requests on their
//! way: redirect, direct response, CORS, fault, mirror (3.2).

use ambit_kube::{
    Percent, VsCors, VsDerivePort, VsDirectResponse, VsFault, VsHttpRoute, VsRedirect,
    VsUnmatchedPreflights,
};
use ambit_proto::waypoint::path_change::Kind as Change;
use ambit_proto::waypoint::{
    Cors, DirectResponse, Fault as Injected, Mirror, PathChange, Redirect, RedirectPort,
};
use base64::Engine;

use super::{Scope, destination};
use crate::istio::codes;
use crate::istio::say::{Fault, Say};
use crate::istio::values::{WHOLE, exact, grpc_code, is_regex, share, string_match};

/// The longest body of a direct response, and the length from which it is doubted (1.9).
const BODY_LIMIT: usize = 1_000_000;
const BODY_LARGE: usize = 100_000;

/// Says that a value can't be used.
pub(super) fn refuse(say: &mut Say, field: &str, value: &str, message: &str, remedy: &str) {
    say.error(
        codes::BAD_VALUE,
        Fault {
            field,
            value,
            message,
            remedy,
        },
    );
}

/// A redirect; an error is why the rule can't be used.
pub(super) fn redirect(
    say: &mut Say,
    written: &VsRedirect,
    path: &str,
) -> Result<Redirect, String> {
    let field = format!("{path}.redirect");
    let status = written.redirect_code.unwrap_or(301);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        let message = "it isn't a status of a redirect";
        refuse(
            say,
            &format!("{field}.redirectCode"),
            &status.to_string(),
            message,
            "write 301, 302, 303, 307 or 308",
        );
        return Err(message.to_owned());
    }
    let set = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let (uri, authority, scheme) = (
        set(&written.uri),
        set(&written.authority),
        set(&written.scheme),
    );
    let ports = written.port.is_some() || written.derive_port.is_some();
    if uri.is_none() && authority.is_none() && scheme.is_none() && !ports {
        let message = "the redirect leads to where it came from";
        refuse(
            say,
            &field,
            "",
            message,
            "set uri, authority, scheme or port",
        );
        return Err(message.to_owned());
    }
    if let Some(scheme) = &scheme
        && !matches!(scheme.as_str(), "http" | "https")
    {
        let message = "it isn't a scheme of HTTP";
        refuse(
            say,
            &format!("{field}.scheme"),
            scheme,
            message,
            "write http or https",
        );
        return Err(message.to_owned());
    }
    let (port, port_number) = match (written.port, written.derive_port) {
        (Some(port), _) => (RedirectPort::Explicit, port),
        (None, Some(VsDerivePort::FromProtocolDefault)) => (RedirectPort::FromProtocol, 0),
        (None, Some(VsDerivePort::FromRequestPort)) => (RedirectPort::FromRequest, 0),
        // What the authority has, or the request had, stays.
        (None, None) => (RedirectPort::None, 0),
    };
    if port == RedirectPort::Explicit && !(1..=65_535).contains(&port_number) {
        let message = "it isn't a port";
        refuse(
            say,
            &format!("{field}.port"),
            &port_number.to_string(),
            message,
            "write 1 to 65535",
        );
        return Err(message.to_owned());
    }
    Ok(Redirect {
        status,
        scheme: scheme.unwrap_or_default(),
        hostname: authority.unwrap_or_default(),
        port: port.into(),
        port_number,
        path: uri.map(|uri| PathChange {
            kind: Some(Change::Full(uri)),
        }),
    })
}

/// A response of the proxy's own; an error is why the rule can't be used.
pub(super) fn direct_response(
    say: &mut Say,
    written: &VsDirectResponse,
    path: &str,
) -> Result<DirectResponse, String> {
    let field = format!("{path}.directResponse");
    if !(200..=599).contains(&written.status) {
        let message = "the status of a direct response is 200 to 599";
        refuse(
            say,
            &format!("{field}.status"),
            &written.status.to_string(),
            message,
            "write such a status",
        );
        return Err(message.to_owned());
    }
    let body = written.body.as_ref();
    let text = body.and_then(|body| body.string.as_ref());
    let bytes = body.and_then(|body| body.bytes.as_ref());
    let body = match (text, bytes) {
        (Some(_), Some(_)) => Err("the body is both text and bytes"),
        (Some(text), None) => Ok(text.clone().into_bytes()),
        (None, Some(bytes)) => base64::engine::general_purpose::STANDARD
            .decode(bytes)
            .map_err(|_| "the bytes aren't base64"),
        (None, None) => Ok(Vec::new()),
    };
    let field = format!("{field}.body");
    let body = body.and_then(|body| {
        (body.len() <= BODY_LIMIT)
            .then_some(body)
            .ok_or("the body is longer than 1 MB")
    });
    match body {
        Ok(body) => {
            if body.len() > BODY_LARGE {
                say.warning(
                    codes::BAD_VALUE,
                    Fault {
                        field: &field,
                        value: &body.len().to_string(),
                        message: "a body above 100 kB costs every waypoint its memory",
                        remedy: "serve it from a backend",
                    },
                );
            }
            Ok(DirectResponse {
                status: written.status,
                body,
            })
        }
        Err(message) => {
            refuse(
                say,
                &field,
                "",
                message,
                "write string, or bytes in base64, below 1 MB",
            );
            Err(message.to_owned())
        }
    }
}

/// Cross-origin rules. An origin that can't be used is left out: it permits nothing.
pub(super) fn cors(say: &mut Say, written: &VsCors, path: &str) -> Cors {
    let field = format!("{path}.corsPolicy");
    let mut built = Cors {
        methods: written.allow_methods.clone(),
        headers: written.allow_headers.clone(),
        expose: written.expose_headers.clone(),
        credentials: written.allow_credentials.unwrap_or_default(),
        max_age_ms: written.max_age.map(ambit_kube::ProtoDuration::as_millis),
        forward_unmatched_preflights: written.unmatched_preflights
            != Some(VsUnmatchedPreflights::Ignore),
        ..Cors::default()
    };
    if written.allow_origins.is_empty() {
        for origin in &written.allow_origin {
            push_origin(&mut built, origin);
        }
        return built;
    }
    for (at, origin) in written.allow_origins.iter().enumerate() {
        let field = format!("{field}.allowOrigins[{at}]");
        use ambit_proto::waypoint::string_match::Kind;
        match (&origin.exact, &origin.prefix, &origin.regex) {
            (Some(text), None, None) => push_origin(&mut built, text),
            (None, Some(prefix), None) => built
                .origin_matches
                .push(string_match(Kind::Prefix(prefix.clone()))),
            (None, None, Some(regex)) if is_regex(regex) => built
                .origin_matches
                .push(string_match(Kind::Regex(regex.clone()))),
            (None, None, Some(regex)) => refuse(
                say,
                &field,
                regex,
                "it isn't a regular expression of RE2, so it allows no origin",
                "write it without look-around and back references",
            ),
            _ => refuse(
                say,
                &field,
                "",
                "exactly one of exact, prefix and regex is needed",
                "keep one of them",
            ),
        }
    }
    built
}

fn push_origin(built: &mut Cors, origin: &str) {
    if origin == "*" {
        built.origins.push(origin.to_owned());
    } else {
        built.origin_matches.push(exact(origin));
    }
}

/// Injected faults; none where nothing can happen.
pub(super) fn fault(say: &mut Say, written: &VsFault, path: &str) -> Option<Injected> {
    let field = format!("{path}.fault");
    let mut built = Injected::default();
    if let Some(delay) = &written.delay {
        let field = format!("{field}.delay");
        if delay.exponential_delay.is_some() {
            say.error(
                codes::FIELD_REFUSED,
                Fault {
                    field: &format!("{field}.exponentialDelay"),
                    value: "",
                    message: "it is supported by no version",
                    remedy: "use fixedDelay",
                },
            );
        }
        built.delay_ms = delay
            .fixed_delay
            .map_or(0, ambit_kube::ProtoDuration::as_millis);
        if delay.fixed_delay.is_some() && built.delay_ms == 0 {
            refuse(
                say,
                &format!("{field}.fixedDelay"),
                "0s",
                "the delay must be at least 1 ms",
                "write such a delay",
            );
        }
        if built.delay_ms > 0 {
            built.delay_share = fault_share(say, delay.percentage, delay.percent, &field);
        }
    }
    if let Some(abort) = &written.abort {
        let field = format!("{field}.abort");
        if let Some(http2) = &abort.http2_error {
            say.error(
                codes::FIELD_REFUSED,
                Fault {
                    field: &format!("{field}.http2Error"),
                    value: http2,
                    message: "it is supported by no version",
                    remedy: "use httpStatus or grpcStatus",
                },
            );
        }
        if status(say, abort, &field, &mut built) {
            built.abort_share = fault_share(say, abort.percentage, abort.percent, &field);
        }
    }
    (built.delay_share > 0 || built.abort_share > 0).then_some(built)
}

fn status(say: &mut Say, abort: &ambit_kube::VsAbort, field: &str, built: &mut Injected) -> bool {
    match (abort.http_status, &abort.grpc_status) {
        (Some(status), None) => match u32::try_from(status) {
            Ok(status @ 200..=599) => {
                built.abort_status = status;
                true
            }
            _ => {
                refuse(
                    say,
                    &format!("{field}.httpStatus"),
                    &status.to_string(),
                    "the status of an abort is 200 to 599, so nothing is aborted",
                    "write such a status",
                );
                false
            }
        },
        (None, Some(name)) => {
            built.abort_grpc_status = grpc_code(name);
            if built.abort_grpc_status.is_none() {
                refuse(
                    say,
                    &format!("{field}.grpcStatus"),
                    name,
                    "it isn't the name of a gRPC status, so nothing is aborted",
                    "write a name such as UNAVAILABLE",
                );
            }
            built.abort_grpc_status.is_some()
        }
        (Some(_), Some(_)) => {
            refuse(
                say,
                field,
                "",
                "it has both an HTTP and a gRPC status, so nothing is aborted",
                "keep one of them",
            );
            false
        }
        (None, None) => {
            if abort.http2_error.is_none() {
                refuse(
                    say,
                    field,
                    "",
                    "it has no status, so nothing is aborted",
                    "set httpStatus or grpcStatus",
                );
            }
            false
        }
    }
}

fn fault_share(
    say: &mut Say,
    percentage: Option<Percent>,
    percent: Option<i32>,
    field: &str,
) -> u32 {
    let wanted = percentage.map(|p| p.value).or(percent.map(f64::from));
    let Some(wanted) = wanted else {
        say.warning(
            codes::NO_PERCENTAGE,
            Fault {
                field,
                value: "",
                message: "without a percentage a fault holds for 0 % of requests",
                remedy: "add percentage: {value: 100} to have it for all",
            },
        );
        return 0;
    };
    percent_share(say, wanted, &format!("{field}.percentage")).unwrap_or_default()
}

fn percent_share(say: &mut Say, wanted: f64, field: &str) -> Option<u32> {
    let found = share(wanted);
    if found.is_none() {
        refuse(
            say,
            field,
            &wanted.to_string(),
            "a percentage is 0 to 100, so this is not done",
            "write such a number",
        );
    }
    found
}

/// Copies of requests. One that can't be made is said and left out: it doesn't
/// concern the request itself.
pub(super) fn mirrors(
    say: &mut Say,
    route: &VsHttpRoute,
    path: &str,
    scope: &Scope<'_>,
) -> Vec<Mirror> {
    let mut wanted = Vec::new();
    if let Some(target) = &route.mirror {
        let percent = route
            .mirror_percentage
            .map(|p| p.value)
            .or(route.mirror_percent.map(f64::from));
        wanted.push((target, percent, format!("{path}.mirror")));
        if !route.mirrors.is_empty() {
            refuse(
                say,
                &format!("{path}.mirrors"),
                "",
                "mirror and mirrors exclude each other; mirrors holds",
                "move the mirror into mirrors",
            );
            wanted.clear();
        }
    } else if route.mirror_percentage.is_some() || route.mirror_percent.is_some() {
        refuse(
            say,
            &format!("{path}.mirrorPercentage"),
            "",
            "there is no mirror that it could be of",
            "set mirror",
        );
    }
    for (at, mirror) in route.mirrors.iter().enumerate() {
        let percent = mirror.percentage.map(|p| p.value);
        wanted.push((
            &mirror.destination,
            percent,
            format!("{path}.mirrors[{at}].destination"),
        ));
    }
    let mut built = Vec::new();
    for (target, percent, field) in wanted {
        let share = match percent {
            None => Some(WHOLE),
            Some(percent) => percent_share(say, percent, &field),
        };
        let backend = destination::reference(say, target, &field, scope);
        if let Some(share @ 1..) = share
            && backend.invalid.is_none()
        {
            built.push(Mirror {
                backend: Some(backend),
                share,
            });
        }
    }
    built
}
