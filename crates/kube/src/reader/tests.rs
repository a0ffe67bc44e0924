//! The reader on whole manifests, good and broken.

use crate::{Action, Code, Kind, Loaded, Object, Problem, Reach, Severity, read_manifest};

/// `code severity line field` of every problem.
fn brief(loaded: &Loaded) -> Vec<String> {
    let field = |problem: &Problem| problem.field.clone().unwrap_or_else(|| "-".into());
    loaded
        .problems
        .iter()
        .map(|p| {
            format!(
                "{} {} {}:{} {}",
                p.code,
                p.severity,
                p.origin.document,
                p.origin.line,
                field(p)
            )
        })
        .collect()
}

fn keys(loaded: &Loaded) -> Vec<String> {
    loaded
        .objects
        .iter()
        .map(|located| {
            let broken = if matches!(located.object, Object::Broken(_)) {
                "broken "
            } else {
                ""
            };
            format!(
                "{broken}{} @{}:{}",
                located.object.key(),
                located.origin.document,
                located.origin.line
            )
        })
        .collect()
}

/// A test of one manifest: its objects, its problems, and how many documents came to nothing.
struct Case {
    name: &'static str,
    text: &'static str,
    objects: &'static [&'static str],
    problems: &'static [&'static str],
    unread: usize,
}

