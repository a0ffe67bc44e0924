//! SMI's kinds that are inputs of ours (`waypoint-contract` 8.2).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::IstioStatus;
use crate::scalar::Weight;

/// Shares of a service's traffic, in the shapes of all versions from `v1alpha1` to `v1alpha4`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "split.smi-spec.io",
    version = "v1alpha2",
    kind = "TrafficSplit",
    plural = "trafficsplits",
    shortname = "ts",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSplitSpec {
    /// The service that clients call, by name or FQDN.
    pub service: String,
    /// Shares; relative.
    #[serde(default)]
    pub backends: Vec<TrafficSplitBackend>,
    /// Only requests of these groups (since `v1alpha3`).
    #[serde(default)]
    pub matches: Vec<TrafficSplitMatch>,
}

/// A share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitBackend {
    /// A service of the same namespace.
    pub service: String,
    /// A quantity in `v1alpha1`, a number since.
    pub weight: Weight,
}

/// A group of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSplitMatch {
    /// `specs.smi-spec.io`.
    #[serde(default)]
    pub api_group: Option<String>,
    /// `HTTPRouteGroup`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Named matches of requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "specs.smi-spec.io",
    version = "v1alpha4",
    kind = "HTTPRouteGroup",
    root = "HttpRouteGroup",
    plural = "httproutegroups",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteGroupSpec {
    /// Any of them.
    pub matches: Vec<HttpRouteGroupMatch>,
}

/// A match; all that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteGroupMatch {
    /// Its name.
    pub name: String,
    /// The whole path.
    pub path_regex: Option<String>,
    /// One of them; `*` is any.
    pub methods: Vec<String>,
    /// By name, regular expressions; a map, or a list of maps as older versions have it.
    #[schemars(with = "BTreeMap<String, String>")]
    pub headers: GroupHeaders,
}

/// Header expressions by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GroupHeaders {
    /// One map.
    Map(BTreeMap<String, String>),
    /// A list of maps.
    List(Vec<BTreeMap<String, String>>),
}

impl Default for GroupHeaders {
    fn default() -> Self {
        Self::Map(BTreeMap::new())
    }
}

impl GroupHeaders {
    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let (map, list) = match self {
            Self::Map(map) => (Some(map), [].as_slice()),
            Self::List(list) => (None, list.as_slice()),
        };
        map.into_iter()
            .chain(list)
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
