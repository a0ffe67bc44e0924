use std::sync::Arc;
use std::sync::atomic::Ordering;

use ambit_xds::{Termination, TypeSub, TypeSync};

use crate::harness::{ADDRESS, POLICY, World, both, delta, eventually};

#[tokio::test(start_paused = true)]
async fn a_client_is_ready_once_it_has_everything_even_if_that_is_nothing() {
    let world = Arc::new(World::new());
    let client = world.client(both(), None);
    eventually("refused while nothing is published", || {
        world.counted.terminated.lock().len() > 2
    })
    .await;
    assert!(!client.readiness.is_ready());
    world.publish(vec![]);
    eventually("ready", || client.readiness.is_ready()).await;
    assert_eq!(world.counted.resources.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_one_resource_on_the_wire() {
    let world = Arc::new(World::new());
    world.publish(vec![delta(ADDRESS, &[("a", "1"), ("b", "1")], &[])]);
    let client = world.client(both(), None);
    eventually("ready", || client.readiness.is_ready()).await;
    client.seen.take_log();
    world.publish(vec![delta(ADDRESS, &[("b", "2")], &[])]);
    eventually("b changed", || client.seen.held(ADDRESS)["b"] == "2").await;
    assert_eq!(client.seen.take_log(), ["b"]);
    eventually("synced", || {
        let all = world.server.connections();
        all.iter()
            .flat_map(|c| &c.types)
            .all(|t| t.sync == TypeSync::Synced && t.wildcard)
    })
    .await;
    assert!(world.counted.converged.load(Ordering::SeqCst) > 0);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_keeps_what_is_held_and_brings_the_difference() {
    let world = Arc::new(World::new());
    let start = [("same", "1"), ("changes", "1"), ("goes", "1")];
    world.publish(vec![delta(ADDRESS, &start, &[])]);
    let client = world.client(both(), None);
    eventually("ready", || client.readiness.is_ready()).await;
    client.seen.take_log();
    world.set_down(true);
    let refused = || {
        let ends = world.counted.terminated.lock();
        ends.contains(&Termination::ConnectionError)
    };
    eventually("noticed", refused).await;
    world.publish(vec![delta(
        ADDRESS,
        &[("changes", "2"), ("new", "1")],
        &["goes"],
    )]);
    assert_eq!(client.seen.held(ADDRESS).len(), 3, "traffic goes on");
    assert!(client.readiness.is_ready());
    world.set_down(false);
    eventually("caught up", || {
        client.seen.held(ADDRESS).contains_key("new")
    })
    .await;
    let mut log = client.seen.take_log();
    log.sort();
    assert_eq!(log, ["-goes", "changes", "new"]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_resource_keeps_its_last_good_form_and_comes_again_on_reconnect() {
    let world = Arc::new(World::new());
    world.publish(vec![delta(POLICY, &[("p", "1"), ("q", "1")], &[])]);
    let client = world.client(both(), None);
    eventually("ready", || client.readiness.is_ready()).await;
    client.seen.take_log();
    world.publish(vec![delta(POLICY, &[("p", "bad"), ("q", "2")], &[])]);
    let rejected = || world.counted.rejected.load(Ordering::SeqCst);
    eventually("nacked", || rejected() == 1).await;
    let held = client.seen.held(POLICY);
    assert_eq!((held["p"].as_str(), held["q"].as_str()), ("1", "2"));
    let status = &world.server.connections()[0].types;
    let policy = status.iter().find(|t| t.type_url.as_ref() == POLICY);
    assert_eq!(policy.unwrap().sync, TypeSync::Error);
    assert_eq!(
        policy.unwrap().error.as_deref(),
        Some("p: as the test wants")
    );
    client.seen.take_log();
    world.cut();
    eventually("nacked again", || rejected() == 2).await;
    assert_eq!(client.seen.take_log(), ["p"], "q is at its version");
    world.publish(vec![delta(POLICY, &[("p", "3")], &[])]);
    eventually("good again", || client.seen.held(POLICY)["p"] == "3").await;
}

#[tokio::test(start_paused = true)]
async fn who_isnt_admitted_gets_nothing() {
    use ambit_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    use ambit_proto::discovery::{DeltaDiscoveryRequest, Node};
    let world = Arc::new(World::new());
    world.publish(vec![delta(ADDRESS, &[("a", "1")], &[])]);
    let cases = [
        (None, tonic::Code::InvalidArgument),
        (Some("ztunnel~1.1.1.1~a.b"), tonic::Code::InvalidArgument),
        (Some("ztunnel~1.1.1.1~a.b~c"), tonic::Code::PermissionDenied),
    ];
    for (id, code) in cases {
        let request = DeltaDiscoveryRequest {
            type_url: ADDRESS.into(),
            node: id.map(|id| Node {
                id: id.into(),
                ..Node::default()
            }),
            ..DeltaDiscoveryRequest::default()
        };
        let mut client = AggregatedDiscoveryServiceClient::new(world.channel());
        let requests = tokio_stream::iter([request]);
        let mut responses = client
            .delta_aggregated_resources(requests)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(responses.message().await.unwrap_err().code(), code);
    }
    assert_eq!(world.counted.opened.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_leaves_nothing_behind() {
    let world = Arc::new(World::new());
    world.publish(vec![]);
    let client = world.client(vec![TypeSub::wildcard(ADDRESS)], None);
    eventually("ready without policies", || client.readiness.is_ready()).await;
    assert_eq!(world.server.connections().len(), 1);
    world.set_down(true);
    eventually("gone", || world.server.connections().is_empty()).await;
    eventually("counted", || {
        world.counted.closed.load(Ordering::SeqCst) == world.counted.opened.load(Ordering::SeqCst)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_first_answer_arrives_whole_while_the_world_changes() {
    let world = Arc::new(World::new());
    let long = "x".repeat(300);
    let names: Vec<String> = (0..20_000).map(|i| format!("w{i:05}")).collect();
    let all: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), long.as_str())).collect();
    world.publish(vec![delta(ADDRESS, &all, &[])]);
    let client = world.client(both(), None);
    eventually("the stream is open", || {
        world.counted.opened.load(Ordering::SeqCst) == 1
    })
    .await;
    // Megabytes are on a link that takes 4 KiB at a time.
    for i in 0..300 {
        let name = names[i % 7].as_str();
        world.publish(vec![delta(ADDRESS, &[(name, &i.to_string())], &[])]);
        tokio::task::yield_now().await;
    }
    world.publish(vec![delta(ADDRESS, &[], &["w19999"])]);
    let last: Vec<String> = (293..300).map(|i| i.to_string()).collect();
    eventually("all of it, and the last of each", || {
        let held = client.seen.held(ADDRESS);
        held.len() == 19_999 && (293..300).all(|i| held[&names[i % 7]] == last[i - 293])
    })
    .await;
    assert!(client.readiness.is_ready());
}
