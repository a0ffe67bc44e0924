//! Security policies, rate limits, providers and Telemetry: what becomes of a
//! request, what waypoints get, and what is said (`waypoint-contract` sections 4
//! and 6, `control-plane-contract` 4.6). What is translated is decoded and asked
//! by the proxy's own crates, so that the verdicts are those of production.

mod verdicts;
mod world;

const BASE: &str = include_str!("fixtures/security/base.yaml");

#[test]
fn authorization_rules() {
    verdicts::run(BASE, include_str!("fixtures/security/authorization.yaml"));
}

#[test]
fn authorization_targets() {
    verdicts::run(BASE, include_str!("fixtures/security/targets.yaml"));
}

#[test]
fn authentication() {
    verdicts::run(BASE, include_str!("fixtures/security/authentication.yaml"));
}

#[test]
fn providers_and_limits() {
    verdicts::run(BASE, include_str!("fixtures/security/providers.yaml"));
}

#[test]
fn telemetry() {
    verdicts::run(BASE, include_str!("fixtures/security/telemetry.yaml"));
}
