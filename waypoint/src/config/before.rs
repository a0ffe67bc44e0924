//! Snapshots of before something was taken away from this waypoint.
//!
//! A service that goes round a waypoint from now on is taken from it at the
//! moment in which its clients' proxies are told. Who hasn't heard yet, and who
//! holds a connection, is served once more by what was in force, and on HTTP/1.1
//! told to come back another way. After that it is unknown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Config;
use crate::destination::Destination;

/// The last snapshots, the newest first.
#[derive(Clone, Default)]
pub(crate) struct Before(Arc<[One]>);

#[derive(Clone)]
struct One {
    config: Arc<Config>,
    until: Instant,
}

impl Before {
    /// These, without those whose time is over, and with the snapshot that was in
    /// force before something was taken away. What is taken away in a burst, type
    /// after type, has one snapshot: that of before its first part.
    pub(super) fn followed_by(&self, last: Option<&Config>, now: Instant) -> Self {
        let mut all: Vec<One> = self
            .0
            .iter()
            .filter(|one| now < one.until)
            .cloned()
            .collect();
        let burst = all
            .first()
            .is_some_and(|newest| newest.until > now + (KEPT - BURST));
        if let Some(last) = last.filter(|_| !burst) {
            let config = Arc::new(Config {
                before: Self::default(),
                ..last.clone()
            });
            let until = now + KEPT;
            all.insert(0, One { config, until });
            all.truncate(MOST);
        }
        Self(all.into())
    }

    /// The snapshots that still count.
    pub(crate) fn at(&self, now: Instant) -> impl Iterator<Item = &Arc<Config>> {
        self.0
            .iter()
            .filter(move |one| now < one.until)
            .map(|one| &one.config)
    }
}

impl Config {
    /// The snapshot that knows a destination, if this one doesn't: the last that
    /// did, for a while.
    pub(crate) fn departed(&self, destination: &Destination) -> Option<Arc<Self>> {
        if destination.find(self).is_some() {
            return None;
        }
        let mut before = self.before.at(Instant::now());
        before
            .find(|config| destination.find(config).is_some())
            .cloned()
    }
}

/// How long somebody may not have heard, and a kept connection be silent.
const KEPT: Duration = Duration::from_secs(10);
const BURST: Duration = Duration::from_secs(1);
/// Snapshots share what they have in common.
const MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(version: u64) -> Config {
        Config {
            version,
            ..Config::default()
        }
    }

    fn versions(before: &Before, now: Instant) -> Vec<u64> {
        before.at(now).map(|config| config.version).collect()
    }

    #[test]
    fn a_burst_has_the_snapshot_of_before_its_first_part() {
        let now = Instant::now();
        let step = Duration::from_millis(400);
        let before = Before::default().followed_by(Some(&config(1)), now);
        let before = before.followed_by(Some(&config(2)), now + step);
        assert_eq!(versions(&before, now + step), [1]);
        let before = before.followed_by(Some(&config(3)), now + 3 * step);
        assert_eq!(versions(&before, now + 3 * step), [3, 1]);
    }

    #[test]
    fn snapshots_go_when_their_time_is_over_and_hold_no_older_ones() {
        let now = Instant::now();
        let mut before = Before::default();
        for nth in 0..20 {
            let last = Config {
                before: before.clone(),
                ..config(u64::from(nth))
            };
            let at = now + BURST * nth;
            before = before.followed_by(Some(&last), at);
            assert!(versions(&before, at).len() <= MOST);
        }
        assert!(before.0.iter().all(|one| one.config.before.0.is_empty()));
        let later = now + BURST * 20 + KEPT;
        assert_eq!(versions(&before, later), [] as [u64; 0]);
        assert!(before.followed_by(None, later).0.is_empty());
    }
}
