//! From `ambit.waypoint.v1.Authorization` to [`HttpAuthorization`]. One element
//! that can't be read makes the whole policy unreadable: nothing opens, and the
//! control plane hears which element it was.

use std::net::IpAddr;
use std::sync::Arc;

use ambit_proto::waypoint as pb;
use ambit_types::{InvalidName, NamespacedHostname, NamespacedName, WorkloadUid};
use http::HeaderName;
use ipnet::IpNet;

use super::model::{
    Account, Attachment, AttributeKey, HttpAction, HttpAuthorization, HttpRule, Operation, Path,
    Source, Text, When, WhenKey, WhenTest,
};
use super::template::{InvalidTemplate, PathTemplate};
use super::trace::HttpField;
use crate::model::{InvalidMatch, StringMatch, cidr};

/// Why a policy can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableHttp {
    /// A policy needs an origin with a name.
    #[error("origin: the policy has no name")]
    Name,
    /// An action number that isn't in the contract.
    #[error("action: {0} is unknown")]
    Action(i32),
    /// A target that isn't `namespace/hostname`.
    #[error("targets[{index}].frontend")]
    Target {
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        source: InvalidName,
    },
    /// A target's port.
    #[error("targets[{index}].port: {port} is not a port")]
    TargetPort {
        /// The target's place, from 0.
        index: usize,
        /// The number.
        port: u32,
    },
    /// One value of a rule.
    #[error("rules[{rule}].{}: {source}", field.as_str())]
    Value {
        /// The rule's place in the object.
        rule: u32,
        /// The field.
        field: HttpField,
        /// What is wrong with it.
        source: InvalidValue,
    },
    /// CUSTOM needs a provider.
    #[error("provider: a CUSTOM policy names none")]
    Provider,
}

