use ambit_netns::{NetNs, require_privilege};
use ambit_proto::enrolment::Redirection::Enabled;
use tokio::net::{TcpListener, TcpStream};

use super::world::{World, captured, draining, pod_namespace, ruleset, until};

const AMBIENT: &str = "dataplane-mode: ambient";

/// A connection that a proxy of the pod carries.
async fn carried(ns: &NetNs) -> (TcpStream, TcpStream) {
    let listener = ns
        .run(|| std::net::TcpListener::bind("127.0.0.1:15001").unwrap())
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let dialled = ns
        .run(|| std::net::TcpStream::connect("127.0.0.1:15001").unwrap())
        .unwrap();
    dialled.set_nonblocking(true).unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    (TcpStream::from_std(dialled).unwrap(), accepted)
}

#[tokio::test]
async fn it_is_told_first_then_drained_then_dropped_and_no_trace_is_left() {
    if !require_privilege("leaving") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    let before = ruleset(ns.ns());
    world.namespace(AMBIENT);
    world.pod("web", Some(&ns), "");
    let (_agent, proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[("web", Enabled)]).await;
    let connection = carried(ns.ns()).await;
    world.take_journal();

    world.namespace("");
    world.until_reported(&[]).await;
    until("new connections go direct", async || {
        draining(ns.ns()).await
    })
    .await;
    // Longer than peers get to hear of it; the proxy must still be there.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert!(proxy.pods.borrow().contains_key("uid-web"));
    assert!(draining(ns.ns()).await);
    drop(connection);
    until("no trace is left", async || ruleset(ns.ns()) == before).await;
    assert_eq!(world.take_journal(), ["report []", "del uid-web"]);
}

#[tokio::test]
async fn the_bound_cuts_what_is_still_carried() {
    if !require_privilege("the bound of leaving") {
        return;
    }
    let mut world = World::new().await;
    world.drain_bound = "300ms";
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("web", Some(&ns), "");
    let (_agent, _proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[("web", Enabled)]).await;
    let _connection = carried(ns.ns()).await;
    world.namespace("");
    until("it left", async || ruleset(ns.ns()).is_empty()).await;
}

#[tokio::test]
async fn the_proxy_stays_until_the_control_plane_has_heard() {
    if !require_privilege("leaving unheard") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("web", Some(&ns), "");
    let (_agent, proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[("web", Enabled)]).await;
    world.control_plane.answers.send_replace(false);
    world.namespace("");
    world.until_reported(&[]).await;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert!(proxy.pods.borrow().contains_key("uid-web"));
    world.control_plane.answers.send_replace(true);
    until("it left", async || ruleset(ns.ns()).is_empty()).await;
}

#[tokio::test]
async fn a_pod_that_comes_back_while_it_leaves_is_enrolled_at_once() {
    if !require_privilege("coming back") {
        return;
    }
    let world = World::new().await;
    let ns = pod_namespace().await;
    world.namespace(AMBIENT);
    world.pod("web", Some(&ns), "");
    let (_agent, _proxy) = (world.agent().await, world.proxy());
    world.until_reported(&[("web", Enabled)]).await;
    let _connection = carried(ns.ns()).await;
    world.namespace("");
    until("it drains", async || draining(ns.ns()).await).await;
    world.take_journal();
    world.namespace(AMBIENT);
    world.until_reported(&[("web", Enabled)]).await;
    assert!(captured(ns.ns()).await);
    assert!(
        !world
            .take_journal()
            .iter()
            .any(|what| what.starts_with("del"))
    );
}
