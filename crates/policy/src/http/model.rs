//! What an L7 policy is, once it has been read.

use std::fmt;
use std::sync::Arc;

use ambit_types::{NamespacedHostname, NamespacedName, WorkloadUid};
use ipnet::IpNet;

use super::template::PathTemplate;
use crate::model::StringMatch;

/// What a match means (4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpAction {
    /// Once one such policy holds, only what one of them matches is let in.
    Allow,
    /// What it matches is refused, whatever else allows it.
    Deny,
    /// What it matches is noted.
    Audit,
    /// What it matches is asked of a provider, before anything else.
    Custom,
}

impl HttpAction {
    /// The action's name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }

    /// Whether a match opens. What isn't known must not open and must not
    /// keep anything else from matching.
    pub(crate) fn opens(self) -> bool {
        matches!(self, Self::Allow)
    }
}

/// One L7 authorization policy.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpAuthorization {
    /// The object.
    pub key: NamespacedName,
    /// What a match means.
    pub action: HttpAction,
    /// What it is attached to, any of them.
    pub targets: Vec<Attachment>,
    /// Any rule suffices; none at all never matches.
    pub rules: Vec<HttpRule>,
    /// Matches are told and decide nothing (4.8).
    pub dry_run: bool,
    /// Who decides, for CUSTOM; empty otherwise.
    pub provider: Arc<str>,
    /// Not empty: only requests that go to one of these workloads.
    pub workloads: Vec<WorkloadUid>,
}

impl HttpAuthorization {
    /// Whether it holds for a service port, or without one for an address that
    /// belongs to no service.
    pub fn holds_for(&self, frontend: Option<&NamespacedHostname>, port: u16) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|t| t.holds_for(frontend, port))
    }
}

/// What a policy is attached to (4.1). Nothing set: all of this waypoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// Only this service.
    pub frontend: Option<NamespacedHostname>,
    /// Only this service port.
    pub port: Option<u16>,
}

impl Attachment {
    /// Whether it covers a service port, or an address of no service.
    pub fn holds_for(&self, frontend: Option<&NamespacedHostname>, port: u16) -> bool {
        self.frontend
            .as_ref()
            .is_none_or(|mine| Some(mine) == frontend)
            && self.port.is_none_or(|mine| mine == port)
    }
}

/// One of `from` AND one of `to` AND all of `when` (4.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HttpRule {
    /// Its place in the object, from 0.
    pub index: u32,
    /// Any; none is everybody.
    pub from: Vec<Source>,
    /// Any; none is everything.
    pub to: Vec<Operation>,
    /// All.
    pub when: Vec<When>,
    /// Not empty: the rule has a part that this proxy can't evaluate, and why.
    /// Then an ALLOW never matches; others match as if the part weren't there.
    pub unusable: Arc<str>,
}

/// How a text is compared (4.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Exact, prefix, suffix or presence.
    pub form: StringMatch,
    /// ASCII case is ignored.
    pub ignore_case: bool,
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.form, f)
    }
}

/// A service account of any trust domain, compared literally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Who sends. Every list that isn't empty must hold: a positive one by one of
/// its values, a `not_` one by none (4.2).
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the names of the fields in 4.3")]
pub struct Source {
    pub principals: Vec<Text>,
    pub not_principals: Vec<Text>,
    pub request_principals: Vec<Text>,
    pub not_request_principals: Vec<Text>,
    pub namespaces: Vec<Text>,
    pub not_namespaces: Vec<Text>,
    pub service_accounts: Vec<Account>,
    pub not_service_accounts: Vec<Account>,
    pub trust_domains: Vec<Text>,
    pub not_trust_domains: Vec<Text>,
    pub ip_blocks: Vec<IpNet>,
    pub not_ip_blocks: Vec<IpNet>,
    pub remote_ip_blocks: Vec<IpNet>,
    pub not_remote_ip_blocks: Vec<IpNet>,
}

/// What is done; lists as in [`Source`].
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the names of the fields in 4.3")]
pub struct Operation {
    pub hosts: Vec<Text>,
    pub not_hosts: Vec<Text>,
    pub ports: Vec<u16>,
    pub not_ports: Vec<u16>,
    pub methods: Vec<Text>,
    pub not_methods: Vec<Text>,
    pub paths: Vec<Path>,
    pub not_paths: Vec<Path>,
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// As a text.
    Text(Text),
    /// With `{*}` and `{**}`.
    Template(PathTemplate),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => fmt::Display::fmt(text, f),
            Self::Template(template) => fmt::Display::fmt(template, f),
        }
    }
}

/// One condition (4.4).
#[derive(Debug, Clone, PartialEq)]
pub struct When {
    /// Of what.
    pub key: WhenKey,
    /// How it is compared.
    pub test: WhenTest,
}

/// What a condition is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhenKey {
    /// `request.headers[NAME]`.
    Header(http::HeaderName),
    /// `request.auth.claims[A][B]`.
    Claim(Vec<Arc<str>>),
    /// Any other key.
    Attribute(AttributeKey),
    /// A key that nothing here can know, as it was written.
    Unknown(Arc<str>),
}

impl fmt::Display for WhenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "request.headers[{name}]"),
            Self::Claim(path) => {
                f.write_str("request.auth.claims")?;
                path.iter().try_for_each(|key| write!(f, "[{key}]"))
            }
            Self::Attribute(key) => f.write_str(key.as_str()),
            Self::Unknown(key) => f.write_str(key),
        }
    }
}

macro_rules! attribute_keys {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// The keys of 4.4 that need no argument.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum AttributeKey { $($(#[$doc])* $name,)+ }

        impl AttributeKey {
            /// The key as users write it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Reads a key.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

attribute_keys! {
    /// Address of the TCP peer.
    SourceIp = "source.ip",
    /// Address by trusted headers.
    RemoteIp = "remote.ip",
    /// Address that the client meant.
    DestinationIp = "destination.ip",
    /// Of the peer's identity.
    SourceNamespace = "source.namespace",
    /// The peer's identity.
    SourcePrincipal = "source.principal",
    /// `ns/sa` of the peer's identity.
    SourceServiceAccount = "source.serviceAccount",
    /// Of the peer's identity.
    SourceTrustDomain = "source.trustDomain",
    /// `iss/sub`.
    RequestPrincipal = "request.auth.principal",
    /// Any element of `aud`.
    RequestAudiences = "request.auth.audiences",
    /// Claim `azp`.
    RequestPresenter = "request.auth.presenter",
    /// The service port.
    DestinationPort = "destination.port",
    /// Server name of TLS.
    Sni = "connection.sni",
}

/// Values OR, none of the negative ones, both AND (4.4).
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "values and notValues of 4.4")]
pub enum WhenTest {
    /// Texts.
    Texts { values: Vec<Text>, not: Vec<Text> },
    /// Addresses.
    Blocks { values: Vec<IpNet>, not: Vec<IpNet> },
    /// Ports.
    Ports { values: Vec<u16>, not: Vec<u16> },
    /// Service accounts.
    Accounts {
        values: Vec<Account>,
        not: Vec<Account>,
    },
}
