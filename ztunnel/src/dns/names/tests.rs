use ambit_proto::workload as pb;
use ambit_state::{StateConfig, StateReader};

use super::*;

const CLIENT: Client<'static> = Client {
    namespace: "shop",
    network: "",
    domain: "cluster.local",
};

fn service(namespace: &str, hostname: &str, vips: &[&[u8]]) -> pb::Service {
    pb::Service {
        name: hostname.split('.').next().unwrap().to_owned(),
        namespace: namespace.to_owned(),
        hostname: hostname.to_owned(),
        addresses: vips
            .iter()
            .map(|ip| pb::NetworkAddress {
                address: ip.to_vec(),
                ..pb::NetworkAddress::default()
            })
            .collect(),
        ..pb::Service::default()
    }
}

fn endpoint(name: &str, ip: [u8; 4], of: &str, status: pb::WorkloadStatus) -> pb::Workload {
    pb::Workload {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![ip.to_vec().into()],
        status: status as i32,
        services: [(of.to_owned(), pb::PortList::default())].into(),
        ..pb::Workload::default()
    }
}

fn world(services: Vec<pb::Service>, workloads: Vec<pb::Workload>) -> StateReader {
    let (mut writer, reader) = ambit_state::new(StateConfig::default());
    let services = services.into_iter().map(|one| {
        let name = format!("{}/{}", one.namespace, one.hostname);
        (name, pb::address::Type::Service(one))
    });
    let workloads = workloads
        .into_iter()
        .map(|one| (one.uid.clone(), pb::address::Type::Workload(one)));
    let address = |(name, kind)| (name, pb::Address { r#type: Some(kind) });
    let all = services.chain(workloads).map(address).collect();
    let rejected = writer.apply_addresses(all, &[]);
    assert!(rejected.is_empty(), "{rejected:?}");
    reader
}

/// A shop whose services have the addresses 10.0.0.1, 2, …
fn shop() -> StateReader {
    let mut local = service("bank", "secret.bank.svc.cluster.local", &[&[10, 0, 0, 6]]);
    local.visibility = pb::Visibility::Namespace as i32;
    world(
        vec![
            service("shop", "web.shop.svc.cluster.local", &[&[10, 0, 0, 1]]),
            service("bank", "pay.bank.svc.cluster.local", &[&[10, 0, 0, 2]]),
            service("shop", "example.com", &[&[10, 0, 0, 3]]),
            service("shop", "*.example.com", &[&[10, 0, 0, 4]]),
            service("shop", "*.deep.example.com", &[&[10, 0, 0, 5]]),
            local,
            service("shop", "byname.org", &[]),
        ],
        Vec::new(),
    )
}

/// The last byte of the address that a name of the [`shop`] has, and its alias.
fn asked(name: &str) -> Option<(Option<String>, Vec<u8>)> {
    let records = CLIENT.resolve(&shop().view(), name, Asked::V4)?;
    let last = records.ips.iter().map(|ip| match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => panic!("{ip}"),
    });
    Some((records.alias, last.collect()))
}

#[test]
fn the_short_forms_of_a_name() {
    for (name, ip) in [
        ("web", 1),
        ("web.shop", 1),
        ("web.shop.svc", 1),
        ("web.shop.svc.cluster.local", 1),
        ("pay.bank", 2),
        ("pay.bank.svc", 2),
        ("example.com", 3),
        ("a.example.com", 4),
        ("a.b.example.com", 4),
        ("a.deep.example.com", 5),
    ] {
        assert_eq!(asked(name), Some((None, vec![ip])), "{name}");
    }
    for unknown in [
        "pay",
        "web.bank",
        "web.shop.pod.cluster.local",
        "com",
        // Somebody else's DNS has its addresses.
        "byname.org",
        // Not for this namespace to see.
        "secret.bank.svc.cluster.local",
    ] {
        assert_eq!(asked(unknown), None, "{unknown}");
    }
}

#[test]
fn a_search_domain_is_taken_off() {
    let alias = |name: &str, ip| Some((Some(name.to_owned()), vec![ip]));
    for (name, bare, ip) in [
        ("example.com.shop.svc.cluster.local", "example.com", 3),
        ("example.com.svc.cluster.local", "example.com", 3),
        ("example.com.cluster.local", "example.com", 3),
        ("pay.bank.shop.svc.cluster.local", "pay.bank", 2),
    ] {
        assert_eq!(asked(name), alias(bare, ip), "{name}");
    }
    // Another namespace's search domain isn't this client's.
    assert_eq!(asked("example.com.bank.svc.cluster.local"), None);
    // A wildcard has every name.
    let wild = asked("a.example.com.shop.svc.cluster.local");
    assert_eq!(wild, Some((None, vec![4])));
}

#[test]
fn a_host_without_such_an_address_exists_all_the_same() {
    let v6: &[u8] = &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut only_v4 = service("shop", "four.org", &[&[10, 0, 0, 1], v6]);
    only_v4.ip_families = pb::IpFamilies::Ipv4Only as i32;
    let mut elsewhere = service("shop", "far.org", &[&[10, 0, 0, 2]]);
    elsewhere.addresses[0].network = "other".to_owned();
    let both = service("shop", "both.org", &[&[10, 0, 0, 3], v6]);
    let reader = world(vec![only_v4, elsewhere, both], Vec::new());
    let count = |name: &str, asked| {
        let found = CLIENT.resolve(&reader.view(), name, asked);
        found.map(|records| records.ips.len())
    };
    assert_eq!(count("four.org", Asked::V4), Some(1));
    assert_eq!(count("four.org", Asked::V6), Some(0));
    assert_eq!(count("far.org", Asked::V4), Some(0));
    assert_eq!(count("both.org", Asked::V4), Some(1));
    assert_eq!(count("both.org", Asked::V6), Some(1));
    assert_eq!(count("both.org", Asked::Nothing), Some(0));
}

#[test]
fn a_headless_service_has_the_addresses_of_its_endpoints() {
    use pb::WorkloadStatus::{Healthy, Unhealthy};
    let key = "shop/db.shop.svc.cluster.local";
    let headless = service("shop", "db.shop.svc.cluster.local", &[]);
    let mut ready_or_not = service("shop", "any.shop.svc.cluster.local", &[]);
    ready_or_not.load_balancing = Some(pb::LoadBalancing {
        health_policy: pb::load_balancing::HealthPolicy::AllowAll as i32,
        ..pb::LoadBalancing::default()
    });
    let reader = world(
        vec![headless, ready_or_not],
        vec![
            endpoint("db-0", [10, 1, 0, 1], key, Healthy),
            endpoint("db-1", [10, 1, 0, 2], key, Healthy),
            endpoint("db-2", [10, 1, 0, 3], key, Unhealthy),
            endpoint(
                "any-0",
                [10, 1, 0, 4],
                "shop/any.shop.svc.cluster.local",
                Unhealthy,
            ),
        ],
    );
    let ips = |name| CLIENT.resolve(&reader.view(), name, Asked::V4).unwrap().ips;
    assert_eq!(ips("db"), [[10, 1, 0, 1], [10, 1, 0, 2]].map(IpAddr::from));
    assert_eq!(ips("any"), [IpAddr::from([10, 1, 0, 4])]);
    // A pod's own name is for the cluster's DNS to know.
    let pod = CLIENT.resolve(&reader.view(), "db-0.db", Asked::V4);
    assert_eq!(pod, None);
}
