//! Consistent choice (`waypoint-contract` 5.6): a ring, or Maglev's table.
//!
//! Both are made over all endpoints of a group, healthy or not: who is out is
//! passed over, so an ejection moves nobody else's keys.

use crate::hash::xx;
use crate::host::Host;
use crate::model::Algorithm;

/// Places of hosts by hash.
#[derive(Debug)]
pub(crate) enum Table {
    /// Sorted by hash.
    Ring(Vec<(u64, u32)>),
    /// By remainder.
    Maglev(Vec<u32>),
}

impl Table {
    /// `None`: the algorithm has no table.
    pub(crate) fn new(algorithm: Algorithm, hosts: &[Host]) -> Option<Self> {
        match algorithm {
            Algorithm::RingHash { entries } => Some(Self::Ring(ring(hosts, entries))),
            Algorithm::Maglev { size } => Some(Self::Maglev(maglev(hosts, size))),
            _ => None,
        }
    }

    /// Places of hosts, the best first, each perhaps several times.
    pub(crate) fn from(&self, hash: u64) -> impl Iterator<Item = u32> {
        let (start, len) = match self {
            Self::Ring(ring) => (ring.partition_point(|(at, _)| *at < hash), ring.len()),
            Self::Maglev(table) => {
                let len = table.len();
                let at = hash.checked_rem(len as u64).unwrap_or_default();
                (usize::try_from(at).unwrap_or_default(), len)
            }
        };
        (0..len).filter_map(move |step| {
            let at = (start + step) % len;
            match self {
                Self::Ring(ring) => ring.get(at).map(|(_, host)| *host),
                Self::Maglev(table) => table.get(at).copied(),
            }
        })
    }
}

fn ring(hosts: &[Host], least: u32) -> Vec<(u64, u32)> {
    let total: u64 = hosts.iter().map(|h| u64::from(h.endpoint.weight)).sum();
    // Powers of two, so that an endpoint's entries stay when another comes or
    // goes, until their number doubles or halves.
    let size = u64::from(least).clamp(1, MOST_ENTRIES).next_power_of_two();
    let unit = 1_u64 << total.max(1).ilog2();
    let mut ring = Vec::new();
    let mut key = Vec::new();
    for (place, host) in (0_u32..).zip(hosts) {
        let weight = u64::from(host.endpoint.weight);
        let entries = (size * weight / unit).max(1);
        for entry in 0..entries {
            key.clear();
            key.extend_from_slice(host.endpoint.uid.as_bytes());
            key.push(b'_');
            key.extend_from_slice(entry.to_string().as_bytes());
            ring.push((xx(&key), place));
        }
    }
    ring.sort_unstable();
    ring
}

/// Each host takes turns in its own order of places, by weight.
fn maglev(hosts: &[Host], size: u32) -> Vec<u32> {
    let size = u64::from(size.clamp(3, MOST_MAGLEV));
    let heaviest = hosts.iter().map(|h| h.endpoint.weight).max();
    let Some(heaviest) = heaviest.map(f64::from) else {
        return Vec::new();
    };
    let mut turns: Vec<Turn> = hosts
        .iter()
        .map(|host| Turn::new(host, size, heaviest))
        .collect();
    let mut table = vec![u32::MAX; usize::try_from(size).unwrap_or_default()];
    let mut filled = 0;
    let mut round = 0.0;
    while filled < table.len() {
        round += 1.0;
        for (place, turn) in (0_u32..).zip(&mut turns) {
            if round * turn.share < turn.due {
                continue;
            }
            turn.due += 1.0;
            while let Some(slot) = table.get_mut(turn.next(size)) {
                if *slot == u32::MAX {
                    *slot = place;
                    filled += 1;
                    break;
                }
            }
            if filled == table.len() {
                break;
            }
        }
    }
    table
}

struct Turn {
    at: u64,
    skip: u64,
    share: f64,
    due: f64,
}

impl Turn {
    fn new(host: &Host, size: u64, heaviest: f64) -> Self {
        let uid = host.endpoint.uid.as_bytes();
        let other = twox_hash::XxHash64::oneshot(1, uid);
        Self {
            at: xx(uid) % size,
            skip: other % (size - 1) + 1,
            share: f64::from(host.endpoint.weight) / heaviest,
            due: 1.0,
        }
    }

    fn next(&mut self, size: u64) -> usize {
        let at = self.at;
        self.at = (at + self.skip) % size;
        usize::try_from(at).unwrap_or_default()
    }
}

/// Envoy's bound of a ring.
const MOST_ENTRIES: u64 = 8 << 20;
/// Envoy's bound of a table.
const MOST_MAGLEV: u32 = 5_000_011;
