//! Whether one rule matches one request (4.2 to 4.4, 4.6, 4.7). Nothing here
//! allocates except for a trace.

use std::fmt::Write as _;
use std::net::IpAddr;

use ambit_types::SpiffeId;
use ipnet::IpNet;

use super::attrs::{HttpAttrs, HttpRequest};
use super::evaluate::RuleRef;
use super::model::{
    Account, AttributeKey, HttpAuthorization, HttpRule, Operation, Path, Source, Text, When,
    WhenKey, WhenTest,
};
use super::trace::{HttpField, HttpStep, HttpTracer};
use super::values::{
    claim_matches, contains, form_matches, header_holds, is_account, is_principal,
    is_request_principal, text_matches,
};

/// Where a rule failed, and how much of it held before.
struct Failed<'r> {
    field: HttpField,
    when: Option<&'r When>,
    held: u32,
}

type Held<'r> = Result<u32, Failed<'r>>;

pub(super) fn rule_matches<T: HttpTracer>(
    policy: &HttpAuthorization,
    rule: &HttpRule,
    attrs: &HttpAttrs<'_>,
    tracer: &mut T,
) -> bool {
    match rule_holds(policy, rule, attrs) {
        Ok(_) => true,
        Err(failed) => {
            if T::ENABLED {
                tracer.step(HttpStep::Miss {
                    rule: RuleRef {
                        policy,
                        rule: rule.index,
                    },
                    field: failed.field,
                    when: failed.when,
                    held: failed.held,
                });
            }
            false
        }
    }
}

fn rule_holds<'r>(
    policy: &HttpAuthorization,
    rule: &'r HttpRule,
    attrs: &HttpAttrs<'_>,
) -> Held<'r> {
    let opens = policy.action.opens();
    if opens && !rule.unusable.is_empty() {
        return Err(Failed {
            field: HttpField::Unusable,
            when: None,
            held: 0,
        });
    }
    let held = any_of(&rule.from, 0, |one, held| {
        source_holds(one, attrs, held, opens)
    })?;
    let held = any_of(&rule.to, held, |one, held| {
        operation_holds(one, attrs, held, opens)
    })?;
    rule.when.iter().try_fold(held, |held, when| {
        if when_holds(when, attrs, opens) {
            Ok(held + 1)
        } else {
            Err(Failed {
                field: HttpField::When,
                when: Some(when),
                held,
            })
        }
    })
}

/// Alternatives; none of them at all holds. Fails as the nearest one does.
fn any_of<'r, V>(
    alternatives: &'r [V],
    held: u32,
    holds: impl Fn(&'r V, u32) -> Held<'r>,
) -> Held<'r> {
    let mut nearest: Option<Failed<'r>> = None;
    for one in alternatives {
        match holds(one, held) {
            Ok(held) => return Ok(held),
            Err(failed) => {
                if nearest.as_ref().is_none_or(|best| failed.held > best.held) {
                    nearest = Some(failed);
                }
            }
        }
    }
    nearest.map_or(Ok(held), Err)
}

/// The fields of one source or operation so far.
struct Fields {
    held: u32,
}

impl Fields {
    fn positive<V>(
        &mut self,
        field: HttpField,
        values: &[V],
        test: impl Fn(&V) -> bool,
    ) -> Result<(), Failed<'static>> {
        self.step(field, values.is_empty(), || values.iter().any(test))
    }

    fn negative<V>(
        &mut self,
        field: HttpField,
        values: &[V],
        test: impl Fn(&V) -> bool,
    ) -> Result<(), Failed<'static>> {
        self.step(field, values.is_empty(), || !values.iter().any(test))
    }

    fn step(
        &mut self,
        field: HttpField,
        unset: bool,
        holds: impl FnOnce() -> bool,
    ) -> Result<(), Failed<'static>> {
        if unset {
            return Ok(());
        }
        if !holds() {
            return Err(Failed {
                field,
                when: None,
                held: self.held,
            });
        }
        self.held += 1;
        Ok(())
    }

    /// A field that only HTTP has, on TCP: an ALLOW fails, others are widened (4.6).
    fn absent(&mut self, opens: bool, fields: &[(HttpField, bool)]) -> Result<(), Failed<'static>> {
        for (field, unset) in fields {
            self.step(*field, *unset, || !opens)?;
        }
        Ok(())
    }
}

