use super::*;

/// Every field of `ztunnel-contract` 8.3.
const FULL: &str = r#"
workloads:
  - workloadIps: [10.0.0.1, "fd00::1"]
    namespace: shop
    services: {shop/cart.shop: {80: 8080, "443": 8443}}
    uid: cluster//Pod/shop/cart-0
    name: cart-0
    serviceAccount: cart
    trustDomain: td.example
    network: net
    node: n1
    protocol: HBONE
    networkMode: HostNetwork
    status: Unhealthy
    clusterId: c1
    hostname: cart-0.example
    waypoint: {destination: shop/waypoint.shop, hboneMtlsPort: 15008}
    networkGateway: {destination: net/10.0.0.9, hboneMtlsPort: 15009}
    workloadName: cart
    workloadType: cronjob
    canonicalName: cart
    canonicalRevision: v2
    nativeTunnel: true
    applicationTunnel: {protocol: PROXY, port: 15088}
    authorizationPolicies: [shop/a, shop/b]
    locality: {region: r, zone: z, subzone: s}
    capacity: 5
services:
  - name: cart
    namespace: shop
    hostname: cart.shop
    vips: [net/10.96.0.1, /10.96.0.2]
    ports: {80: 0, 443: 8443}
    cidrVips: [{network: net, cidr: 240.0.0.0/16}]
    endpoints: {}
    subjectAltNames: ["spiffe://td.example/ns/shop/sa/other"]
    waypoint: {destination: shop/waypoint.shop, hboneMtlsPort: 15008}
    weightedWaypoints: [{destination: {destination: shop/w.shop, hboneMtlsPort: 15008}, weight: 2}]
    loadBalancer: {routingPreferences: [Network, Region], mode: Failover, healthPolicy: AllowAll}
    ipFamilies: Dual
    canonical: true
    visibility: Namespace
policies:
  - name: p
    namespace: shop
    scope: WorkloadSelector
    action: Deny
    dryRun: true
    rules:
      - - - namespaces: [{Exact: a}]
            notNamespaces: [{Prefix: b}]
            serviceAccounts: [{namespace: c, serviceAccount: d}]
            notServiceAccounts: [{namespace: e, serviceAccount: f}]
            principals: [{Suffix: g}]
            notPrincipals: [{Presence: []}]
            sourceIps: [10.0.0.0/8]
            notSourceIps: [10.1.0.0/16]
            destinationIps: [10.2.0.0/16]
            notDestinationIps: [10.3.0.1/32]
            destinationPorts: [80]
            notDestinationPorts: [81]
"#;

/// What goes in comes out: the dump of the file says what the file says.
#[test]
fn every_field_is_read_and_dumped() {
    let config = StaticConfig::parse(FULL).unwrap();
    let got = serde_json::to_value(&config).unwrap();
    let mut want: serde_json::Value = serde_saphyr::from_str(FULL).unwrap();
    // JSON has its keys and addresses as texts; `endpoints` are the workloads'.
    want["workloads"][0]["services"] =
        serde_json::json!({"shop/cart.shop": {"80": 8080, "443": 8443}});
    want["services"][0]["ports"] = serde_json::json!({"80": 0, "443": 8443});
    assert_eq!(got, want);
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = StaticConfig::parse(
        "workloads: [{workloadIps: [10.0.0.1], namespace: shop, services: {}}, {workloadIps: [10.0.0.2], namespace: shop, services: {}}]",
    )
    .unwrap();
    let one = &config.workloads()[0];
    assert_eq!(&*one.trust_domain, "", "empty stays empty");
    assert_eq!(&*one.service_account, "", "empty stays empty");
    assert_eq!(one.identity(), None);
    assert_eq!(one.capacity, 1);
    assert_eq!(one.protocol, crate::Protocol::Tcp);
    assert_ne!(one.uid, config.workloads()[1].uid, "both are kept");
}

#[test]
fn faults_name_the_field_and_the_value() {
    let workload = |rest: &str| {
        format!("workloads: [{{workloadIps: [], namespace: shop, services: {{}}, {rest}}}]")
    };
    let service = |rest: &str| {
        format!("services: [{{name: s, namespace: shop, hostname: s.shop, ports: {{}}, {rest}}}]")
    };
    let policy = |rules: &str| {
        format!(
            "policies: [{{name: p, namespace: shop, scope: Global, action: Deny, rules: {rules}}}]"
        )
    };
    let cases = [
        (workload("colour: red"), vec!["unknown field", "colour"]),
        (workload("protocol: QUIC"), vec!["unknown variant", "QUIC"]),
        (workload("capacity: -1"), vec!["capacity", "-1"]),
        ("workloads: [{namespace: shop, services: {}}]".into(), vec!["missing field", "workloadIps"]),
        ("workloads: [{workloadIps: [10.0.0], namespace: shop, services: {}}]".into(), vec!["IP address"]),
        ("workloads: [{workloadIps: [], namespace: shop, services: {cart: {}}}]".into(), vec!["workloads[0].services", "\"cart\"", "NAMESPACE/HOSTNAME"]),
        ("workloads: [{workloadIps: [], namespace: shop, services: {a/b: {http: 80}}}]".into(), vec!["\"http\" is not a port"]),
        (workload("authorizationPolicies: [p]"), vec!["workloads[0].authorizationPolicies", "\"p\""]),
        (workload("waypoint: {destination: nowhere, hboneMtlsPort: 1}"), vec!["workloads[0].waypoint.destination", "\"nowhere\""]),
        (service("vips: [10.0.0.1]"), vec!["services[0].vips", "\"10.0.0.1\"", "NETWORK/IP"]),
        (service("vips: [], cidrVips: [{cidr: 10.0.0.0/40}]"), vec!["services[0].cidrVips", "\"10.0.0.0/40\""]),
        (service("vips: [], subjectAltNames: [cart]"), vec!["services[0].subjectAltNames", "\"cart\""]),
        (policy("[[[{sourceIps: [10.0.0.0/40]}]]]"), vec!["prefix length 40"]),
        (policy("[[[{sourceIps: [here]}]]]"), vec!["\"here\""]),
        (policy("[[[{principals: [{Exact: \"\"}]}]]]"), vec!["empty"]),
        (policy("[[[{hosts: [a]}]]]"), vec!["unknown field", "hosts"]),
        ("workloads: [".into(), vec!["static state"]),
        (
            "workloads: [{uid: u, workloadIps: [], namespace: a, services: {}}, {uid: u, workloadIps: [], namespace: b, services: {}}]".into(),
            vec!["workloads[1].uid", "\"u\""],
        ),
    ];
    for (yaml, want) in cases {
        let error = StaticConfig::parse(&yaml).unwrap_err().to_string();
        for part in want {
            assert!(error.contains(part), "{yaml}\n{error}\nlacks {part:?}");
        }
    }
}

#[test]
fn an_empty_file_is_an_empty_state() {
    for yaml in ["{}", "workloads: []"] {
        let config = StaticConfig::parse(yaml).unwrap();
        assert!(config.workloads().is_empty() && config.services().is_empty());
    }
}

/// A mesh of thousands of workloads has more nodes than the YAML reader lets
/// through by itself.
#[test]
fn a_large_file_is_read() {
    let names = "a/b, ".repeat(260_000);
    let yaml = format!(
        "workloads: [{{namespace: shop, workloadIps: [], services: {{}}, authorizationPolicies: [{names}]}}]"
    );
    let config = StaticConfig::parse(&yaml).unwrap();
    assert_eq!(config.workloads()[0].authorization_policies.len(), 260_000);
}
