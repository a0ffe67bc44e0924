//! Codes of what Istio's networking kinds and Linkerd's inputs can have wrong:
//! AMB0400 to AMB0459. `docs/diagnostics.md` lists them.

use ambit_kube::Code;

/// No host of the object is a service that the mesh knows.
pub(crate) const NO_SUCH_HOST: Code = Code("AMB0400");
/// A VirtualService, or an entry, of gateways only.
pub(crate) const NOT_FOR_MESH: Code = Code("AMB0401");
/// A host that can't be used.
pub(crate) const BAD_HOST: Code = Code("AMB0402");
/// A VirtualService of a namespace of clients.
pub(crate) const CLIENTS_ONLY: Code = Code("AMB0403");
/// A host that no waypoint serves.
pub(crate) const NO_WAYPOINT: Code = Code("AMB0415");
/// An object that the waypoint can't see.
pub(crate) const NOT_EXPORTED: Code = Code("AMB0404");
/// A rule with none or too many of route, redirect, directResponse, delegate.
pub(crate) const BAD_ACTION: Code = Code("AMB0405");
/// A destination that isn't a service.
pub(crate) const NO_DESTINATION: Code = Code("AMB0406");
/// A subset that no DestinationRule defines.
pub(crate) const NO_SUBSET: Code = Code("AMB0407");
/// A port that the service doesn't have.
pub(crate) const NO_PORT: Code = Code("AMB0408");
/// Weights that share out nothing, or can't be weights.
pub(crate) const BAD_WEIGHTS: Code = Code("AMB0409");
/// A condition that a waypoint can't judge.
pub(crate) const MATCH_NOT_USED: Code = Code("AMB0410");
/// A value that can't be used.
pub(crate) const BAD_VALUE: Code = Code("AMB0411");
/// A rule that no request reaches.
pub(crate) const UNREACHABLE: Code = Code("AMB0412");
/// A delegate that can't be used.
pub(crate) const BAD_DELEGATE: Code = Code("AMB0413");
/// A field that doesn't apply to a waypoint.
pub(crate) const FIELD_REFUSED: Code = Code("AMB0414");
/// A token of `retryOn` that nobody knows.
pub(crate) const BAD_RETRY_ON: Code = Code("AMB0416");
/// A header operation that can't be done.
pub(crate) const BAD_HEADER: Code = Code("AMB0417");
/// A fault without a percentage never happens.
pub(crate) const NO_PERCENTAGE: Code = Code("AMB0419");
/// A DestinationRule whose host is no service.
pub(crate) const RULE_WITHOUT_HOST: Code = Code("AMB0420");
/// Parts of a DestinationRule that another one has taken.
pub(crate) const RULE_SHADOWED: Code = Code("AMB0421");
/// A value of a DestinationRule that can't be used.
pub(crate) const RULE_VALUE: Code = Code("AMB0423");
/// A field of a DestinationRule that a waypoint doesn't do.
pub(crate) const RULE_REFUSED: Code = Code("AMB0424");
/// A portLevelSettings entry that does nothing.
pub(crate) const RULE_PORT: Code = Code("AMB0425");
/// Failover without ejection.
pub(crate) const NO_FAILOVER: Code = Code("AMB0426");
/// Certificates that aren't there.
pub(crate) const NO_CERTIFICATE: Code = Code("AMB0427");
/// A kind of Istio's that is for sidecars and Envoy.
pub(crate) const KIND_REFUSED: Code = Code("AMB0430");
/// A ServiceProfile whose name is no service.
pub(crate) const PROFILE_HOST: Code = Code("AMB0440");
/// A condition, budget or override of a ServiceProfile that can't be used.
pub(crate) const PROFILE_VALUE: Code = Code("AMB0441");
/// A TrafficSplit whose service or backends aren't services.
pub(crate) const SPLIT_SERVICE: Code = Code("AMB0445");
/// A weight or match of a TrafficSplit that can't be used.
pub(crate) const SPLIT_VALUE: Code = Code("AMB0446");
/// An annotation of Linkerd's that can't be used.
pub(crate) const ANNOTATION: Code = Code("AMB0448");
/// A policy kind of Linkerd's.
pub(crate) const LINKERD_POLICY: Code = Code("AMB0450");
/// A value of the mesh's settings that can't be used.
pub(crate) const MESH_VALUE: Code = Code("AMB0455");
/// A setting of the mesh that has no effect.
pub(crate) const MESH_UNUSED: Code = Code("AMB0456");