fn source_holds(
    one: &Source,
    attrs: &HttpAttrs<'_>,
    held: u32,
    opens: bool,
) -> Result<u32, Failed<'static>> {
    use HttpField as Field;
    let mut fields = Fields { held };
    let peer = attrs.peer;
    let principal = |m: &Text| is_principal(m, peer);
    let namespace = |m: &Text| peer.is_some_and(|id| text_matches(m, id.namespace()));
    let account = |m: &Account| peer.is_some_and(|id| is_account(m, id));
    let domain = |m: &Text| peer.is_some_and(|id| text_matches(m, id.trust_domain()));
    let from = |net: &IpNet| contains(net, attrs.source_ip);
    let remote = |net: &IpNet| contains(net, remote_ip(attrs));

    fields.positive(Field::Principals, &one.principals, principal)?;
    fields.negative(Field::NotPrincipals, &one.not_principals, principal)?;
    fields.positive(Field::Namespaces, &one.namespaces, namespace)?;
    fields.negative(Field::NotNamespaces, &one.not_namespaces, namespace)?;
    fields.positive(Field::ServiceAccounts, &one.service_accounts, account)?;
    fields.negative(
        Field::NotServiceAccounts,
        &one.not_service_accounts,
        account,
    )?;
    fields.positive(Field::TrustDomains, &one.trust_domains, domain)?;
    fields.negative(Field::NotTrustDomains, &one.not_trust_domains, domain)?;
    fields.positive(Field::IpBlocks, &one.ip_blocks, from)?;
    fields.negative(Field::NotIpBlocks, &one.not_ip_blocks, from)?;
    fields.positive(Field::RemoteIpBlocks, &one.remote_ip_blocks, remote)?;
    fields.negative(Field::NotRemoteIpBlocks, &one.not_remote_ip_blocks, remote)?;
    let (yes, no) = (&one.request_principals, &one.not_request_principals);
    if let Some(http) = &attrs.http {
        let requester = |m: &Text| is_request_principal(m, http.auth.as_ref());
        fields.positive(Field::RequestPrincipals, yes, requester)?;
        fields.negative(Field::NotRequestPrincipals, no, requester)?;
    } else {
        let unset = [
            (Field::RequestPrincipals, yes.is_empty()),
            (Field::NotRequestPrincipals, no.is_empty()),
        ];
        fields.absent(opens, &unset)?;
    }
    Ok(fields.held)
}

fn operation_holds(
    one: &Operation,
    attrs: &HttpAttrs<'_>,
    held: u32,
    opens: bool,
) -> Result<u32, Failed<'static>> {
    use HttpField as Field;
    let mut fields = Fields { held };
    let port = |port: &u16| *port == attrs.destination_port;
    fields.positive(Field::Ports, &one.ports, port)?;
    fields.negative(Field::NotPorts, &one.not_ports, port)?;
    let Some(http) = &attrs.http else {
        let unset = [
            (Field::Hosts, one.hosts.is_empty()),
            (Field::NotHosts, one.not_hosts.is_empty()),
            (Field::Methods, one.methods.is_empty()),
            (Field::NotMethods, one.not_methods.is_empty()),
            (Field::Paths, one.paths.is_empty()),
            (Field::NotPaths, one.not_paths.is_empty()),
        ];
        fields.absent(opens, &unset)?;
        return Ok(fields.held);
    };
    let host = |m: &Text| form_matches(&m.form, http.host, true);
    let method = |m: &Text| text_matches(m, http.method);
    let bare = http.bare_path();
    let path = |m: &Path| match m {
        Path::Text(text) => text_matches(text, bare),
        Path::Template(template) => template.matches(bare),
    };
    fields.positive(Field::Methods, &one.methods, method)?;
    fields.negative(Field::NotMethods, &one.not_methods, method)?;
    fields.positive(Field::Paths, &one.paths, path)?;
    fields.negative(Field::NotPaths, &one.not_paths, path)?;
    fields.positive(Field::Hosts, &one.hosts, host)?;
    fields.negative(Field::NotHosts, &one.not_hosts, host)?;
    Ok(fields.held)
}

