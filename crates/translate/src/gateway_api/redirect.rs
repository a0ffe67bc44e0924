//! Redirects and rewrites (`waypoint-contract` 2.5).

use ambit_proto::waypoint::path_change::Kind;
use ambit_proto::waypoint::{PathChange, Redirect, RedirectPort, Rewrite};

use super::codes;
use super::report::{Fault, Report};
use super::spec::{PathChangeSpec, RedirectSpec, RewriteSpec};

/// Elsewhere; 302 where nothing else is said.
pub(super) fn redirect(
    report: &mut Report,
    field: &str,
    spec: &RedirectSpec,
    prefixes: bool,
) -> Redirect {
    let status = spec.status_code.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        bad(
            report,
            &format!("{field}.statusCode"),
            &status.to_string(),
            "use 301, 302, 303, 307 or 308",
        );
    }
    let scheme = spec.scheme.clone().unwrap_or_default();
    if !["", "http", "https"].contains(&scheme.as_str()) {
        bad(
            report,
            &format!("{field}.scheme"),
            &scheme,
            "use http or https",
        );
    }
    if let Some(port) = spec.port.filter(|port| !(1..=65_535).contains(port)) {
        bad(
            report,
            &format!("{field}.port"),
            &port.to_string(),
            "use a port from 1 to 65535",
        );
    }
    let kind = if spec.port.is_some() {
        RedirectPort::Explicit
    } else {
        RedirectPort::GatewayApi
    };
    Redirect {
        status: u32::try_from(status).unwrap_or(302),
        scheme,
        hostname: hostname(report, field, spec.hostname.as_deref()),
        port: kind.into(),
        port_number: spec
            .port
            .and_then(|port| u32::try_from(port).ok())
            .unwrap_or_default(),
        path: path(report, field, spec.path.as_ref(), prefixes),
    }
}

/// What the backend sees.
pub(super) fn rewrite(
    report: &mut Report,
    field: &str,
    spec: &RewriteSpec,
    prefixes: bool,
) -> Rewrite {
    Rewrite {
        hostname: hostname(report, field, spec.hostname.as_deref()),
        path: path(report, field, spec.path.as_ref(), prefixes),
    }
}

fn hostname(report: &mut Report, field: &str, hostname: Option<&str>) -> String {
    let Some(name) = hostname else {
        return String::new();
    };
    if !is_precise(name) {
        bad(
            report,
            &format!("{field}.hostname"),
            name,
            "write a DNS name in lower case, without port and without *",
        );
    }
    name.to_owned()
}

/// `prefixes`: every match of the rule is by prefix, so that there is one to replace.
fn path(
    report: &mut Report,
    field: &str,
    spec: Option<&PathChangeSpec>,
    prefixes: bool,
) -> Option<PathChange> {
    let spec = spec?;
    let field = format!("{field}.path");
    let both = spec.replace_full_path.is_some() && spec.replace_prefix_match.is_some();
    let kind = match (
        spec.r#type.as_str(),
        &spec.replace_full_path,
        &spec.replace_prefix_match,
    ) {
        ("ReplaceFullPath", Some(full), _) if !both => Kind::Full(full.clone()),
        ("ReplacePrefixMatch", _, Some(prefix)) if !both => Kind::ElementPrefix(prefix.clone()),
        _ => {
            bad(
                report,
                &field,
                &spec.r#type,
                "write type ReplaceFullPath with replaceFullPath, or type ReplacePrefixMatch \
                 with replacePrefixMatch, and not both",
            );
            return None;
        }
    };
    let (Kind::Full(text) | Kind::ElementPrefix(text)) = &kind else {
        return None;
    };
    if text.len() > 1024 || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        bad(
            report,
            &field,
            text,
            "write a path of at most 1024 characters without spaces",
        );
    }
    if matches!(kind, Kind::ElementPrefix(_)) && !prefixes {
        bad(
            report,
            &field,
            text,
            "replace a prefix only in a rule all of whose matches have a path of type PathPrefix",
        );
    }
    Some(PathChange { kind: Some(kind) })
}

fn bad(report: &mut Report, field: &str, value: &str, remedy: &str) {
    report.unusable(
        "UnsupportedValue",
        codes::BAD_FILTER,
        Fault {
            field,
            value,
            message: "the filter can't be used with this value",
            remedy,
        },
    );
}

/// A DNS name without wildcard that isn't an IP address.
pub(super) fn is_precise(name: &str) -> bool {
    is_dns(name) && name.parse::<std::net::IpAddr>().is_err()
}

/// Labels of lower-case letters, digits and `-`, at most 253 bytes in all.
pub(super) fn is_dns(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
