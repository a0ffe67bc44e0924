//! Single values of rules: texts with wildcards, paths, addresses, ports,
//! accounts (`waypoint-contract` 4.3 and 4.4).

use std::net::IpAddr;

use ambit_proto::waypoint as pb;
use ambit_proto::waypoint::string_match::Kind as Form;
use ipnet::IpNet;

use super::codes;
use super::say::{Fault, Say};
use crate::MeshInfo;

/// What a call to an authorization provider may take where its provider says
/// nothing: ours; upstream has 600 s, in which a provider that hangs holds every
/// request (`waypoint-contract` section 9, 43).
pub(crate) const DEFAULT_TIMEOUT_MS: u64 = 10_000;

/// Reads values of one rule.
pub(crate) struct Values<'a> {
    /// Of the policy, for accounts without one.
    pub(crate) namespace: &'a str,
    /// For trust domains.
    pub(crate) mesh: &'a MeshInfo,
    pub(crate) say: &'a mut Say,
    /// The first thing that can't be used.
    pub(crate) unusable: Option<String>,
}

impl Values<'_> {
    /// Something of the rule can't be used.
    pub(crate) fn refuse(&mut self, code: ambit_kube::Code, fault: Fault<'_>) {
        let text = format!("{}: {}", fault.field, fault.message);
        self.unusable.get_or_insert(text);
        self.say.error(code, fault);
    }

    fn bad(&mut self, field: &str, value: &str, message: &str, remedy: &str) {
        self.refuse(
            codes::BAD_VALUE,
            Fault {
                field,
                value: Some(value),
                message,
                remedy,
            },
        );
    }

    /// All of a list, or nothing of it when one can't be used: a list that is
    /// half in force would narrow what a DENY matches.
    fn each<T>(
        &mut self,
        field: &str,
        list: &[String],
        read: impl Fn(&mut Self, &str, &str) -> Option<Vec<T>>,
    ) -> Vec<T> {
        let mut all = Vec::new();
        let mut whole = true;
        for (at, text) in list.iter().enumerate() {
            match read(self, &format!("{field}[{at}]"), text) {
                Some(more) => all.extend(more),
                None => whole = false,
            }
        }
        if whole { all } else { Vec::new() }
    }

    /// `abc`, `abc*`, `*abc` and `*`.
    pub(crate) fn texts(&mut self, field: &str, list: &[String]) -> Vec<pb::StringMatch> {
        self.each(field, list, |values, field, text| {
            values.filled(field, text)?;
            values.note_star(field, text);
            Some(vec![form(text, false)])
        })
    }

    /// The values of a header: may be empty.
    pub(crate) fn header_values(&mut self, field: &str, list: &[String]) -> Vec<pb::StringMatch> {
        self.each(field, list, |values, field, text| {
            values.note_star(field, text);
            Some(vec![form(text, false)])
        })
    }

    /// Hosts, without regard to case.
    pub(crate) fn hosts(&mut self, field: &str, list: &[String]) -> Vec<pb::StringMatch> {
        self.each(field, list, |values, field, text| {
            values.filled(field, text)?;
            values.note_star(field, text);
            if text.contains('/') {
                values.never(field, text, "a host has no slash; paths belong in `paths`");
            }
            Some(vec![form(text, true)])
        })
    }

    /// Methods; those of HTTP are in capitals.
    pub(crate) fn methods(&mut self, field: &str, list: &[String]) -> Vec<pb::StringMatch> {
        self.each(field, list, |values, field, text| {
            values.filled(field, text)?;
            values.note_star(field, text);
            if text.bytes().any(|b| b.is_ascii_lowercase()) {
                values.never(
                    field,
                    text,
                    "methods are compared as they are, and HTTP's are in capitals",
                );
            }
            Some(vec![form(text, false)])
        })
    }

    /// Paths, with wildcards or as templates.
    pub(crate) fn paths(&mut self, field: &str, list: &[String]) -> Vec<pb::PathPattern> {
        self.each(field, list, |values, field, text| {
            values.filled(field, text)?;
            let kind = if text.contains("{*}") || text.contains("{**}") {
                if let Some(wrong) = template_fault(text) {
                    values.bad(field, text, wrong, "see path templates in docs/waypoint.md");
                    return None;
                }
                pb::path_pattern::Kind::Template(text.to_owned())
            } else {
                values.note_star(field, text);
                if text.contains(['?', '#']) {
                    values.never(
                        field,
                        text,
                        "paths are compared without the query and fragment",
                    );
                } else if !text.starts_with(['/', '*']) {
                    values.never(field, text, "every path begins with /");
                }
                pb::path_pattern::Kind::Text(form(text, false))
            };
            Some(vec![pb::PathPattern { kind: Some(kind) }])
        })
    }

    /// `TD/ns/N/sa/S`, with wildcards; our trust domain stands for its aliases too.
    pub(crate) fn principals(&mut self, field: &str, list: &[String]) -> Vec<pb::StringMatch> {
        self.each(field, list, |values, field, text| {
            values.filled(field, text)?;
            if text.starts_with("spiffe://") {
                values.bad(
                    field,
                    text,
                    "principals are compared without spiffe://, so this one never matches",
                    "leave spiffe:// out",
                );
                return None;
            }
            values.note_star(field, text);
            Some(with_aliases(values.mesh, text))
        })
    }

    /// Trust domains; ours stands for its aliases too.
    pub(crate) fn trust_domains(&mut self, field: &str, list: &[String]) -> Vec<pb::StringMatch> {
        self.each(field, list, |values, field, text| {
            values.filled(field, text)?;
            values.note_star(field, text);
            Some(match same_mesh(values.mesh, text) {
                true => mesh_domains(values.mesh)
                    .map(|domain| form(domain, false))
                    .collect(),
                false => vec![form(text, false)],
            })
        })
    }

    /// `iss/sub`, with wildcards.
    pub(crate) fn request_principals(
        &mut self,
        field: &str,
        list: &[String],
    ) -> Vec<pb::StringMatch> {
        self.each(field, list, |values, field, text| {
            values.filled(field, text)?;
            values.note_star(field, text);
            if !text.contains(['/', '*']) {
                values.never(field, text, "a request principal is ISSUER/SUBJECT");
            }
            Some(vec![form(text, false)])
        })
    }

    /// Addresses and blocks of them.
    pub(crate) fn blocks(&mut self, field: &str, list: &[String]) -> Vec<pb::Cidr> {
        self.each(field, list, |values, field, text| {
            let block = text
                .parse::<IpAddr>()
                .map(IpNet::from)
                .or_else(|_| text.parse());
            let Ok(block) = block else {
                values.bad(
                    field,
                    text,
                    "neither an address nor a block of addresses",
                    "write an address, or a block such as 10.0.0.0/8",
                );
                return None;
            };
            Some(vec![cidr(block)])
        })
    }

    /// Ports.
    pub(crate) fn ports(&mut self, field: &str, list: &[String]) -> Vec<u32> {
        self.each(field, list, |values, field, text| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            match text.parse::<u16>().ok().filter(|_| digits) {
                Some(port) => Some(vec![u32::from(port)]),
                None => {
                    values.bad(field, text, "not a port", "write a number from 0 to 65535");
                    None
                }
            }
        })
    }

    /// `NAME` or `NAMESPACE/NAME`, literally.
    pub(crate) fn accounts(&mut self, field: &str, list: &[String]) -> Vec<pb::ServiceAccount> {
        if list.len() > MAX_ACCOUNTS {
            self.bad(
                field,
                &list.len().to_string(),
                "more than 16 service accounts",
                "write several sources, or namespaces",
            );
            return Vec::new();
        }
        self.each(field, list, |values, field, text| {
            let (namespace, name) = text.split_once('/').unwrap_or((values.namespace, text));
            let unusable = |part: &str| part.is_empty() || part.contains(['/', '*']);
            if unusable(namespace) || unusable(name) {
                values.bad(
                    field,
                    text,
                    "not a service account; wildcards aren't known here",
                    "write NAMESPACE/NAME, or NAME for one of the policy's namespace",
                );
                return None;
            }
            Some(vec![pb::ServiceAccount {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }])
        })
    }

    fn filled(&mut self, field: &str, text: &str) -> Option<()> {
        if text.is_empty() {
            self.bad(
                field,
                text,
                "an empty text matches nothing",
                "write a value, or * for any",
            );
            return None;
        }
        Some(())
    }

    /// It can be used, and it is of no use.
    fn never(&mut self, field: &str, text: &str, message: &str) {
        self.say.warning(
            codes::NEVER_MATCHES,
            Fault {
                field,
                value: Some(text),
                message,
                remedy: "correct the value; as it is, it never matches",
            },
        );
    }

    fn note_star(&mut self, field: &str, text: &str) {
        let rest = text.strip_prefix('*').or_else(|| text.strip_suffix('*'));
        if rest.unwrap_or(text).contains('*') {
            self.say.warning(
                codes::NEVER_MATCHES,
                Fault {
                    field,
                    value: Some(text),
                    message: "* is a wildcard at the beginning or at the end only; this one stands for itself",
                    remedy: "write abc*, *abc or *",
                },
            );
        }
    }
}