fn when_holds(when: &When, attrs: &HttpAttrs<'_>, opens: bool) -> bool {
    match (&when.key, &when.test) {
        (WhenKey::Unknown(_), _) => !opens,
        (WhenKey::Header(name), WhenTest::Texts { values, not }) => match &attrs.http {
            Some(http) => header_holds(http.headers, name, values, not, opens),
            None => !opens,
        },
        (WhenKey::Claim(path), WhenTest::Texts { values, not }) => match &attrs.http {
            Some(http) => {
                let claim = http.auth.as_ref().and_then(|auth| auth.claim(path));
                both(values, not, |m| claim.is_some_and(|v| claim_matches(m, v)))
            }
            None => !opens,
        },
        (WhenKey::Attribute(key), WhenTest::Texts { values, not }) => {
            attribute_holds(*key, values, not, attrs, opens)
        }
        (WhenKey::Attribute(key), WhenTest::Blocks { values, not }) => {
            let ip = match key {
                AttributeKey::RemoteIp => remote_ip(attrs),
                AttributeKey::DestinationIp => attrs.destination_ip,
                _ => attrs.source_ip,
            };
            both(values, not, |net| contains(net, ip))
        }
        (WhenKey::Attribute(_), WhenTest::Ports { values, not }) => {
            both(values, not, |port| *port == attrs.destination_port)
        }
        (WhenKey::Attribute(_), WhenTest::Accounts { values, not }) => both(values, not, |m| {
            attrs.peer.is_some_and(|id| is_account(m, id))
        }),
        // Not built by decode; closed all the same.
        (WhenKey::Header(_) | WhenKey::Claim(_), _) => !opens,
    }
}

/// One of `values`, none of `not`.
fn both<V>(values: &[V], not: &[V], test: impl Fn(&V) -> bool) -> bool {
    (values.is_empty() || values.iter().any(&test)) && !not.iter().any(&test)
}

fn attribute_holds(
    key: AttributeKey,
    values: &[Text],
    not: &[Text],
    attrs: &HttpAttrs<'_>,
    opens: bool,
) -> bool {
    let known = |text: Option<&str>| {
        both(values, not, |m| {
            text.is_some_and(|text| text_matches(m, text))
        })
    };
    let peer = attrs.peer;
    match key {
        AttributeKey::SourceNamespace => known(peer.map(|id| &**id.namespace())),
        AttributeKey::SourceTrustDomain => known(peer.map(|id| &**id.trust_domain())),
        AttributeKey::SourcePrincipal => both(values, not, |m| is_principal(m, peer)),
        AttributeKey::Sni => known(attrs.sni),
        AttributeKey::RequestPrincipal
        | AttributeKey::RequestAudiences
        | AttributeKey::RequestPresenter => {
            let Some(http) = &attrs.http else {
                return !opens;
            };
            let auth = http.auth.as_ref();
            match key {
                AttributeKey::RequestPrincipal => {
                    both(values, not, |m| is_request_principal(m, auth))
                }
                AttributeKey::RequestPresenter => known(auth.and_then(|auth| auth.presenter)),
                _ => both(values, not, |m| {
                    let mut all = auth.into_iter().flat_map(|auth| auth.audiences);
                    all.any(|one| text_matches(m, one))
                }),
            }
        }
        // Their tests are of another kind.
        AttributeKey::SourceIp
        | AttributeKey::RemoteIp
        | AttributeKey::DestinationIp
        | AttributeKey::DestinationPort
        | AttributeKey::SourceServiceAccount => !opens,
    }
}

