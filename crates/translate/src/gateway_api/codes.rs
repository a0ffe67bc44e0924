//! Codes of what Gateway API objects can have wrong: AMB0350 to AMB0399.
//! `docs/diagnostics.md` lists them.

use ambit_kube::Code;

/// A parent that isn't there.
pub(super) const NO_PARENT: Code = Code("AMB0350");
/// A kind that can't be a parent in a mesh.
pub(super) const PARENT_KIND: Code = Code("AMB0351");
/// A service without a front end of its own.
pub(super) const PARENT_SERVICE: Code = Code("AMB0352");
/// A port or section that the parent doesn't have.
pub(super) const PARENT_PORT: Code = Code("AMB0353");
/// A port that speaks another protocol than the route is for.
pub(super) const PARENT_PROTOCOL: Code = Code("AMB0354");
/// A route of another kind has the port.
pub(super) const CONFLICT: Code = Code("AMB0355");
/// A VirtualService is about the same service.
pub(super) const MIXED: Code = Code("AMB0356");
/// No waypoint serves the parent.
pub(super) const NO_WAYPOINT: Code = Code("AMB0357");
/// A field that has no meaning in a mesh.
pub(super) const NOT_USED: Code = Code("AMB0358");
/// More of something than Gateway API allows.
pub(super) const LIMIT: Code = Code("AMB0359");
/// A match that can't be read.
pub(super) const BAD_MATCH: Code = Code("AMB0360");
/// A second entry for one name; only the first counts.
pub(super) const SECOND_ENTRY: Code = Code("AMB0361");
/// A filter that can't be used as written.
pub(super) const BAD_FILTER: Code = Code("AMB0362");
/// Filters that exclude each other.
pub(super) const INCOMPATIBLE: Code = Code("AMB0363");
/// A filter that a waypoint doesn't have.
pub(super) const UNSUPPORTED_FILTER: Code = Code("AMB0364");
/// An extension that isn't there.
pub(super) const EXTENSION: Code = Code("AMB0365");
/// A header change that can't be made.
pub(super) const BAD_HEADER: Code = Code("AMB0366");
/// A timeout that can't be used.
pub(super) const BAD_TIMEOUT: Code = Code("AMB0367");
/// A retry that can't be used.
pub(super) const BAD_RETRY: Code = Code("AMB0368");
/// Session persistence that can't be used.
pub(super) const BAD_SESSION: Code = Code("AMB0369");
/// A rule's name that can't be used.
pub(super) const BAD_NAME: Code = Code("AMB0370");
/// A kind that can't be a backend.
pub(super) const BACKEND_KIND: Code = Code("AMB0371");
/// A backend that isn't there.
pub(super) const NO_BACKEND: Code = Code("AMB0372");
/// A port that the backend doesn't have.
pub(super) const BACKEND_PORT: Code = Code("AMB0373");
/// A backend of another namespace without a ReferenceGrant.
pub(super) const NOT_PERMITTED: Code = Code("AMB0374");
/// A backend that doesn't speak what the route is for.
pub(super) const BACKEND_PROTOCOL: Code = Code("AMB0375");
/// A weight that can't be used.
pub(super) const BAD_WEIGHT: Code = Code("AMB0376");
/// A rule that leads nowhere.
pub(super) const NO_BACKENDS: Code = Code("AMB0377");
/// A server name that can't be matched.
pub(super) const BAD_SNI: Code = Code("AMB0378");
/// A BackendTLSPolicy or XBackendTrafficPolicy whose target isn't there.
pub(super) const POLICY_TARGET: Code = Code("AMB0380");
/// Another policy has the target.
pub(super) const POLICY_CONFLICT: Code = Code("AMB0381");
/// Certificate authorities that can't be used.
pub(super) const BAD_CA: Code = Code("AMB0382");
/// A value of a BackendTLSPolicy that can't be used.
pub(super) const BAD_TLS: Code = Code("AMB0383");
/// A value of an XBackendTrafficPolicy that can't be used.
pub(super) const BAD_TRAFFIC: Code = Code("AMB0384");
