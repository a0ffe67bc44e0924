use std::collections::BTreeMap;

use ambit_netns::require_privilege;
use ambit_redirect::rules::INBOUND_PLAINTEXT_PORT;
use ambit_redirect::{Capture, Probes, Redirector, RuleSet};

use crate::world::{Call, ECHO, PEER, POD, PROBE, World, addr};

/// The peer plays the node: its kubelet's probes reach the application as
/// they were, other programs' connections go to the proxy.
#[tokio::test]
async fn the_probes_of_kubelet_alone_bypass_the_proxy() {
    if !require_privilege("probes") {
        return;
    }
    let world = World::new().await;
    let (pod, node) = (world.pod.ns(), world.peer.ns());
    let _proxy = world.proxy();
    let redirector = Redirector::new();
    redirector
        .ensure(pod, &RuleSet::Capture(Capture::default()))
        .await
        .unwrap();
    let pods: BTreeMap<_, _> = POD
        .iter()
        .map(|ip| (ip.parse().unwrap(), "pod-uid".into()))
        .collect();
    let us = nix::unistd::getuid().as_raw();
    for (kubelet, probes) in [(us + 4242, false), (us, true)] {
        let mut table = Probes::new(node.clone(), kubelet);
        table.ensure(&pods).await.unwrap();
        for (family, own) in POD.into_iter().enumerate() {
            let mut call = Call::dial(node, addr(own, ECHO)).await.unwrap();
            assert!(call.works().await);
            let (source, captured) = match probes {
                true => (PROBE[family], vec![]),
                false => (
                    PEER[family],
                    vec![(INBOUND_PLAINTEXT_PORT, addr(own, ECHO))],
                ),
            };
            assert_eq!(call.seen_as.to_string(), source);
            assert_eq!(world.take_captured(), captured);
        }
    }
    // A pod that left isn't in the set any more.
    let mut table = Probes::new(node.clone(), us);
    table.ensure(&BTreeMap::new()).await.unwrap();
    assert!(
        Call::dial(node, addr(POD[0], ECHO))
            .await
            .unwrap()
            .works()
            .await
    );
    assert_eq!(world.take_captured().len(), 1);
}
