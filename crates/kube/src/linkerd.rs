//! Linkerd's kinds that are inputs of ours (`waypoint-contract` section 8).

mod policy;
mod service_profile;

pub use policy::{
    ClientRef, HttpLocalRateLimitPolicy, HttpLocalRateLimitPolicySpec, LinkerdServer,
    LinkerdServerSpec, LinkerdTargetRef, RateLimitAmount, RateLimitOverride,
};
pub use service_profile::{
    DstOverride, ProfileCondition, ProfileResponseClass, ProfileResponseCondition,
    ProfileRetryBudget, ProfileRoute, ServiceProfile, ServiceProfileSpec, StatusRange,
};
