//! How the cluster's watches fare: metrics, and a part of `/debug/statusz`.

use std::collections::BTreeMap;

use ambit_cluster::{Stage, WatchState, Watches};
use ambit_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabel {
    resource: String,
    fault: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    r#type: String,
    event: &'static str,
}

/// Metrics of the watches; brought up to date for each scrape.
#[derive(Default)]
pub(crate) struct Watching {
    watches: Watches,
    objects: Family<ResourceLabel, Gauge>,
    synced: Family<ResourceLabel, Gauge>,
    held: Family<ResourceLabel, Gauge>,
    resyncs: Family<ResourceLabel, Gauge>,
    faults: Family<FaultLabel, Gauge>,
    events: Family<EventLabel, Gauge>,
}

/// One watch, for people.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    resource: String,
    synced: bool,
    watching: bool,
    objects: usize,
    /// Deletions that wait for a second list to agree.
    #[serde(skip_serializing_if = "is_none")]
    held_deletions: usize,
    resyncs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_fault: Option<String>,
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

impl Watching {
    /// Registers the metrics of some watches.
    pub(crate) fn register(watches: Watches, metrics: &mut Metrics) -> Self {
        let this = Self {
            watches,
            ..Self::default()
        };
        metrics.register(
            "ambit_watch_objects",
            "Objects that are known from the API server",
            this.objects.clone(),
        );
        metrics.register(
            "ambit_watch_synced",
            "1 when everything that there is was read once",
            this.synced.clone(),
        );
        metrics.register(
            "ambit_watch_held_deletions",
            "Objects that seem gone, all at once, and stay in force until a second list agrees",
            this.held.clone(),
        );
        metrics.register(
            "ambit_watch_resyncs",
            "How often everything was read again",
            this.resyncs.clone(),
        );
        metrics.register(
            "ambit_watch_faults",
            "Lists and watches that failed",
            this.faults.clone(),
        );
        metrics.register(
            "pilot_k8s_cfg_events",
            "Objects of the API server that are new, different or gone",
            this.events.clone(),
        );
        this
    }

    /// Brings the metrics up to date.
    pub(crate) fn refresh(&self) {
        let mut by_kind: BTreeMap<String, WatchState> = BTreeMap::new();
        for (label, state) in self.watches.all() {
            // Single objects count with their kind, so that series are bounded.
            let kind = label.split(' ').next().unwrap_or_default().to_owned();
            match by_kind.get_mut(&kind) {
                Some(sum) => add(sum, &state),
                None => {
                    by_kind.insert(kind, state);
                }
            }
        }
        // What is no longer watched has no series.
        for family in [&self.objects, &self.synced, &self.held] {
            family.clear();
        }
        for (resource, state) in by_kind {
            let label = ResourceLabel {
                resource: resource.clone(),
            };
            let set = |family: &Family<ResourceLabel, Gauge>, value: u64| {
                family.get_or_create(&label).set(whole(value));
            };
            set(&self.objects, state.objects as u64);
            set(&self.synced, u64::from(state.synced));
            set(&self.held, state.held as u64);
            set(&self.resyncs, state.resyncs);
            for (fault, count) in state.faults {
                let label = FaultLabel {
                    resource: resource.clone(),
                    fault,
                };
                self.faults.get_or_create(&label).set(whole(count));
            }
            for (event, count) in [("update", state.applied), ("delete", state.deleted)] {
                let label = EventLabel {
                    r#type: resource.clone(),
                    event,
                };
                self.events.get_or_create(&label).set(whole(count));
            }
        }
    }

    /// Every watch.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let all = self.watches.all().into_iter();
        all.map(|(label, state)| Shown {
            resource: label.to_string(),
            synced: state.synced,
            watching: state.stage == Stage::Watching,
            objects: state.objects,
            held_deletions: state.held,
            resyncs: state.resyncs,
            last_fault: state
                .last_fault
                .map(|(when, why)| format!("{}: {why}", humantime::format_rfc3339_seconds(when))),
        })
        .collect()
    }
}

fn add(sum: &mut WatchState, state: &WatchState) {
    sum.synced &= state.synced;
    sum.objects += state.objects;
    sum.applied += state.applied;
    sum.deleted += state.deleted;
    sum.held += state.held;
    sum.resyncs += state.resyncs;
    for (fault, count) in &state.faults {
        *sum.faults.entry(fault).or_default() += count;
    }
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
