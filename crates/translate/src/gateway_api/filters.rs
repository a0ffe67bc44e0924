//! Filters of rules and of backends (`waypoint-contract` 2.5).

use ambit_proto::waypoint::{BackendRef, Cors, HeaderOps, Mirror, Redirect, Rewrite};

use super::backends::{self, Scope};
use super::report::{Fault, Report};
use super::spec::{FilterSpec, MirrorSpec};
use super::{codes, cors, headers, redirect};

/// What the filters of one rule, or of one backend, ask for.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    pub(super) request_headers: Option<HeaderOps>,
    pub(super) response_headers: Option<HeaderOps>,
    pub(super) redirect: Option<Redirect>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) cors: Option<Cors>,
    pub(super) mirrors: Vec<Mirror>,
}

/// Where the filters stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// `spec.rules[0].filters`.
    pub(super) field: &'a str,
    /// Every match of the rule is by path prefix.
    pub(super) prefixes: bool,
}

/// Reads them all; what can't be used is said to `report` as unusable.
pub(super) fn read(
    report: &mut Report,
    scope: &Scope<'_>,
    place: Place<'_>,
    specs: &[FilterSpec],
) -> Filters {
    let mut filters = Filters::default();
    if specs.len() > MOST {
        report.unusable(
            "UnsupportedValue",
            codes::LIMIT,
            Fault {
                field: place.field,
                value: &specs.len().to_string(),
                message: "there are more than 16 filters",
                remedy: "split the rule, or leave some out",
            },
        );
        return filters;
    }
    for (index, spec) in specs.iter().enumerate() {
        let field = format!("{}[{index}]", place.field);
        if once(report, &field, spec, specs.get(..index).unwrap_or_default()) {
            one(report, scope, (&field, place.prefixes), spec, &mut filters);
        }
    }
    if filters.redirect.is_some() && filters.rewrite.is_some() {
        report.unusable(
            "IncompatibleFilters",
            codes::INCOMPATIBLE,
            Fault {
                field: place.field,
                value: "RequestRedirect, URLRewrite",
                message: "a request that is redirected isn't forwarded, so that it can't be \
                          rewritten",
                remedy: "keep one of the two; a redirect has hostname and path of its own",
            },
        );
    }
    filters
}

/// All but mirrors and extensions stand once.
fn once(report: &mut Report, field: &str, spec: &FilterSpec, before: &[FilterSpec]) -> bool {
    let repeatable = ["RequestMirror", "ExtensionRef"].contains(&spec.r#type.as_str());
    if repeatable || before.iter().all(|other| other.r#type != spec.r#type) {
        return true;
    }
    report.unusable(
        "IncompatibleFilters",
        codes::INCOMPATIBLE,
        Fault {
            field,
            value: &spec.r#type,
            message: "a filter of this type stands before it",
            remedy: "merge the two into one filter",
        },
    );
    false
}

fn one(
    report: &mut Report,
    scope: &Scope<'_>,
    (field, prefixes): (&str, bool),
    spec: &FilterSpec,
    filters: &mut Filters,
) {
    let block = match spec.r#type.as_str() {
        "RequestHeaderModifier" => "requestHeaderModifier",
        "ResponseHeaderModifier" => "responseHeaderModifier",
        "RequestRedirect" => "requestRedirect",
        "URLRewrite" => "urlRewrite",
        "RequestMirror" => "requestMirror",
        "CORS" => "cors",
        "ExternalAuth" => return external_auth(report, field),
        "ExtensionRef" => return extension(report, field, spec),
        _ => return unknown(report, field, spec),
    };
    if !only(spec, block) {
        return lacking(report, field, spec, block);
    }
    let at = format!("{field}.{block}");
    if let Some(ops) = &spec.request_header_modifier {
        filters.request_headers = Some(headers::read(report, &at, ops));
    }
    if let Some(ops) = &spec.response_header_modifier {
        filters.response_headers = Some(headers::read(report, &at, ops));
    }
    if let Some(redirect) = &spec.request_redirect {
        filters.redirect = Some(redirect::redirect(report, &at, redirect, prefixes));
    }
    if let Some(rewrite) = &spec.url_rewrite {
        filters.rewrite = Some(redirect::rewrite(report, &at, rewrite, prefixes));
    }
    if let Some(mirror) = &spec.request_mirror {
        filters
            .mirrors
            .extend(self::mirror(report, scope, &at, mirror));
    }
    if let Some(cors) = &spec.cors {
        filters.cors = Some(cors::read(report, &at, cors));
    }
}

/// The block of its type and no other.
fn only(spec: &FilterSpec, block: &str) -> bool {
    let blocks = [
        (
            "requestHeaderModifier",
            spec.request_header_modifier.is_some(),
        ),
        (
            "responseHeaderModifier",
            spec.response_header_modifier.is_some(),
        ),
        ("requestRedirect", spec.request_redirect.is_some()),
        ("urlRewrite", spec.url_rewrite.is_some()),
        ("requestMirror", spec.request_mirror.is_some()),
        ("cors", spec.cors.is_some()),
        ("externalAuth", spec.external_auth.is_some()),
        ("extensionRef", spec.extension_ref.is_some()),
    ];
    blocks
        .iter()
        .all(|(name, there)| *there == (*name == block))
}

