//! What the validation webhook refuses: every entry of the table in `control-plane-contract` 8.3, and that what is
//! good goes in; and that looking at an object changes nothing.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "only tests are here, and tables"
)]

use ambit_compile::{Compiler, Settings, admission};
use ambit_kube::{Change, Severity, read_manifest};

/// What is said of an object: `Some(fields)` of the errors if it is refused, with the warnings' fields.
fn judge(kind: &str, metadata: &str, spec: &str) -> (Vec<String>, Vec<String>) {
    let group = match kind {
        "ServiceEntry" | "WorkloadEntry" => "networking",
        _ => "security",
    };
    let text = format!(
        "apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: shop{metadata}}}\nspec: {spec}\n"
    );
    let loaded = read_manifest("test", &text);
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let mut say = |said: &[ambit_kube::Problem]| {
        for told in said {
            let field = told.field.clone().unwrap_or_default();
            match told.severity {
                Severity::Error => errors.push(field),
                Severity::Warning => warnings.push(field),
                Severity::Info => {}
            }
        }
    };
    say(&loaded.problems);
    let raw: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    for object in &loaded.objects {
        say(&admission::refusals(&Settings::default(), object, &raw));
    }
    (errors, warnings)
}

fn refused(kind: &str, cases: &[(&str, &str)]) {
    for (field, spec) in cases {
        let (errors, _) = judge(kind, "", spec);
        let named = errors.iter().any(|error| error.starts_with(field));
        assert!(named, "{kind} {spec}\nwants {field}, got {errors:?}");
    }
}

fn accepted(kind: &str, cases: &[&str]) {
    for spec in cases {
        let (errors, warnings) = judge(kind, "", spec);
        assert!(errors.is_empty(), "{kind} {spec}: {errors:?}");
        assert!(warnings.is_empty(), "{kind} {spec}: {warnings:?}");
    }
}

fn warned(kind: &str, cases: &[(&str, &str)]) {
    for (field, spec) in cases {
        let (errors, warnings) = judge(kind, "", spec);
        assert!(errors.is_empty(), "{kind} {spec}: {errors:?}");
        let named = warnings.iter().any(|warning| warning.starts_with(field));
        assert!(named, "{kind} {spec}\nwants {field}, got {warnings:?}");
    }
}

const GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: wp}";

