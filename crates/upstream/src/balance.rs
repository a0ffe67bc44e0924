//! One choice among the endpoints of a view (`waypoint-contract` 5.6).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rand::{Rng, RngExt};

use crate::cluster::PickContext;
use crate::host::Host;
use crate::model::{Algorithm, Balancer, Warmup};
use crate::view::{Group, View};

/// What a choice is made by.
pub(crate) struct Chooser<'a, R: ?Sized> {
    pub(crate) balancer: &'a Balancer,
    pub(crate) context: &'a PickContext<'a>,
    pub(crate) now: u64,
    pub(crate) warming: bool,
    pub(crate) rng: &'a mut R,
}

impl<R: Rng + ?Sized> Chooser<'_, R> {
    /// An endpoint, if there is any that may be used.
    pub(crate) fn choose<'v>(&mut self, view: &'v View) -> Option<&'v Host> {
        let group = self.group(view)?;
        self.in_group(group).or_else(|| {
            // Its endpoints are all out by accrual: any other group's will do.
            let mut others = view.groups.iter().filter(|other| other.load > 0);
            others.find_map(|other| self.in_group(other))
        })
    }

    /// Groups get requests by their loads; an attempt that wants another
    /// locality goes where none of the failed endpoints is, if there is such.
    fn group<'v>(&mut self, view: &'v View) -> Option<&'v Group> {
        if self.context.other_locality && !self.context.avoid.is_empty() {
            let fresh = view.groups.iter().find(|group| {
                !group.hosts.is_empty() && !group.members.iter().any(|host| self.is_avoided(host))
            });
            if fresh.is_some() {
                return fresh;
            }
        }
        if let [only] = view.groups.as_slice() {
            return (only.load > 0).then_some(only);
        }
        if view.load == 0 {
            return None;
        }
        let mut at = self.rng.random_range(0..view.load);
        view.groups.iter().find(|group| {
            let here = at < group.load;
            at = at.saturating_sub(group.load);
            here
        })
    }

    fn in_group<'v>(&mut self, group: &'v Group) -> Option<&'v Host> {
        let chosen = match self.balancer.algorithm {
            Algorithm::LeastRequest if group.even && !self.warming => {
                self.better_of_two(group, |a, b| a.state.active() <= b.state.active())
            }
            Algorithm::LeastRequest => self.weighted(group, |host, warmth| {
                f64::from(host.endpoint.weight) * warmth / (f64::from(host.state.active()) + 1.0)
            }),
            Algorithm::RoundRobin if self.warming => self.weighted(group, |host, warmth| {
                f64::from(host.endpoint.weight) * warmth
            }),
            Algorithm::RoundRobin => self.in_turn(group),
            Algorithm::PeakEwma => self.better_of_two(group, |a, b| {
                a.state.expected_wait() <= b.state.expected_wait()
            }),
            Algorithm::RingHash { .. } | Algorithm::Maglev { .. } => self.hashed(group),
            Algorithm::Random | Algorithm::Passthrough => self.draw(group),
        };
        chosen.or_else(|| self.any(group))
    }

    /// Power of two choices.
    fn better_of_two<'v>(
        &mut self,
        group: &'v Group,
        better: impl Fn(&Host, &Host) -> bool,
    ) -> Option<&'v Host> {
        let first = self.draw(group)?;
        if group.hosts.len() == 1 {
            return Some(first);
        }
        let second = (0..ATTEMPTS)
            .filter_map(|_| self.draw(group))
            .find(|second| !Arc::ptr_eq(&second.state, &first.state));
        match second {
            Some(second) if !better(first, second) => Some(second),
            _ => Some(first),
        }
    }

    /// By weight, several times, until one may be used.
    fn draw<'v>(&mut self, group: &'v Group) -> Option<&'v Host> {
        let total = *group.cumulative.last()?;
        for _ in 0..ATTEMPTS {
            let place = if group.even {
                self.rng.random_range(0..group.hosts.len())
            } else {
                let at = self.rng.random_range(0..total);
                group.cumulative.partition_point(|sum| *sum <= at)
            };
            let host = group.hosts.get(place);
            if let Some(host) = host.filter(|host| self.is_wanted(host)) {
                return Some(host);
            }
        }
        None
    }

    /// By a weight of the moment: one pass over all.
    fn weighted<'v>(
        &mut self,
        group: &'v Group,
        weight: impl Fn(&Host, f64) -> f64,
    ) -> Option<&'v Host> {
        let warmup: Option<&Warmup> = self.balancer.warmup.as_ref().filter(|_| self.warming);
        let (mut sum, mut chosen) = (0.0, None);
        for host in &group.hosts {
            if !self.is_wanted(host) {
                continue;
            }
            let own = weight(host, host.state.warmth(warmup, self.now)).max(f64::MIN_POSITIVE);
            sum += own;
            // Each replaces the one before with its share of the sum so far.
            if self.rng.random_range(0.0..sum) < own {
                chosen = Some(host);
            }
        }
        chosen
    }

    fn in_turn<'v>(&self, group: &'v Group) -> Option<&'v Host> {
        let period = if group.turns.is_empty() {
            group.hosts.len()
        } else {
            group.turns.len()
        };
        (0..period).find_map(|_| {
            let at = group.cursor.fetch_add(1, Relaxed).checked_rem(period)?;
            let place = match group.turns.get(at) {
                Some(place) => *place as usize,
                None => at,
            };
            group.hosts.get(place).filter(|host| self.is_wanted(host))
        })
    }

    /// The first from the hash on that may be used; without a hash any.
    fn hashed<'v>(&mut self, group: &'v Group) -> Option<&'v Host> {
        let (Some(hash), Some(table)) = (self.context.hash, &group.table) else {
            return self.draw(group);
        };
        let panic = group.hosts.len() == group.members.len();
        table
            .from(hash)
            .filter_map(|place| group.members.get(place as usize))
            .find(|host| (panic || !host.state.is_ejected()) && self.is_wanted(host))
    }

    /// Whoever can be had, from a random place on: first those who haven't
    /// failed this request.
    fn any<'v>(&mut self, group: &'v Group) -> Option<&'v Host> {
        let len = group.hosts.len();
        if len == 0 {
            return None;
        }
        let start = self.rng.random_range(0..len);
        let round = || {
            let (before, after) = group.hosts.split_at(start);
            after.iter().chain(before)
        };
        round()
            .find(|host| self.is_wanted(host))
            .or_else(|| round().find(|host| host.state.is_open(self.now)))
    }

    fn is_wanted(&self, host: &Host) -> bool {
        host.state.is_open(self.now) && !self.is_avoided(host)
    }

    fn is_avoided(&self, host: &Host) -> bool {
        self.context
            .avoid
            .iter()
            .any(|uid| **uid == *host.endpoint.uid)
    }
}

/// Host re-selection attempts (`waypoint-contract` 1.9).
const ATTEMPTS: usize = 5;