const CASES: &[Case] = &[
    Case {
        name: "several documents, comments and empty ones",
        text: "# a shop\n---\n\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n---\n# nothing\n---\n\
               apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: cart, namespace: shop}\n",
        objects: &["Namespace shop @2:5", "ServiceAccount cart.shop @4:12"],
        problems: &[],
        unread: 0,
    },
    Case {
        name: "an empty file",
        text: "",
        objects: &[],
        problems: &[],
        unread: 0,
    },
    Case {
        name: "a broken document takes nothing with it",
        text: "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\nmetadata: \
               {name: \"b}\nspec: {}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: c}\n",
        objects: &["Namespace a @1:1", "Namespace c @3:10"],
        problems: &["AMB0101 Error 2:7 -"],
        unread: 1,
    },
    Case {
        name: "lists without items",
        text: "apiVersion: v1\nkind: List\nitems: []\n---\napiVersion: v1\nkind: List\nitems:\n---\n{apiVersion: v1, kind: \
               ServiceList, items: []}\n",
        objects: &[],
        problems: &[],
        unread: 0,
    },
    Case {
        name: "a policy's status doesn't break it",
        text: "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: strict, creationTimestamp: \
               null}\nspec: {mtls: {mode: STRICT}}\nstatus: {conditions: 7}\n",
        objects: &["PeerAuthentication strict.default @1:1"],
        problems: &[],
        unread: 0,
    },
    Case {
        name: "a List and its items, one of them bad",
        text: "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n\
               - apiVersion: v1\n  kind: Namespace\n  metadata: {}\n- apiVersion: v1\n  kind: Namespace\n  metadata: \
               {name: c}\n",
        objects: &["Namespace a @1:4", "Namespace c @1:10"],
        problems: &["AMB0108 Error 1:9 metadata.name"],
        unread: 1,
    },
    Case {
        name: "items of a typed list inherit their kind",
        text: "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a, namespace: shop}\n  spec: {containers: []}\n",
        objects: &["Pod a.shop @1:4"],
        problems: &[],
        unread: 0,
    },
    Case {
        name: "JSON, indented with tabs, two in one file",
        text: "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n\
               {\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"b\"}}\n",
        objects: &["Namespace a @1:1", "Namespace b @1:1"],
        problems: &[],
        unread: 0,
    },
    Case {
        name: "JSON as YAML knows its lines",
        text: "{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"Service\",\n  \"metadata\": {\"name\": \"a\"},\n  \"spec\": {\n    \
               \"selektor\": {\"app\": \"a\"}\n  }\n}\n",
        objects: &["Service a.default @1:1"],
        problems: &["AMB0106 Warning 1:6 spec.selektor"],
        unread: 0,
    },
    Case {
        name: "what kubectl printed has parts and kinds that nobody wrote",
        text: "apiVersion: v1\nkind: List\nitems:\n\
               - apiVersion: v1\n  kind: Pod\n  metadata: {name: a, uid: u, resourceVersion: '1', creationTimestamp: 2026-01-01T00:00:00Z}\n  \
                 spec: {containers: [], newer: 1}\n  status: {newer: 1}\n\
               - apiVersion: networking.istio.io/v1\n  kind: WorkloadEntry\n  metadata: {name: w, uid: u, resourceVersion: '1', \
                 creationTimestamp: 2026-01-01T00:00:00Z, managedFields: [{a: b}]}\n  spec: {address: 192.0.2.1, addres: x}\n  status: {newer: 1}\n\
               - apiVersion: apps/v1\n  kind: ReplicaSet\n  metadata: {name: r, uid: u, resourceVersion: '1', creationTimestamp: 2026-01-01T00:00:00Z}\n\
               - apiVersion: v1\n  kind: Newer\n  metadata: {name: n, uid: u, resourceVersion: '1', creationTimestamp: 2026-01-01T00:00:00Z}\n\
               - apiVersion: networking.istio.io/v1\n  kind: Gateway\n  metadata: {name: g, uid: u, resourceVersion: '1', creationTimestamp: 2026-01-01T00:00:00Z}\n",
        objects: &["Pod a.default @1:4", "WorkloadEntry w.default @1:9"],
        problems: &[
            "AMB0106 Warning 1:12 spec.addres",
            "AMB0104 Info 1:21 spec.servers",
        ],
        unread: 0,
    },
    Case {
        name: "not objects",
        text: "just words\n---\n- a\n- b\n---\nmetadata: {name: x}\n",
        objects: &[],
        problems: &[
            "AMB0102 Error 1:1 -",
            "AMB0102 Error 2:3 -",
            "AMB0102 Error 3:6 -",
        ],
        unread: 3,
    },
    Case {
        name: "kinds that aren't read, or that nobody knows",
        text: "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\napiVersion: v1\nkind: Teapot\nmetadata: \
               {name: x}\n---\napiVersion: v1\nkind: Sevice\nmetadata: {name: x}\n---\napiVersion: v2\nkind: Service\n\
               metadata: {name: x}\n",
        objects: &[],
        problems: &[
            "AMB0104 Info 1:2 -",
            "AMB0103 Warning 2:6 kind",
            "AMB0103 Error 3:10 kind",
            "AMB0105 Error 4:13 apiVersion",
        ],
        unread: 2,
    },
    Case {
        name: "a wrong type in a core kind",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec:\n  ports:\n  - port: 80\n  - port: \
               web\n",
        objects: &[],
        problems: &["AMB0107 Error 1:7 spec.ports[1].port"],
        unread: 1,
    },
    Case {
        name: "bad names",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: Cart, namespace: shop}\n---\napiVersion: v1\nkind: Pod\n\
               metadata:\n  name: a\n  namespace: my.ns\n",
        objects: &[],
        problems: &[
            "AMB0109 Error 1:3 metadata.name",
            "AMB0109 Error 2:9 metadata.namespace",
        ],
        unread: 2,
    },
    Case {
        name: "an unknown field in a policy breaks it",
        text: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: gate\n  namespace: shop\n\
               spec:\n  action: DENY\n  rules:\n  - from:\n    - source:\n        principels: [cluster.local/ns/a/sa/b]\n",
        objects: &["broken AuthorizationPolicy gate.shop @1:1"],
        problems: &["AMB0106 Error 1:11 spec.rules[0].from[0].source.principels"],
        unread: 0,
    },
    Case {
        name: "an unknown field in the metadata of a policy does not",
        text: "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata:\n  name: strict\n  lables: {a: \
               b}\nspec:\n  mtls: {mode: STRICT}\n  portLevelMtls:\n    8080: {mode: DISABLE}\n",
        objects: &["PeerAuthentication strict.default @1:1"],
        problems: &["AMB0106 Warning 1:5 metadata.lables"],
        unread: 0,
    },
    Case {
        name: "fields of a policy that hold nothing",
        text: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: gate}\nspec:\n  rules:\n  - \
               from:\n    - source:\n        principals:\n    to:\n    - operation: {ports: []}\n",
        objects: &["broken AuthorizationPolicy gate.default @1:1"],
        problems: &[
            "AMB0110 Error 1:8 spec.rules[0].from[0].source.principals",
            "AMB0110 Error 1:10 spec.rules[0].to[0].operation.ports",
            "AMB0107 Error 1:8 spec.rules[0].from[0].source.principals",
        ],
        unread: 0,
    },
    Case {
        name: "a policy with numbers for ports",
        text: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: gate}\nspec:\n  selector:\n    \
               matchLabels: {app: cart}\n  rules:\n  - to:\n    - operation:\n        ports: [\"80\", 8080]\n",
        objects: &["broken AuthorizationPolicy gate.default @1:1"],
        problems: &["AMB0107 Error 1:10 spec.rules[0].to[0].operation.ports[1]"],
        unread: 0,
    },
    Case {
        name: "an allow-nothing policy without a spec",
        text: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: none}\n",
        objects: &["AuthorizationPolicy none.default @1:1"],
        problems: &[],
        unread: 0,
    },
    Case {
        name: "a misspelt policy kind still closes",
        text: "apiVersion: security.istio.io/v1\nkind: AuthorisationPolicy\nmetadata: {name: gate, namespace: shop}\nspec: \
               {selector: {matchLabels: {app: cart}}}\n",
        objects: &["broken AuthorizationPolicy gate.shop @1:1"],
        problems: &["AMB0103 Error 1:2 kind"],
        unread: 0,
    },
    Case {
        name: "a ServiceEntry with a misspelt resolution",
        text: "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: db}\nspec:\n  hosts: [db.example]\n  \
               resolution: STATIK\n",
        objects: &[],
        problems: &["AMB0107 Error 1:6 spec.resolution"],
        unread: 1,
    },
    Case {
        name: "mesh settings in a ConfigMap",
        text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
               trustDomain: shop.example\n    enablePrometheusMerge: true\n    rootNamspace: x\n  meshNetworks: \"networks: \
               {}\"\n",
        objects: &["MeshConfig istio.istio-system @1:1"],
        problems: &[
            "AMB0112 Info 1:7 data.mesh: enablePrometheusMerge",
            "AMB0106 Warning 1:8 data.mesh: rootNamspace",
        ],
        unread: 0,
    },
    Case {
        name: "bare mesh settings",
        text: "kind: MeshConfig\ntrustDomain: shop.example\nrootNamespace: [x]\n",
        objects: &[],
        problems: &["AMB0107 Error 1:3 rootNamespace"],
        unread: 1,
    },
    Case {
        name: "another ConfigMap",
        text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {a: b}\n",
        objects: &["ConfigMap app.default @1:1"],
        problems: &[],
        unread: 0,
    },
];