/// `abc` exact, `abc*` prefix, `*abc` suffix, `*` presence; `*` elsewhere is literal.
pub(crate) fn form(text: &str, ignore_case: bool) -> pb::StringMatch {
    let kind = if text == "*" {
        Form::Presence(true)
    } else if let Some(suffix) = text.strip_prefix('*') {
        Form::Suffix(suffix.to_owned())
    } else if let Some(prefix) = text.strip_suffix('*') {
        Form::Prefix(prefix.to_owned())
    } else {
        Form::Exact(text.to_owned())
    };
    pb::StringMatch {
        kind: Some(kind),
        ignore_case,
    }
}

/// Names of headers with wildcards, as authorization providers list them.
pub(crate) fn header_forms(list: &[String]) -> Vec<pb::StringMatch> {
    list.iter()
        .filter(|name| !name.is_empty())
        .map(|name| form(name, true))
        .collect()
}

/// Whether a text can be the name of a header.
pub(crate) fn is_token(name: &str) -> bool {
    let other = "!#$%&'*+-.^_`|~";
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || other.contains(c))
}

/// A principal in every name that its trust domain has.
pub(crate) fn with_aliases(mesh: &MeshInfo, principal: &str) -> Vec<pb::StringMatch> {
    let Some((domain, rest)) = principal.split_once('/') else {
        return vec![form(principal, false)];
    };
    if !same_mesh(mesh, domain) {
        return vec![form(principal, false)];
    }
    mesh_domains(mesh)
        .map(|domain| form(&format!("{domain}/{rest}"), false))
        .collect()
}

