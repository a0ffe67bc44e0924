//! The kinds of a waypoint: what the reader says of slips in them (`docs/diagnostics.md`).

use ambit_kube::{Kind, Object, read_manifest};

/// Document, its object (`-` for none), and `CODE Level line field` of each problem.
const CASES: &[(&str, &str, &[&str])] = &[
    (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n  - route:\n    - destination: {host: a}\n    timeOut: 3s\n",
        "VirtualService v.default",
        &["AMB0106 Warning 9 spec.http[0].timeOut"],
    ),
    (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n  - timeout: 3\n",
        "-",
        &["AMB0107 Error 7 spec.http[0].timeout"],
    ),
    (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n  - timeout: 3 seconds\n",
        "-",
        &["AMB0107 Error 7 spec.http[0].timeout"],
    ),
    (
        "apiVersion: networking.istio.io/v1alpha3\nkind: DestinationRule\nmetadata: {name: d, namespace: ns}\nspec:\n  host: a\n  trafficPolicy:\n    loadBalancer: {simple: LEAST_LOAD}\n",
        "-",
        &["AMB0107 Error 7 spec.trafficPolicy.loadBalancer.simple"],
    ),
    (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: ns}\nspec:\n  host: a\n  trafficPolicy:\n    retryBudget: {percent: 12.5, minRetryConcurrency: 4}\n    outlierDetection: {consecutive5xxErrors: 3, interval: 1m}\n",
        "DestinationRule d.ns",
        &[],
    ),
    (
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: ns}\nspec:\n  jwtRules:\n  - issuer: me\n    jwksURI: x\n",
        "broken RequestAuthentication r.ns",
        &["AMB0106 Error 7 spec.jwtRules[0].jwksURI"],
    ),
    (
        "apiVersion: telemetry.istio.io/v1alpha1\nkind: Telemetry\nmetadata: {name: t, namespace: ns}\nspec:\n  tracing:\n  - randomSamplingPercentage: 10.5\n    customTags: {a: {literal: {value: b}}}\n",
        "Telemetry t.ns",
        &[],
    ),
    (
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute\nmetadata: {name: h, namespace: ns}\nspec:\n  parentRefs: [{kind: Service, group: \"\", name: a, port: 80}]\n  rules:\n  - backendRefs: [{name: a, port: 80, wieght: 3}]\n",
        "HTTPRoute h.ns",
        &["AMB0106 Warning 7 spec.rules[0].backendRefs[0].wieght"],
    ),
    (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: h, namespace: ns}\nspec:\n  rules:\n  - matches: [{path: {type: Glob, value: /a}}]\n",
        "-",
        &["AMB0107 Error 6 spec.rules[0].matches[0].path.type"],
    ),
    (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: h, namespace: ns}\nspec:\n  rules:\n  - sessionPersistence: {absoluteTimeout: 1h, cookie: {name: c, path: /, lifetimeType: Permanent}}\n",
        "HTTPRoute h.ns",
        &[],
    ),
    (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: h, namespace: ns}\nspec:\n  rules:\n  - sessionPersistence:\n      type: Header\n      header: {name: c}\n  - sessionPersistence:\n      cookie: {path: /a, secure: true}\n",
        "GRPCRoute h.ns",
        &[
            "AMB0112 Warning 10 spec.rules[1].sessionPersistence.cookie.path",
            "AMB0106 Warning 10 spec.rules[1].sessionPersistence.cookie.secure",
        ],
    ),
    (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: h, namespace: ns}\nspec:\n  rules:\n  - sessionPersistence: {header: {name: c}}\n  - sessionPersistence: {type: Header, cookie: {name: c}}\n",
        "-",
        &[
            "AMB0107 Error 6 spec.rules[0].sessionPersistence.header",
            "AMB0107 Error 7 spec.rules[1].sessionPersistence.cookie",
        ],
    ),
    (
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: x, namespace: ns}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: a}]\n  sessionPersistence: {cookie: {name: c}}\n",
        "XBackendTrafficPolicy x.ns",
        &[],
    ),
    (
        "apiVersion: ambit.mesh/v1alpha1\nkind: LocalRateLimit\nmetadata: {name: l, namespace: ns}\nspec:\n  targetRefs: [{kind: Service, name: a}]\n  limits:\n  - {requests: 5, unit: second}\n",
        "-",
        &["AMB0107 Error 7 spec.limits[0].unit"],
    ),
    (
        "apiVersion: ambit.mesh/v1alpha1\nkind: LocalRateLimit\nmetadata: {name: l, namespace: ns}\nspec:\n  targetRefs: [{kind: Service, name: a}]\n  limits:\n  - {unit: Second}\n",
        "-",
        &["AMB0108 Error 7 spec.limits[0].requests"],
    ),
    (
        "apiVersion: split.smi-spec.io/v1alpha1\nkind: TrafficSplit\nmetadata: {name: s, namespace: ns}\nspec:\n  service: a\n  backends:\n  - {service: b, weight: many}\n",
        "-",
        &["AMB0107 Error 7 spec.backends[0].weight"],
    ),
    (
        "apiVersion: specs.smi-spec.io/v1alpha3\nkind: HTTPRouteGroup\nmetadata: {name: g, namespace: ns}\nspec:\n  matches:\n  - {name: m, headers: [{x-a: b}], pathRegex: /a, methods: [GET]}\n",
        "HTTPRouteGroup g.ns",
        &[],
    ),
    (
        "apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\nmetadata: {name: a.ns.svc.cluster.local, namespace: ns}\nspec:\n  routes:\n  - {name: r, condition: {not: {method: GET}}}\n  dstOverrides: [{authority: \"b:80\", weight: 500m}]\n",
        "ServiceProfile a.ns.svc.cluster.local.ns",
        &[],
    ),
    (
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: e, namespace: ns}\nspec:\n  configPatches: [{applyTo: HTTP_FILTER}]\n",
        "EnvoyFilter e.ns",
        &[],
    ),
    (
        "apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: e, namespace: ns}\nspec: {targetRef: {kind: Server, name: a}}\n",
        "AuthorizationPolicy.policy.linkerd.io e.ns",
        &[],
    ),
    (
        "kind: MeshConfig\nextensionProviders:\n- name: a\n  envoyExtAuthzGrpc: {service: b, prot: 3}\n",
        "MeshConfig istio.istio-system",
        &["AMB0106 Warning 4 extensionProviders[0].envoyExtAuthzGrpc.prot"],
    ),
];