#[test]
fn manifests_give_objects_and_problems() {
    for case in CASES {
        let loaded = read_manifest("shop.yaml", case.text);
        assert_eq!(
            keys(&loaded),
            case.objects,
            "objects: {}\n{:#?}",
            case.name,
            loaded.problems
        );
        assert_eq!(
            brief(&loaded),
            case.problems,
            "problems: {}\n{:#?}",
            case.name,
            loaded.problems
        );
        assert_eq!(loaded.unread.len(), case.unread, "unread: {}", case.name);
    }
}

#[test]
fn a_problem_says_what_to_do() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: gate, namespace: shop}\n\
                spec:\n  action: allow\n";
    let loaded = read_manifest("policies/gate.yaml", text);
    let [problem] = loaded.problems.as_slice() else {
        panic!("{:#?}", loaded.problems)
    };
    assert_eq!(problem.code, Code::WRONG_TYPE);
    assert_eq!(problem.severity, Severity::Error);
    assert_eq!(
        problem.key.as_ref().unwrap().to_string(),
        "AuthorizationPolicy gate.shop"
    );
    assert_eq!(problem.origin.to_string(), "policies/gate.yaml:5");
    assert_eq!(problem.field.as_deref(), Some("spec.action"));
    assert_eq!(problem.value.as_deref(), Some("\"allow\""));
    assert!(
        problem
            .remedy
            .as_deref()
            .unwrap()
            .starts_with("did you mean ALLOW?")
    );
}

