//! Istio's kinds, hand-written with every field (`kube`'s derive makes the object types and the CRDs).

mod authorization_policy;
mod destination_rule;
mod peer_authentication;
mod request_authentication;
mod service_entry;
mod status;
mod telemetry;
mod virtual_service;
mod workload_entry;

pub use authorization_policy::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, Condition, ExtensionProviderRef, From,
    Operation, PolicyTargetReference, Rule, Source, To, WorkloadSelector,
};
pub use destination_rule::*;
pub use peer_authentication::{
    MutualTls, MutualTlsMode, PeerAuthentication, PeerAuthenticationSpec,
};
pub use request_authentication::{
    ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication, RequestAuthenticationSpec,
};
pub use service_entry::{
    Location, Resolution, SelectorLabels, ServiceEntry, ServiceEntryAddress, ServiceEntrySpec,
    ServiceEntryStatus, ServicePort,
};
pub use status::{IstioCondition, IstioStatus};
pub use telemetry::*;
pub use virtual_service::*;
pub use workload_entry::{WorkloadEntry, WorkloadEntrySpec};
