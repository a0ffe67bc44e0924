use ambit_netns::{NetNs, require_privilege};
use ambit_proto::enrolment::Redirection::{Enabled, Pending};
use ambit_redirect::{Capture, Found, Inbound, Redirector, RuleSet};

use super::world::{World, captured, pod_namespace, ruleset, until};

const AMBIENT: &str = "istio.io/dataplane-mode: ambient";

#[tokio::test]
async fn the_proxy_listens_before_the_rules_go_in_and_then_it_is_told() {
    if !require_privilege("enrolment") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace("");
    world.pod("web", Some(&ns), "");
    let _agent = world.agent().await;
    let proxy = world.proxy();
    world.until_reported(&[]).await;
    assert_eq!(ruleset(ns.ns()), "");

    proxy.hold.send_replace(true);
    world.namespace(AMBIENT);
    let mut pods = proxy.pods.subscribe();
    // The request is under way and not answered; nothing may be redirected.
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert_eq!(ruleset(ns.ns()), "");
    }
    proxy.hold.send_replace(false);
    let added = pods
        .wait_for(|pods| pods.contains_key("uid-web"))
        .await
        .unwrap();
    assert_eq!(added["uid-web"].id(), ns.ns().id());
    drop(added);
    world.until_reported(&[("web", Enabled)]).await;
    assert!(captured(ns.ns()).await);
    assert_eq!(world.control_plane.last.borrow().as_ref().unwrap().len(), 1);
}

#[tokio::test]
async fn a_pod_that_the_proxy_refuses_is_not_redirected_until_it_accepts() {
    if !require_privilege("a refused pod") {
        return;
    }
    let world = World::new().await;
    let (bad, good) = (pod_namespace().await, pod_namespace().await);
    world.namespace(AMBIENT);
    world.pod("bad", Some(&bad), "");
    world.pod("good", Some(&good), "");
    let proxy = world.proxy();
    proxy.refuse.send_replace(["uid-bad".to_owned()].into());
    let _agent = world.agent().await;
    world.until_reported(&[("good", Enabled)]).await;
    assert_eq!(ruleset(bad.ns()), "");
    proxy.refuse.send_modify(std::collections::BTreeSet::clear);
    world
        .until_reported(&[("bad", Enabled), ("good", Enabled)])
        .await;
}

#[tokio::test]
async fn rules_that_were_flushed_come_back() {
    if !require_privilege("repair") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("web", Some(&ns), "");
    let (_agent, _proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[("web", Enabled)]).await;
    for _ in 0..5 {
        let flush = || {
            std::process::Command::new("nft")
                .args(["flush", "ruleset"])
                .status()
        };
        assert!(ns.ns().run(flush).unwrap().unwrap().success());
        until("the rules are back", async || captured(ns.ns()).await).await;
    }
    world.until_reported(&[("web", Enabled)]).await;
}

#[tokio::test]
async fn a_changed_annotation_changes_the_rules() {
    if !require_privilege("ingress mode") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("web", Some(&ns), "");
    let (_agent, _proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[("web", Enabled)]).await;
    world.take_journal();
    world.pod(
        "web",
        Some(&ns),
        r#"ambient.istio.io/bypass-inbound-capture: "true""#,
    );
    let bypass = RuleSet::Capture(Capture {
        inbound: Inbound::Bypass,
        ..Capture::default()
    });
    let redirector = Redirector::new();
    until("inbound is bypassed", async || {
        redirector.look(ns.ns(), &bypass).await.unwrap() == Found::Wanted
    })
    .await;
    world.until_reported(&[("web", Enabled)]).await;
    assert!(
        !world
            .take_journal()
            .iter()
            .any(|what| what == "report []" || what.starts_with("del"))
    );
}

#[tokio::test]
async fn what_must_never_be_enrolled_is_not() {
    if !require_privilege("exclusions") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    // The annotation names the node's own namespace.
    let own = "apiVersion: v1\nkind: Pod\nmetadata: {name: own, namespace: shop, uid: uid-own, \
        annotations: {ambit.mesh/netns: /proc/self/ns/net}}\nspec: {nodeName: worker-1, \
        containers: [{name: main, image: none}]}\n";
    world.write("own.yaml", own);
    let other = own.replace("worker-1", "worker-2").replace("own", "other");
    let other = other.replace("/proc/self/ns/net", &ns.path().display().to_string());
    world.write("other.yaml", &other);
    world.pod("sidecar", Some(&ns), r#"sidecar.istio.io/status: "{}""#);
    let before = ruleset(&NetNs::current().unwrap());
    let (_agent, _proxy) = (world.agent().await, world.proxy());
    let good = pod_namespace().await;
    world.pod("good", Some(&good), "");
    world.until_reported(&[("good", Enabled)]).await;
    assert_eq!(ruleset(ns.ns()), "");
    assert_eq!(ruleset(&NetNs::current().unwrap()), before);
}

#[tokio::test]
async fn a_deleted_pod_and_a_lost_namespace_are_taken_from_the_proxy() {
    if !require_privilege("deletion") {
        return;
    }
    let world = World::new().await;
    let (deleted, lost) = (pod_namespace().await, pod_namespace().await);
    world.namespace(AMBIENT);
    world.pod("deleted", Some(&deleted), "");
    world.pod("lost", Some(&lost), "");
    let (_agent, proxy) = (world.agent().await, world.proxy());
    world
        .until_reported(&[("deleted", Enabled), ("lost", Enabled)])
        .await;
    world.remove("deleted.yaml");
    world.until_reported(&[("lost", Enabled)]).await;
    let mut pods = proxy.pods.subscribe();
    pods.wait_for(|pods| pods.len() == 1).await.unwrap();
    assert!(
        captured(deleted.ns()).await,
        "what still runs isn't let past policy"
    );
    drop(lost);
    pods.wait_for(|pods| pods.is_empty()).await.unwrap();
    world.until_reported(&[]).await;
}

/// Rules of a pod before it are no proof that a proxy knows this one.
#[tokio::test]
async fn a_pod_in_a_redirected_namespace_is_pending_until_the_proxy_confirms_it() {
    if !require_privilege("pending") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("before", Some(&ns), "");
    let (_agent, proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[("before", Enabled)]).await;
    proxy.hold.send_replace(true);
    world.remove("before.yaml");
    world.pod("after", Some(&ns), "");
    world.until_reported(&[("after", Pending)]).await;
    assert!(captured(ns.ns()).await);
    proxy.hold.send_replace(false);
    world.until_reported(&[("after", Enabled)]).await;
}