#[test]
fn remedies_name_the_right_field() {
    let at_wrong_depth = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: g}\nspec:\n  rules:\n  \
                          - from:\n    - source: {namespaces: [a]}\n      principals: [b]\n";
    let loaded = read_manifest("a.yaml", at_wrong_depth);
    assert_eq!(
        loaded.problems[0].remedy.as_deref(),
        Some("`principals` belongs in spec.rules.from.source; check the indentation")
    );
    let typo = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    imagePulPolicy: Always\n";
    let loaded = read_manifest("a.yaml", typo);
    assert_eq!(
        loaded.problems[0].remedy.as_deref(),
        Some("did you mean `imagePullPolicy`?")
    );
}

#[test]
fn broken_policies_keep_what_could_be_read() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: gate, labels: {istio.io/rev: \
                blue}}\nspec:\n  action: DENY\n  selector: {matchLabels: {app: cart}}\n  rulez: []\n";
    let loaded = read_manifest("a.yaml", text);
    let Object::Broken(broken) = &loaded.objects[0].object else {
        panic!()
    };
    assert_eq!(broken.action, Some(Action::Deny));
    assert_eq!(
        broken.reach,
        Reach::Selector([("app".into(), "cart".into())].into())
    );
    assert_eq!(broken.labels["istio.io/rev"], "blue");
    assert!(broken.why.contains("spec.rulez"), "{}", broken.why);
}

#[test]
fn a_policy_without_a_name_gets_one_and_closes() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop}\nspec: {}\n";
    let loaded = read_manifest("dir/gate.yaml", text);
    let key = loaded.objects[0].object.key();
    assert_eq!(
        (key.kind, key.namespace.as_ref()),
        (Kind::AuthorizationPolicy, "shop")
    );
    assert_eq!(key.name.as_ref(), "(unnamed 1 of dir-gate-yaml)");
    assert!(matches!(loaded.objects[0].object, Object::Broken(_)));
}

#[test]
fn fields_of_an_object_know_their_lines() {
    let text = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: g}\nspec:\n  rules:\n  - \
                from:\n    - source:\n        ipBlocks:\n        - 10.0.0.0/8\n        - 300.0.0.0/8\n";
    let loaded = read_manifest("a.yaml", text);
    let located = &loaded.objects[0];
    let at = |path: &str| located.origin_of(path).line;
    assert_eq!(at("spec.rules[0].from[0].source.ipBlocks[1]"), 11);
    assert_eq!(at("spec.rules[0].from[0].source.ipBlocks[1].x"), 11);
    assert_eq!(at("spec.rules[0]"), 7);
    assert_eq!(at("nowhere"), 2);
}

#[test]
fn every_custom_kind_has_a_definition_for_the_api_server() {
    use kube::core::CustomResourceExt as _;
    for (name, crd) in [
        (
            "authorizationpolicies.security.istio.io",
            crate::AuthorizationPolicy::crd(),
        ),
        (
            "peerauthentications.security.istio.io",
            crate::PeerAuthentication::crd(),
        ),
        (
            "serviceentries.networking.istio.io",
            crate::ServiceEntry::crd(),
        ),
        (
            "workloadentries.networking.istio.io",
            crate::WorkloadEntry::crd(),
        ),
    ] {
        assert_eq!(crd.metadata.name.as_deref(), Some(name));
    }
}