/// Whether a trust domain is one of this mesh's; `cluster.local` always is.
fn same_mesh(mesh: &MeshInfo, domain: &str) -> bool {
    domain == DEFAULT_TRUST_DOMAIN || mesh_domains(mesh).any(|ours| ours == domain)
}

fn mesh_domains(mesh: &MeshInfo) -> impl Iterator<Item = &str> {
    std::iter::once(&mesh.trust_domain)
        .chain(&mesh.trust_domain_aliases)
        .map(|domain| &**domain)
}

/// What policies call the mesh's own trust domain, whatever that is.
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// `waypoint-contract` 4.3.
const MAX_ACCOUNTS: usize = 16;

/// A block, IPv4-mapped IPv6 addresses as the IPv4 that they are.
pub(crate) fn cidr(block: IpNet) -> pb::Cidr {
    let mapped = match (block.addr().to_canonical(), block) {
        (IpAddr::V4(ip), IpNet::V6(_)) => block
            .prefix_len()
            .checked_sub(96)
            .and_then(|length| IpNet::new(ip.into(), length).ok()),
        _ => None,
    };
    let block = mapped.unwrap_or(block).trunc();
    pb::Cidr {
        address: match block.addr() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        },
        length: block.prefix_len().into(),
    }
}

/// What is wrong with a path template (4.3).
fn template_fault(text: &str) -> Option<&'static str> {
    let Some(body) = text.strip_prefix('/') else {
        return Some("a path template begins with /");
    };
    let mut rest = false;
    for segment in body.split('/') {
        match segment {
            "{*}" | "{**}" if rest => return Some("no operator may follow {**}"),
            "{*}" => {}
            "{**}" => rest = true,
            _ if segment.contains("{*}") || segment.contains("{**}") => {
                return Some("an operator must be a whole segment between slashes");
            }
            _ if segment.contains('*') => {
                return Some("a template can't be mixed with the wildcard *");
            }
            _ => {}
        }
    }
    None
}
