use std::sync::Arc;
use std::time::Duration;

use ambit_xds::{Demand, TypeDelta, TypeSub, Update, demand};

use crate::harness::{ADDRESS, Client, POLICY, World, eventually, update};

fn start(world: &Arc<World>) -> (Client, Demand) {
    let (demand, queue) = demand();
    let types = vec![TypeSub::on_demand(ADDRESS), TypeSub::wildcard(POLICY)];
    (world.client(types, Some(queue)), demand)
}

fn shop() -> Vec<TypeDelta> {
    let pod = |name: &str, ip: &str| Update {
        aliases: vec![format!("/{ip}").into()],
        groups: vec!["shop/cart".into()],
        ..update(name, "1")
    };
    let service = Update {
        aliases: vec!["/10.96.0.1".into()],
        ..update("shop/cart", "1")
    };
    vec![TypeDelta {
        type_url: ADDRESS.into(),
        changed: vec![service, pod("a", "10.0.0.1"), pod("b", "10.0.0.2")],
        removed: Vec::new(),
    }]
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_answer_is_applied() {
    let world = Arc::new(World::new());
    world.publish(shop());
    let (client, demand) = start(&world);
    eventually("ready", || client.readiness.is_ready()).await;
    assert!(client.seen.held(ADDRESS).is_empty());

    demand.want(ADDRESS, "/10.0.0.1").await;
    assert!(client.seen.held(ADDRESS).contains_key("a"));
    demand.want(ADDRESS, "/10.96.0.1").await;
    let held = client.seen.held(ADDRESS);
    let names: Vec<_> = held.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "b", "shop/cart"]);

    client.seen.take_log();
    demand.want(ADDRESS, "/10.9.9.9").await;
    demand.want(ADDRESS, "shop/none").await;
    assert_eq!(client.seen.take_log(), ["-/10.9.9.9", "-shop/none"]);
}

#[tokio::test(start_paused = true)]
async fn new_endpoints_of_a_service_follow() {
    let world = Arc::new(World::new());
    world.publish(shop());
    let (client, demand) = start(&world);
    demand.want(ADDRESS, "shop/cart").await;
    let new = Update {
        groups: vec!["shop/cart".into()],
        ..update("new", "1")
    };
    world.publish(vec![TypeDelta {
        type_url: ADDRESS.into(),
        changed: vec![new, update("foreign", "1")],
        removed: vec!["a".into()],
    }]);
    eventually("new", || client.seen.held(ADDRESS).contains_key("new")).await;
    let held = client.seen.held(ADDRESS);
    assert!(!held.contains_key("a") && !held.contains_key("foreign"));
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_while_the_control_plane_is_away_is_answered_later() {
    let world = Arc::new(World::new());
    world.publish(shop());
    let (client, demand) = start(&world);
    demand.want(ADDRESS, "/10.0.0.1").await;
    world.set_down(true);
    let waiting = demand.want(ADDRESS, "/10.0.0.2");
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_secs(30), &mut waiting).await;
    assert!(early.is_err(), "nobody can know");
    assert!(client.seen.held(ADDRESS).contains_key("a"), "serves on");
    world.set_down(false);
    waiting.await;
    assert!(client.seen.held(ADDRESS).contains_key("b"));
}