fn remote_ip(attrs: &HttpAttrs<'_>) -> IpAddr {
    attrs.remote_ip.unwrap_or(attrs.source_ip)
}

/// What the request has where a field failed, for `/explain`.
pub(super) fn field_text(field: HttpField, attrs: &HttpAttrs<'_>) -> String {
    use HttpField as Field;
    let peer = |of: fn(&SpiffeId) -> String| attrs.peer.map(of).unwrap_or_default();
    let http = |of: fn(&HttpRequest<'_>) -> String| {
        attrs.http.as_ref().map_or_else(|| "TCP".to_owned(), of)
    };
    match field {
        Field::Principals | Field::NotPrincipals => peer(|id| id.principal().to_string()),
        Field::Namespaces | Field::NotNamespaces => peer(|id| id.namespace().to_string()),
        Field::TrustDomains | Field::NotTrustDomains => peer(|id| id.trust_domain().to_string()),
        Field::ServiceAccounts | Field::NotServiceAccounts => {
            peer(|id| format!("{}/{}", id.namespace(), id.service_account()))
        }
        Field::RequestPrincipals | Field::NotRequestPrincipals => http(requester),
        Field::IpBlocks | Field::NotIpBlocks => attrs.source_ip.to_string(),
        Field::RemoteIpBlocks | Field::NotRemoteIpBlocks => remote_ip(attrs).to_string(),
        Field::Hosts | Field::NotHosts => http(|http| http.host.to_owned()),
        Field::Ports | Field::NotPorts => attrs.destination_port.to_string(),
        Field::Methods | Field::NotMethods => http(|http| http.method.to_owned()),
        Field::Paths | Field::NotPaths => http(|http| http.bare_path().to_owned()),
        Field::When | Field::Unusable => String::new(),
    }
}

fn requester(http: &HttpRequest<'_>) -> String {
    http.auth
        .map(|auth| format!("{}/{}", auth.issuer, auth.subject))
        .unwrap_or_default()
}

/// What the request has where a condition failed, for `/explain`. Values of
/// claims and headers aren't told: they can be secrets.
pub(super) fn when_text(when: &When, attrs: &HttpAttrs<'_>) -> String {
    let mut text = String::new();
    let known = |present: bool| if present { "present" } else { "absent" };
    let http = attrs.http.as_ref();
    let written = match &when.key {
        WhenKey::Unknown(_) => write!(text, "not known to this proxy"),
        WhenKey::Header(name) => {
            let there = http.is_some_and(|http| http.headers.contains_key(name));
            write!(text, "{}", known(there))
        }
        WhenKey::Claim(path) => {
            let auth = http.and_then(|http| http.auth);
            write!(
                text,
                "{}",
                known(auth.is_some_and(|a| a.claim(path).is_some()))
            )
        }
        WhenKey::Attribute(key) => match key {
            AttributeKey::SourceIp => write!(text, "{}", attrs.source_ip),
            AttributeKey::RemoteIp => write!(text, "{}", remote_ip(attrs)),
            AttributeKey::DestinationIp => write!(text, "{}", attrs.destination_ip),
            AttributeKey::DestinationPort => write!(text, "{}", attrs.destination_port),
            AttributeKey::Sni => write!(text, "{}", attrs.sni.unwrap_or_default()),
            AttributeKey::SourceNamespace
            | AttributeKey::SourcePrincipal
            | AttributeKey::SourceServiceAccount
            | AttributeKey::SourceTrustDomain => match attrs.peer {
                Some(id) => write!(text, "{}", id.principal()),
                None => Ok(()),
            },
            AttributeKey::RequestPrincipal => {
                write!(text, "{}", http.map(requester).unwrap_or_default())
            }
            AttributeKey::RequestAudiences | AttributeKey::RequestPresenter => {
                write!(
                    text,
                    "{}",
                    known(http.is_some_and(|http| http.auth.is_some()))
                )
            }
        },
    };
    // Writing to a String can't fail.
    written.map_or_else(|_| String::new(), |()| text)
}
