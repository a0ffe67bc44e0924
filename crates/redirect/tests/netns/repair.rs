use std::process::Command;
use std::time::Duration;

use ambit_netns::{NetNs, Netlink, PolicyRule, require_privilege};
use ambit_redirect::rules::{OUTBOUND_PORT, ROUTE_TABLE};
use ambit_redirect::{Capture, Changes, Ensured, Found, Redirector, RuleSet};

use crate::world::{Call, ECHO, PEER, World, addr};

fn nft(ns: &NetNs, command: &str) {
    let words = command.split(' ');
    let done = ns
        .run(|| Command::new("nft").args(words).status())
        .unwrap()
        .unwrap();
    assert!(done.success(), "nft {command}");
}

/// Whatever somebody else does is heard of, seen and repaired.
#[tokio::test]
async fn what_others_do_to_the_rules_is_repaired() {
    if !require_privilege("repair") {
        return;
    }
    let world = World::new().await;
    let ns = world.pod.ns();
    let _proxy = world.proxy();
    let redirector = Redirector::new();
    let wanted = RuleSet::Capture(Capture::default());
    redirector.ensure(ns, &wanted).await.unwrap();
    let mut carried = Call::dial(ns, addr(PEER[0], ECHO)).await.unwrap();
    assert_eq!(world.take_captured().len(), 1);
    let changes = Changes::of(ns).unwrap();
    let damages = [
        "flush ruleset",
        "flush chain inet istio-ambient-nat istio-output",
        "delete table inet istio-ambient-mangle",
        "insert rule inet istio-ambient-nat istio-output counter accept",
        "add rule inet istio-ambient-mangle istio-output meta mark set 0",
        "add chain inet istio-ambient-nat extra",
        "add set inet istio-ambient-nat extra { type ipv4_addr; }",
        "add table inet istio-ambient-raw",
        "chain inet istio-ambient-nat istio-output { policy drop; }",
    ];
    for damage in damages {
        nft(ns, damage);
        let heard = tokio::time::timeout(Duration::from_secs(10), changes.next()).await;
        heard
            .unwrap_or_else(|_| panic!("{damage} wasn't heard"))
            .unwrap();
        assert_ne!(
            redirector.look(ns, &wanted).await.unwrap(),
            Found::Wanted,
            "{damage}"
        );
        assert_eq!(
            redirector.ensure(ns, &wanted).await.unwrap(),
            Ensured::Written
        );
        assert_eq!(
            redirector.look(ns, &wanted).await.unwrap(),
            Found::Wanted,
            "{damage}"
        );
        let mut call = Call::dial(ns, addr(PEER[0], ECHO)).await.unwrap();
        assert!(call.works().await, "{damage}");
        assert_eq!(
            world.take_captured(),
            [(OUTBOUND_PORT, addr(PEER[0], ECHO))],
            "{damage}"
        );
        // Our own repair was heard as well.
        changes.next().await.unwrap();
    }
    assert!(
        carried.works().await,
        "an idle connection that was carried all the time"
    );
    nft(ns, "add table ip somebody-elses");
    changes.next().await.unwrap();
    assert_eq!(redirector.look(ns, &wanted).await.unwrap(), Found::Wanted);
}

#[tokio::test]
async fn lost_routes_and_policy_rules_come_back() {
    if !require_privilege("repair of routing") {
        return;
    }
    let world = World::new().await;
    let ns = world.pod.ns();
    let redirector = Redirector::new();
    let wanted = RuleSet::Capture(Capture::default());
    redirector.ensure(ns, &wanted).await.unwrap();
    let changes = Changes::of(ns).unwrap();
    let netlink = Netlink::in_ns(ns).unwrap();
    netlink.flush_table(ROUTE_TABLE).await.unwrap();
    changes.next().await.unwrap();
    assert_eq!(
        redirector.look(ns, &wanted).await.unwrap(),
        Found::Different
    );
    redirector.ensure(ns, &wanted).await.unwrap();
    for rule in netlink.mark_rules().await.unwrap() {
        let PolicyRule { table, .. } = rule;
        assert_eq!(table, ROUTE_TABLE);
        netlink.del_mark_rule(rule).await.unwrap();
        assert_eq!(
            redirector.look(ns, &wanted).await.unwrap(),
            Found::Different
        );
        assert_eq!(
            redirector.ensure(ns, &wanted).await.unwrap(),
            Ensured::Written
        );
        assert_eq!(redirector.look(ns, &wanted).await.unwrap(), Found::Wanted);
    }
    // A loopback that goes down takes its routes with it.
    let down = ns.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6"));
    assert_eq!(down.unwrap().unwrap().trim(), "0");
}
