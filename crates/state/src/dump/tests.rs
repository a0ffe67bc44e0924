use super::*;
use crate::{StateConfig, new};

fn dumped(yaml: &str) -> Value {
    let (mut writer, reader) = new(StateConfig::default());
    writer.load_static(StaticConfig::parse(yaml).unwrap());
    dump(&reader.view())
}

const SMALL_MESH: &str = "
        workloads:
          - {uid: w2, workloadIps: [], namespace: shop, services: {}}
          - {uid: w1, name: cart-0, namespace: shop, trustDomain: cluster.local, serviceAccount: cart, protocol: HBONE, workloadIps: [10.0.0.1], clusterId: c, node: n1, workloadName: cart, workloadType: pod, services: {shop/cart.shop: {80: 8080}, shop/later.shop: {80: 80}}, authorizationPolicies: [shop/p], locality: {region: r}}
        services:
          - {name: cart, namespace: shop, hostname: cart.shop, vips: [net/10.96.0.1], ports: {80: 80}, cidrVips: [{network: net, cidr: 240.0.0.0/16}]}
        policies:
          - {name: p, namespace: shop, scope: Namespace, action: Allow, rules: [[[{destinationPorts: [80], principals: [{Presence: []}, {Exact: a}], serviceAccounts: [{namespace: n, serviceAccount: s}]}]]]}
        ";

/// What `istioctl` relies on: names, order, what is always there and what is
/// left out when empty (`ztunnel-contract` 9.2).
#[test]
fn a_small_mesh_in_full() {
    let got = dumped(SMALL_MESH);
    let want = serde_json::json!([
        {
            "authorizationPolicies": ["shop/p"],
            "capacity": 1,
            "clusterId": "c",
            "locality": {"region": "r"},
            "name": "cart-0",
            "namespace": "shop",
            "networkMode": "Standard",
            "node": "n1",
            "protocol": "HBONE",
            "serviceAccount": "cart",
            "services": ["shop/cart.shop", "shop/later.shop"],
            "status": "Healthy",
            "trustDomain": "cluster.local",
            "uid": "w1",
            "workloadIps": ["10.0.0.1"],
            "workloadName": "cart",
            "workloadType": "pod",
        },
        {
            "capacity": 1,
            "clusterId": "",
            "name": "",
            "namespace": "shop",
            "networkMode": "Standard",
            "protocol": "TCP",
            "serviceAccount": "",
            "status": "Healthy",
            "trustDomain": "",
            "uid": "w2",
            "workloadIps": [],
            "workloadType": "deployment",
        },
    ]);
    assert_eq!(got["workloads"], want);
    let want = serde_json::json!([{
        "canonical": false,
        "cidrVips": [{"cidr": "240.0.0.0/16", "network": "net"}],
        "endpoints": {"w1": {"port": {"80": 8080}, "status": "Healthy", "workloadUid": "w1"}},
        "hostname": "cart.shop",
        "name": "cart",
        "namespace": "shop",
        "ports": {"80": 80},
        "subjectAltNames": [],
        "vips": ["net/10.96.0.1"],
        "visibility": "Public",
    }]);
    assert_eq!(got["services"], want);
    let want = serde_json::json!([{
        "action": "Allow",
        "dryRun": false,
        "name": "p",
        "namespace": "shop",
        "rules": [[[{
            "destinationPorts": [80],
            "principals": [{"Presence": []}, {"Exact": "a"}],
            "serviceAccounts": [{"namespace": "n", "serviceAccount": "s"}],
        }]]],
        "scope": "Namespace",
    }]);
    assert_eq!(got["policies"], want);
    let want = serde_json::json!({
        "shop/later.shop": {"w1": {"port": {"80": 80}, "status": "Healthy", "workloadUid": "w1"}},
    });
    assert_eq!(got["stagedServices"], want);
    assert_eq!(
        got["staticConfig"]["workloads"][1]["services"]["shop/cart.shop"]["80"],
        8080
    );
}

#[test]
fn keys_are_sorted_in_the_text() {
    let text = dumped("workloads: [{uid: a, workloadIps: [], namespace: shop, services: {}, node: n, hostname: h}]").to_string();
    let at = |key: &str| text.find(&format!("\"{key}\"")).unwrap();
    let keys = ["policies", "services", "stagedServices", "staticConfig"];
    assert!(keys.windows(2).all(|pair| at(pair[0]) < at(pair[1])));
    let keys = [
        "capacity",
        "clusterId",
        "hostname",
        "namespace",
        "node",
        "protocol",
        "uid",
    ];
    assert!(keys.windows(2).all(|pair| at(pair[0]) < at(pair[1])));
}

#[test]
fn an_empty_view_has_every_key() {
    let (_writer, reader) = new(StateConfig::default());
    let want = serde_json::json!({
        "policies": [], "services": [], "stagedServices": {}, "workloads": [],
        "staticConfig": {"policies": [], "services": [], "workloads": []},
    });
    assert_eq!(dump(&reader.view()), want);
}
