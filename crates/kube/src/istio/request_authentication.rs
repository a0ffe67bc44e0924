//! `security.istio.io` `RequestAuthentication` (`waypoint-contract` 4.9).

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IstioStatus, PolicyTargetReference, WorkloadSelector};
use crate::scalar::ProtoDuration;

/// Which tokens of requests are accepted.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "RequestAuthentication",
    plural = "requestauthentications",
    shortname = "ra",
    namespaced,
    status = "IstioStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthenticationSpec {
    /// Which workloads, by label; unset means all of the namespace.
    pub selector: Option<WorkloadSelector>,
    /// The one thing that it attaches to; the older form of `target_refs`.
    pub target_ref: Option<PolicyTargetReference>,
    /// The things that it attaches to.
    pub target_refs: Vec<PolicyTargetReference>,
    /// A token is good when one of them accepts it.
    pub jwt_rules: Vec<JwtRule>,
}

/// Tokens of one issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtRule {
    /// Must be the token's `iss`.
    pub issuer: String,
    /// One must be in the token's `aud`; none means any.
    pub audiences: Vec<String>,
    /// Where the keys are.
    #[serde(alias = "jwks_uri")]
    pub jwks_uri: Option<String>,
    /// The keys themselves; wins over `jwks_uri`.
    pub jwks: Option<String>,
    /// Where tokens are.
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters in which tokens are.
    pub from_params: Vec<String>,
    /// Cookies in which tokens are.
    pub from_cookies: Vec<String>,
    /// The payload goes into this header.
    pub output_payload_to_header: Option<String>,
    /// Claims go into headers.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// The token is left in the request.
    pub forward_original_token: bool,
    /// Of a fetch of the keys; 5 s when unset.
    pub timeout: Option<ProtoDuration>,
    /// Claims that are lists separated by blanks, besides `scope` and `permission`.
    pub space_delimited_claims: Vec<String>,
}

/// A header in which tokens are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtHeader {
    /// Its name.
    pub name: String,
    /// What precedes the token.
    pub prefix: Option<String>,
}

/// A claim that goes into a header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimToHeader {
    /// The header's name.
    pub header: String,
    /// The claim, nested with `.`.
    pub claim: String,
}
