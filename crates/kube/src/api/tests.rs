use super::{read_object, read_settings};
use crate::reader::read_manifest;
use crate::{Kind, Object};

fn one(kind: Kind, text: &str) -> Object {
    let mut loaded = read_object(kind, text.as_bytes()).unwrap();
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    loaded.objects.remove(0).object
}

#[test]
fn an_object_of_the_api_is_the_same_as_one_of_a_manifest() {
    let cases = [
        (
            Kind::Service,
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"cart","namespace":"shop"},
                "spec":{"type":"ExternalName","externalName":"a.b","ports":[{"port":80,"name":"http","targetPort":"web"}]}}"#,
        ),
        (
            Kind::EndpointSlice,
            r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
                "metadata":{"name":"cart-1","namespace":"shop","labels":{"kubernetes.io/service-name":"cart"}},
                "endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true},
                              "targetRef":{"kind":"Pod","name":"p","namespace":"shop","uid":"u"}}],
                "ports":[{"name":"http","port":8080,"protocol":"TCP"}]}"#,
        ),
        (
            Kind::Pod,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"shop","uid":"u","generateName":"p-",
                  "labels":{"app":"cart"},"annotations":{"ambient.istio.io/redirection":"enabled","kubernetes.io/config.hash":"h"},
                  "creationTimestamp":"2026-01-01T00:00:00Z",
                  "ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"cart-1","uid":"r","controller":true}]},
                "spec":{"nodeName":"n1","serviceAccountName":"cart","hostNetwork":true,
                  "containers":[{"name":"c","ports":[{"containerPort":80,"name":"http"}]}],
                  "initContainers":[{"name":"s","restartPolicy":"Always"}]},
                "status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}],
                  "conditions":[{"type":"Ready","status":"True"}]}}"#,
        ),
        (
            Kind::Gateway,
            r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"w","namespace":"shop"},
                "spec":{"gatewayClassName":"istio-waypoint","listeners":[{"name":"mesh","port":15008,"protocol":"HBONE"}]},
                "status":{"addresses":[{"type":"Hostname","value":"w.shop"}]}}"#,
        ),
    ];
    for (kind, text) in cases {
        let written = read_manifest("f", text);
        assert!(
            written.problems.is_empty(),
            "{kind}: {:?}",
            written.problems
        );
        assert_eq!(one(kind, text), written.objects[0].object, "{kind}");
    }
}

#[test]
fn what_is_not_read_is_not_kept() {
    let pod = one(
        Kind::Pod,
        r#"{"metadata":{"name":"p","namespace":"shop","resourceVersion":"7","managedFields":[{"manager":"m"}],
              "annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","cni.example.org/ips":"x"}},
            "spec":{"containers":[{"name":"c","image":"i","env":[{"name":"A","value":"B"}],"resources":{"limits":{"cpu":"1"}}}],
              "initContainers":[{"name":"once"}],"volumes":[{"name":"v"}],"tolerations":null},
            "status":{"phase":"Running","conditions":[{"type":"Initialized","status":"True"}],
              "containerStatuses":[{"name":"c"}],"aFieldOfTheFuture":{}}}"#,
    );
    let bare = one(
        Kind::Pod,
        r#"{"metadata":{"name":"p","namespace":"shop"},"spec":{"containers":[{"name":"c"}]},
            "status":{"phase":"Running"}}"#,
    );
    assert_eq!(pod, bare);
    let node = one(
        Kind::Node,
        r#"{"metadata":{"name":"n","annotations":{"heartbeat":"1"},"labels":{"a":"b"}},
            "status":{"images":[{"names":["x"]}]}}"#,
    );
    assert_eq!(
        node,
        one(
            Kind::Node,
            r#"{"metadata":{"name":"n","labels":{"a":"b"}}}"#
        )
    );
    let route = |more: &str| {
        let text = format!(
            r#"{{"metadata":{{"name":"r","namespace":"shop"{more}}},"spec":{{}},
                "status":{{"parents":[]}}}}"#
        );
        one(Kind::HttpRoute, &text)
    };
    assert_eq!(
        route(r#","resourceVersion":"1""#),
        route(r#","resourceVersion":"2","managedFields":[]"#)
    );
}

#[test]
fn judgement_is_that_of_a_manifest_and_places_name_the_object() {
    let text = r#"{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy",
                   "metadata":{"name":"p","namespace":"shop"},
                   "spec":{"action":"ALLOW","rules":[{"form":[]}]}}"#;
    let (api, file) = (
        read_object(Kind::AuthorizationPolicy, text.as_bytes()).unwrap(),
        read_manifest("f", text),
    );
    assert_eq!(api.objects[0].object, file.objects[0].object);
    assert!(matches!(api.objects[0].object, Object::Broken(_)));
    assert_eq!(
        api.objects[0].origin.to_string(),
        "AuthorizationPolicy/shop/p"
    );
    let told = |loaded: &crate::Loaded| -> Vec<String> {
        loaded
            .problems
            .iter()
            .map(|p| format!("{} {p}", p.code))
            .collect()
    };
    assert_eq!(told(&api), told(&file));
    assert_eq!(api.problems[0].origin, api.objects[0].origin);
    for garbage in ["", "[1", "7", r#"{"metadata":{}}"#] {
        assert!(
            read_object(Kind::Pod, garbage.as_bytes()).is_err(),
            "{garbage}"
        );
    }
}