/// What is wrong with one value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// A text, address or port.
    #[error(transparent)]
    Match(#[from] InvalidMatch),
    /// A path template.
    #[error(transparent)]
    Template(#[from] InvalidTemplate),
    /// Authorization has no such form.
    #[error("{0:?}: authorization has no regular expressions")]
    Regex(String),
    /// Not a header name.
    #[error("{0:?} is not a header name")]
    Header(String),
    /// A claim path without an element.
    #[error("the claim path is empty")]
    Claim,
    /// A condition without a key.
    #[error("the condition has no key")]
    Key,
    /// A condition without values.
    #[error("the condition has no values")]
    NoValues,
    /// `sa` or `ns/sa`, without wildcards.
    #[error("{0:?} is not a service account of the form NAME or NAMESPACE/NAME")]
    Account(String),
    /// A path pattern with neither form.
    #[error("neither text nor template is set")]
    Path,
}

impl TryFrom<pb::Authorization> for HttpAuthorization {
    type Error = UnreadableHttp;

    fn try_from(wire: pb::Authorization) -> Result<Self, UnreadableHttp> {
        let origin = wire.origin.filter(|origin| !origin.name.is_empty());
        let origin = origin.ok_or(UnreadableHttp::Name)?;
        let action = read_action(wire.action)?;
        if action == HttpAction::Custom && wire.provider.is_empty() {
            return Err(UnreadableHttp::Provider);
        }
        let targets = wire.targets.into_iter().enumerate();
        let rules = wire.rules.into_iter();
        Ok(Self {
            action,
            targets: targets
                .map(|(index, target)| read_target(index, &target))
                .collect::<Result<_, _>>()?,
            rules: rules
                .map(|rule| read_rule(rule, &origin.namespace))
                .collect::<Result<_, _>>()?,
            key: NamespacedName::new(origin.namespace, origin.name),
            dry_run: wire.dry_run,
            provider: wire.provider.into(),
            workloads: wire
                .workload_uids
                .into_iter()
                .map(WorkloadUid::from)
                .collect(),
        })
    }
}

fn read_action(action: i32) -> Result<HttpAction, UnreadableHttp> {
    use pb::AuthorizationAction as Wire;
    Ok(
        match Wire::try_from(action).map_err(|_| UnreadableHttp::Action(action))? {
            Wire::Allow => HttpAction::Allow,
            Wire::Deny => HttpAction::Deny,
            Wire::Audit => HttpAction::Audit,
            Wire::Custom => HttpAction::Custom,
        },
    )
}

/// Reads what a policy is attached to.
fn read_target(index: usize, wire: &pb::Target) -> Result<Attachment, UnreadableHttp> {
    let frontend = match wire.frontend.as_str() {
        "" => None,
        text => Some(
            text.parse::<NamespacedHostname>()
                .map_err(|source| UnreadableHttp::Target { index, source })?,
        ),
    };
    let port = u16::try_from(wire.port).map_err(|_| UnreadableHttp::TargetPort {
        index,
        port: wire.port,
    })?;
    Ok(Attachment {
        frontend,
        port: (port != 0).then_some(port),
    })
}

fn read_rule(wire: pb::AuthorizationRule, namespace: &str) -> Result<HttpRule, UnreadableHttp> {
    let index = wire.index;
    let at = |field| {
        move |source| UnreadableHttp::Value {
            rule: index,
            field,
            source,
        }
    };
    Ok(HttpRule {
        index,
        from: wire
            .from
            .into_iter()
            .map(|one| read_source(one, at))
            .collect::<Result<_, _>>()?,
        to: wire
            .to
            .into_iter()
            .map(|one| read_operation(one, at))
            .collect::<Result<_, _>>()?,
        when: wire
            .when
            .into_iter()
            .map(|one| read_when(one, namespace).map_err(at(HttpField::When)))
            .collect::<Result<_, _>>()?,
        unusable: wire.unusable.into(),
    })
}

fn read_source<F>(wire: pb::Source, at: impl Fn(HttpField) -> F) -> Result<Source, UnreadableHttp>
where
    F: FnOnce(InvalidValue) -> UnreadableHttp,
{
    use HttpField as Field;
    Ok(Source {
        principals: texts(wire.principals).map_err(at(Field::Principals))?,
        not_principals: texts(wire.not_principals).map_err(at(Field::NotPrincipals))?,
        request_principals: texts(wire.request_principals).map_err(at(Field::RequestPrincipals))?,
        not_request_principals: texts(wire.not_request_principals)
            .map_err(at(Field::NotRequestPrincipals))?,
        namespaces: texts(wire.namespaces).map_err(at(Field::Namespaces))?,
        not_namespaces: texts(wire.not_namespaces).map_err(at(Field::NotNamespaces))?,
        service_accounts: accounts(wire.service_accounts),
        not_service_accounts: accounts(wire.not_service_accounts),
        trust_domains: texts(wire.trust_domains).map_err(at(Field::TrustDomains))?,
        not_trust_domains: texts(wire.not_trust_domains).map_err(at(Field::NotTrustDomains))?,
        ip_blocks: nets(&wire.ip_blocks).map_err(at(Field::IpBlocks))?,
        not_ip_blocks: nets(&wire.not_ip_blocks).map_err(at(Field::NotIpBlocks))?,
        remote_ip_blocks: nets(&wire.remote_ip_blocks).map_err(at(Field::RemoteIpBlocks))?,
        not_remote_ip_blocks: nets(&wire.not_remote_ip_blocks)
            .map_err(at(Field::NotRemoteIpBlocks))?,
    })
}

fn read_operation<F>(
    wire: pb::Operation,
    at: impl Fn(HttpField) -> F,
) -> Result<Operation, UnreadableHttp>
where
    F: FnOnce(InvalidValue) -> UnreadableHttp,
{
    use HttpField as Field;
    Ok(Operation {
        hosts: texts(wire.hosts).map_err(at(Field::Hosts))?,
        not_hosts: texts(wire.not_hosts).map_err(at(Field::NotHosts))?,
        ports: ports(wire.ports).map_err(at(Field::Ports))?,
        not_ports: ports(wire.not_ports).map_err(at(Field::NotPorts))?,
        methods: texts(wire.methods).map_err(at(Field::Methods))?,
        not_methods: texts(wire.not_methods).map_err(at(Field::NotMethods))?,
        paths: paths(wire.paths).map_err(at(Field::Paths))?,
        not_paths: paths(wire.not_paths).map_err(at(Field::NotPaths))?,
    })
}

fn read_when(wire: pb::When, namespace: &str) -> Result<When, InvalidValue> {
    use pb::when::Key;
    let key = match wire.key.ok_or(InvalidValue::Key)? {
        Key::Header(name) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => WhenKey::Header(name),
            Err(_) => return Err(InvalidValue::Header(name)),
        },
        Key::Claim(claim) if claim.path.is_empty() => return Err(InvalidValue::Claim),
        Key::Claim(claim) => WhenKey::Claim(claim.path.into_iter().map(Arc::from).collect()),
        Key::Attribute(key) => match AttributeKey::parse(&key) {
            Some(key) => WhenKey::Attribute(key),
            // experimental.envoy.filters.*: no such filter runs here.
            None => WhenKey::Unknown(key.into()),
        },
    };
    let (values, not) = (texts(wire.values)?, texts(wire.not_values)?);
    let test = match &key {
        WhenKey::Attribute(
            AttributeKey::SourceIp | AttributeKey::RemoteIp | AttributeKey::DestinationIp,
        ) => WhenTest::Blocks {
            values: nets(&wire.blocks)?,
            not: nets(&wire.not_blocks)?,
        },
        WhenKey::Attribute(AttributeKey::DestinationPort) => WhenTest::Ports {
            values: ports(wire.ports)?,
            not: ports(wire.not_ports)?,
        },
        WhenKey::Attribute(AttributeKey::SourceServiceAccount) => WhenTest::Accounts {
            values: account_texts(&values, namespace)?,
            not: account_texts(&not, namespace)?,
        },
        _ => WhenTest::Texts { values, not },
    };
    let empty = match &test {
        WhenTest::Texts { values, not } => values.is_empty() && not.is_empty(),
        WhenTest::Blocks { values, not } => values.is_empty() && not.is_empty(),
        WhenTest::Ports { values, not } => values.is_empty() && not.is_empty(),
        WhenTest::Accounts { values, not } => values.is_empty() && not.is_empty(),
    };
    if empty && !matches!(key, WhenKey::Unknown(_)) {
        return Err(InvalidValue::NoValues);
    }
    Ok(When { key, test })
}

