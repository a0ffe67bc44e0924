//! Properties: whatever the order of events, the output is that of a compile from scratch, and the deltas that led
//! there, replayed on nothing, give the same.
//!
//! Only policies that can be used are made here: keeping a last good form depends on history by design, and has its
//! own table (`cases/faults.yaml`).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod objects;

use std::collections::{BTreeMap, BTreeSet};

use ambit_compile::{Compiler, Delta, Settings, Snapshot, Status};
use ambit_kube::{Change, Kind, ObjectKey};
use objects::{Event, anything, events, object};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// What is in force at the end of a history, in an order of its own.
fn survivors(history: &[Event]) -> Vec<Change> {
    let mut objects = BTreeMap::new();
    let mut reports = BTreeMap::new();
    for event in history {
        match event.change() {
            Change::Apply(object) => {
                objects.insert(object.object.key(), Change::Apply(object));
            }
            Change::Delete(key) => {
                objects.remove(&key);
            }
            report @ Change::Redirection { .. } => {
                let Change::Redirection {
                    namespace, name, ..
                } = &report
                else {
                    continue;
                };
                reports.insert((namespace.clone(), name.clone()), report);
            }
            Change::Problems(_) | Change::Synced => {}
        }
    }
    objects
        .into_values()
        .rev()
        .chain(reports.into_values())
        .collect()
}

/// Everything that a compiler says.
fn said(compiler: &Compiler) -> (Snapshot, Vec<String>) {
    let statuses = compiler.statuses().iter();
    let mut lines: Vec<_> = statuses
        .map(|(key, status)| {
            // A Gateway keeps the address that it once had (contract 5.5), by design.
            let addresses = Vec::new();
            let status = Status {
                addresses,
                ..Status::clone(status)
            };
            format!("{key}: {status:?}")
        })
        .collect();
    let diagnostics = compiler.diagnostics();
    lines.extend(
        diagnostics
            .iter()
            .map(|told| format!("{} {told:?}", told.origin)),
    );
    (compiler.snapshot(), lines)
}

/// A subscriber that knows nothing but deltas.
#[derive(Default)]
struct Replay {
    addresses: BTreeMap<String, String>,
    authorizations: BTreeMap<String, String>,
    waypoint: BTreeMap<(&'static str, String), String>,
    statuses: BTreeMap<ObjectKey, String>,
}

impl Replay {
    fn take(&mut self, delta: &Delta) {
        for address in &delta.addresses.changed {
            let shown = format!("{} {:?}", address.version, address.aliases);
            self.addresses.insert(address.name.to_string(), shown);
        }
        for name in &delta.addresses.removed {
            assert!(
                self.addresses.remove(&**name).is_some(),
                "{name} wasn't there"
            );
        }
        for policy in &delta.authorizations.changed {
            let version = policy.version.to_string();
            self.authorizations.insert(policy.name.to_string(), version);
        }
        for name in &delta.authorizations.removed {
            assert!(
                self.authorizations.remove(&**name).is_some(),
                "{name} wasn't there"
            );
        }
        for (of, changes) in delta.waypoint.iter() {
            for resource in &changes.changed {
                let shown = format!("{} {:?}", resource.version, resource.audience);
                let name = (of, resource.name.to_string());
                self.waypoint.insert(name, shown);
            }
            for name in &changes.removed {
                let name = (of, name.to_string());
                assert!(self.waypoint.remove(&name).is_some(), "{name:?}");
            }
        }
        for (key, status) in &delta.statuses {
            match status {
                Some(status) => self.statuses.insert(key.clone(), format!("{status:?}")),
                None => self.statuses.remove(key),
            };
        }
    }

    fn matches(&self, compiler: &Compiler) {
        let Snapshot {
            addresses,
            authorizations,
            waypoint,
        } = compiler.snapshot();
        let waypoint = waypoint.iter().zip(ambit_proto::waypoint::TYPES);
        let waypoint = waypoint.flat_map(|(list, of)| {
            let shown = list.iter().map(move |resource| {
                let name = (of, resource.name.to_string());
                (
                    name,
                    format!("{} {:?}", resource.version, resource.audience),
                )
            });
            shown.collect::<Vec<_>>()
        });
        assert_eq!(self.waypoint, waypoint.collect());
        let addresses = addresses.iter().map(|address| {
            let shown = format!("{} {:?}", address.version, address.aliases);
            (address.name.to_string(), shown)
        });
        assert_eq!(self.addresses, addresses.collect());
        let policies = authorizations.iter();
        let policies = policies.map(|p| (p.name.to_string(), p.version.to_string()));
        assert_eq!(self.authorizations, policies.collect());
        let statuses = compiler.statuses().iter();
        let statuses = statuses.map(|(key, status)| (key.clone(), format!("{status:?}")));
        assert_eq!(self.statuses, statuses.collect());
    }
}

/// Every policy that a workload binds is there, so that no order of delivery could leave it dangling.
fn nothing_dangles(snapshot: &Snapshot) {
    let known: Vec<_> = snapshot
        .authorizations
        .iter()
        .map(|policy| &policy.name)
        .collect();
    for address in &snapshot.addresses {
        if let ambit_compile::AddressKind::Workload { policies, .. } = &address.kind {
            for policy in policies {
                assert!(known.contains(&policy), "{} binds {policy}", address.name);
            }
        }
    }
}

/// Kinds that no history has, and why.
const LEFT_OUT: [Kind; 1] = [
    // Not looked at: what a pod runs under is its own spec's word.
    Kind::ServiceAccount,
];

#[test]
fn histories_have_objects_of_every_kind() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..4_000 {
        let value = anything().new_tree(&mut runner).unwrap().current();
        seen.insert(object(&value).key().kind);
    }
    let missing: Vec<_> = Kind::ALL
        .iter()
        .filter(|kind| !seen.contains(kind) && !LEFT_OUT.contains(kind))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_where_a_compile_from_scratch_does(
        history in events(40),
        batch in select(vec![1, 1, 2, 3, 5, 100]),
    ) {
        let mut compiler = Compiler::new(Settings::default());
        let mut replay = Replay::default();
        for events in history.chunks(batch) {
            let before = compiler.diagnostics();
            let delta = compiler.apply(events.iter().map(Event::change));
            replay.take(&delta);
            prop_assert_eq!(delta.diagnostics, before != compiler.diagnostics());
        }
        replay.matches(&compiler);
        let mut scratch = Compiler::new(Settings::default());
        scratch.apply(survivors(&history));
        let (is, wanted) = (said(&compiler), said(&scratch));
        prop_assert_eq!(is.1, wanted.1);
        prop_assert_eq!(is.0, wanted.0);
        nothing_dangles(&compiler.snapshot());
    }

    #[test]
    fn events_that_are_told_twice_change_nothing(history in events(30)) {
        let mut compiler = Compiler::new(Settings::default());
        compiler.apply(survivors(&history));
        let delta = compiler.apply(survivors(&history));
        prop_assert!(delta.is_empty(), "{delta:?}");
    }

    #[test]
    fn deleting_everything_leaves_nothing(history in events(30)) {
        let mut compiler = Compiler::new(Settings::default());
        compiler.apply(history.iter().map(Event::change));
        compiler.apply(history.iter().map(Event::end));
        prop_assert_eq!(compiler.snapshot(), Snapshot::default());
        prop_assert_eq!(compiler.diagnostics(), vec![]);
        prop_assert!(compiler.statuses().is_empty());
    }
}
