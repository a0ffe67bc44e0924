use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ambit_netns::{NetNs, Netlink, require_privilege};
use ambit_redirect::rules::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, ROUTE_TABLE};
use ambit_redirect::{Capture, Redirector, RuleSet, live_connections};
use ambit_runtime::CancellationToken;

use crate::world::{Call, ECHO, PEER, POD, World, addr};

/// Everything that redirection could leave behind.
#[derive(Debug, PartialEq)]
struct Trace {
    rules: String,
    policy: Vec<ambit_netns::PolicyRule>,
    table: Vec<ambit_netns::TableRoute>,
    routes: Vec<String>,
}

async fn trace(ns: &NetNs) -> Trace {
    let (rules, routes) = ns
        .run(|| {
            let listing = Command::new("nft")
                .args(["-j", "list", "ruleset"])
                .output()
                .unwrap();
            let route = |file| {
                let text: String = std::fs::read_to_string(file).unwrap();
                // Without reference and use counts.
                let columns = |l: &str| {
                    let columns: Vec<_> = l.split_ascii_whitespace().collect();
                    format!(
                        "{:?} {}",
                        &columns[..5.min(columns.len())],
                        columns[columns.len() - 1]
                    )
                };
                // A table that once was has a null entry for ever, as main has;
                // what is local to a link comes when the kernel sees fit.
                let links = |l: &str| l.starts_with("fe80") || l.starts_with("ff00");
                text.lines()
                    .filter(|l| !l.contains("ffffffff 00000001 00000000 00200200") && !links(l))
                    .map(columns)
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            let files = [
                "/proc/thread-self/net/route",
                "/proc/thread-self/net/ipv6_route",
            ];
            (
                String::from_utf8(listing.stdout).unwrap(),
                files.map(route).to_vec(),
            )
        })
        .unwrap();
    let netlink = Netlink::in_ns(ns).unwrap();
    Trace {
        rules,
        policy: netlink.mark_rules().await.unwrap(),
        table: netlink.routes_in_table(ROUTE_TABLE).await.unwrap(),
        routes,
    }
}

#[tokio::test]
async fn connections_live_through_enrolment_and_leaving_and_no_trace_stays() {
    if !require_privilege("enrolment and leaving") {
        return;
    }
    let world = World::new().await;
    let (pod, peer) = (world.pod.ns(), world.peer.ns());
    let redirector = Redirector::new();
    let before = trace(pod).await;
    let mut plain = Vec::new();
    for (own, other) in POD.into_iter().zip(PEER) {
        plain.push(Call::dial(pod, addr(other, ECHO)).await.unwrap());
        plain.push(Call::dial(peer, addr(own, ECHO)).await.unwrap());
    }
    assert_eq!(live_connections(pod).await.unwrap(), 0);

    // Enrolled: what was there goes on directly, what is new is captured.
    let proxy = world.proxy();
    redirector
        .ensure(pod, &RuleSet::Capture(Capture::default()))
        .await
        .unwrap();
    for call in &mut plain {
        assert!(call.works().await, "a connection from before the enrolment");
    }
    assert_eq!(world.take_captured(), []);
    let mut carried = Vec::new();
    for (own, other) in POD.into_iter().zip(PEER) {
        carried.push(Call::dial(pod, addr(other, ECHO)).await.unwrap());
        carried.push(Call::dial(peer, addr(own, ECHO)).await.unwrap());
    }
    assert_eq!(
        world
            .take_captured()
            .iter()
            .map(|c| c.0)
            .collect::<Vec<_>>(),
        [
            OUTBOUND_PORT,
            INBOUND_PLAINTEXT_PORT,
            OUTBOUND_PORT,
            INBOUND_PLAINTEXT_PORT
        ]
    );
    // Outbound one socket a flow, inbound two: the caller's and the spoofed one.
    assert_eq!(live_connections(pod).await.unwrap(), 6);

    // Leaving: new ones go direct at once, carried ones are carried on.
    redirector.ensure(pod, &RuleSet::Drain).await.unwrap();
    for (own, other) in POD.into_iter().zip(PEER) {
        assert!(
            Call::dial(pod, addr(other, ECHO))
                .await
                .unwrap()
                .works()
                .await
        );
        assert!(
            Call::dial(peer, addr(own, ECHO))
                .await
                .unwrap()
                .works()
                .await
        );
    }
    assert_eq!(world.take_captured(), []);
    for call in carried.iter_mut().chain(&mut plain) {
        assert!(call.works().await);
    }
    assert_eq!(live_connections(pod).await.unwrap(), 6);
    drop(carried);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while live_connections(pod).await.unwrap() > 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "closed connections still count"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Left.
    redirector.remove(pod).await.unwrap();
    proxy.cancel();
    for call in &mut plain {
        assert!(call.works().await, "a connection from before the enrolment");
    }
    assert_eq!(trace(pod).await, before);
    redirector.remove(pod).await.unwrap();
}

#[tokio::test]
async fn carried_connections_survive_a_rewrite_of_the_rules() {
    if !require_privilege("rewriting rules") {
        return;
    }
    let world = World::new().await;
    let (pod, peer) = (world.pod.ns(), world.peer.ns());
    let _proxy = world.proxy();
    let redirector = Redirector::new();
    let wanted = RuleSet::Capture(Capture::default());
    redirector.ensure(pod, &wanted).await.unwrap();
    let mut carried = Vec::new();
    for (own, other) in POD.into_iter().zip(PEER) {
        carried.push(Call::dial(pod, addr(other, ECHO)).await.unwrap());
        carried.push(Call::dial(peer, addr(own, ECHO)).await.unwrap());
    }
    let changed = RuleSet::Capture(Capture {
        dns: true,
        ..Capture::default()
    });
    for rules in [&changed, &RuleSet::Drain, &wanted] {
        redirector.ensure(pod, rules).await.unwrap();
        for call in &mut carried {
            assert!(call.works().await, "{rules:?}");
        }
    }
}

/// Whoever dials while rules come and go gets through, every time.
#[tokio::test]
async fn no_dial_fails_while_rules_come_and_go() {
    if !require_privilege("dialling all the time") {
        return;
    }
    let world = World::new().await;
    let _proxy = world.proxy();
    let (done, dialled) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
    let dialling = world.scope.child("dialling");
    for (own, other) in POD.into_iter().zip(PEER) {
        for (ns, to) in [(world.pod.ns(), other), (world.peer.ns(), own)] {
            let (ns, to, done, dialled) = (
                ns.clone(),
                addr(to, ECHO),
                done.clone(),
                Arc::clone(&dialled),
            );
            dialling.spawn("dialling", async move {
                while !done.is_cancelled() {
                    let mut call = Call::dial(&ns, to).await.unwrap();
                    assert!(call.works().await);
                    dialled.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    let redirector = Redirector::new();
    let ns = world.pod.ns();
    for _ in 0..5 {
        redirector
            .ensure(ns, &RuleSet::Capture(Capture::default()))
            .await
            .unwrap();
        let before = dialled.load(Ordering::Relaxed);
        while dialled.load(Ordering::Relaxed) < before + 20 {
            assert_eq!(dialling.panics(), 0, "a dial failed");
            tokio::task::yield_now().await;
        }
        redirector.ensure(ns, &RuleSet::Drain).await.unwrap();
        while live_connections(ns).await.unwrap() > 0 {
            assert_eq!(dialling.panics(), 0, "a dial failed");
            tokio::task::yield_now().await;
        }
        redirector.remove(ns).await.unwrap();
    }
    done.cancel();
    assert_eq!(dialling.finish(Duration::from_secs(10)).await, 0);
    assert_eq!(dialling.panics(), 0, "a dial failed");
    assert!(!world.take_captured().is_empty());
}
