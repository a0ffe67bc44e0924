use ambit_netns::require_privilege;
use ambit_proto::enrolment::Redirection::Enabled;

use super::world::{World, captured, draining, pod_namespace, ruleset, until};

const AMBIENT: &str = "istio.io/dataplane-mode: ambient";

#[tokio::test]
async fn a_restarted_agent_adopts_what_it_finds() {
    if !require_privilege("an agent's restart") {
        return;
    }
    let world = World::new().await;
    let (ns, other) = (pod_namespace().await, pod_namespace().await);
    world.namespace(AMBIENT);
    world.pod("web", Some(&ns), "");
    world.pod("other", Some(&other), "");
    let agent = world.agent().await;
    let proxy = world.proxy();
    world
        .until_reported(&[("web", Enabled), ("other", Enabled)])
        .await;
    agent.stop().await;
    proxy.stop().await;
    let rules = ruleset(ns.ns());
    world.take_journal();

    // No proxy is there yet: peers must not be told that the pods aren't HBONE.
    let agent = world.agent().await;
    until("it reports", async || !world.take_journal().is_empty()).await;
    world
        .until_reported(&[("web", Enabled), ("other", Enabled)])
        .await;
    assert_eq!(ruleset(ns.ns()), rules, "nothing was rewritten");
    let proxy = world.proxy();
    let mut pods = proxy.pods.subscribe();
    pods.wait_for(|pods| pods.len() == 2).await.unwrap();
    assert_eq!(ruleset(ns.ns()), rules);
    let reports = world.take_journal();
    assert!(!reports.contains(&"report []".to_owned()), "{reports:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_restarted_proxy_gets_the_snapshot_and_rules_stay_meanwhile() {
    if !require_privilege("a proxy's restart") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("web", Some(&ns), "");
    let (_agent, proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[("web", Enabled)]).await;
    proxy.stop().await;
    world.take_journal();
    assert!(captured(ns.ns()).await);
    let proxy = world.proxy();
    let mut pods = proxy.pods.subscribe();
    pods.wait_for(|pods| pods.contains_key("uid-web"))
        .await
        .unwrap();
    until("the snapshot ends", async || {
        world
            .journal
            .lock()
            .unwrap()
            .contains(&"snapshot".to_owned())
    })
    .await;
    assert_eq!(
        world.take_journal(),
        ["add uid-web", "snapshot"],
        "nothing new was reported"
    );
}

#[tokio::test]
async fn a_restarted_agent_goes_on_draining() {
    if !require_privilege("a restart while a pod leaves") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("web", Some(&ns), "");
    let (agent, proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[("web", Enabled)]).await;
    world.control_plane.answers.send_replace(false);
    world.namespace("");
    until("it drains", async || draining(ns.ns()).await).await;
    agent.stop().await;
    proxy.stop().await;
    world.take_journal();
    let (_agent, proxy) = (world.agent().await, world.proxy());
    let mut pods = proxy.pods.subscribe();
    pods.wait_for(|pods| pods.contains_key("uid-web"))
        .await
        .unwrap();
    world.control_plane.answers.send_replace(true);
    until("it left", async || ruleset(ns.ns()).is_empty()).await;
}