mod properties {
    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::{keys, read_manifest};

    const DOCUMENTS: [&str; 4] = [
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {istio.io/dataplane-mode: ambient}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec:\n  ports:\n  - {name: http, port: 80}\n",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: gate, namespace: shop}\nspec:\n  \
         action: DENY\n  rules:\n  - from:\n    - source:\n        principals: ['*']\n",
        "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"bank\"}}\n",
    ];

    /// A document with something cut out and something put in.
    fn damaged() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "\"", "[", "{", ": ", "\t", "- ", "&a ", "*a", "\u{0}", "é", "!!", "|", "?",
        ]);
        (
            prop::sample::select(DOCUMENTS.to_vec()),
            any::<prop::sample::Index>(),
            0..12_usize,
            pieces,
        )
            .prop_map(|(text, at, cut, piece)| {
                let characters: Vec<char> = text.chars().collect();
                let at = at.index(characters.len());
                let (head, tail) = characters.split_at(at);
                head.iter()
                    .chain(&piece.chars().collect::<Vec<_>>())
                    .chain(tail.iter().skip(cut))
                    .collect()
            })
    }

    proptest! {
        /// Whatever happens to one document, the others are read, and something is said or read of it.
        #[test]
        fn damage_stays_in_its_document(text in damaged(), last in any::<bool>()) {
            let good = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n";
            let file = if last { format!("{good}---\n{text}") } else { format!("{text}\n---\n{good}") };
            let loaded = read_manifest("a.yaml", &file);
            prop_assert!(keys(&loaded).iter().any(|key| key.starts_with("Node node-1 ")), "{file}");
            prop_assert!(loaded.objects.len() + loaded.problems.len() > 1, "{file}");
            prop_assert!(loaded.problems.iter().all(|problem| problem.origin.line >= 1));
        }

        /// The reader ends, and without a panic, on anything.
        #[test]
        fn anything_is_answered(text in "[-a-z:{}\\[\\]\"'&*!|>#%@,? \n\t]{0,120}") {
            read_manifest("a.yaml", &text);
        }

        /// The order of documents changes nothing but their places.
        #[test]
        fn order_does_not_matter(order in Just(vec![0, 1, 2, 3]).prop_shuffle()) {
            let text: Vec<&str> = order.iter().filter_map(|at| DOCUMENTS.get(*at)).copied().collect();
            let mut objects: Vec<_> = read_manifest("a.yaml", &text.join("---\n")).objects;
            objects.sort_by_key(|located| located.object.key());
            let mut straight: Vec<_> = read_manifest("a.yaml", &DOCUMENTS.join("---\n")).objects;
            straight.sort_by_key(|located| located.object.key());
            let bare = |list: Vec<crate::Located<crate::Object>>| list.into_iter().map(|one| one.object).collect::<Vec<_>>();
            prop_assert_eq!(bare(objects), bare(straight));
        }
    }
}

#[test]
fn a_secret_is_not_shown_when_it_cannot_be_read() {
    for text in [
        "apiVersion: v1\nkind: Secret\nmetadata: {name: k}\ndata: {tls.key: \"hunter2!\"}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: k}\nstringData: {pin: 271828}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: k}\nstringdata: {pin: \"271828\"}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: k}\ndata: hunter2\n",
    ] {
        let loaded = read_manifest("k.yaml", text);
        let said = format!("{loaded:?}");
        assert!(!loaded.problems.is_empty(), "{text}");
        assert!(
            !said.contains("hunter2") && !said.contains("271828"),
            "{said}"
        );
    }
}
