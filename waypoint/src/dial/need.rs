//! How many idle connections are worth their memory.
//!
//! As many as were in use at once a moment ago, in addition to those that are:
//! load that comes and goes within seconds finds its connections again. What
//! wasn't needed for a while is let go, half of it a tick; a new connection
//! costs one CONNECT on a tunnel connection that stays.

/// How many connections of one key were in use at once, lately.
#[derive(Debug, Default)]
pub(super) struct Need {
    /// The most since the last tick.
    most: usize,
    /// The most before that, halved with each tick.
    lately: usize,
}

impl Need {
    /// So many are in use now.
    pub(super) fn in_use(&mut self, now: usize) {
        self.most = self.most.max(now);
    }

    /// A tick is over, `now` are in use: how many idle ones are kept.
    pub(super) fn tick(&mut self, now: usize) -> usize {
        self.lately = self.most.max(now).max(self.lately / 2);
        self.most = now;
        self.lately.max(FEW).saturating_sub(now)
    }
}

/// Always kept, until they have been idle for too long: requests that come one
/// by one don't pay for connections.
const FEW: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_use_a_moment_ago_is_kept() {
        let mut need = Need::default();
        need.in_use(100);
        need.in_use(40);
        assert_eq!(need.tick(40), 60);
        // Load that swings finds its connections.
        need.in_use(100);
        assert_eq!(need.tick(10), 90);
    }

    #[test]
    fn what_is_not_needed_any_more_is_let_go_by_halves_down_to_a_few() {
        let mut need = Need::default();
        need.in_use(100);
        let kept: Vec<usize> = (0..8).map(|_| need.tick(0)).collect();
        assert_eq!(kept, [100, 50, 25, 12, 6, 4, 4, 4]);
        // A burst counts anew at once.
        need.in_use(64);
        assert_eq!(need.tick(64), 0);
        assert_eq!(need.tick(0), 64);
        assert_eq!(need.tick(0), 32);
    }

    #[test]
    fn a_steady_load_keeps_nothing_idle_beyond_its_swings() {
        let mut need = Need::default();
        need.in_use(300);
        need.tick(8);
        let mut kept = usize::MAX;
        for _ in 0..12 {
            need.in_use(9);
            kept = need.tick(8);
        }
        assert_eq!(kept, 1);
    }
}
