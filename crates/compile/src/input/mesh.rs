//! The mesh configuration, as far as it matters to node proxies (`control-plane-contract` 8.4, 8.5).

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::core::LabelSelector;
use ambit_kube::{MeshConfigSpec, ServiceEntryVisibility, VisibilityRule};
use ambit_types::{DEFAULT_TRUST_DOMAIN, SpiffeId};

use super::{BadValue, Labels};
use crate::Settings;

/// What holds for the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mesh {
    pub(crate) trust_domain: Arc<str>,
    pub(crate) root_namespace: Arc<str>,
    /// Namespaces that are looked at: any of them; none takes all.
    discovery: Box<[Selector]>,
    visibility: Option<Restriction>,
    /// Services whose waypoint can't serve are reached without it (`defaultConfig.proxyMetadata`,
    /// [`WAYPOINT_BYPASS`]); a setting of the compiler says the same.
    pub(crate) waypoint_bypass: bool,
}

/// The key in `defaultConfig.proxyMetadata` of the mesh configuration; its value is `allow`.
const WAYPOINT_BYPASS: &str = "AMBIT_WAYPOINT_BYPASS";

/// A value of the mesh configuration that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeshFault {
    pub(crate) bad: BadValue,
    pub(crate) wanted: &'static str,
}

/// Who sees a ServiceEntry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visibility {
    Public,
    Namespace,
    Hidden,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Restriction {
    policies: Box<[(Box<[Rule]>, Visibility)]>,
    otherwise: Visibility,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Names(Box<[String]>),
    Labels(Labels),
    /// Of a kind that we don't know: never matches.
    Unknown,
}

/// A Kubernetes label selector: all of it must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Labels,
    expressions: Box<[(Box<str>, Test)]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Box<[String]>),
    NotIn(Box<[String]>),
    Exists,
    Absent,
}

/// The namespaces that a mesh discovers, for whoever acts in namespaces without compiling anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery(Box<[Selector]>);

impl Discovery {
    /// Reads `discoverySelectors`; none if one of them can't be used.
    pub fn new(selectors: &[LabelSelector]) -> Option<Self> {
        let selectors: Option<_> = selectors.iter().map(Selector::read).collect();
        selectors.map(Self)
    }

    /// Whether a namespace with these labels is discovered; without selectors, all are.
    pub fn discovers(&self, labels: &BTreeMap<String, String>) -> bool {
        let labels = Labels::of(labels);
        self.0.is_empty() || self.0.iter().any(|any| any.matches(&labels))
    }
}

impl Mesh {
    /// What holds without a mesh configuration.
    pub(crate) fn default_of(settings: &Settings) -> Self {
        let domain = settings.trust_domain.clone();
        Self {
            trust_domain: domain.unwrap_or_else(|| DEFAULT_TRUST_DOMAIN.into()),
            root_namespace: Arc::clone(&settings.system_namespace),
            discovery: Box::default(),
            visibility: None,
            waypoint_bypass: settings.waypoint_bypass,
        }
    }

    /// What the configuration says, over the defaults.
    pub(crate) fn new(settings: &Settings, spec: &MeshConfigSpec) -> Result<Self, MeshFault> {
        let mut mesh = Self::default_of(settings);
        if let Some(domain) = filled(spec.trust_domain.as_ref()) {
            SpiffeId::new(domain, "", "").map_err(|_| MeshFault {
                bad: BadValue {
                    field: "trustDomain".to_owned(),
                    value: domain.to_owned(),
                },
                wanted: "a trust domain without a slash, for example cluster.local",
            })?;
            if settings.trust_domain.is_none() {
                mesh.trust_domain = domain.into();
            }
        }
        if let Some(namespace) = filled(spec.root_namespace.as_ref()) {
            mesh.root_namespace = namespace.into();
        }
        let selectors = spec.discovery_selectors.iter().enumerate();
        mesh.discovery = selectors
            .map(|(at, selector)| Selector::new(at, selector))
            .collect::<Result<_, _>>()?;
        mesh.visibility = spec
            .service_entry_visibility
            .as_ref()
            .map(Restriction::new)
            .transpose()?;
        let config = spec.default_config.as_ref();
        let bypass = config.and_then(|config| config.proxy_metadata.get(WAYPOINT_BYPASS));
        match bypass.map(String::as_str) {
            None => {}
            Some("allow") => mesh.waypoint_bypass = true,
            Some("deny") => mesh.waypoint_bypass = false,
            Some(other) => {
                return Err(MeshFault {
                    bad: BadValue {
                        field: format!("defaultConfig.proxyMetadata.{WAYPOINT_BYPASS}"),
                        value: other.to_owned(),
                    },
                    wanted: "allow or deny",
                });
            }
        }
        Ok(mesh)
    }

