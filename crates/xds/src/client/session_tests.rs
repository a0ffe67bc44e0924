use std::collections::BTreeMap;

use super::*;

const A: &str = "type.googleapis.com/a";
const B: &str = "type.googleapis.com/b";

/// Holds names and bodies; refuses bodies that begin with `bad`.
#[derive(Default)]
struct Sink(BTreeMap<String, Bytes>);

impl ResourceSink for Sink {
    fn apply(
        &mut self,
        _type_url: &str,
        changed: Vec<ReceivedResource>,
        removed: Vec<String>,
    ) -> Vec<Rejection> {
        for name in removed {
            self.0.remove(&name);
        }
        let mut rejected = Vec::new();
        for resource in changed {
            if resource.body.starts_with(b"bad") {
                rejected.push(Rejection {
                    name: resource.name,
                    reason: "as the test wants".into(),
                });
            } else {
                self.0.insert(resource.name, resource.body);
            }
        }
        rejected
    }
}

fn session(types: &[TypeSub]) -> Session {
    let node = Node {
        id: "ztunnel~10.0.0.1~zt.istio-system~x".into(),
        ..Node::default()
    };
    Session::new(node, types.to_vec())
}

fn resource(type_url: &str, name: &str, version: &str, body: &str) -> Resource {
    Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(prost_types::Any {
            type_url: type_url.into(),
            value: body.as_bytes().to_vec(),
        }),
        ..Resource::default()
    }
}

fn response(type_url: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: "n1".into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn versions(request: &DeltaDiscoveryRequest) -> Vec<(&str, &str)> {
    let mut all: Vec<_> = request
        .initial_resource_versions
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn the_first_requests_are_wildcards_with_the_node_and_nothing_held() {
    let session = session(&[TypeSub::wildcard(A), TypeSub::wildcard(B)]);
    let first = session.on_open();
    let urls: Vec<_> = first.iter().map(|r| r.type_url.as_str()).collect();
    assert_eq!(urls, [A, B], "in the order given");
    for request in first {
        assert!(request.node.is_some());
        assert!(request.resource_names_subscribe.is_empty());
        assert!(request.resource_names_unsubscribe.is_empty());
        assert!(request.initial_resource_versions.is_empty());
        assert!(request.response_nonce.is_empty());
    }
}

#[test]
fn an_ack_carries_type_and_nonce_only() {
    let mut session = session(&[TypeSub::wildcard(A)]);
    let answer = session.on_response(
        response(A, vec![resource(A, "x", "1", "body")], &[]),
        &mut Sink::default(),
    );
    let want = DeltaDiscoveryRequest {
        type_url: A.into(),
        response_nonce: "n1".into(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(answer.request, want);
}

#[test]
fn good_resources_of_a_nacked_response_stay_and_bad_ones_are_not_echoed() {
    let mut session = session(&[TypeSub::wildcard(A)]);
    let mut sink = Sink::default();
    session.on_response(
        response(A, vec![resource(A, "was-good", "1", "first")], &[]),
        &mut sink,
    );
    let mut bodyless = resource(A, "bodyless", "1", "");
    bodyless.resource = None;
    let resources = vec![
        resource(A, "good", "7", "body"),
        resource(A, "was-good", "2", "bad"),
        resource(A, "new-bad", "1", "bad"),
        resource(B, "alien", "1", "body"),
        bodyless,
    ];
    let answer = session.on_response(response(A, resources, &[]), &mut sink);
    let message = answer.request.error_detail.unwrap().message;
    let mut reasons: Vec<_> = message.split("; ").collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        [
            "alien: body is a type.googleapis.com/b",
            "bodyless: resource without a body",
            "new-bad: as the test wants",
            "was-good: as the test wants",
        ]
    );
    assert_eq!(sink.0["was-good"], "first", "keeps its last good form");
    assert_eq!(sink.0["good"], "body");
    // A reconnect makes the server send the rejected ones again.
    let again = session.on_open();
    assert_eq!(versions(&again[0]), [("good", "7"), ("was-good", "1")]);
}

#[test]
fn ready_after_the_first_ack_of_every_wildcard_type() {
    let mut session = session(&[
        TypeSub::wildcard(A),
        TypeSub::wildcard(B),
        TypeSub::on_demand("c"),
    ]);
    let mut sink = Sink::default();
    session.on_response(response(A, vec![], &[]), &mut sink);
    assert!(!session.is_ready());
    let bad = response(B, vec![resource(B, "x", "1", "bad")], &[]);
    session.on_response(bad, &mut sink);
    assert!(!session.is_ready(), "a NACK doesn't count");
    session.on_response(response(B, vec![], &[]), &mut sink);
    assert!(session.is_ready());
}

#[test]
fn an_unknown_type_is_acknowledged() {
    let mut session = session(&[TypeSub::wildcard(A)]);
    let reply = session.on_response(response(B, vec![], &[]), &mut Sink::default());
    assert_eq!(reply.request.type_url, B);
    assert_eq!(reply.request.error_detail, None);
    assert!(!session.is_ready());
}

#[test]
fn removed_resources_are_not_echoed_after_a_reconnect() {
    let mut session = session(&[TypeSub::wildcard(A)]);
    let mut sink = Sink::default();
    let both = vec![resource(A, "x", "1", "b"), resource(A, "y", "1", "b")];
    session.on_response(response(A, both, &[]), &mut sink);
    session.on_response(response(A, vec![], &["x"]), &mut sink);
    assert_eq!(versions(&session.on_open()[0]), [("y", "1")]);
    assert!(!sink.0.contains_key("x"));
}

#[test]
fn on_demand_subscribes_to_nothing_then_by_name_once() {
    let mut session = session(&[TypeSub::on_demand(A), TypeSub::wildcard(B)]);
    let mut sink = Sink::default();
    let first = session.on_open();
    assert_eq!(first[0].resource_names_subscribe, ["*"]);
    assert_eq!(first[0].resource_names_unsubscribe, ["*"]);
    assert!(first[1].resource_names_subscribe.is_empty());

    assert!(
        session.on_demand(B, "x").is_none(),
        "a wildcard type has all"
    );
    for name in ["/10.0.0.1", "shop/none"] {
        let request = session.on_demand(A, name).unwrap();
        assert_eq!(request.resource_names_subscribe, [name]);
        assert!(session.on_demand(A, name).is_none(), "asked already");
    }
    // Asked again by the next stream, with the empty version.
    let again = session.on_open();
    assert_eq!(versions(&again[0]), [("/10.0.0.1", ""), ("shop/none", "")]);

    let mut pod = resource(A, "pod", "5", "body");
    pod.aliases = vec!["/10.0.0.1".into()];
    let reply = session.on_response(response(A, vec![pod], &["shop/none"]), &mut sink);
    let mut settled: Vec<_> = reply.settled.into_iter().collect();
    settled.sort_unstable();
    assert_eq!(settled, ["/10.0.0.1", "pod", "shop/none"]);
    assert_eq!(versions(&session.on_open()[0]), [("pod", "5")]);
}
