use ambit_proto::discovery::Status as ErrorDetail;

use super::*;
use crate::server::publish::{Batch, Publisher, TypeDelta};
use crate::server::resource::{Resource, Update};

const POLICY: &str = "policy";
const ADDRESS: &str = "address";

/// A publisher and one stream that follows it, with a clock of its own.
struct Scene {
    publisher: Publisher,
    publications: tokio::sync::broadcast::Receiver<Publication>,
    stream: Stream,
    now: Instant,
}

impl Scene {
    fn new(batch: Batch) -> Self {
        Self::of(Admitted::everything("test"), batch)
    }

    fn of(admitted: Admitted, batch: Batch) -> Self {
        let publisher = Publisher::new([POLICY, ADDRESS]);
        publisher.publish(batch);
        Self::following(admitted, publisher)
    }

    fn following(admitted: Admitted, publisher: Publisher) -> Self {
        let (snapshot, publications) = publisher.follow().unwrap();
        let now = Instant::now();
        let stream = Stream::new(snapshot, Some("n1".into()), admitted, 7, now);
        Self {
            publisher,
            publications,
            stream,
            now,
        }
    }

    fn publish(&mut self, batch: Batch) {
        self.publisher.publish(batch);
        self.hear();
    }

    fn hear(&mut self) {
        while let Ok(publication) = self.publications.try_recv() {
            self.stream.on_publication(&publication).unwrap();
        }
    }

    fn ask(&mut self, request: DeltaDiscoveryRequest) -> Heard {
        self.stream.on_request(&request).unwrap()
    }

    fn subscribe(&mut self, type_url: &str) {
        assert_eq!(self.ask(request(type_url)), Heard::Subscription);
    }

    fn sent(&mut self) -> Option<Outgoing> {
        match self.stream.next(self.now).0 {
            Next::Send(outgoing) => Some(outgoing),
            Next::Idle(_) => None,
        }
    }

    fn ack(&mut self, outgoing: &Outgoing) -> Heard {
        self.ask(DeltaDiscoveryRequest {
            response_nonce: outgoing.nonce.clone(),
            ..request(&outgoing.type_url)
        })
    }

    /// Acknowledges everything that comes; the steps as
    /// `type +sent,... -removed,...`.
    fn drain(&mut self) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some(outgoing) = self.sent() {
            steps.push(show(&outgoing));
            assert_eq!(self.ack(&outgoing), Heard::Ack);
        }
        steps
    }
}

fn show(outgoing: &Outgoing) -> String {
    let mut text = outgoing.type_url.to_string();
    for resource in outgoing.resources.as_slice() {
        text = format!("{text} +{}", resource.name);
    }
    for name in &outgoing.removed {
        text = format!("{text} -{name}");
    }
    text
}

