use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tokio::sync::broadcast::Receiver;

use super::*;
use crate::server::publish::{Batch, Publisher, TypeDelta};
use crate::server::resource::Update;

const ROUTE: &str = "route";
const FRONTEND: &str = "frontend";
const TYPES: [&str; 2] = [ROUTE, FRONTEND];

type Held = BTreeMap<String, String>;

/// A stream and what its client holds.
struct Reader {
    audience: Option<&'static str>,
    stream: Stream,
    publications: Receiver<Publication>,
    held: BTreeMap<&'static str, Held>,
    now: Instant,
    /// Each response: the type, `+` for resources, `-` for removals.
    log: Vec<String>,
}

impl Reader {
    fn new(publisher: &Publisher, audience: Option<&'static str>) -> Self {
        let held = TYPES.map(|t| (t, Held::new())).into();
        Self::holding(publisher, audience, held)
    }

    /// A client that comes back with what it holds.
    fn holding(
        publisher: &Publisher,
        audience: Option<&'static str>,
        held: BTreeMap<&'static str, Held>,
    ) -> Self {
        let (snapshot, publications) = publisher.follow().unwrap();
        let now = Instant::now();
        let admitted = Admitted {
            audience: audience.map(Arc::from),
            ..Admitted::everything("test")
        };
        let mut stream = Stream::new(snapshot, None, admitted, 7, now);
        for type_url in TYPES {
            let versions = held.get(type_url).unwrap().clone();
            let request = DeltaDiscoveryRequest {
                type_url: type_url.into(),
                initial_resource_versions: versions.into_iter().collect(),
                ..DeltaDiscoveryRequest::default()
            };
            stream.on_request(&request).unwrap();
        }
        Self {
            audience,
            stream,
            publications,
            held,
            now,
            log: Vec::new(),
        }
    }

    fn catch_up(&mut self) {
        while let Ok(publication) = self.publications.try_recv() {
            self.stream.on_publication(&publication).unwrap();
        }
    }