#[test]
fn authorization_policies() {
    let many = vec![GATEWAY; 17].join(", ");
    let many = format!("{{targetRefs: [{many}], rules: [{{}}]}}");
    let both =
        format!("{{selector: {{matchLabels: {{a: b}}}}, targetRefs: [{GATEWAY}], rules: [{{}}]}}");
    let one =
        format!("{{selector: {{matchLabels: {{a: b}}}}, targetRef: {GATEWAY}, rules: [{{}}]}}");
    let twice = format!("{{targetRef: {GATEWAY}, targetRefs: [{GATEWAY}], rules: [{{}}]}}");
    refused(
        "AuthorizationPolicy",
        &[
            ("spec.targetRefs", &both),
            ("spec.targetRef", &one),
            ("spec.targetRefs", &twice),
            (
                "spec.targetRefs[0].kind",
                "{targetRefs: [{group: apps, kind: Deployment, name: x}]}",
            ),
            (
                "spec.targetRefs[0].kind",
                "{targetRefs: [{group: networking.istio.io, kind: Gateway, name: x}]}",
            ),
            (
                "spec.targetRefs[0].name",
                "{targetRefs: [{kind: Service, name: ''}]}",
            ),
            ("spec.targetRefs[0].name", "{targetRefs: [{kind: Service}]}"),
            (
                "spec.targetRefs[0].namespace",
                "{targetRefs: [{kind: Service, name: x, namespace: other}]}",
            ),
            ("spec.targetRefs", &many),
            ("spec.rules", "{action: DENY}"),
            ("spec.rules", "{action: DENY, rules: []}"),
            ("spec.provider", "{action: CUSTOM, rules: [{}]}"),
            (
                "spec.provider",
                "{action: CUSTOM, provider: {name: ''}, rules: [{}]}",
            ),
            ("spec.rules[0].from", "{rules: [{from: []}]}"),
            ("spec.rules[0].to", "{rules: [{to: []}]}"),
            ("spec.rules[0].from[0]", "{rules: [{from: [{}]}]}"),
            (
                "spec.rules[0].from[0].source",
                "{rules: [{from: [{source: {}}]}]}",
            ),
            (
                "spec.rules[0].to[0].operation",
                "{rules: [{to: [{operation: {}}]}]}",
            ),
            (
                "spec.rules[0].from[0].source.principals",
                "{rules: [{from: [{source: {principals: []}}]}]}",
            ),
            (
                "spec.rules[0].from[0].source.serviceAccounts",
                "{rules: [{from: [{source: {serviceAccounts: [a], principals: [b]}}]}]}",
            ),
            (
                "spec.rules[0].from[0].source.serviceAccounts",
                "{rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}",
            ),
            (
                "spec.rules[0].from[0].source.ipBlocks[0]",
                "{rules: [{from: [{source: {ipBlocks: [10.0.0.300]}}]}]}",
            ),
            (
                "spec.rules[0].from[0].source.notIpBlocks[0]",
                "{rules: [{from: [{source: {notIpBlocks: [10.0.0.0/33]}}]}]}",
            ),
            (
                "spec.rules[0].from[0].source.remoteIpBlocks[0]",
                "{rules: [{from: [{source: {remoteIpBlocks: [nowhere]}}]}]}",
            ),
            (
                "spec.rules[0].to[0].operation.ports[0]",
                "{rules: [{to: [{operation: {ports: ['70000']}}]}]}",
            ),
            (
                "spec.rules[0].to[0].operation.notPorts[0]",
                "{rules: [{to: [{operation: {notPorts: [http]}}]}]}",
            ),
            (
                "spec.rules[0].when[0]",
                "{rules: [{when: [{key: source.ip}]}]}",
            ),
            (
                "spec.rules[0].when[0]",
                "{rules: [{when: [{key: source.colour, values: [blue]}]}]}",
            ),
            (
                "spec.rules[0].when[0]",
                "{rules: [{when: [{key: source.ip, values: [x]}]}]}",
            ),
            (
                "spec.rules[0].when[0].values[0]",
                "{rules: [{when: [{key: remote.ip, values: [x]}]}]}",
            ),
            (
                "spec.selector.matchLabels",
                "{selector: {matchLabels: {'': x}}}",
            ),
            (
                "spec.selector.matchLabels",
                "{selector: {matchLabels: {app: 'x*'}}}",
            ),
            ("spec.rules[0].form", "{rules: [{form: []}]}"),
            ("spec.action", "{action: PERHAPS}"),
            // The same faults where only waypoints enforce it.
            (
                "spec.rules[0].from[0].source.ipBlocks[0]",
                "{action: CUSTOM, provider: {name: p}, rules: [{from: [{source: {ipBlocks: [x]}}]}]}",
            ),
            (
                "spec.rules[0].to[0].operation.ports[0]",
                "{targetRefs: [{kind: Service, name: x}], rules: [{to: [{operation: {ports: [x]}}]}]}",
            ),
        ],
    );
    accepted(
        "AuthorizationPolicy",
        &[
            "{}",
            "{rules: [{}]}",
            "{action: DENY, rules: [{}]}",
            "{selector: {matchLabels: {app: x}}, rules: [{from: [{source: {principals: ['cluster.local/ns/a/sa/*']}}]}]}",
            "{targetRefs: [{group: '', kind: Service, name: x}], rules: [{to: [{operation: {methods: [GET]}}]}]}",
            "{targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: x}], rules: [{}]}",
            "{targetRef: {group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}, rules: [{}]}",
            "{action: CUSTOM, provider: {name: p}, rules: [{to: [{operation: {paths: [/admin*]}}]}]}",
            "{rules: [{when: [{key: 'request.headers[x-user]', notValues: [me]}, {key: source.ip, values: [10.0.0.0/8]}]}]}",
            "{action: AUDIT, rules: [{}]}",
        ],
    );
    warned(
        "AuthorizationPolicy",
        &[
            (
                "spec.selector.matchLabels",
                "{selector: {matchLabels: {}}, rules: [{}]}",
            ),
            ("spec.selector.matchLabels", "{selector: {}, rules: [{}]}"),
            (
                "spec.provider",
                "{action: DENY, provider: {name: p}, rules: [{}]}",
            ),
        ],
    );
}

