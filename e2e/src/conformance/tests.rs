use std::collections::BTreeSet;

use super::*;

fn all() -> Result<Vec<Scenario>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        all.extend(read(&entry?.path())?);
    }
    Ok(all)
}

#[test]
fn every_scenario_can_be_read() -> Result<()> {
    let all = all()?;
    for scenario in &all {
        parse(&scenario.apply).with_context(|| scenario.name.clone())?;
        let looks =
            !scenario.ask.is_empty() || !scenario.share.is_empty() || !scenario.mirror.is_empty();
        assert!(looks, "{} asks nothing", scenario.name);
    }
    assert!(all.len() >= 70, "{} scenarios", all.len());
    Ok(())
}

/// What `waypoint-contract` lists, as it writes it; `A{B, C}` is `AB` and `AC`.
#[test]
fn every_test_that_the_contract_names_has_a_scenario() -> Result<()> {
    let all = all()?;
    let held: BTreeSet<&str> = all
        .iter()
        .flat_map(|s| s.covers.iter().chain([&s.name]))
        .map(String::as_str)
        .collect();
    let named: BTreeSet<&str> = [MESH, MATCHING, FILTERS, OTHERS]
        .into_iter()
        .flat_map(str::split_whitespace)
        .collect();
    let missing: Vec<_> = named.difference(&held).collect();
    assert!(missing.is_empty(), "no scenario stands for {missing:?}");
    let covers = all.iter().flat_map(|s| &s.covers);
    let strange: Vec<_> = covers.filter(|name| !named.contains(&***name)).collect();
    assert!(strange.is_empty(), "the contract doesn't name {strange:?}");
    Ok(())
}

/// 2.9.
const MESH: &str = "
    MeshBasic MeshHTTPRouteSimpleSameNamespace MeshTrafficSplit MeshHTTPRouteMatching
    MeshHTTPRouteQueryParamMatching MeshHTTPRouteWeight MeshHTTPRouteRequestHeaderModifier
    MeshHTTPRouteBackendRequestHeaderModifier MeshHTTPRouteRewritePath MeshHTTPRouteRedirectHostAndStatus
    MeshHTTPRouteRedirectPath MeshHTTPRouteRedirectPort MeshHTTPRouteSchemeRedirect MeshHTTPRoute303Redirect
    MeshHTTPRoute307Redirect MeshHTTPRoute308Redirect MeshHTTPRouteNamedRule MeshPorts MeshFrontend
    MeshFrontendHostname MeshConsumerRoute MeshGRPCRouteWeight MeshGRPCRouteRequestHeaderModifier";
/// 2.10, first line.
const MATCHING: &str = "
    HTTPRouteExactPathMatching HTTPRouteHeaderMatching HTTPRouteMatching HTTPRouteMatchingAcrossRoutes
    HTTPRoutePathMatchOrder HTTPRouteMethodMatching HTTPRouteQueryParamMatching HTTPRouteNamedRule
    GRPCExactMethodMatching GRPCRouteHeaderMatching GRPCRouteNamedRule HTTPRouteNoBackendRefs
    HTTPRouteInvalidBackendRefUnknownKind HTTPRouteInvalidNonExistentBackendRef
    HTTPRouteInvalidCrossNamespaceBackendRef HTTPRouteInvalidReferenceGrant
    HTTPRoutePartiallyInvalidViaInvalidReferenceGrant HTTPRouteReferenceGrant HTTPRouteServiceTypes
    HTTPRouteWeight GRPCRouteWeight";
/// 2.10, second line.
const FILTERS: &str = "
    HTTPRouteRequestHeaderModifier HTTPRouteBackendRequestHeaderModifier
    HTTPRouteRequestHeaderModifierBackendWeights HTTPRouteResponseHeaderModifier HTTPRouteRequestMirror
    HTTPRouteRequestMultipleMirrors HTTPRouteRequestPercentageMirror HTTPRouteCORS HTTPRouteRewriteHost
    HTTPRouteRewritePath HTTPRouteBackendURLRewrite HTTPRouteBackendRequestRedirect
    HTTPRouteRedirectHostAndStatus HTTPRouteRedirectPath HTTPRouteRedirectPort HTTPRouteRedirectPortAndScheme
    HTTPRouteRedirectScheme HTTPRoute303Redirect HTTPRoute307Redirect HTTPRoute308Redirect
    GRPCRouteRequestHeaderModifier";
/// 2.10, third line.
const OTHERS: &str = "
    HTTPRouteTimeoutRequest HTTPRouteTimeoutBackendRequest HTTPRouteRetry HTTPRouteRetryConnectionError
    HTTPRouteRetryWithTimeouts HTTPRouteBackendProtocolH2C HTTPRouteBackendProtocolWebSocket BackendTLSPolicy
    BackendTLSPolicySANValidation BackendTLSPolicyConflictResolution BackendTLSPolicyInvalidKind
    BackendTLSPolicyInvalidCACertificateRef BackendTLSPolicyGRPCRoute BackendTLSPolicyObservedGenerationBump
    TCPRouteWeightedRouting TCPRouteInvalidBackendRefNonexistent TCPRouteInvalidCrossNamespaceBackendRef
    TCPRouteReferenceGrant TLSRouteSimpleSameNamespace TLSRouteInvalidBackendRefNonexistent
    TLSRouteInvalidBackendRefUnknownKind HTTPRouteObservedGenerationBump HTTPRouteInvalidCrossNamespaceParentRef
    HTTPRouteDisallowedKind";