    /// Takes one response and acknowledges it; false if there is none.
    fn step(&mut self) -> bool {
        let Next::Send(outgoing) = self.stream.next(self.now).0 else {
            return false;
        };
        let type_url = TYPES.into_iter().find(|t| **t == *outgoing.type_url);
        let held = self.held.get_mut(type_url.unwrap()).unwrap();
        let mut shown = outgoing.type_url.to_string();
        for resource in outgoing.resources.as_slice() {
            shown = format!("{shown} +{}", resource.name);
            held.insert(resource.name.to_string(), resource.version.to_string());
        }
        for name in &outgoing.removed {
            shown = format!("{shown} -{name}");
            held.remove(&**name);
        }
        self.log.push(shown);
        let ack = DeltaDiscoveryRequest {
            type_url: outgoing.type_url.to_string(),
            response_nonce: outgoing.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        assert_eq!(self.stream.on_request(&ack).unwrap(), Heard::Ack);
        true
    }

    fn drain(&mut self) -> Vec<String> {
        self.catch_up();
        while self.step() {}
        std::mem::take(&mut self.log)
    }
}

fn to(audience: &[&str]) -> Option<Arc<[Arc<str>]>> {
    Some(audience.iter().map(|a| Arc::from(*a)).collect())
}

fn update(name: &str, version: &str, audience: Option<Arc<[Arc<str>]>>) -> Update {
    Update {
        name: name.into(),
        version: version.into(),
        body: version.as_bytes().to_vec().into(),
        audience,
        ..Update::default()
    }
}

fn of(type_url: &str, changed: Vec<Update>, removed: &[&str]) -> TypeDelta {
    TypeDelta {
        type_url: type_url.into(),
        changed,
        removed: removed.iter().map(ToString::to_string).collect(),
    }
}

fn publish(publisher: &Publisher, types: Vec<TypeDelta>) {
    publisher.publish(Batch { types });
}

#[test]
fn an_audience_sees_its_own_and_what_is_for_everybody() {
    let publisher = Publisher::new(TYPES);
    let all = vec![
        update("everybody's", "1", None),
        update("a's", "1", to(&["a"])),
        update("both's", "1", to(&["b", "a"])),
        update("nobody's", "1", to(&[])),
    ];
    publish(&publisher, vec![of(ROUTE, all, &[])]);
    let cases = [
        (None, "route +everybody's"),
        (Some("a"), "route +a's +both's +everybody's"),
        (Some("b"), "route +both's +everybody's"),
        (Some(""), "route +everybody's"),
    ];
    for (audience, want) in cases {
        let mut reader = Reader::new(&publisher, audience);
        assert_eq!(reader.drain(), [want, "frontend"], "{audience:?}");
    }
}

#[test]
fn a_change_of_audience_is_a_resource_for_some_and_a_removal_for_others() {
    let publisher = Publisher::new(TYPES);
    let put = |version, audience: &[&str]| {
        let route = update("r", version, to(audience));
        publish(&publisher, vec![of(ROUTE, vec![route], &[])]);
    };
    put("1", &["a", "b"]);
    let mut readers = [Some("a"), Some("b"), Some("c"), None].map(|a| Reader::new(&publisher, a));
    let mut all = || readers.each_mut().map(|r| r.drain().concat());
    assert_eq!(
        all(),
        [
            "route +rfrontend",
            "route +rfrontend",
            "routefrontend",
            "routefrontend"
        ]
    );
    put("1", &["b", "c"]);
    assert_eq!(all(), ["route -r", "", "route +r", ""], "b has it already");
    put("2", &["c", "b"]);
    assert_eq!(all(), ["", "route +r", "route +r", ""]);
    put("2", &[]);
    assert_eq!(all(), ["", "route -r", "route -r", ""]);
    publish(&publisher, vec![of(ROUTE, vec![], &["r"])]);
    assert_eq!(all(), [""; 4], "nobody had it");
}

#[test]
fn what_a_returning_client_may_not_see_any_more_is_gone() {
    let publisher = Publisher::new(TYPES);
    let routes = vec![
        update("kept", "1", to(&["a"])),
        update("lost", "1", to(&["b"])),
    ];
    publish(&publisher, vec![of(ROUTE, routes, &[])]);
    let held = ["kept", "lost"].map(|n| (n.to_owned(), "1".to_owned()));
    let held = [(ROUTE, held.into()), (FRONTEND, Held::new())];
    let mut reader = Reader::holding(&publisher, Some("a"), held.into());
    assert_eq!(reader.drain(), ["route", "frontend", "route -lost"]);
}

#[test]
fn names_of_others_are_answered_as_if_there_were_none() {
    let publisher = Publisher::new(TYPES);
    let mut route = update("r", "1", to(&["a"]));
    route.aliases = vec!["alias".into()];
    publish(&publisher, vec![of(ROUTE, vec![route], &[])]);
    for (audience, key, want) in [
        (Some("a"), "alias", "route +r"),
        (Some("b"), "alias", "route -alias"),
        (Some("b"), "r", "route -r"),
        (None, "r", "route -r"),
    ] {
        let (snapshot, _) = publisher.follow().unwrap();
        let admitted = Admitted {
            audience: audience.map(Arc::from),
            ..Admitted::everything("test")
        };
        let now = Instant::now();
        let mut stream = Stream::new(snapshot, None, admitted, 7, now);
        let request = DeltaDiscoveryRequest {
            type_url: ROUTE.into(),
            resource_names_subscribe: vec![key.into()],
            ..DeltaDiscoveryRequest::default()
        };
        stream.on_request(&request).unwrap();
        let Next::Send(outgoing) = stream.next(now).0 else {
            panic!("no answer to {key}");
        };
        let sent = outgoing
            .resources
            .as_slice()
            .iter()
            .map(|r| format!(" +{}", r.name));
        let gone = outgoing.removed.iter().map(|n| format!(" -{n}"));
        let shown: String = sent.chain(gone).collect();
        assert_eq!(format!("route{shown}"), want, "{audience:?} {key}");
    }
}

#[test]
fn a_type_that_is_not_the_callers_ends_the_stream_and_holds_nothing_back() {
    let publisher = Publisher::new(TYPES);
    publish(&publisher, vec![]);
    let (snapshot, _) = publisher.follow().unwrap();
    let admitted = Admitted {
        types: Some([Arc::from(FRONTEND)].into()),
        ..Admitted::everything("test")
    };
    let now = Instant::now();
    let mut stream = Stream::new(snapshot, None, admitted, 7, now);
    let ask = |type_url: &str| DeltaDiscoveryRequest {
        type_url: type_url.into(),
        ..DeltaDiscoveryRequest::default()
    };
    stream.on_request(&ask(FRONTEND)).unwrap();
    assert!(matches!(stream.next(now).0, Next::Send(_)), "at once");
    let refused = stream.on_request(&ask(ROUTE)).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}

const AUDIENCES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Event {
    /// A frontend, the route that it needs, and who gets both.
    Put {
        frontend: u8,
        route: u8,
        audience: BTreeSet<usize>,
    },
    Remove {
        frontend: u8,
    },
    /// A reader takes one response.
    Step(usize),
    /// A reader comes back with what it holds.
    Return(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let audience = prop::collection::btree_set(0..AUDIENCES.len(), 0..3);
    prop_oneof![
        4 => (0..4_u8, 0..3_u8, audience).prop_map(|(frontend, route, audience)| Event::Put {
            frontend, route, audience
        }),
        1 => (0..4_u8).prop_map(|frontend| Event::Remove { frontend }),
        4 => (0..4_usize).prop_map(Event::Step),
        1 => (0..4_usize).prop_map(Event::Return),
    ]
}

/// Frontends with their route and audience; a route exists for whoever has a
/// frontend that needs it.
#[derive(Default, Clone)]
struct Model(BTreeMap<u8, (u8, BTreeSet<usize>)>);

impl Model {
    fn routes(&self) -> BTreeMap<u8, BTreeSet<usize>> {
        let mut routes = BTreeMap::<u8, BTreeSet<usize>>::new();
        for (route, audience) in self.0.values() {
            routes.entry(*route).or_default().extend(audience);
        }
        routes
    }

    fn publish(&self, before: &Self, publisher: &Publisher) {
        let names = |audience: &BTreeSet<usize>| {
            let names = audience.iter().filter_map(|at| AUDIENCES.get(*at));
            to(&names.copied().collect::<Vec<_>>())
        };
        let (old, new) = (before.routes(), self.routes());
        let routes = new.iter().filter(|(r, a)| old.get(r) != Some(*a));
        let routes = routes.map(|(r, a)| update(&format!("r{r}"), "1", names(a)));
        let frontends = self
            .0
            .iter()
            .filter(|(f, now)| before.0.get(f) != Some(*now));
        let frontends =
            frontends.map(|(f, (r, a))| update(&format!("f{f}"), &format!("r{r}"), names(a)));
        let gone = |kind: &str, all: Vec<&u8>, now: Vec<&u8>| {
            let gone = all.into_iter().filter(|n| !now.contains(n));
            gone.map(|n| format!("{kind}{n}")).collect()
        };
        let types = vec![
            TypeDelta {
                type_url: FRONTEND.into(),
                changed: frontends.collect(),
                removed: gone("f", before.0.keys().collect(), self.0.keys().collect()),
            },
            TypeDelta {
                type_url: ROUTE.into(),
                changed: routes.collect(),
                removed: gone("r", old.keys().collect(), new.keys().collect()),
            },
        ];
        publish(publisher, types);
    }

    /// What a client of this audience ends with: frontends and their routes.
    fn seen_by(&self, audience: Option<&str>) -> (BTreeMap<String, String>, BTreeSet<String>) {
        let at = AUDIENCES.iter().position(|a| Some(*a) == audience);
        let own = self
            .0
            .iter()
            .filter(|(_, (_, a))| at.is_some_and(|at| a.contains(&at)));
        let frontends: BTreeMap<_, _> = own
            .map(|(f, (r, _))| (format!("f{f}"), format!("r{r}")))
            .collect();
        let routes = frontends.values().cloned().collect();
        (frontends, routes)
    }
}

fn base(version: &str) -> &str {
    version.split('.').next().unwrap_or_default()
}

/// No frontend is ever held without its route.
fn is_complete(reader: &Reader) -> bool {
    let (routes, frontends) = (&reader.held[ROUTE], &reader.held[FRONTEND]);
    frontends
        .values()
        .all(|route| routes.contains_key(base(route)))
}

fn play(events: Vec<Event>) {
    let publisher = Publisher::new(TYPES);
    publish(&publisher, vec![]);
    let mut model = Model::default();
    let audiences = [Some("a"), Some("b"), Some("c"), None];
    let mut readers = audiences.map(|a| Reader::new(&publisher, a));
    for event in events {
        let before = model.clone();
        match event {
            Event::Put {
                frontend,
                route,
                audience,
            } => {
                model.0.insert(frontend, (route, audience));
            }
            Event::Remove { frontend } => {
                model.0.remove(&frontend);
            }
            Event::Step(at) => {
                let reader = &mut readers[at];
                reader.catch_up();
                reader.step();
                assert!(is_complete(reader), "{:?}", reader.log);
            }
            Event::Return(at) => {
                let reader = &mut readers[at];
                let held = std::mem::take(&mut reader.held);
                *reader = Reader::holding(&publisher, reader.audience, held);
            }
        }
        model.publish(&before, &publisher);
    }
    for reader in &mut readers {
        reader.catch_up();
        while reader.step() {
            assert!(is_complete(reader), "{:?}", reader.log);
        }
        let frontends: BTreeMap<_, _> = reader.held[FRONTEND]
            .iter()
            .map(|(name, version)| (name.clone(), base(version).to_owned()))
            .collect();
        let routes: BTreeSet<_> = reader.held[ROUTE].keys().cloned().collect();
        let want = model.seen_by(reader.audience);
        assert_eq!(
            (frontends, routes),
            want,
            "{:?} {:?}",
            reader.audience,
            reader.log
        );
        if reader.audience.is_none() {
            assert!(
                !reader.log.concat().contains('-'),
                "no foreign name: {:?}",
                reader.log
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// However publications, changes of audience, slow clients and returning
    /// ones fall, each audience ends with exactly its own, was never without
    /// something that it needed, and nobody else heard of it.
    #[test]
    fn audiences_converge_each_on_its_own(events in prop::collection::vec(event(), 1..60)) {
        play(events);
    }
}