fn request(type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.into(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn delta(type_url: &str, changed: &[(&str, &str)], removed: &[&str]) -> TypeDelta {
    let changed = changed.iter().map(|(name, version)| Update {
        name: (*name).into(),
        version: (*version).into(),
        body: version.as_bytes().to_vec().into(),
        ..Update::default()
    });
    TypeDelta {
        type_url: type_url.into(),
        changed: changed.collect(),
        removed: names(removed),
    }
}

fn batch(types: Vec<TypeDelta>) -> Batch {
    Batch { types }
}

#[test]
fn policies_go_first_though_addresses_were_asked_for_first() {
    let mut scene = Scene::new(batch(vec![
        delta(ADDRESS, &[("w", "1")], &[]),
        delta(POLICY, &[("p", "1")], &[]),
    ]));
    scene.subscribe(ADDRESS);
    assert!(scene.sent().is_none(), "waits for the policies to be asked");
    scene.subscribe(POLICY);
    assert_eq!(scene.drain(), ["policy +p", "address +w"]);
}

#[test]
fn addresses_come_alone_after_a_moment() {
    let mut scene = Scene::new(batch(vec![delta(ADDRESS, &[("w", "1")], &[])]));
    scene.subscribe(ADDRESS);
    let Next::Idle(Some(until)) = scene.stream.next(scene.now).0 else {
        panic!("must say when to look again");
    };
    assert_eq!(until, scene.now + ORDER_PATIENCE);
    scene.now = until;
    assert_eq!(scene.drain(), ["address +w"]);
}

#[test]
fn empty_first_answers_are_sent_and_later_ones_are_not() {
    let mut scene = Scene::new(Batch::default());
    scene.subscribe(ADDRESS);
    scene.subscribe(POLICY);
    assert_eq!(scene.drain(), ["policy", "address"]);
    scene.publish(Batch::default());
    assert_eq!(scene.drain(), [""; 0]);
}

#[test]
fn one_publication_adds_policies_first_and_removes_them_last() {
    let mut scene = Scene::new(batch(vec![
        delta(ADDRESS, &[("w1", "1"), ("w2", "1")], &[]),
        delta(POLICY, &[("old", "1")], &[]),
    ]));
    scene.subscribe(POLICY);
    scene.subscribe(ADDRESS);
    scene.drain();
    scene.publish(batch(vec![
        delta(ADDRESS, &[("w1", "2")], &["w2"]),
        delta(POLICY, &[("new", "1")], &["old"]),
    ]));
    let want = ["policy +new", "address +w1 -w2", "policy -old"];
    assert_eq!(scene.drain(), want);
}

#[test]
fn a_step_waits_for_the_answer_to_the_one_before_but_not_for_ever() {
    let start = batch(vec![
        delta(ADDRESS, &[("w", "1")], &[]),
        delta(POLICY, &[("p", "1")], &[]),
    ]);
    for answer in ["ack", "nack", "silence"] {
        let mut scene = Scene::new(start.clone());
        scene.subscribe(POLICY);
        scene.subscribe(ADDRESS);
        let policy = scene.sent().unwrap();
        assert!(scene.sent().is_none(), "{answer}");
        match answer {
            "ack" => assert_eq!(scene.ack(&policy), Heard::Ack),
            "nack" => {
                let heard = scene.ask(DeltaDiscoveryRequest {
                    response_nonce: policy.nonce.clone(),
                    error_detail: Some(ErrorDetail {
                        message: "p: bad".into(),
                        ..ErrorDetail::default()
                    }),
                    ..request(POLICY)
                });
                assert_eq!(heard, Heard::Nack("p: bad".into()));
            }
            _ => scene.now += ACK_PATIENCE,
        }
        assert_eq!(show(&scene.sent().unwrap()), "address +w", "{answer}");
    }
}

#[test]
fn a_nack_is_answered_by_silence_until_the_next_change() {
    let mut scene = Scene::new(batch(vec![delta(POLICY, &[("p", "1"), ("q", "1")], &[])]));
    scene.subscribe(POLICY);
    let sent = scene.sent().unwrap();
    scene.ask(DeltaDiscoveryRequest {
        response_nonce: sent.nonce.clone(),
        error_detail: Some(ErrorDetail::default()),
        ..request(POLICY)
    });
    assert!(scene.sent().is_none());
    assert_eq!(scene.stream.status()[0].sync, TypeSync::Error);
    scene.publish(batch(vec![delta(POLICY, &[("p", "2")], &[])]));
    assert_eq!(scene.drain(), ["policy +p"]);
    assert_eq!(scene.stream.status()[0].sync, TypeSync::Synced);
}

#[test]
fn a_reconnect_brings_only_what_changed_and_what_is_gone() {
    let all = [("same", "1"), ("changed", "2"), ("new", "1")];
    let mut scene = Scene::new(batch(vec![delta(POLICY, &all, &[])]));
    let held = [("same", "1"), ("changed", "1"), ("gone", "1")];
    scene.ask(DeltaDiscoveryRequest {
        initial_resource_versions: held
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        ..request(POLICY)
    });
    assert_eq!(scene.drain(), ["policy +changed +new -gone"]);
}

#[test]
fn a_first_state_is_what_there_is_when_it_is_sent_and_is_put_together_once() {
    let all = [("w1", "1"), ("w2", "1")];
    let mut scene = Scene::new(batch(vec![delta(ADDRESS, &all, &[])]));
    scene.subscribe(ADDRESS);
    scene.publish(batch(vec![delta(
        ADDRESS,
        &[("w2", "2"), ("w3", "1")],
        &["w1"],
    )]));
    scene.subscribe(POLICY);
    let policies = scene.sent().unwrap();
    scene.ack(&policies);
    let sent = scene.sent().unwrap();
    assert_eq!(show(&sent), "address +w2 +w3");
    let (snapshot, _) = scene.publisher.follow().unwrap();
    let another = snapshot.view(ADDRESS).unwrap().everything().unwrap();
    let Resources::All(bundle) = &sent.resources else {
        panic!("everything, as one");
    };
    assert!(Arc::ptr_eq(bundle, &another));
    scene.ack(&sent);
    scene.publish(batch(vec![delta(ADDRESS, &[("w3", "2")], &["w2"])]));
    assert_eq!(scene.drain(), ["address +w3 -w2"]);
}

/// Whoever publishes has encoded it; what stands in every stream's response is that one copy.
#[test]
fn a_change_is_one_copy_for_all_streams() {
    let publisher = Publisher::new([POLICY, ADDRESS]);
    publisher.publish(batch(vec![delta(ADDRESS, &[("w1", "1")], &[])]));
    let stream = || Scene::following(Admitted::everything("test"), publisher.clone());
    let mut streams = [stream(), stream(), stream()];
    for scene in &mut streams {
        scene.subscribe(POLICY);
        scene.subscribe(ADDRESS);
        scene.drain();
    }
    publisher.publish(batch(vec![
        delta(POLICY, &[("p1", "1")], &[]),
        delta(ADDRESS, &[("w1", "2"), ("w2", "1")], &[]),
    ]));
    let mut told: Vec<Vec<Arc<Resource>>> = Vec::new();
    for scene in &mut streams {
        scene.hear();
        let mut all = Vec::new();
        while let Some(outgoing) = scene.sent() {
            all.extend(outgoing.resources.as_slice().iter().cloned());
            scene.ack(&outgoing);
        }
        told.push(all);
    }
    let [one, others @ ..] = told.as_slice() else {
        panic!("three streams");
    };
    assert_eq!(one.len(), 3);
    for other in others {
        assert_eq!(one.len(), other.len());
        let mut pairs = one.iter().zip(other);
        assert!(pairs.all(|(a, b)| Arc::ptr_eq(a, b)));
    }
}

#[test]
fn publications_while_a_client_is_slow_are_merged() {
    let mut scene = Scene::new(batch(vec![delta(POLICY, &[("p", "1"), ("q", "1")], &[])]));
    scene.subscribe(POLICY);
    let first = scene.sent().unwrap();
    for version in ["2", "3", "4"] {
        scene.publish(batch(vec![delta(POLICY, &[("p", version)], &[])]));
    }
    scene.publish(batch(vec![delta(POLICY, &[("r", "1")], &["q"])]));
    scene.publish(batch(vec![delta(POLICY, &[], &["r"])]));
    assert!(scene.sent().is_none());
    scene.ack(&first);
    let merged = scene.sent().unwrap();
    assert_eq!(show(&merged), "policy +p -q -r");
    assert_eq!(&*merged.resources.as_slice()[0].version, "4");
}

#[test]
fn what_is_published_during_a_turn_waits_for_the_next() {
    let mut scene = Scene::new(batch(vec![
        delta(ADDRESS, &[("w", "1")], &[]),
        delta(POLICY, &[("p", "1")], &[]),
    ]));
    scene.subscribe(POLICY);
    scene.subscribe(ADDRESS);
    let policy = scene.sent().unwrap();
    // The workload now needs another policy, which this turn doesn't bring.
    scene.publish(batch(vec![
        delta(ADDRESS, &[("w", "2")], &[]),
        delta(POLICY, &[("p2", "1")], &[]),
    ]));
    scene.ack(&policy);
    let address = scene.sent().unwrap();
    assert_eq!(
        &*address.resources.as_slice()[0].version,
        "1",
        "of the same snapshot"
    );
    scene.ack(&address);
    assert_eq!(scene.drain(), ["policy +p2", "address +w"]);
}

#[test]
fn a_stale_nonce_is_no_answer() {
    let mut scene = Scene::new(Batch::default());
    scene.subscribe(POLICY);
    let sent = scene.sent().unwrap();
    let stale = DeltaDiscoveryRequest {
        response_nonce: "0-0-0".into(),
        ..request(POLICY)
    };
    assert_eq!(scene.ask(stale), Heard::StaleNonce);
    assert_eq!(scene.stream.status()[0].sync, TypeSync::Stale);
    assert_eq!(scene.ack(&sent), Heard::Ack);
    assert_eq!(scene.stream.status()[0].sync, TypeSync::Synced);
}

#[test]
fn a_type_that_nobody_publishes_is_answered_empty() {
    let mut scene = Scene::new(Batch::default());
    scene.subscribe(POLICY);
    scene.subscribe(ADDRESS);
    scene.subscribe("other");
    assert_eq!(scene.drain(), ["policy", "address", "other"]);
    for at in 0..MAX_TYPES {
        let outcome = scene.stream.on_request(&request(&format!("t{at}")));
        assert_eq!(outcome.is_ok(), at < MAX_TYPES - 3, "{at}");
    }
}

/// Three workloads, of which `a` and `b` are behind the service `shop/cart`
/// and `here` is on the stream's node.
fn shop() -> Batch {
    let update = |name: &str, alias: &str, group: Option<&str>| Update {
        name: name.into(),
        version: "1".into(),
        body: vec![1].into(),
        aliases: vec![alias.into()],
        groups: group.map(Into::into).into_iter().collect(),
        home: None,
        audience: None,
    };
    let mut here = update("here", "/10.0.0.9", None);
    here.home = Some("n1".into());
    batch(vec![TypeDelta {
        type_url: ADDRESS.into(),
        changed: vec![
            update("shop/cart", "/10.96.0.1", None),
            update("a", "/10.0.0.1", Some("shop/cart")),
            update("b", "/10.0.0.2", Some("shop/cart")),
            update("c", "/10.0.0.3", None),
            here,
        ],
        removed: Vec::new(),
    }])
}

fn on_demand(scene: &mut Scene) {
    scene.subscribe(POLICY);
    scene.ask(DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["*"]),
        resource_names_unsubscribe: names(&["*"]),
        ..request(ADDRESS)
    });
}

