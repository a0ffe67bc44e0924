//! The immutable picture that requests choose from: who is healthy, in which
//! group, and which share of requests each group gets.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::host::Host;
use crate::locality::{Grouping, group};
use crate::model::{Algorithm, Endpoint, Local, Settings};
use crate::table::Table;

/// Everything that a choice needs.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) groups: Vec<Group>,
    /// Sum of the groups' loads.
    pub(crate) load: u64,
    /// Sessions find their endpoint here, draining ones too.
    pub(crate) by_uid: HashMap<Arc<str>, Host>,
    /// Too few are healthy: all are used.
    pub(crate) panic: bool,
    /// Some endpoint is warming up until then.
    pub(crate) warm_until: u64,
}

/// Endpoints that are equally preferred.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// All of them, healthy or not; the table's places are in here.
    pub(crate) members: Arc<[Host]>,
    /// Those who get requests.
    pub(crate) hosts: Vec<Host>,
    /// Its share of requests, of the view's.
    pub(crate) load: u64,
    /// Their weights are equal.
    pub(crate) even: bool,
    /// Sums of weights up to each host.
    pub(crate) cumulative: Vec<u64>,
    /// Round robin by weight: places in turn; empty when even.
    pub(crate) turns: Vec<u32>,
    /// Whose turn it is.
    pub(crate) cursor: AtomicUsize,
    pub(crate) table: Option<Arc<Table>>,
}

/// What a view is made from.
pub(crate) struct Source<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) local: &'a Local,
    /// Those who may be used, ejected or not.
    pub(crate) hosts: &'a [Host],
    /// Only for sessions.
    pub(crate) draining: &'a [Host],
    /// Tables are kept where the members are the same.
    pub(crate) before: &'a View,
}

impl View {
    pub(crate) fn new(source: &Source<'_>) -> Self {
        let Source {
            settings, hosts, ..
        } = source;
        let healthy = hosts.iter().filter(|h| !h.state.is_ejected()).count();
        let least = settings
            .policy
            .outlier
            .map_or(0, |outlier| outlier.min_health_percent);
        let panic = healthy * 100 < hosts.len() * least as usize;
        let endpoints = hosts.iter().map(|h| &*h.endpoint as &Endpoint);
        let grouping = group(settings, source.local, endpoints);
        let mut groups = divide(&grouping, hosts)
            .into_iter()
            .enumerate()
            .map(|(at, members)| Group::new(source, at, members, panic))
            .collect::<Vec<_>>();
        let load = share(&grouping, &mut groups);
        let warm_until = settings.policy.balancer.warmup.map_or(0, |warmup| {
            let duration = u64::try_from(warmup.duration.as_millis()).unwrap_or(u64::MAX);
            hosts
                .iter()
                .map(|h| h.state.added_at())
                .filter(|added| *added != 0)
                .map(|added| added.saturating_add(duration))
                .max()
                .unwrap_or(0)
        });
        Self {
            groups,
            load,
            by_uid: hosts
                .iter()
                .chain(source.draining)
                .map(|host| (Arc::clone(&host.endpoint.uid), host.clone()))
                .collect(),
            panic,
            warm_until,
        }
    }
}

/// Members by priority (empty ones are kept, their load is 0) or by weight.
fn divide(grouping: &Grouping, hosts: &[Host]) -> Vec<Vec<Host>> {
    let (count, places): (usize, Vec<Option<usize>>) = match grouping {
        Grouping::Priorities(priorities) => (
            priorities.iter().max().map_or(0, |most| *most as usize + 1),
            priorities.iter().map(|p| Some(*p as usize)).collect(),
        ),
        Grouping::Weights(weights, places) => (weights.len(), places.clone()),
    };
    let mut groups = vec![Vec::new(); count];
    for (place, host) in places.into_iter().zip(hosts) {
        if let Some(members) = place.and_then(|at| groups.get_mut(at)) {
            members.push(host.clone());
        }
    }
    groups
}

