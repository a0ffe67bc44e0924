//! One shape for the four kinds of routes.
//!
//! Owns the fields that a translation reads. The generated types of Gateway API
//! have a type of their own for every place in which a filter or reference can
//! stand; they are read into these, so that each rule is written once.

use serde::Deserialize;
use serde_json::Value;

/// `spec` of a route of any kind.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RouteSpec {
    pub(super) hostnames: Vec<String>,
    /// As written; see [`ParentRef`].
    pub(super) parent_refs: Vec<Value>,
    pub(super) rules: Vec<RuleSpec>,
    pub(super) use_default_gateways: Option<String>,
}

/// An entry of `parentRefs`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ParentRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<i64>,
    pub(super) section_name: Option<String>,
}

/// An entry of `rules`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RuleSpec {
    pub(super) name: Option<String>,
    pub(super) matches: Vec<MatchSpec>,
    pub(super) filters: Vec<FilterSpec>,
    pub(super) backend_refs: Vec<BackendSpec>,
    pub(super) timeouts: Option<TimeoutSpec>,
    pub(super) retry: Option<RetrySpec>,
    pub(super) session_persistence: Option<SessionSpec>,
}

/// An entry of `matches`; `method` is a word for HTTP and an object for gRPC.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MatchSpec {
    pub(super) path: Option<PathSpec>,
    pub(super) method: Option<MethodSpec>,
    pub(super) headers: Vec<ValueSpec>,
    pub(super) query_params: Vec<ValueSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PathSpec {
    pub(super) r#type: Option<String>,
    pub(super) value: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum MethodSpec {
    Http(String),
    Grpc(GrpcSpec),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GrpcSpec {
    pub(super) r#type: Option<String>,
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
}

/// A header or query parameter to compare.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ValueSpec {
    pub(super) r#type: Option<String>,
    pub(super) name: String,
    pub(super) value: String,
}

/// A filter of a rule or of a backend.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct FilterSpec {
    pub(super) r#type: String,
    pub(super) request_header_modifier: Option<HeaderSpec>,
    pub(super) response_header_modifier: Option<HeaderSpec>,
    pub(super) request_mirror: Option<MirrorSpec>,
    pub(super) request_redirect: Option<RedirectSpec>,
    pub(super) url_rewrite: Option<RewriteSpec>,
    pub(super) cors: Option<CorsSpec>,
    pub(super) external_auth: Option<Value>,
    pub(super) extension_ref: Option<ReferenceSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HeaderSpec {
    pub(super) set: Vec<NameValue>,
    pub(super) add: Vec<NameValue>,
    pub(super) remove: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct NameValue {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MirrorSpec {
    pub(super) backend_ref: ReferenceSpec,
    pub(super) percent: Option<i64>,
    pub(super) fraction: Option<FractionSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct FractionSpec {
    pub(super) numerator: i64,
    pub(super) denominator: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RedirectSpec {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathChangeSpec>,
    pub(super) port: Option<i64>,
    pub(super) status_code: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RewriteSpec {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathChangeSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PathChangeSpec {
    pub(super) r#type: String,
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CorsSpec {
    pub(super) allow_origins: Vec<String>,
    pub(super) allow_methods: Vec<String>,
    pub(super) allow_headers: Vec<String>,
    pub(super) expose_headers: Vec<String>,
    pub(super) allow_credentials: Option<bool>,
    pub(super) max_age: Option<i64>,
}

/// A reference to an object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ReferenceSpec {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<i64>,
}

/// An entry of `backendRefs`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BackendSpec {
    #[serde(flatten)]
    pub(super) reference: ReferenceSpec,
    pub(super) weight: Option<i64>,
    pub(super) filters: Vec<FilterSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TimeoutSpec {
    pub(super) request: Option<String>,
    pub(super) backend_request: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RetrySpec {
    pub(super) codes: Vec<i64>,
    pub(super) attempts: Option<i64>,
    pub(super) backoff: Option<String>,
}

/// Session persistence; both the older names and those of the current channel.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SessionSpec {
    pub(super) r#type: Option<String>,
    pub(super) session_name: Option<String>,
    pub(super) absolute_timeout: Option<String>,
    pub(super) idle_timeout: Option<String>,
    pub(super) cookie_config: Option<CookieSpec>,
    pub(super) cookie: Option<CookieSpec>,
    pub(super) header: Option<NameSpec>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CookieSpec {
    pub(super) name: Option<String>,
    pub(super) path: Option<String>,
    pub(super) lifetime_type: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct NameSpec {
    pub(super) name: Option<String>,
}
