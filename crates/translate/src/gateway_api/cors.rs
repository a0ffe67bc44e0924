//! Cross-origin policy (`waypoint-contract` 2.5).

use ambit_proto::waypoint::Cors;

use super::codes;
use super::headers::is_name;
use super::redirect::is_dns;
use super::report::{Fault, Report};
use super::spec::CorsSpec;

/// What browsers of other origins may do.
pub(super) fn read(report: &mut Report, field: &str, spec: &CorsSpec) -> Cors {
    let lists = [
        ("allowOrigins", &spec.allow_origins),
        ("allowMethods", &spec.allow_methods),
        ("allowHeaders", &spec.allow_headers),
        ("exposeHeaders", &spec.expose_headers),
    ];
    for (name, list) in lists {
        if list.len() > 64 {
            bad(
                report,
                &format!("{field}.{name}"),
                "",
                "list at most 64 entries",
            );
        }
    }
    each(
        report,
        &format!("{field}.allowOrigins"),
        &spec.allow_origins,
        (
            is_origin,
            "write * or scheme://host[:port], with *. before the host at most",
        ),
    );
    each(
        report,
        &format!("{field}.allowMethods"),
        &spec.allow_methods,
        (is_name, "write * or a method, for example GET"),
    );
    for (name, list) in [
        ("allowHeaders", &spec.allow_headers),
        ("exposeHeaders", &spec.expose_headers),
    ] {
        each(
            report,
            &format!("{field}.{name}"),
            list,
            (is_name, "write * or a header's name"),
        );
    }
    let age = spec.max_age.unwrap_or(DEFAULT_AGE);
    let Some(seconds) = u64::try_from(age).ok().filter(|age| *age > 0) else {
        bad(
            report,
            &format!("{field}.maxAge"),
            &age.to_string(),
            "write the seconds as a number from 1",
        );
        return Cors::default();
    };
    Cors {
        origins: spec.allow_origins.clone(),
        methods: spec.allow_methods.clone(),
        headers: spec.allow_headers.clone(),
        expose: spec.expose_headers.clone(),
        credentials: spec.allow_credentials.unwrap_or_default(),
        max_age_ms: Some(seconds.saturating_mul(1000)),
        ..Cors::default()
    }
}

fn each(
    report: &mut Report,
    field: &str,
    list: &[String],
    (good, remedy): (fn(&str) -> bool, &str),
) {
    for (index, entry) in list.iter().enumerate() {
        if !good(entry) {
            bad(report, &format!("{field}[{index}]"), entry, remedy);
        }
    }
}

/// `*`, or scheme, host and port.
fn is_origin(origin: &str) -> bool {
    if origin == "*" {
        return true;
    }
    let Some((scheme, rest)) = origin.split_once("://") else {
        return false;
    };
    let scheme_fits = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().is_ok_and(|port| port > 0)),
        None => (rest, true),
    };
    let host = host.strip_prefix("*.").unwrap_or(host);
    scheme_fits && port && (host == "*" || is_dns(&host.to_ascii_lowercase()))
}

fn bad(report: &mut Report, field: &str, value: &str, remedy: &str) {
    report.unusable(
        "UnsupportedValue",
        codes::BAD_FILTER,
        Fault {
            field,
            value,
            message: "the CORS filter can't be used with this value",
            remedy,
        },
    );
}

/// Seconds (2.5).
const DEFAULT_AGE: i64 = 5;