#[test]
fn peer_authentications() {
    refused(
        "PeerAuthentication",
        &[
            (
                "spec.portLevelMtls",
                "{portLevelMtls: {'80': {mode: STRICT}}}",
            ),
            (
                "spec.portLevelMtls",
                "{selector: {}, portLevelMtls: {'80': {mode: STRICT}}}",
            ),
            (
                "spec.portLevelMtls",
                "{selector: {matchLabels: {a: b}}, portLevelMtls: {'0': {mode: STRICT}}}",
            ),
            (
                "spec.portLevelMtls",
                "{selector: {matchLabels: {a: b}}, portLevelMtls: {'65536': {mode: STRICT}}}",
            ),
            (
                "spec.portLevelMtls",
                "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
            ),
            (
                "spec.portLevelMtls",
                "{selector: {matchLabels: {a: b}}, portLevelMtls: {}}",
            ),
            (
                "spec.selector.matchLabels",
                "{selector: {matchLabels: {'*': b}}}",
            ),
            ("spec.mtls.mode", "{mtls: {mode: MAYBE}}"),
        ],
    );
    accepted(
        "PeerAuthentication",
        &[
            "{}",
            "{mtls: {mode: STRICT}}",
            "{selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}, portLevelMtls: {'8080': {mode: DISABLE}}}",
        ],
    );
    warned(
        "PeerAuthentication",
        &[(
            "spec.selector.matchLabels",
            "{selector: {}, mtls: {mode: STRICT}}",
        )],
    );
}

#[test]
fn request_authentications() {
    let both = format!("{{selector: {{matchLabels: {{a: b}}}}, targetRefs: [{GATEWAY}]}}");
    refused(
        "RequestAuthentication",
        &[
            ("spec.targetRefs", &both),
            (
                "spec.targetRefs[0].kind",
                "{targetRefs: [{kind: Pod, name: x}]}",
            ),
        ],
    );
}