/// A copy of each request, or of a share; none where it can't go anywhere.
fn mirror(
    report: &mut Report,
    scope: &Scope<'_>,
    field: &str,
    spec: &MirrorSpec,
) -> Option<Mirror> {
    let share = share(report, field, spec)?;
    let (backend, _) = backends::destination(
        report,
        scope,
        &format!("{field}.backendRef"),
        &spec.backend_ref,
    );
    // A mirror that leads nowhere mustn't harm the request (2.5): it is left out.
    (backend.invalid.is_none() && share > 0).then_some(Mirror {
        backend: Some(backend),
        share,
    })
}

/// Parts of a million.
fn share(report: &mut Report, field: &str, spec: &MirrorSpec) -> Option<u32> {
    let parts = match (spec.percent, &spec.fraction) {
        (None, None) => Some(WHOLE),
        (Some(percent), None) => (0..=100).contains(&percent).then(|| percent * WHOLE / 100),
        (None, Some(fraction)) => {
            let below = fraction.denominator.unwrap_or(100);
            let fits = below >= 1 && (0..=below).contains(&fraction.numerator);
            fits.then(|| fraction.numerator.saturating_mul(WHOLE) / below)
        }
        (Some(_), Some(_)) => None,
    };
    let parts = parts.and_then(|parts| u32::try_from(parts).ok());
    if parts.is_none() {
        report.unusable(
            "UnsupportedValue",
            codes::BAD_FILTER,
            Fault {
                field,
                value: "",
                message: "percent and fraction don't give a share of the requests",
                remedy: "write percent from 0 to 100, or a fraction of at most 1, and not both",
            },
        );
    }
    parts
}

fn external_auth(report: &mut Report, field: &str) {
    report.unusable(
        "UnsupportedValue",
        codes::UNSUPPORTED_FILTER,
        Fault {
            field,
            value: "ExternalAuth",
            message: "a waypoint asks external authorizers by policy, not by filter; requests of \
                      this rule are refused",
            remedy: "use an AuthorizationPolicy with action CUSTOM, an extension provider and \
                     targetRefs to the service",
        },
    );
}

fn extension(report: &mut Report, field: &str, spec: &FilterSpec) {
    let (kind, name) = spec.extension_ref.as_ref().map_or(("", ""), |extension| {
        (
            extension.kind.as_deref().unwrap_or_default(),
            &*extension.name,
        )
    });
    let fault = Fault {
        field,
        value: &format!("{kind} {name}"),
        message: "no such extension is known; requests that it was meant for get 500",
        remedy: "remove the filter; Ambit has no extension kinds for filters",
    };
    report.unresolved("InvalidKind", codes::EXTENSION, fault);
    report.block(fault);
}

fn unknown(report: &mut Report, field: &str, spec: &FilterSpec) {
    report.unusable(
        "UnsupportedValue",
        codes::BAD_FILTER,
        Fault {
            field: &format!("{field}.type"),
            value: &spec.r#type,
            message: "a waypoint doesn't know this type of filter",
            remedy: "use one of RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, \
                     URLRewrite, RequestMirror, CORS",
        },
    );
}

fn lacking(report: &mut Report, field: &str, spec: &FilterSpec, block: &str) {
    report.unusable(
        "UnsupportedValue",
        codes::BAD_FILTER,
        Fault {
            field,
            value: &spec.r#type,
            message: "the filter's settings aren't those of its type",
            remedy: &format!("write {block}, and no other filter's settings beside it"),
        },
    );
}

/// Puts the filters of a backend into it. `alone`: no other backend of the
/// rule gets requests, so that the rule's own filters say the same. Gives back
/// what is the rule's to do.
pub(super) fn of_backend(
    report: &mut Report,
    field: &str,
    filters: Filters,
    alone: bool,
    backend: &mut BackendRef,
) -> Filters {
    backend.request_headers = filters.request_headers;
    backend.response_headers = filters.response_headers;
    backend.rewrite = filters.rewrite;
    backend.redirect = filters.redirect;
    let shared = Filters {
        cors: filters.cors,
        mirrors: filters.mirrors,
        ..Filters::default()
    };
    if alone || (shared.cors.is_none() && shared.mirrors.is_empty()) {
        return shared;
    }
    report.unusable(
        "UnsupportedValue",
        codes::UNSUPPORTED_FILTER,
        Fault {
            field,
            value: "",
            message: "RequestMirror and CORS of one among several weighted backends aren't done",
            remedy: "put the filter into the rule",
        },
    );
    Filters::default()
}

/// Filters of one rule or backend (2.3).
const MOST: usize = 16;
/// A share of everything.
const WHOLE: i64 = 1_000_000;