fn want(scene: &mut Scene, key: &str) -> Vec<String> {
    scene.ask(DeltaDiscoveryRequest {
        resource_names_subscribe: names(&[key]),
        ..request(ADDRESS)
    });
    scene.drain()
}

#[test]
fn on_demand_answers_what_was_asked_and_what_belongs_to_it() {
    let cases: [(&str, &str); 7] = [
        ("c", "address +c"),
        ("/10.0.0.3", "address +c"),
        ("/10.0.0.1", "address +a"),
        ("shop/cart", "address +a +b +shop/cart"),
        ("/10.96.0.1", "address +a +b +shop/cart"),
        ("/10.9.9.9", "address -/10.9.9.9"),
        ("shop/none", "address -shop/none"),
    ];
    for (key, answer) in cases {
        let mut scene = Scene::new(shop());
        on_demand(&mut scene);
        let unasked = ["policy", "address +here"];
        assert_eq!(scene.drain(), unasked, "the node's own");
        assert_eq!(want(&mut scene, key), [answer]);
    }
}

#[test]
fn on_demand_aliases_are_on_the_wire_and_wildcard_ones_are_not() {
    let mut scene = Scene::new(shop());
    on_demand(&mut scene);
    scene.drain();
    scene.ask(DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["/10.0.0.1"]),
        ..request(ADDRESS)
    });
    assert!(scene.sent().unwrap().with_aliases);
    let mut scene = Scene::new(shop());
    scene.subscribe(POLICY);
    scene.subscribe(ADDRESS);
    let policy = scene.sent().unwrap();
    scene.ack(&policy);
    assert!(!scene.sent().unwrap().with_aliases);
}