fn texts(wire: Vec<pb::StringMatch>) -> Result<Vec<Text>, InvalidValue> {
    wire.into_iter().map(text).collect()
}

fn text(wire: pb::StringMatch) -> Result<Text, InvalidValue> {
    use pb::string_match::Kind;
    let form = match wire.kind {
        // A header's value can be meant to be empty.
        Some(Kind::Exact(text)) => StringMatch::Exact(text.into()),
        Some(Kind::Prefix(text)) => StringMatch::prefix(text)?,
        Some(Kind::Suffix(text)) => StringMatch::suffix(text)?,
        Some(Kind::Presence(_)) => StringMatch::Presence(),
        Some(Kind::Regex(text)) => return Err(InvalidValue::Regex(text)),
        None => return Err(InvalidMatch::UnsetText.into()),
    };
    Ok(Text {
        form,
        ignore_case: wire.ignore_case,
    })
}

fn paths(wire: Vec<pb::PathPattern>) -> Result<Vec<Path>, InvalidValue> {
    use pb::path_pattern::Kind;
    wire.into_iter()
        .map(|one| match one.kind {
            Some(Kind::Text(one)) => text(one).map(Path::Text),
            Some(Kind::Template(one)) => Ok(Path::Template(PathTemplate::parse(&one)?)),
            None => Err(InvalidValue::Path),
        })
        .collect()
}

fn nets(wire: &[pb::Cidr]) -> Result<Vec<IpNet>, InvalidValue> {
    wire.iter()
        .map(|one| {
            let bytes: &[u8] = &one.address;
            let ip = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
                IpAddr::from(v4)
            } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
                IpAddr::from(v6)
            } else {
                return Err(InvalidMatch::AddressLength(bytes.len()).into());
            };
            Ok(cidr(ip, one.length)?)
        })
        .collect()
}

fn ports(wire: Vec<u32>) -> Result<Vec<u16>, InvalidValue> {
    wire.into_iter()
        .map(|port| u16::try_from(port).map_err(|_| InvalidMatch::Port(port).into()))
        .collect()
}

fn accounts(wire: Vec<pb::ServiceAccount>) -> Vec<Account> {
    wire.into_iter()
        .map(|one| Account {
            namespace: one.namespace.into(),
            name: one.name.into(),
        })
        .collect()
}

/// `sa` of the policy's namespace, or `ns/sa`; both literal (4.3).
fn account_texts(texts: &[Text], namespace: &str) -> Result<Vec<Account>, InvalidValue> {
    let read = |text: &Text| {
        let StringMatch::Exact(written) = &text.form else {
            return None;
        };
        let (namespace, name) = written.split_once('/').unwrap_or((namespace, written));
        let good = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
        good.then(|| Account {
            namespace: namespace.into(),
            name: name.into(),
        })
    };
    texts
        .iter()
        .map(|text| read(text).ok_or_else(|| InvalidValue::Account(text.to_string())))
        .collect()
}

#[cfg(test)]
mod tests;