#[test]
fn service_entries() {
    let web = "ports: [{number: 80, name: http, protocol: HTTP}]";
    let of = |parts: &str| format!("{{{parts}, {web}}}");
    let cases = [
        ("spec.hosts", of("resolution: DNS")),
        ("spec.hosts", of("hosts: [], resolution: DNS")),
        ("spec.hosts[0]", of("hosts: ['*'], resolution: NONE")),
        (
            "spec.hosts[0]",
            of("hosts: ['*.example.com'], resolution: DNS"),
        ),
        (
            "spec.hosts[0]",
            of("hosts: ['*.example.com'], resolution: DNS_ROUND_ROBIN"),
        ),
        ("spec.hosts[0]", of("hosts: ['a..b'], resolution: DNS")),
        (
            "spec.hosts[0]",
            of("hosts: ['-a.example.com'], resolution: DNS"),
        ),
        ("spec.hosts[0]", of("hosts: ['a.*.com'], resolution: NONE")),
        ("spec.hosts[0]", of("hosts: ['10.0.0.1'], resolution: DNS")),
        (
            "spec.addresses[0]",
            of("hosts: [a.com], addresses: [10.0.0.0/24], resolution: DNS"),
        ),
        (
            "spec.addresses[0]",
            of("hosts: [a.com], addresses: [10.0.0.x], resolution: STATIC"),
        ),
        (
            "spec.workloadSelector",
            of(
                "hosts: [a.com], resolution: STATIC, endpoints: [{address: 10.0.0.1}], workloadSelector: {labels: {a: b}}",
            ),
        ),
        (
            "spec.endpoints",
            of("hosts: [a.com], resolution: NONE, endpoints: [{address: 10.0.0.1}]"),
        ),
        (
            "spec.endpoints[0].ports.grpc",
            of(
                "hosts: [a.com], resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {grpc: 1}}]",
            ),
        ),
        (
            "spec.endpoints",
            of(
                "hosts: [a.com], resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.com}, {address: b.com}]",
            ),
        ),
        (
            "spec.hosts[0]",
            of("hosts: [a.com], resolution: DYNAMIC_DNS"),
        ),
        (
            "spec.addresses",
            of("hosts: ['*.a.com'], resolution: DYNAMIC_DNS, addresses: [10.0.0.1]"),
        ),
        (
            "spec.endpoints",
            of("hosts: ['*.a.com'], resolution: DYNAMIC_DNS, endpoints: [{address: 10.0.0.1}]"),
        ),
    ];
    for (field, spec) in &cases {
        refused("ServiceEntry", &[(field, spec)]);
    }
    refused(
        "ServiceEntry",
        &[
            (
                "spec.ports[1].number",
                "{hosts: [a.com], resolution: DNS, ports: [{number: 80, name: a}, {number: 80, name: b}]}",
            ),
            (
                "spec.ports[1].name",
                "{hosts: [a.com], resolution: DNS, ports: [{number: 80, name: a}, {number: 81, name: a}]}",
            ),
            (
                "spec.ports[0].number",
                "{hosts: [a.com], resolution: DNS, ports: [{number: 0, name: a}]}",
            ),
            (
                "spec.ports[0].number",
                "{hosts: [a.com], resolution: DNS, ports: [{number: 65536, name: a}]}",
            ),
            (
                "spec.ports[0].protocol",
                "{hosts: ['*.a.com'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: a, protocol: TCP}]}",
            ),
            ("spec.resolution", "{hosts: [a.com], resolution: SOMEHOW}"),
        ],
    );
    let many: Vec<String> = (0..257).map(|at| format!("h{at}.example.com")).collect();
    let many = of(&format!("hosts: [{}], resolution: DNS", many.join(", ")));
    refused("ServiceEntry", &[("spec.hosts", &many)]);
    let dynamic = of("hosts: ['*.a.com'], resolution: DYNAMIC_DNS, location: MESH_INTERNAL");
    let waypoint = ", labels: {istio.io/use-waypoint: wp}";
    let (errors, _) = judge("ServiceEntry", waypoint, &dynamic);
    assert!(
        errors.iter().any(|field| field == "spec.location"),
        "{errors:?}"
    );
    let (errors, _) = judge("ServiceEntry", "", &dynamic);
    assert!(errors.is_empty(), "{errors:?}");

    let good = [
        of("hosts: [a.com], resolution: DNS"),
        of("hosts: ['*.a.com'], resolution: NONE"),
        of("hosts: ['*.a.com'], resolution: DYNAMIC_DNS"),
        of(
            "hosts: [a.com], addresses: [240.1.0.1, 10.0.0.0/24], resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {http: 8080}}]",
        ),
        of("hosts: [a.com], resolution: DNS, endpoints: [{address: b.com}]"),
        of("hosts: [a.com, b.com], resolution: DNS"),
        "{hosts: [a.com], resolution: DNS, ports: [{number: 5432, name: db, protocol: TCP}]}"
            .to_owned(),
    ];
    for spec in &good {
        accepted("ServiceEntry", &[spec]);
    }
    let tcp = "ports: [{number: 5432, name: db, protocol: TCP}]";
    let doubtful = [
        (
            "spec.addresses",
            format!("{{hosts: [a.com], resolution: NONE, {tcp}}}"),
        ),
        (
            "spec.hosts",
            format!("{{hosts: [a.com, b.com], addresses: [240.1.0.1], resolution: DNS, {tcp}}}"),
        ),
    ];
    for (field, spec) in &doubtful {
        warned("ServiceEntry", &[(field, spec)]);
    }
    let unallocated = ", labels: {networking.istio.io/enable-autoallocate-ip: 'false'}";
    let spec = format!("{{hosts: [a.com], resolution: DNS, {tcp}}}");
    let (errors, warnings) = judge("ServiceEntry", unallocated, &spec);
    assert!(
        errors.is_empty() && warnings == ["spec.addresses"],
        "{errors:?} {warnings:?}"
    );
}