#[test]
fn on_demand_follows_new_members_and_nothing_foreign() {
    let mut scene = Scene::new(shop());
    on_demand(&mut scene);
    scene.drain();
    want(&mut scene, "/10.96.0.1");
    let member = |name: &str, group: &str| Update {
        name: name.into(),
        version: "1".into(),
        body: vec![1].into(),
        groups: vec![group.into()],
        ..Update::default()
    };
    scene.publish(batch(vec![TypeDelta {
        type_url: ADDRESS.into(),
        changed: vec![member("new", "shop/cart"), member("foreign", "shop/other")],
        removed: names(&["c", "b"]),
    }]));
    assert_eq!(scene.drain(), ["address +new -b"]);
    // Something that was asked for in vain appears.
    want(&mut scene, "/10.0.0.77");
    let mut late = member("late", "shop/other");
    late.aliases = vec!["/10.0.0.77".into()];
    scene.publish(batch(vec![TypeDelta {
        type_url: ADDRESS.into(),
        changed: vec![late],
        removed: Vec::new(),
    }]));
    assert_eq!(scene.drain(), ["address +late"]);
}

#[test]
fn an_on_demand_reconnect_keeps_what_it_holds_and_asks_again() {
    let mut scene = Scene::new(shop());
    scene.subscribe(POLICY);
    let held = [
        ("shop/cart", "1"),
        ("a", "1"),
        ("gone", "1"),
        ("/10.0.0.3", ""),
    ];
    scene.ask(DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["*"]),
        resource_names_unsubscribe: names(&["*"]),
        initial_resource_versions: held
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        ..request(ADDRESS)
    });
    let want = ["policy", "address +b +c +here -gone"];
    assert_eq!(scene.drain(), want);
    scene.publish(batch(vec![delta(ADDRESS, &[("a", "2")], &[])]));
    assert_eq!(scene.drain(), ["address +a"], "held, so it follows");
}

#[test]
fn unsubscribing_ends_it() {
    let mut scene = Scene::new(shop());
    on_demand(&mut scene);
    scene.drain();
    want(&mut scene, "shop/cart");
    want(&mut scene, "c");
    scene.ask(DeltaDiscoveryRequest {
        resource_names_unsubscribe: names(&["shop/cart"]),
        ..request(ADDRESS)
    });
    scene.drain();
    scene.publish(batch(vec![delta(ADDRESS, &[("a", "2"), ("c", "2")], &[])]));
    assert_eq!(scene.drain(), ["address +c"]);
}
