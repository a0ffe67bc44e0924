//! Readiness: named tasks that must all be ready.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The set of what must be ready before the program is. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness {
    tasks: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

/// One task's say in the program's readiness.
pub struct ReadyGuard {
    name: &'static str,
    tasks: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    /// Nothing registered: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a task that isn't ready yet.
    pub fn register(&self, name: &'static str) -> ReadyGuard {
        self.tasks.lock().insert(name, false);
        ReadyGuard {
            name,
            tasks: Arc::clone(&self.tasks),
        }
    }

    /// Names of the tasks that aren't ready, sorted.
    pub fn pending(&self) -> Vec<&'static str> {
        self.tasks
            .lock()
            .iter()
            .filter(|(_, ready)| !**ready)
            .map(|(name, _)| *name)
            .collect()
    }

    /// True if nothing is pending.
    pub fn is_ready(&self) -> bool {
        self.tasks.lock().values().all(|ready| *ready)
    }
}

impl ReadyGuard {
    /// This task is ready.
    pub fn ready(&self) {
        self.tasks.lock().insert(self.name, true);
    }

    /// This task isn't ready any more.
    pub fn not_ready(&self) {
        self.tasks.lock().insert(self.name, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_is_sorted_and_can_come_back() {
        let readiness = Readiness::new();
        let b = readiness.register("b");
        let a = readiness.register("a");
        assert_eq!(readiness.pending(), ["a", "b"]);
        a.ready();
        b.ready();
        assert!(readiness.is_ready());
        a.not_ready();
        assert_eq!(readiness.pending(), ["a"]);
    }
}