#[test]
fn workload_entries() {
    refused(
        "WorkloadEntry",
        &[
            ("spec.address", "{}"),
            ("spec.address", "{address: ''}"),
            ("spec.labels", "{address: 10.0.0.1, labels: {'a b': c}}"),
            ("spec.labels", "{address: 10.0.0.1, labels: {'': c}}"),
            ("spec.labels.a", "{address: 10.0.0.1, labels: {a: 'b c'}}"),
            ("spec.labels.a", "{address: 10.0.0.1, labels: {a: '-b'}}"),
            (
                "spec.ports",
                "{address: 'unix:///run/a.sock', ports: {http: 80}}",
            ),
            (
                "spec.ports.http",
                "{address: 10.0.0.1, ports: {http: 70000}}",
            ),
        ],
    );
    accepted(
        "WorkloadEntry",
        &[
            "{address: 10.0.0.1, labels: {app: web, example.com/tier: ''}, ports: {http: 80}}",
            "{network: other}",
            "{address: vm.example.com}",
        ],
    );
}

const WORLD: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.0.0.1, selector: {app: cart}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, uid: u1, labels: {app: cart}}
spec: {nodeName: n1, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: taken, namespace: shop, creationTimestamp: '2024-01-01T00:00:00Z'}
spec: {hosts: [pay.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: lgood, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {namespaces: [a]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

/// Tried against the world, each in turn: new ones, changed ones, and broken ones.
const TRIALS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: idle, namespace: shop}
spec: {selector: {matchLabels: {app: nobody}}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: lgood, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, action: DENY, rules: [{from: [{source: {namespaces: [b]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: lgood, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {ipBlocks: [x]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: http, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, rules: [{to: [{operation: {methods: [GET]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ports, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, portLevelMtls: {'80': {mode: DISABLE}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: second, namespace: shop, creationTimestamp: '2025-01-01T00:00:00Z'}
spec: {hosts: [pay.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: taken, namespace: shop, creationTimestamp: '2024-01-01T00:00:00Z'}
spec: {hosts: [other.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: shop}
spec: {address: 10.9.0.1, labels: {app: cart}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route, namespace: shop}
spec: {parentRefs: [{kind: Service, group: '', name: cart}], rules: [{backendRefs: [{name: gone, port: 80}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vs, namespace: shop}
spec: {hosts: [cart], http: [{route: [{destination: {host: gone}}]}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: shop}
spec: {targetRefs: [{kind: Service, group: '', name: cart}], jwtRules: [{issuer: me, jwks: '{}'}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: elsewhere, namespace: new-namespace}
spec: {rules: [{}]}
";

fn apply(compiler: &mut Compiler, text: &str) {
    let objects = read_manifest("test", text).objects;
    compiler.apply(objects.into_iter().map(Change::Apply));
}

#[test]
fn a_preview_says_what_would_be_said_and_leaves_everything_as_it_was() {
    let mut tried = Compiler::new(Settings::default());
    let mut untouched = Compiler::new(Settings::default());
    apply(&mut tried, WORLD);
    apply(&mut untouched, WORLD);
    let same = |a: &Compiler, b: &Compiler, when: &str| {
        assert_eq!(a.snapshot(), b.snapshot(), "{when}");
        assert_eq!(a.statuses(), b.statuses(), "{when}");
        assert_eq!(a.diagnostics(), b.diagnostics(), "{when}");
    };
    let mut warned = Vec::new();
    let trials = read_manifest("trial", TRIALS).objects;
    assert_eq!(trials.len(), 13);
    for trial in &trials {
        let key = trial.object.key();
        let said = tried.preview(trial.clone());
        warned.extend(
            said.iter()
                .map(|told| format!("{} {}", key.name, told.code)),
        );
        same(&tried, &untouched, &format!("{key}"));
        // What hangs on the object is derived anew by a change of it, and must find everything in its place.
        let delta = tried.apply([]);
        assert!(
            delta.addresses.changed.is_empty() && delta.authorizations.changed.is_empty(),
            "{key}"
        );
    }
    for want in ["idle IST0127", "http ", "second AMB0212", "route "] {
        let told = warned.iter().any(|told| told.starts_with(want));
        assert!(told, "{want}: {warned:?}");
    }
    // The same changes afterwards give the same in both, from either.
    for text in [TRIALS, WORLD] {
        apply(&mut tried, text);
        apply(&mut untouched, text);
        same(&tried, &untouched, text);
    }
}
