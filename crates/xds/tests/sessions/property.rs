use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::harness::{ADDRESS, POLICY, World, both, delta, eventually};

/// One thing that happens. Workloads need policies by number.
#[derive(Debug, Clone)]
enum Event {
    /// Sets a workload and the policies that it needs, which exist from then on.
    Bind { workload: u8, needs: BTreeSet<u8> },
    /// Removes a workload, and then every policy that nobody needs any more.
    Unbind { workload: u8 },
    /// Changes a policy that exists.
    Edit { policy: u8 },
    /// Ends every connection.
    Cut,
    /// Virtual time goes by.
    Wait { millis: u16 },
    /// Another node comes.
    Join,
}

fn event() -> impl Strategy<Value = Event> {
    let workload = 0..6_u8;
    let policies = prop::collection::btree_set(0..4_u8, 0..3);
    prop_oneof![
        4 => (workload.clone(), policies).prop_map(|(workload, needs)| Event::Bind { workload, needs }),
        2 => workload.prop_map(|workload| Event::Unbind { workload }),
        2 => (0..4_u8).prop_map(|policy| Event::Edit { policy }),
        2 => Just(Event::Cut),
        3 => (0..200_u16).prop_map(|millis| Event::Wait { millis }),
        1 => Just(Event::Join),
    ]
}

/// What the server should be serving.
#[derive(Default)]
struct Model {
    edits: u32,
    needs: BTreeMap<u8, BTreeSet<u8>>,
    policies: BTreeMap<String, String>,
    workloads: BTreeMap<String, String>,
}

impl Model {
    fn apply(&mut self, event: &Event) {
        self.edits += 1;
        match event {
            Event::Bind { workload, needs } => {
                self.needs.insert(*workload, needs.clone());
                let list: Vec<_> = needs.iter().map(|p| format!("p{p}")).collect();
                let body = format!("{}:{}", self.edits, list.join(","));
                self.workloads.insert(format!("w{workload}"), body);
            }
            Event::Unbind { workload } => {
                self.needs.remove(workload);
                self.workloads.remove(&format!("w{workload}"));
            }
            Event::Edit { policy } => {
                if let Some(body) = self.policies.get_mut(&format!("p{policy}")) {
                    *body = self.edits.to_string();
                }
            }
            Event::Cut | Event::Wait { .. } | Event::Join => {}
        }
        let needed: BTreeSet<String> = self
            .needs
            .values()
            .flatten()
            .map(|p| format!("p{p}"))
            .collect();
        self.policies.retain(|name, _| needed.contains(name));
        for name in needed {
            self.policies
                .entry(name)
                .or_insert_with(|| self.edits.to_string());
        }
    }
}

type Named = BTreeMap<String, String>;

fn difference(type_url: &str, old: &Named, new: &Named) -> ambit_xds::TypeDelta {
    let changed: Vec<(&str, &str)> = new
        .iter()
        .filter(|(name, body)| old.get(*name) != Some(body))
        .map(|(name, body)| (name.as_str(), body.as_str()))
        .collect();
    let removed: Vec<&str> = old
        .keys()
        .filter(|name| !new.contains_key(*name))
        .map(String::as_str)
        .collect();
    delta(type_url, &changed, &removed)
}

async fn play(events: Vec<Event>) {
    let world = Arc::new(World::new());
    world.publish(vec![]);
    let mut model = Model::default();
    let mut clients = vec![world.client(both(), None)];
    for event in events {
        let (policies, workloads) = (model.policies.clone(), model.workloads.clone());
        model.apply(&event);
        world.publish(vec![
            difference(ADDRESS, &workloads, &model.workloads),
            difference(POLICY, &policies, &model.policies),
        ]);
        match event {
            Event::Cut => world.cut(),
            Event::Wait { millis } => {
                tokio::time::sleep(Duration::from_millis(millis.into())).await;
            }
            Event::Join => clients.push(world.client(both(), None)),
            Event::Bind { .. } | Event::Unbind { .. } | Event::Edit { .. } => {
                tokio::task::yield_now().await;
            }
        }
    }
    for client in clients {
        eventually("the client has what the server has", || {
            client.seen.held(ADDRESS) == model.workloads
                && client.seen.held(POLICY) == model.policies
        })
        .await;
        let breaches = client.seen.breaches();
        assert!(breaches.is_empty(), "{breaches:?}");
    }
    world.scope.finish(Duration::ZERO).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However publications, cuts and time fall, every client ends with what
    /// the server has, and at no moment held a workload without the policies
    /// that it needs.
    #[test]
    fn clients_converge_and_are_never_without_a_policy(
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
