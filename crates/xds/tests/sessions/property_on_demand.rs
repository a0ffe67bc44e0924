use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_xds::{Demand, TypeDelta, TypeSub, Update, demand};
use proptest::prelude::*;

use crate::harness::{ADDRESS, POLICY, World, eventually, update};

/// One thing that happens. Workloads are members of one service or of none.
#[derive(Debug, Clone)]
enum Event {
    Workload {
        at: u8,
        of: Option<u8>,
    },
    Service {
        at: u8,
    },
    Gone {
        name: String,
    },
    /// Somebody on the node needs a name, an alias of a workload, or nonsense.
    Want {
        key: String,
    },
    Cut,
    Wait {
        millis: u16,
    },
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..3_u8).prop_map(|s| format!("shop/s{s}")),
        (0..5_u8).prop_map(|w| format!("w{w}")),
        (0..7_u8).prop_map(|w| format!("/10.0.0.{w}")),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..5_u8, prop::option::of(0..3_u8)).prop_map(|(at, of)| Event::Workload { at, of }),
        2 => (0..3_u8).prop_map(|at| Event::Service { at }),
        2 => key().prop_map(|name| Event::Gone { name }),
        3 => key().prop_map(|key| Event::Want { key }),
        1 => Just(Event::Cut),
        2 => (0..200_u16).prop_map(|millis| Event::Wait { millis }),
    ]
}

/// What the server serves.
#[derive(Default)]
struct Model {
    edits: u32,
    all: BTreeMap<String, Update>,
}

impl Model {
    fn put(&mut self, mut update: Update) -> TypeDelta {
        self.edits += 1;
        update.version = self.edits.to_string();
        update.body = self.edits.to_string().into_bytes().into();
        self.all.insert(update.name.to_string(), update.clone());
        TypeDelta {
            type_url: ADDRESS.into(),
            changed: vec![update],
            removed: Vec::new(),
        }
    }

    fn remove(&mut self, name: &str) -> TypeDelta {
        let gone = self.all.remove(name).map(|update| update.name.to_string());
        TypeDelta {
            type_url: ADDRESS.into(),
            changed: Vec::new(),
            removed: gone.into_iter().collect(),
        }
    }

    /// What a client that holds these must hold: their current forms, and
    /// every member of a service among them.
    fn expected(&self, held: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let must = self.all.values().filter(|update| {
            held.contains_key(&*update.name)
                || update.groups.iter().any(|g| held.contains_key(&**g))
        });
        let body = |update: &Update| String::from_utf8(update.body.to_vec()).unwrap();
        must.map(|update| (update.name.to_string(), body(update)))
            .collect()
    }
}

async fn happen(world: &Arc<World>, demand: &Demand, model: &mut Model, event: Event) {
    match event {
        Event::Workload { at, of } => world.publish(vec![
            model.put(Update {
                aliases: vec![format!("/10.0.0.{at}").into()],
                groups: of
                    .map(|s| format!("shop/s{s}").into())
                    .into_iter()
                    .collect(),
                ..update(&format!("w{at}"), "")
            }),
        ]),
        Event::Service { at } => {
            world.publish(vec![model.put(update(&format!("shop/s{at}"), ""))]);
        }
        Event::Gone { name } => world.publish(vec![model.remove(&name)]),
        Event::Want { key } => {
            let demand = demand.clone();
            world.scope.spawn("want", async move {
                demand.want(ADDRESS, &key).await;
            });
        }
        Event::Cut => world.cut(),
        Event::Wait { millis } => tokio::time::sleep(Duration::from_millis(millis.into())).await,
    }
    tokio::task::yield_now().await;
}

async fn play(events: Vec<Event>) {
    let world = Arc::new(World::new());
    world.publish(vec![]);
    let (demand, queue) = demand();
    let types = vec![TypeSub::on_demand(ADDRESS), TypeSub::wildcard(POLICY)];
    let client = world.client(types, Some(queue));
    let mut model = Model::default();
    for event in events {
        happen(&world, &demand, &mut model, event).await;
    }
    // Everything that was wanted is answered in the end, known or not.
    for key in ["shop/s0", "/10.0.0.1", "/10.9.9.9"] {
        demand.want(ADDRESS, key).await;
    }
    eventually("what is held is current and complete", || {
        let held = client.seen.held(ADDRESS);
        held == model.expected(&held)
    })
    .await;
    let held = client.seen.held(ADDRESS);
    assert_eq!(
        held.contains_key("shop/s0"),
        model.all.contains_key("shop/s0")
    );
    assert_eq!(held.contains_key("w1"), model.all.contains_key("w1"));
    world.scope.finish(Duration::ZERO).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However it falls, everybody who waits gets an answer, and what a node
    /// holds is current and closed under membership.
    #[test]
    fn on_demand_clients_hold_what_they_asked_for_and_its_members(
        events in prop::collection::vec(event(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(events));
    }
}
