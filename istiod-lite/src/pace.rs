//! When changes are published: at once, unless publishing is what we do all
//! the time.
//!
//! Upstream waits until nothing has changed for 100 ms (`control-plane-contract`
//! 6.4). Here the first change of a while waits for nothing; those after it
//! wait so long that publishing takes a bounded share of the time, and so a
//! burst of a thousand files is a few publications.

use std::time::Duration;

use tokio::time::Instant;

/// When the last publication ended, and what it cost.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// A publication is done. Its cost is processor time: that others had the
    /// processors, or that a disk was slow, is no reason to publish more seldom.
    pub(crate) fn flushed(&mut self, ended: Instant, cost: Duration) {
        self.last = Some((ended, cost));
    }

    /// When what came at `since` is to be published.
    pub(crate) fn next(&self, since: Instant) -> Instant {
        let Some((ended, cost)) = self.last else {
            return since;
        };
        since.max(ended + (cost * SHARE).min(REST_AT_MOST))
    }
}

/// After a publication we rest this many times what it cost.
const SHARE: u32 = 4;
/// And never longer than upstream's debounce; a publication that costs more than
/// a quarter of it is of a size where nobody waits for milliseconds.
const REST_AT_MOST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_goes_at_once_and_a_burst_is_gathered() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.next(start), start);
        let cases = [(2, 8), (25, 100), (3000, 100)];
        for (cost, rest) in cases {
            let ended = start + ms(cost);
            pace.flushed(ended, ms(cost));
            assert_eq!(pace.next(ended), ended + ms(rest), "{cost}");
            let later = ended + ms(rest + 1);
            assert_eq!(pace.next(later), later, "after a while: at once");
        }
    }
}
