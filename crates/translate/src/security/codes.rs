//! Codes of what security policies, rate limits, providers and Telemetry can
//! have wrong: AMB0300 to AMB0349. `docs/diagnostics.md` lists them.

use ambit_kube::Code;

/// A value of a rule that can't be used; the rule closes.
pub(crate) const BAD_VALUE: Code = Code("AMB0300");
/// A `when` key that nobody knows.
pub(crate) const UNKNOWN_KEY: Code = Code("AMB0301");
/// A value that never matches as it is written.
pub(crate) const NEVER_MATCHES: Code = Code("AMB0302");
/// A rule of CUSTOM with what isn't known when the provider is asked.
pub(crate) const NOT_FOR_CUSTOM: Code = Code("AMB0303");
/// A policy without what its action needs: rules, or a provider.
pub(crate) const INCOMPLETE: Code = Code("AMB0304");
/// A provider that the mesh configuration doesn't have, or of another sort.
pub(crate) const NO_PROVIDER: Code = Code("AMB0305");
/// A reference to what a policy can't attach to.
pub(crate) const BAD_TARGET: Code = Code("AMB0306");
/// A reference to an object that isn't there.
pub(crate) const NO_TARGET: Code = Code("AMB0307");
/// A reference to a service that no waypoint serves.
pub(crate) const NOT_BOUND: Code = Code("AMB0308");
/// A selector together with references.
pub(crate) const SELECTOR_AND_TARGETS: Code = Code("AMB0309");
/// A selector policy that the waypoint enforces.
pub(crate) const AT_WAYPOINT: Code = Code("AMB0310");
/// A selector policy with HTTP rules that no waypoint can enforce.
pub(crate) const NOT_AT_WAYPOINT: Code = Code("AMB0311");
/// A dry run of an action that has none.
pub(crate) const NO_DRY_RUN: Code = Code("AMB0312");
/// A JWT rule that can't be used; tokens of its issuer are refused.
pub(crate) const BAD_JWT_RULE: Code = Code("AMB0313");
/// Keys that can't be used, or may not be fetched.
pub(crate) const BAD_KEYS: Code = Code("AMB0314");
/// A JWT setting that is left out.
pub(crate) const JWT_SETTING: Code = Code("AMB0315");
/// An authorization provider that can't be used; it refuses.
pub(crate) const BAD_PROVIDER: Code = Code("AMB0320");
/// A provider of a product that isn't supported.
pub(crate) const UNSUPPORTED_PROVIDER: Code = Code("AMB0321");
/// A rate limit, or a part of one, that can't be used.
pub(crate) const BAD_LIMIT: Code = Code("AMB0325");
/// A Linkerd `Server` whose port isn't that of a service.
pub(crate) const NO_SERVER_PORT: Code = Code("AMB0326");
/// A Telemetry setting that a waypoint doesn't have.
pub(crate) const TELEMETRY_UNUSED: Code = Code("AMB0330");
/// An expression outside the subset that is supported.
pub(crate) const BAD_EXPRESSION: Code = Code("AMB0331");
/// A Telemetry value that can't be used.
pub(crate) const BAD_TELEMETRY: Code = Code("AMB0332");
/// A mesh setting that a waypoint doesn't have.
pub(crate) const MESH_UNUSED: Code = Code("AMB0333");
