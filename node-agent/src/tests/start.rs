use ambit_netns::{NamedNetNs, require_privilege};
use ambit_proto::enrolment::Redirection::Enabled;
use ambit_testkit::client::post_unix;

use super::world::{World, captured, pod_namespace, ruleset};

const AMBIENT: &str = "istio.io/dataplane-mode: ambient";

async fn plugin(world: &World, path: &str, pod: &str, ns: &NamedNetNs) -> (u16, String) {
    let body = format!(
        r#"{{"Netns": "{}", "PodName": "{pod}", "PodNamespace": "shop", "IPs": [
            {{"Interface": 0, "Address": {{"IP": "10.1.2.3", "Mask": "//8AAA=="}}, "Gateway": "10.1.0.1"}},
            {{"Interface": 0, "Address": "fd00::3/64", "Gateway": "fd00::1"}}]}}"#,
        ns.path().display()
    );
    let answer = post_unix(&world.path("cni.sock"), path, body)
        .await
        .unwrap();
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_pod_that_starts_is_held_until_proxy_and_rules_are_there() {
    if !require_privilege("a pod that starts") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("web", None, "");
    let (_agent, proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[]).await;
    proxy.hold.send_replace(true);
    let asked = plugin(&world, "/cmdadd", "web", &ns);
    tokio::pin!(asked);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut asked).await;
    assert!(early.is_err(), "the answer came before the proxy listens");
    assert_eq!(ruleset(ns.ns()), "");
    proxy.hold.send_replace(false);
    assert_eq!(asked.await.0, 200);
    assert!(captured(ns.ns()).await);
    world.until_reported(&[("web", Enabled)]).await;

    assert_eq!(plugin(&world, "/cmddel", "web", &ns).await.0, 200);
    world.until_reported(&[]).await;
    let mut pods = proxy.pods.subscribe();
    pods.wait_for(|pods| pods.is_empty()).await.unwrap();
    // Its sandbox is made again.
    assert_eq!(plugin(&world, "/cmdadd", "web", &ns).await.0, 200);
    world.until_reported(&[("web", Enabled)]).await;
}

#[tokio::test]
async fn whoever_is_not_enrolled_may_start_and_failures_say_why() {
    if !require_privilege("the plugin's answers") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("web", None, "");
    world.pod("job", None, r#"sidecar.istio.io/status: "{}""#);
    let (_agent, proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[]).await;
    assert_eq!(plugin(&world, "/cmdadd", "job", &ns).await.0, 200);
    assert_eq!(ruleset(ns.ns()), "");
    let (status, why) = plugin(&world, "/cmdadd", "nobody", &ns).await;
    assert_eq!(
        (status, why.as_str()),
        (500, "pod shop/nobody isn't known to the agent of this node")
    );
    proxy.refuse.send_replace(["uid-web".to_owned()].into());
    let (status, why) = plugin(&world, "/cmdadd", "web", &ns).await;
    assert_eq!(status, 500);
    assert!(why.contains("port 15001 is taken"), "{why}");
    assert_eq!(ruleset(ns.ns()), "");
    for (path, body, want) in [("/cmdadd", "{", 400), ("/other", "{}", 404)] {
        let answer = post_unix(&world.path("cni.sock"), path, body.into())
            .await
            .unwrap();
        assert_eq!(answer.status, want);
    }
}
