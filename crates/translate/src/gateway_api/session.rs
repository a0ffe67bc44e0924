//! Session persistence of rules and policies (`waypoint-contract` 2.6).

use ambit_proto::waypoint::SessionPersistence;

use super::codes;
use super::headers::is_name;
use super::report::{Fault, Report};
use super::spec::SessionSpec;
use super::timeouts::duration;

/// What keeps a client at its endpoint. `owner` names the cookie where nothing
/// else does.
pub(super) fn read(
    report: &mut Report,
    field: &str,
    spec: &SessionSpec,
    owner: &str,
) -> Option<SessionPersistence> {
    if spec.idle_timeout.is_some() {
        report.warning(
            codes::BAD_SESSION,
            Fault {
                field: &format!("{field}.idleTimeout"),
                value: spec.idle_timeout.as_deref().unwrap_or_default(),
                message: "the field is gone from Gateway API and has no effect",
                remedy: "use absoluteTimeout",
            },
        );
    }
    let absolute = match &spec.absolute_timeout {
        None => None,
        Some(text) => Some(duration(
            report,
            (&format!("{field}.absoluteTimeout"), codes::BAD_SESSION),
            text,
        )?),
    };
    let base = SessionPersistence {
        absolute_timeout_ms: absolute.unwrap_or_default(),
        ..SessionPersistence::default()
    };
    match spec.r#type.as_deref().unwrap_or("Cookie") {
        "Cookie" => cookie(report, field, spec, owner, base),
        "Header" => header(report, field, spec, base),
        other => bad(report, field, other, "use type Cookie or Header"),
    }
}

fn cookie(
    report: &mut Report,
    field: &str,
    spec: &SessionSpec,
    owner: &str,
    base: SessionPersistence,
) -> Option<SessionPersistence> {
    if spec.header.is_some() {
        return bad(report, field, "header", "remove header, or use type Header");
    }
    let block = spec.cookie.as_ref().or(spec.cookie_config.as_ref());
    let named = block
        .and_then(|block| block.name.as_ref())
        .or(spec.session_name.as_ref());
    let name = named.map_or_else(|| generated(owner), Clone::clone);
    if !is_name(&name) {
        return bad(
            report,
            field,
            &name,
            "name the cookie with letters, digits and -",
        );
    }
    let permanent = match block.and_then(|block| block.lifetime_type.as_deref()) {
        None | Some("Session") => false,
        Some("Permanent") => true,
        Some(other) => return bad(report, field, other, "use Session or Permanent"),
    };
    if permanent && base.absolute_timeout_ms == 0 {
        return bad(
            report,
            field,
            "Permanent",
            "add absoluteTimeout: it is how long a permanent cookie lives",
        );
    }
    let path = block.and_then(|block| block.path.clone());
    let path = path.unwrap_or_else(|| "/".to_owned());
    let clean = |byte: u8| byte > b' ' && byte != 0x7f && byte != b';';
    if !path.starts_with('/') || !path.bytes().all(clean) {
        return bad(report, field, &path, "write a path that begins with /");
    }
    Some(SessionPersistence {
        cookie: name,
        cookie_path: path,
        permanent,
        ..base
    })
}

fn header(
    report: &mut Report,
    field: &str,
    spec: &SessionSpec,
    base: SessionPersistence,
) -> Option<SessionPersistence> {
    if spec.cookie.is_some() || spec.cookie_config.is_some() {
        return bad(report, field, "cookie", "remove the cookie's settings");
    }
    let block = spec.header.as_ref().and_then(|block| block.name.as_ref());
    let name = block.or(spec.session_name.as_ref());
    let name = name.map(|name| name.to_ascii_lowercase());
    match name {
        Some(name) if is_name(&name) => Some(SessionPersistence {
            header: name,
            ..base
        }),
        other => bad(
            report,
            field,
            &other.unwrap_or_default(),
            "name the header that carries the session",
        ),
    }
}

/// The same for as long as the rule keeps its place, so that clients keep
/// their endpoints when configuration is compiled again; says nothing of names.
fn generated(owner: &str) -> String {
    // FNV-1a: stable across builds, and nothing depends on its strength.
    let hash = owner.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("ambit-session-{hash:016x}")
}

fn bad<T>(report: &mut Report, field: &str, value: &str, remedy: &str) -> Option<T> {
    report.unusable(
        "UnsupportedValue",
        codes::BAD_SESSION,
        Fault {
            field,
            value,
            message: "sessions can't be kept so",
            remedy,
        },
    );
    None
}
