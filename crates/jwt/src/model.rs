//! What a RequestAuthentication is, once it has been read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ambit_proto::waypoint as pb;
use ambit_types::{InvalidName, NamespacedHostname, NamespacedName, WorkloadUid};
use http::HeaderName;
use http::header::AUTHORIZATION;

use crate::guard::{ForbiddenUrl, check_url};
use crate::keys::KeySet;
use crate::location::Location;

/// How long a fetch of keys may take where nothing is configured (1.9).
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest that can be configured.
const MAX_FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// One RequestAuthentication.
#[derive(Debug, Clone)]
pub struct Authentication {
    /// The object.
    pub key: NamespacedName,
    /// What it is attached to, any of them; none is all of this waypoint.
    pub targets: Vec<Attachment>,
    /// Its issuers.
    pub rules: Vec<Arc<JwtRule>>,
    /// Not empty: only requests that are addressed to one of these workloads.
    pub workloads: Vec<WorkloadUid>,
}

/// What an object is attached to. Nothing set: all of this waypoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// Only this service.
    pub frontend: Option<NamespacedHostname>,
    /// Only this service port.
    pub port: Option<u16>,
}

impl Authentication {
    /// Whether it holds for a service port (or without a service for an
    /// address), and for the workload that the client addressed.
    pub fn holds_for(
        &self,
        frontend: Option<&NamespacedHostname>,
        port: u16,
        workload: Option<&str>,
    ) -> bool {
        let mut targets = self.targets.iter();
        let attached = self.targets.is_empty()
            || targets.any(|target| {
                let mine = target.frontend.as_ref();
                mine.is_none_or(|mine| Some(mine) == frontend)
                    && target.port.is_none_or(|mine| mine == port)
            });
        let mut workloads = self.workloads.iter();
        attached
            && (self.workloads.is_empty() || workloads.any(|uid| Some(uid.as_str()) == workload))
    }
}

/// One issuer and what is done with its tokens.
#[derive(Debug, Clone)]
pub struct JwtRule {
    /// For caches: another rule has another number, also one of a later configuration.
    pub(crate) id: u64,
    /// Equals `iss` exactly.
    pub issuer: String,
    /// The token has one of them; none: any.
    pub audiences: Vec<String>,
    /// Where its keys are.
    pub keys: KeySource,
    /// Where its tokens are looked for.
    pub locations: Vec<Location>,
    /// The token stays in the request.
    pub forward: bool,
    /// The payload, base64url, goes here.
    pub payload_header: Option<HeaderName>,
    /// Single claims go here.
    pub claim_headers: Vec<ClaimHeader>,
    /// Claims whose text is a list of words; `scope` and `permission` among them.
    pub space_delimited: Vec<String>,
}

/// A claim that goes into a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHeader {
    /// The header.
    pub header: HeaderName,
    /// The claim as it is written: a claim of this very name, or a path with `.`.
    pub claim: String,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// In the object.
    Inline(Arc<KeySet>),
    /// Fetched and kept by a [`KeyCache`](crate::KeyCache).
    Remote(Arc<RemoteKeys>),
    /// Nowhere: tokens of this issuer are refused. Why, for logs.
    Unusable(Arc<str>),
}

/// Keys to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteKeys {
    /// `jwks_uri`, or the issuer's discovery document.
    pub url: String,
    /// Set: `url` is a discovery document, and this is its issuer.
    pub discover: Option<String>,
    /// How long one fetch may take.
    pub timeout: Duration,
}

/// Why a RequestAuthentication can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableJwt {
    /// It has no name.
    #[error("origin: the RequestAuthentication has no name")]
    Name,
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
    Port {
        /// The target's place, from 0.
        index: usize,
        /// The number.
        port: u32,
    },
    /// A rule without issuer.
    #[error("rules[{rule}].issuer: must not be empty")]
    Issuer {
        /// The rule's place, from 0.
        rule: usize,
    },
    /// Neither keys nor where they are.
    #[error("rules[{rule}].keys: none is set")]
    Keys {
        /// The rule's place, from 0.
        rule: usize,
    },
    /// A header name.
    #[error("rules[{rule}].{field}: {name:?} is not a header name")]
    Header {
        /// The rule's place, from 0.
        rule: usize,
        /// The field.
        field: &'static str,
        /// The name.
        name: String,
    },
}

impl TryFrom<pb::Authentication> for Authentication {
    type Error = UnreadableJwt;

