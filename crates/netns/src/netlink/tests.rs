use super::*;
use crate::{NamedNetNs, require_privilege};

fn ns(tag: &str) -> NamedNetNs {
    let dir = std::env::temp_dir();
    let name = format!("ambit-netlink-{tag}-{}", std::process::id());
    NamedNetNs::remove_stale(&dir, &name);
    NamedNetNs::create(&dir, &name).unwrap()
}

#[tokio::test]
async fn two_namespaces_talk_over_a_veth_pair() {
    if !require_privilege("links and addresses") {
        return;
    }
    let (a, b) = (ns("a"), ns("b"));
    let left = Netlink::in_ns(a.ns()).unwrap();
    let right = Netlink::in_ns(b.ns()).unwrap();
    left.add_veth("eth0", "eth9", b.ns()).await.unwrap();
    left.add_addr("eth0", "10.9.0.1/32".parse().unwrap())
        .await
        .unwrap();
    right
        .add_addr("eth9", "10.9.0.2/32".parse().unwrap())
        .await
        .unwrap();
    right
        .add_addr("eth9", "fd00:9::2/64".parse().unwrap())
        .await
        .unwrap();
    left.link_up("eth0").await.unwrap();
    right.link_up("eth9").await.unwrap();
    left.add_route("10.9.0.2/32".parse().unwrap(), None, "eth0")
        .await
        .unwrap();
    right
        .add_route("10.9.0.1/32".parse().unwrap(), None, "eth9")
        .await
        .unwrap();
    let default = "0.0.0.0/0".parse().unwrap();
    right
        .add_route(default, Some("10.9.0.1".parse().unwrap()), "eth9")
        .await
        .unwrap();
    assert!(
        right
            .addrs()
            .await
            .unwrap()
            .contains(&"10.9.0.2".parse().unwrap())
    );
    let listener = b
        .ns()
        .run(|| std::net::TcpListener::bind("10.9.0.2:0").unwrap())
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let dialled = a
        .ns()
        .run_on_thread(|| std::net::TcpStream::connect(addr))
        .unwrap();
    assert_eq!(dialled.unwrap().peer_addr().unwrap(), addr);
    left.del_link("eth0").await.unwrap();
    let missing = left.link_up("eth0").await.unwrap_err();
    assert!(matches!(missing, NetlinkError::NoSuchLink(name) if name == "eth0"));
}

#[tokio::test]
async fn mark_rules_and_tables_come_and_go() {
    if !require_privilege("policy rules") {
        return;
    }
    let made = ns("rules");
    let netlink = Netlink::in_ns(made.ns()).unwrap();
    netlink.link_up("lo").await.unwrap();
    let before = netlink.mark_rules().await.unwrap();
    for v6 in [false, true] {
        let rule = PolicyRule {
            v6,
            mark: 0x111,
            mask: 0xfff,
            table: 100,
            priority: 32764,
        };
        netlink.add_mark_rule(rule).await.unwrap();
        netlink.add_mark_rule(rule).await.unwrap();
        netlink.add_local_default(v6, 100).await.unwrap();
        netlink.add_local_default(v6, 100).await.unwrap();
        assert!(netlink.mark_rules().await.unwrap().contains(&rule));
    }
    let routes = netlink.routes_in_table(100).await.unwrap();
    assert_eq!(routes.len(), 2);
    assert!(
        routes
            .iter()
            .all(|r| r.local && r.destination.prefix_len() == 0)
    );
    for v6 in [false, true] {
        let rule = PolicyRule {
            v6,
            mark: 0x111,
            mask: 0xfff,
            table: 100,
            priority: 32764,
        };
        netlink.del_mark_rule(rule).await.unwrap();
        netlink.del_mark_rule(rule).await.unwrap();
    }
    netlink.flush_table(100).await.unwrap();
    assert_eq!(netlink.mark_rules().await.unwrap(), before);
    assert!(netlink.routes_in_table(100).await.unwrap().is_empty());
}