#[test]
fn slips_are_said_with_their_line_and_field() {
    for (text, object, problems) in CASES {
        let loaded = read_manifest("w.yaml", text);
        let found = loaded.objects.first().map_or_else(
            || "-".to_owned(),
            |located| match &located.object {
                Object::Broken(broken) => format!("broken {}", broken.key),
                other => other.key().to_string(),
            },
        );
        assert_eq!(found, *object, "{text}\n{:#?}", loaded.problems);
        let brief = |problem: &ambit_kube::Problem| {
            format!(
                "{} {} {} {}",
                problem.code,
                problem.severity,
                problem.origin.line,
                problem.field.as_deref().unwrap_or("-")
            )
        };
        let said: Vec<String> = loaded.problems.iter().map(brief).collect();
        assert_eq!(said, *problems, "{text}\n{:#?}", loaded.problems);
    }
}

#[test]
fn fields_of_these_kinds_have_their_lines() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  \
                http:\n  - match:\n    - uri:\n        prefix: /x\n    route:\n    - destination: {host: a}\n";
    let loaded = read_manifest("v.yaml", text);
    let located = loaded.objects.first().unwrap();
    assert_eq!(located.object.kind(), Kind::VirtualService);
    assert_eq!(
        located.origin_of("spec.http[0].match[0].uri.prefix").line,
        9
    );
    assert_eq!(located.origin_of("spec.http[0].route[0].weight").line, 11);
}