    fn try_from(wire: pb::Authentication) -> Result<Self, UnreadableJwt> {
        let origin = wire.origin.filter(|origin| !origin.name.is_empty());
        let origin = origin.ok_or(UnreadableJwt::Name)?;
        let targets = wire.targets.iter().enumerate();
        let rules = wire.rules.into_iter().enumerate();
        Ok(Self {
            key: NamespacedName::new(origin.namespace, origin.name),
            targets: targets
                .map(|(index, target)| read_target(index, target))
                .collect::<Result<_, _>>()?,
            rules: rules
                .map(|(index, rule)| read_rule(index, rule).map(Arc::new))
                .collect::<Result<_, _>>()?,
            workloads: wire
                .workload_uids
                .into_iter()
                .map(WorkloadUid::from)
                .collect(),
        })
    }
}

fn read_target(index: usize, wire: &pb::Target) -> Result<Attachment, UnreadableJwt> {
    let frontend = match wire.frontend.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|source| UnreadableJwt::Target { index, source })?,
        ),
    };
    let port = u16::try_from(wire.port).map_err(|_| UnreadableJwt::Port {
        index,
        port: wire.port,
    })?;
    Ok(Attachment {
        frontend,
        port: (port != 0).then_some(port),
    })
}

fn read_rule(rule: usize, wire: pb::JwtRule) -> Result<JwtRule, UnreadableJwt> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    if wire.issuer.is_empty() {
        return Err(UnreadableJwt::Issuer { rule });
    }
    let header = |field, name: &str| {
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| UnreadableJwt::Header {
            rule,
            field,
            name: name.to_owned(),
        })
    };
    let timeout = match wire.fetch_timeout_ms {
        0 => FETCH_TIMEOUT,
        ms => Duration::from_millis(ms).min(MAX_FETCH_TIMEOUT),
    };
    let mut locations = Vec::new();
    for from in wire.from_headers {
        let name = header("from_headers", &from.name)?;
        locations.push(Location::header(name, from.prefix));
    }
    locations.extend(wire.from_params.into_iter().map(Location::Param));
    locations.extend(wire.from_cookies.into_iter().map(Location::Cookie));
    if locations.is_empty() {
        locations.push(Location::header(AUTHORIZATION, "Bearer ".to_owned()));
        locations.push(Location::Param("access_token".to_owned()));
    }
    let claim_headers = wire
        .output_claims
        .into_iter()
        .map(|one| {
            Ok(ClaimHeader {
                header: header("output_claims", &one.header)?,
                claim: one.claim,
            })
        })
        .collect::<Result<_, UnreadableJwt>>()?;
    let payload_header = match wire.output_payload_to_header.as_str() {
        "" => None,
        name => Some(header("output_payload_to_header", name)?),
    };
    let mut space_delimited = vec!["scope".to_owned(), "permission".to_owned()];
    space_delimited.extend(wire.space_delimited_claims);
    let keys = wire.keys.ok_or(UnreadableJwt::Keys { rule })?;
    Ok(JwtRule {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        keys: read_keys(keys, &wire.issuer, timeout),
        issuer: wire.issuer,
        audiences: wire.audiences,
        locations,
        forward: wire.forward_original_token,
        payload_header,
        claim_headers,
        space_delimited,
    })
}

fn read_keys(wire: pb::jwt_rule::Keys, issuer: &str, timeout: Duration) -> KeySource {
    use pb::jwt_rule::Keys as Wire;
    let remote = |url: String, discover: Option<String>| match check_url(&url) {
        Ok(_) => KeySource::Remote(Arc::new(RemoteKeys {
            url,
            discover,
            timeout,
        })),
        Err(why) => unusable(&url, why),
    };
    match wire {
        Wire::InlineJwks(document) => match KeySet::parse(document.as_bytes()) {
            Ok(keys) => KeySource::Inline(Arc::new(keys)),
            Err(why) => KeySource::Unusable(why.to_string().into()),
        },
        Wire::JwksUri(url) => remote(url, None),
        Wire::Discover(_) => {
            let base = issuer.trim_end_matches('/');
            let url = format!("{base}/.well-known/openid-configuration");
            remote(url, Some(issuer.to_owned()))
        }
        Wire::Unusable(invalid) => KeySource::Unusable(invalid.reason.into()),
    }
}

fn unusable(url: &str, why: ForbiddenUrl) -> KeySource {
    KeySource::Unusable(format!("{url}: {why}").into())
}
