//! The codes of the compiler's diagnostics.
//!
//! | code | level | meaning | remedy |
//! |---|---|---|---|
//! | AMB0201 | Warning | `istio.io/dataplane-mode` and `dataplane-mode` on one object disagree; the former holds | keep one |
//! | AMB0202 | Warning | an enrolment label has a value other than `ambient` and `none`, and enrols nothing | correct it |
//! | AMB0203 | Warning | `ambient.istio.io/redirection` in a manifest isn't believed: only the node's agent says what is captured | remove it |
//! | AMB0204 | Info | a label or annotation that asks another mesh for a sidecar; nothing is injected | `istio.io/dataplane-mode: ambient` |
//! | AMB0211 | Error | two services claim one virtual address; which one answers isn't defined | change one |
//! | AMB0212 | Warning | a host of a ServiceEntry belongs to a Service or an older ServiceEntry of the namespace | rename or remove it |
//! | AMB0213 | Error | an address of a service, an endpoint or a pod isn't one; what can't be placed isn't sent | correct it |
//! | AMB0214 | Warning | the selector of a Service, ServiceEntry or PeerAuthentication matches nothing | correct the labels |
//! | AMB0215 | Error | a host of a ServiceEntry isn't a host name, or can't be resolved | correct it |
//! | AMB0216 | Warning | two endpoints of one ServiceEntry have one address; the first holds | remove one |
//! | AMB0217 | Error | a ServiceEntry or WorkloadEntry that can't work as it is written (a warning: that works otherwise than it looks); said by the validation webhook only | per case |
//! | AMB0221 | Error | a value in a policy can't be used; the policy is refused as a whole | per value |
//! | AMB0222 | Warning | a refused policy stays in force in its last good form | correct the policy |
//! | AMB0223 | Error | a refused policy was never good, so what it selects is closed | correct the policy |
//! | AMB0224 | Warning | HTTP attributes in a policy of the node proxy: the rule isn't enforced as written | attach it to a waypoint |
//! | AMB0225 | Error | a policy isn't enforced at all: its action, its target or its dry-run mark is beyond the node proxy | per case |
//! | AMB0231 | Error | the mesh configuration has a value that can't be used; the last good one, or the default, holds | correct it |
//! | AMB0232 | Warning | a second mesh configuration, or a trust domain other than the authority's; not used | keep one |
//! | AMB0250 | Warning | the waypoint that is asked for isn't there: what asks is refused | create it, or correct the name |
//! | AMB0251 | Warning | no pod of the waypoint is ready: what asks is refused | look at its Deployment |
//! | AMB0252 | Warning | the waypoint doesn't admit the namespace: what asks is refused | `allowedRoutes` |
//! | AMB0253 | Warning | the waypoint isn't for traffic of this kind: what asks is refused | `istio.io/waypoint-for` |
//! | AMB0254 | Warning | a canary waypoint takes no share | correct its labels |
//! | AMB0255 | Warning | endpoints of a service run under several accounts, one of which has a waypoint: not bound | label the service |
//! | IST0127 | Warning | the selector of an AuthorizationPolicy matches nothing | correct the labels |

use ambit_kube::Code;

pub(crate) const LABELS_DISAGREE: Code = Code("AMB0201");
pub(crate) const LABEL_VALUE: Code = Code("AMB0202");
pub(crate) const REDIRECTION_ANNOTATION: Code = Code("AMB0203");
pub(crate) const INJECTION: Code = Code("AMB0204");
pub(crate) const SHARED_VIP: Code = Code("AMB0211");
pub(crate) const HOST_TAKEN: Code = Code("AMB0212");
pub(crate) const BAD_ADDRESS: Code = Code("AMB0213");
pub(crate) const SELECTS_NOTHING: Code = Code("AMB0214");
pub(crate) const BAD_HOST: Code = Code("AMB0215");
pub(crate) const SHARED_ENDPOINT: Code = Code("AMB0216");
pub(crate) const ENTRY_VALUE: Code = Code("AMB0217");
pub(crate) const POLICY_VALUE: Code = Code("AMB0221");
pub(crate) const POLICY_LAST_GOOD: Code = Code("AMB0222");
pub(crate) const POLICY_CLOSED: Code = Code("AMB0223");
pub(crate) const POLICY_L7: Code = Code("AMB0224");
pub(crate) const POLICY_NOT_ENFORCED: Code = Code("AMB0225");
pub(crate) const MESH_VALUE: Code = Code("AMB0231");
pub(crate) const MESH_NOT_USED: Code = Code("AMB0232");
pub(crate) const WAYPOINT_MISSING: Code = Code("AMB0250");
pub(crate) const WAYPOINT_NOT_READY: Code = Code("AMB0251");
pub(crate) const WAYPOINT_DENIED: Code = Code("AMB0252");
pub(crate) const WAYPOINT_TYPE: Code = Code("AMB0253");
pub(crate) const CANARY: Code = Code("AMB0254");
pub(crate) const MIXED_ACCOUNTS: Code = Code("AMB0255");
pub(crate) const POLICY_SELECTS_NOTHING: Code = Code("IST0127");

/// Errors that are about one object by itself: they stay whatever else there is, so that the webhook refuses it.
pub(crate) const OF_FORM: [&str; 17] = [
    "AMB0213", "AMB0215", "AMB0221", "AMB0300", "AMB0301", "AMB0304", "AMB0309", "AMB0313",
    "AMB0315", "AMB0325", "AMB0331", "AMB0332", "AMB0402", "AMB0405", "AMB0409", "AMB0411",
    "AMB0359",
];