    /// Whether a namespace is looked at.
    pub(crate) fn discovers(&self, labels: &Labels) -> bool {
        self.discovery.is_empty() || self.discovery.iter().any(|any| any.matches(labels))
    }

    /// Who sees the ServiceEntries of a namespace.
    pub(crate) fn visibility(&self, namespace: &str, labels: &Labels) -> Visibility {
        let Some(restriction) = &self.visibility else {
            return Visibility::Public;
        };
        let first = restriction.policies.iter().find(|(rules, _)| {
            rules.iter().all(|rule| match rule {
                Rule::Names(names) => names.iter().any(|name| name == namespace),
                Rule::Labels(wanted) => wanted.selects(labels),
                Rule::Unknown => false,
            })
        });
        first.map_or(restriction.otherwise, |(_, visibility)| *visibility)
    }

    /// Whether visibility is configured at all, so that entries get a condition about it.
    pub(crate) fn restricts_visibility(&self) -> bool {
        self.visibility.is_some()
    }
}

impl Restriction {
    fn new(spec: &ServiceEntryVisibility) -> Result<Self, MeshFault> {
        let parse = |field: String, value: Option<&String>| match value.map(String::as_str) {
            None | Some("" | "PUBLIC") => Ok(Visibility::Public),
            Some("NAMESPACE") => Ok(Visibility::Namespace),
            Some("NONE") => Ok(Visibility::Hidden),
            Some(other) => Err(MeshFault {
                bad: BadValue {
                    field,
                    value: other.to_owned(),
                },
                wanted: "PUBLIC, NAMESPACE or NONE",
            }),
        };
        let policies = spec.policies.iter().enumerate().map(|(at, policy)| {
            let field = format!("serviceEntryVisibility.policies[{at}].visibility");
            let rules = policy.rules.iter().map(Rule::new).collect();
            Ok((rules, parse(field, policy.visibility.as_ref())?))
        });
        Ok(Self {
            policies: policies.collect::<Result<_, _>>()?,
            otherwise: parse(
                "serviceEntryVisibility.default".to_owned(),
                spec.default.as_ref(),
            )?,
        })
    }
}

impl Rule {
    fn new(rule: &VisibilityRule) -> Self {
        match (&rule.namespaces, &rule.namespace_selector) {
            (Some(names), None) => Self::Names(names.as_slice().into()),
            (None, Some(labels)) => Self::Labels(Labels::of(labels)),
            _ => Self::Unknown,
        }
    }
}

impl Selector {
    fn new(at: usize, selector: &LabelSelector) -> Result<Self, MeshFault> {
        let listed = selector.match_expressions.iter().flatten().enumerate();
        let expressions = listed.map(|(nth, expression)| {
            let values = || expression.values.clone().unwrap_or_default().into();
            let test = match expression.operator.as_str() {
                "In" => Test::In(values()),
                "NotIn" => Test::NotIn(values()),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                other => {
                    return Err(MeshFault {
                        bad: BadValue {
                            field: format!(
                                "discoverySelectors[{at}].matchExpressions[{nth}].operator"
                            ),
                            value: other.to_owned(),
                        },
                        wanted: "In, NotIn, Exists or DoesNotExist",
                    });
                }
            };
            Ok((expression.key.as_str().into(), test))
        });
        Ok(Self {
            labels: Labels::of(selector.match_labels.as_ref().unwrap_or(&BTreeMap::new())),
            expressions: expressions.collect::<Result<_, _>>()?,
        })
    }

    /// None for one that can't be used.
    pub(crate) fn read(selector: &LabelSelector) -> Option<Self> {
        Self::new(0, selector).ok()
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        let holds = |(key, test): &(Box<str>, Test)| {
            let value = labels.get(key);
            match test {
                Test::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
                Test::NotIn(values) => {
                    !value.is_some_and(|value| values.iter().any(|v| v == value))
                }
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
            }
        };
        self.labels.selects(labels) && self.expressions.iter().all(holds)
    }
}

fn filled(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}
