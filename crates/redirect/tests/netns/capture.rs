use std::net::SocketAddr;

use ambit_netns::require_privilege;
use ambit_redirect::rules::{HBONE_PORT, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, PROXY_MARK};
use ambit_redirect::{Capture, Ensured, Found, Inbound, Redirector, RuleSet};

use crate::world::{Call, ECHO, LOOPBACK, PEER, POD, PROBE, World, addr};

fn capture() -> RuleSet {
    RuleSet::Capture(Capture::default())
}

#[tokio::test]
async fn both_directions_are_captured_and_the_source_is_preserved() {
    if !require_privilege("capture") {
        return;
    }
    let world = World::new().await;
    let (pod, peer) = (world.pod.ns(), world.peer.ns());
    // As strict as a distribution may have it: spoofed sources go over lo alone.
    for link in ["all", "default", "lo", "eth0"] {
        let path = format!("/proc/sys/net/ipv4/conf/{link}/rp_filter");
        pod.run(|| std::fs::write(path, "1")).unwrap().unwrap();
    }
    let _proxy = world.proxy();
    assert_eq!(
        Redirector::new().ensure(pod, &capture()).await.unwrap(),
        Ensured::Written
    );
    for (own, other) in POD.iter().zip(PEER) {
        let mut out = Call::dial(pod, addr(other, ECHO)).await.unwrap();
        assert!(out.works().await);
        assert_eq!(out.seen_as.to_string(), *own);
        assert_eq!(world.take_captured(), [(OUTBOUND_PORT, addr(other, ECHO))]);

        // The application's answers to a spoofed source come back over rules 2, 6, 11 and table 100.
        let mut inside = Call::dial(peer, addr(own, ECHO)).await.unwrap();
        assert!(inside.works().await);
        assert_eq!(inside.seen_as.to_string(), other);
        assert_eq!(
            world.take_captured(),
            [(INBOUND_PLAINTEXT_PORT, addr(own, ECHO))]
        );
    }
}

#[tokio::test]
async fn what_must_pass_passes() {
    if !require_privilege("exemptions") {
        return;
    }
    let world = World::new().await;
    let (pod, peer) = (world.pod.ns(), world.peer.ns());
    let _proxy = world.proxy();
    Redirector::new().ensure(pod, &capture()).await.unwrap();
    for (family, own) in POD.into_iter().enumerate() {
        let (other, probe) = (PEER[family], PROBE[family]);
        let direct = async |what: &str, call: std::io::Result<Call>| {
            let mut call = call.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(call.works().await, "{what}");
            assert_eq!(world.take_captured(), [], "{what}");
        };
        let from = Some(probe.parse().unwrap());
        let probed = Call::dial_with(peer, addr(own, ECHO), from, None).await;
        direct("kubelet's probe", probed).await;
        let marked = Call::dial_with(pod, addr(other, ECHO), None, Some(PROXY_MARK)).await;
        direct("the proxy's own", marked).await;
        direct("pod to itself", Call::dial(pod, addr(own, ECHO)).await).await;
        let loopback = SocketAddr::new(LOOPBACK[family], ECHO);
        direct("loopback", Call::dial(pod, loopback).await).await;
        direct("HBONE", Call::dial(peer, addr(own, HBONE_PORT)).await).await;
    }
}

#[tokio::test]
async fn ingress_mode_leaves_inbound_alone() {
    if !require_privilege("ingress mode") {
        return;
    }
    let world = World::new().await;
    let _proxy = world.proxy();
    let wanted = RuleSet::Capture(Capture {
        inbound: Inbound::Bypass,
        ..Capture::default()
    });
    let redirector = Redirector::new();
    redirector.ensure(world.pod.ns(), &wanted).await.unwrap();
    for (own, other) in POD.into_iter().zip(PEER) {
        assert!(
            Call::dial(world.peer.ns(), addr(own, ECHO))
                .await
                .unwrap()
                .works()
                .await
        );
        assert_eq!(world.take_captured(), []);
        assert!(
            Call::dial(world.pod.ns(), addr(other, ECHO))
                .await
                .unwrap()
                .works()
                .await
        );
        assert_eq!(world.take_captured(), [(OUTBOUND_PORT, addr(other, ECHO))]);
    }
    let normal = redirector.look(world.pod.ns(), &capture()).await.unwrap();
    assert_eq!(normal, Found::Different, "the annotation's change is seen");
}

#[tokio::test]
async fn ipv4_alone_leaves_ipv6_alone() {
    if !require_privilege("IPv4 alone") {
        return;
    }
    let world = World::new().await;
    let _proxy = world.proxy();
    let wanted = RuleSet::Capture(Capture {
        ipv6: false,
        dns: true,
        virtual_interfaces: vec!["tap0".into()],
        ..Capture::default()
    });
    Redirector::new()
        .ensure(world.pod.ns(), &wanted)
        .await
        .unwrap();
    for (other, captured) in PEER.into_iter().zip([1, 0]) {
        assert!(
            Call::dial(world.pod.ns(), addr(other, ECHO))
                .await
                .unwrap()
                .works()
                .await
        );
        assert_eq!(world.take_captured().len(), captured, "{other}");
    }
}

#[tokio::test]
async fn every_shape_of_the_rule_set_is_accepted_and_recognised() {
    if !require_privilege("rule sets") {
        return;
    }
    let world = World::new().await;
    let ns = world.pod.ns();
    let redirector = Redirector::new();
    for inbound in [Inbound::Capture, Inbound::Bypass] {
        for (ipv6, dns) in [(true, true), (true, false), (false, true), (false, false)] {
            for virtual_interfaces in [vec![], vec!["tap0".into(), "tap1".into()]] {
                let wanted = RuleSet::Capture(Capture {
                    inbound,
                    ipv6,
                    dns,
                    virtual_interfaces,
                });
                assert_eq!(
                    redirector.ensure(ns, &wanted).await.unwrap(),
                    Ensured::Written
                );
                assert_eq!(
                    redirector.look(ns, &wanted).await.unwrap(),
                    Found::Wanted,
                    "{wanted:?}"
                );
                assert_eq!(
                    redirector.ensure(ns, &wanted).await.unwrap(),
                    Ensured::Intact
                );
                let fresh = Redirector::new();
                assert_eq!(
                    fresh.look(ns, &wanted).await.unwrap(),
                    Found::Wanted,
                    "after a restart"
                );
                assert_ne!(
                    redirector.look(ns, &RuleSet::Drain).await.unwrap(),
                    Found::Wanted
                );
            }
        }
    }
}