#[test]
fn kinds_have_their_names_in_paths() {
    for (kind, plural) in [
        (Kind::Pod, "pods"),
        (Kind::Gateway, "gateways"),
        (Kind::GatewayClass, "gatewayclasses"),
        (Kind::AuthorizationPolicy, "authorizationpolicies"),
        (Kind::ServiceEntry, "serviceentries"),
        (Kind::Telemetry, "telemetries"),
        (Kind::BackendTlsPolicy, "backendtlspolicies"),
        (Kind::HttpLocalRateLimitPolicy, "httplocalratelimitpolicies"),
        (Kind::HttpRouteGroup, "httproutegroups"),
        (Kind::ProxyConfig, "proxyconfigs"),
        (Kind::LinkerdServer, "servers"),
        (Kind::MeshConfig, "configmaps"),
    ] {
        assert_eq!(kind.plural(), plural);
    }
}

#[test]
fn settings_lie_over_the_shared_ones() {
    let map = |mesh: &str| {
        serde_json::json!({"metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": mesh}})
            .to_string()
    };
    let own = map("trustDomain: own\ndefaultConfig: {proxyMetadata: {A: '1'}}\n");
    let shared = map(
        "rootNamespace: roots\ntrustDomain: shared\ndefaultConfig: {proxyMetadata: {B: '2'}}\n",
    );
    let broken = map("a: [");
    let spec = |own: Option<&str>, shared: Option<&str>| {
        let loaded = read_settings(own.map(str::as_bytes), shared.map(str::as_bytes)).unwrap();
        match loaded.objects.first().map(|located| located.object.clone()) {
            Some(Object::MeshConfig(config)) => Some(config.spec.clone()),
            _ => None,
        }
    };
    let both = spec(Some(&own), Some(&shared)).unwrap();
    assert_eq!(both.trust_domain.as_deref(), Some("own"));
    assert_eq!(both.root_namespace.as_deref(), Some("roots"));
    let metadata = both.default_config.unwrap().proxy_metadata;
    assert_eq!(metadata.len(), 2, "{metadata:?}");
    assert_eq!(
        spec(None, Some(&shared)).unwrap().trust_domain.as_deref(),
        Some("shared")
    );
    assert_eq!(
        spec(Some(&own), Some(&broken)),
        None,
        "half of it isn't put in force"
    );
    assert_eq!(spec(Some(&broken), Some(&shared)), None);
    assert_eq!(spec(None, None), None);
}