/// Loads, with 1.4 times the healthy share as what a group can bear (5.6):
/// priorities pass on what they can't bear, weights are reduced by it.
fn share(grouping: &Grouping, groups: &mut [Group]) -> u64 {
    let bears = |group: &Group| match group.members.len() as u64 {
        0 => 0,
        all => (group.hosts.len() as u64 * 140 * PERCENT / all).min(100 * PERCENT),
    };
    match grouping {
        Grouping::Weights(weights, _) => {
            for (group, weight) in groups.iter_mut().zip(weights) {
                group.load = bears(group) * u64::from(*weight);
            }
        }
        Grouping::Priorities(_) => {
            let total = groups.iter().map(bears).sum::<u64>().min(100 * PERCENT);
            let mut left = total;
            for group in groups.iter_mut() {
                group.load = bears(group).min(left);
                left -= group.load;
            }
        }
    }
    groups.iter().map(|group| group.load).sum()
}

impl Group {
    fn new(source: &Source<'_>, at: usize, members: Vec<Host>, panic: bool) -> Self {
        let balancer = &source.settings.policy.balancer;
        let hosts: Vec<Host> = members
            .iter()
            .filter(|host| panic || !host.state.is_ejected())
            .cloned()
            .collect();
        let before = source.before.groups.get(at);
        let same = before.filter(|before| same_members(&before.members, &members));
        let members: Arc<[Host]> = members.into();
        let table = match same.and_then(|before| before.table.clone()) {
            Some(table) if fits(&table, balancer.algorithm) => Some(table),
            _ => Table::new(balancer.algorithm, &members).map(Arc::new),
        };
        let weights = || hosts.iter().map(|h| h.endpoint.weight);
        let first = weights().next();
        let even = weights().all(|weight| Some(weight) == first);
        let turns = if even || balancer.algorithm != Algorithm::RoundRobin {
            Vec::new()
        } else {
            turns(&weights().collect::<Vec<_>>())
        };
        let mut sum = 0;
        let cumulative = weights()
            .map(|weight| {
                sum += u64::from(weight);
                sum
            })
            .collect();
        Self {
            members,
            even,
            cumulative,
            turns,
            cursor: AtomicUsize::new(before.map_or(0, Self::turn)),
            table,
            hosts,
            load: 0,
        }
    }

    fn turn(&self) -> usize {
        self.cursor.load(std::sync::atomic::Ordering::Relaxed)
    }
}

const fn fits(table: &Table, algorithm: Algorithm) -> bool {
    matches!(
        (table, algorithm),
        (Table::Ring(_), Algorithm::RingHash { .. }) | (Table::Maglev(_), Algorithm::Maglev { .. })
    )
}

fn same_members(before: &[Host], now: &[Host]) -> bool {
    before.len() == now.len()
        && before.iter().zip(now).all(|(a, b)| {
            a.endpoint.uid == b.endpoint.uid && a.endpoint.weight == b.endpoint.weight
        })
}

/// Smooth weighted round robin, one period of it: who is furthest behind goes
/// next. Weights are scaled down where a period would be too long.
fn turns(weights: &[u32]) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let divisor = weights
        .iter()
        .fold(0, |divisor, weight| gcd(divisor, u64::from(*weight)))
        .max(1);
    let scale = (sum / divisor).div_ceil(MOST_TURNS).max(1) * divisor;
    let weights: Vec<i64> = weights
        .iter()
        .map(|weight| i64::try_from((u64::from(*weight) / scale).max(1)).unwrap_or(1))
        .collect();
    let period: i64 = weights.iter().sum();
    let mut behind = vec![0_i64; weights.len()];
    let mut out = Vec::new();
    for _ in 0..period {
        for (behind, weight) in behind.iter_mut().zip(&weights) {
            *behind += weight;
        }
        let next = (0_u32..)
            .zip(&mut behind)
            .max_by_key(|(at, behind)| (**behind, u32::MAX - at));
        if let Some((at, behind)) = next {
            *behind -= period;
            out.push(at);
        }
    }
    out
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Loads are counted in hundredths of a percent.
const PERCENT: u64 = 100;
const MOST_TURNS: u64 = 4096;
