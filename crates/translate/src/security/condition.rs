//! `when` of a rule (`waypoint-contract` 4.4).

use ambit_kube::Condition;
use ambit_proto::waypoint as pb;
use ambit_proto::waypoint::when::Key;

use super::codes;
use super::say::Fault;
use super::values::{Values, is_token};

/// How the values of a key are written.
enum Sort {
    Texts,
    Header,
    Principals,
    RequestPrincipals,
    TrustDomains,
    Accounts,
    Blocks,
    Ports,
}

/// Translates a condition; none where nothing of it can be used.
pub(super) fn condition(
    path: &str,
    written: &Condition,
    values: &mut Values<'_>,
) -> Option<pb::When> {
    if written.values.is_empty() && written.not_values.is_empty() {
        values.refuse(
            codes::BAD_VALUE,
            Fault {
                field: path,
                value: Some(&written.key),
                message: "a condition without values",
                remedy: "write values or notValues",
            },
        );
        return None;
    }
    let (key, sort) = key(&format!("{path}.key"), &written.key, values)?;
    let (yes, no) = (format!("{path}.values"), format!("{path}.notValues"));
    let (these, none) = (&written.values, &written.not_values);
    let mut when = pb::When {
        key: Some(key),
        ..pb::When::default()
    };
    match sort {
        Sort::Blocks => {
            when.blocks = values.blocks(&yes, these);
            when.not_blocks = values.blocks(&no, none);
        }
        Sort::Ports => {
            when.ports = values.ports(&yes, these);
            when.not_ports = values.ports(&no, none);
        }
        texts => {
            when.values = read(&texts, &yes, these, values);
            when.not_values = read(&texts, &no, none, values);
        }
    }
    let lists = [when.values.len(), when.not_values.len(), when.blocks.len()];
    let more = [
        when.not_blocks.len(),
        when.ports.len(),
        when.not_ports.len(),
    ];
    (lists.iter().chain(&more).sum::<usize>() > 0).then_some(when)
}

fn read(
    sort: &Sort,
    field: &str,
    list: &[String],
    values: &mut Values<'_>,
) -> Vec<pb::StringMatch> {
    match sort {
        Sort::Header => values.header_values(field, list),
        Sort::Principals => values.principals(field, list),
        Sort::RequestPrincipals => values.request_principals(field, list),
        Sort::TrustDomains => values.trust_domains(field, list),
        Sort::Accounts => {
            let accounts = values.accounts(field, list).into_iter();
            let written = accounts.map(|account| format!("{}/{}", account.namespace, account.name));
            let exact = |text| pb::StringMatch {
                kind: Some(pb::string_match::Kind::Exact(text)),
                ignore_case: false,
            };
            written.map(exact).collect()
        }
        Sort::Texts | Sort::Blocks | Sort::Ports => values.texts(field, list),
    }
}

/// What a key asks about.
fn key(field: &str, key: &str, values: &mut Values<'_>) -> Option<(Key, Sort)> {
    let sort = match key {
        "source.ip" | "remote.ip" | "destination.ip" => Sort::Blocks,
        "destination.port" => Sort::Ports,
        "source.principal" => Sort::Principals,
        "source.serviceAccount" => Sort::Accounts,
        "source.trustDomain" => Sort::TrustDomains,
        "request.auth.principal" => Sort::RequestPrincipals,
        "source.namespace"
        | "request.auth.audiences"
        | "request.auth.presenter"
        | "connection.sni" => Sort::Texts,
        _ => return subscripted(field, key, values),
    };
    Some((Key::Attribute(key.to_owned()), sort))
}

fn subscripted(field: &str, key: &str, values: &mut Values<'_>) -> Option<(Key, Sort)> {
    if let Some(rest) = key.strip_prefix("request.headers") {
        let name = subscripts(rest).filter(|names| names.len() == 1);
        let name = name
            .and_then(|mut names| names.pop())
            .filter(|name| is_token(name));
        if let Some(name) = name {
            return Some((Key::Header(name.to_ascii_lowercase()), Sort::Header));
        }
        return unusable(
            field,
            key,
            "not a header",
            "write request.headers[NAME]",
            values,
        );
    }
    if let Some(rest) = key.strip_prefix("request.auth.claims") {
        return match subscripts(rest) {
            Some(path) => Some((Key::Claim(pb::ClaimPath { path }), Sort::Texts)),
            None => unusable(
                field,
                key,
                "not a claim",
                "write request.auth.claims[NAME], nested ones as [A][B]",
                values,
            ),
        };
    }
    if key.starts_with("experimental.envoy.filters.") {
        return unusable(
            field,
            key,
            "no filter of Envoy runs in this waypoint, so none gives metadata",
            "use request.headers[NAME] or request.auth.claims[NAME]",
            values,
        );
    }
    values.refuse(
        codes::UNKNOWN_KEY,
        Fault {
            field,
            value: Some(key),
            message: "not an attribute of a condition",
            remedy: KNOWN,
        },
    );
    None
}

fn unusable(
    field: &str,
    key: &str,
    message: &str,
    remedy: &str,
    values: &mut Values<'_>,
) -> Option<(Key, Sort)> {
    values.refuse(
        codes::UNKNOWN_KEY,
        Fault {
            field,
            value: Some(key),
            message,
            remedy,
        },
    );
    None
}

/// `[a][b]` as its parts; none of them is empty.
fn subscripts(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let parts: Vec<String> = inner.split("][").map(str::to_owned).collect();
    let clean = |part: &String| !part.is_empty() && !part.contains(['[', ']']);
    parts.iter().all(clean).then_some(parts)
}

const KNOWN: &str = "use one of request.headers[NAME], request.auth.claims[NAME], request.auth.principal, \
request.auth.audiences, request.auth.presenter, source.ip, remote.ip, source.namespace, source.principal, \
source.serviceAccount, source.trustDomain, destination.ip, destination.port, connection.sni";
