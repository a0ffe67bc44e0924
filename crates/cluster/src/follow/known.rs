//! Which objects of a resource were told, and in which version: what makes
//! repeated, late and lost events harmless.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::wire::Head;

/// What an object is called within its resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Empty for what lives in no namespace.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl Name {
    pub(super) fn of(head: &Head) -> Self {
        Self {
            namespace: head.namespace.as_str().into(),
            name: head.name.as_str().into(),
        }
    }
}

/// What to do with something that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Tell it.
    News,
    /// It is known, or older than what is known.
    Old,
    /// It can't come after what this watch began with: the server's history is
    /// another than the one that we know.
    OtherHistory,
}

/// The objects that were told.
#[derive(Debug, Default)]
pub(super) struct Known {
    objects: HashMap<Name, u64>,
    /// Deleted a short while ago, so that an older event doesn't bring them back.
    buried: HashMap<Name, u64>,
    order: VecDeque<Name>,
}

impl Known {
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// An object is in a list. Lists are believed whole; whether it is news.
    pub(super) fn listed(&mut self, name: Name, version: u64) -> bool {
        self.objects.insert(name, version) != Some(version) || version == 0
    }

    /// An event of a watch that began after `start` applies an object.
    pub(super) fn applied(&mut self, name: &Name, version: u64, start: u64) -> Verdict {
        let known = self.objects.get(name).copied();
        if version != 0 {
            if known == Some(version) {
                return Verdict::Old;
            }
            if version <= start {
                return Verdict::OtherHistory;
            }
            let buried = self.buried.get(name).copied();
            if known.max(buried).is_some_and(|newest| newest >= version) {
                return Verdict::Old;
            }
        }
        self.objects.insert(name.clone(), version);
        Verdict::News
    }

    /// An event of a watch that began after `start` deletes an object.
    pub(super) fn deleted(&mut self, name: &Name, version: u64, start: u64) -> Verdict {
        let known = self.objects.get(name).copied();
        if version != 0 {
            if version <= start {
                return if known.is_some() {
                    Verdict::OtherHistory
                } else {
                    Verdict::Old
                };
            }
            if known.is_some_and(|newest| newest > version) {
                return Verdict::Old;
            }
            self.bury(name.clone(), version);
        }
        match self.objects.remove(name) {
            Some(_) => Verdict::News,
            None => Verdict::Old,
        }
    }

    /// A deletion isn't believed yet. The next list tells the object again, or
    /// its end.
    pub(super) fn restore(&mut self, name: Name) {
        self.buried.remove(&name);
        self.objects.insert(name, 0);
    }

    /// What isn't in a list.
    pub(super) fn missing(&self, listed: &HashSet<Name>) -> Vec<Name> {
        let mut missing: Vec<_> = self
            .objects
            .keys()
            .filter(|name| !listed.contains(name))
            .cloned()
            .collect();
        missing.sort();
        missing
    }

    /// A list says that it is gone.
    pub(super) fn remove(&mut self, name: &Name) {
        self.objects.remove(name);
    }

    /// Everything, which is gone now.
    pub(super) fn drain(&mut self) -> Vec<Name> {
        self.begin_list();
        let mut names: Vec<_> = self.objects.drain().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    /// A list is the truth; nothing older can come after it.
    pub(super) fn begin_list(&mut self) {
        self.buried.clear();
        self.order.clear();
    }

    /// Versions mean nothing any more: whatever is listed is news.
    pub(super) fn distrust(&mut self) {
        self.objects.values_mut().for_each(|version| *version = 0);
    }

    fn bury(&mut self, name: Name, version: u64) {
        if self.buried.insert(name.clone(), version).is_none() {
            self.order.push_back(name);
        }
        if self.order.len() > BURIED
            && let Some(oldest) = self.order.pop_front()
        {
            self.buried.remove(&oldest);
        }
    }
}

/// Deletions that are remembered.
const BURIED: usize = 1024;

/// How many deletions there were a short while ago: more than half of
/// everything is not believed at once.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    recent: VecDeque<Instant>,
}

impl Deletions {
    /// `now` more are asked for, of those that would be left and these.
    /// Whether that is too many.
    pub(super) fn too_many(&mut self, now: usize, left: usize, window: Duration) -> bool {
        let at = Instant::now();
        while self
            .recent
            .front()
            .is_some_and(|then| at.duration_since(*then) > window)
        {
            self.recent.pop_front();
        }
        let deleted = self.recent.len() + now;
        let before = left + deleted;
        now > 0 && is_mass(deleted, before)
    }

    /// That many were told.
    pub(super) fn told(&mut self, count: usize) {
        let at = Instant::now();
        self.recent.extend(std::iter::repeat_n(at, count));
    }

    /// A list has said what there is.
    pub(super) fn forget(&mut self) {
        self.recent.clear();
    }
}

/// Whether `gone` of `before` objects is a mass deletion.
pub(super) fn is_mass(gone: usize, before: usize) -> bool {
    before >= FEW && gone * 2 > before
}

/// Of fewer objects than this, any number may go at once.
const FEW: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        Name {
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    #[test]
    fn repeated_and_late_events_are_old() {
        use Verdict::{News, Old, OtherHistory};
        let mut known = Known::default();
        let cart = name("cart");
        assert!(known.listed(cart.clone(), 5));
        assert!(!known.listed(cart.clone(), 5));
        assert_eq!(known.applied(&cart, 5, 10), Old, "as listed");
        assert_eq!(known.applied(&cart, 11, 10), News);
        assert_eq!(known.applied(&cart, 11, 10), Old);
        assert_eq!(known.applied(&cart, 13, 10), News);
        assert_eq!(known.applied(&cart, 12, 10), Old, "overtaken");
        assert_eq!(known.deleted(&cart, 12, 10), Old, "of an older life");
        assert_eq!(known.deleted(&cart, 14, 10), News);
        assert_eq!(known.deleted(&cart, 14, 10), Old);
        assert_eq!(known.applied(&cart, 13, 10), Old, "from the dead");
        assert_eq!(known.applied(&cart, 15, 10), News, "a new life");
        assert_eq!(known.applied(&cart, 9, 10), OtherHistory);
        assert_eq!(known.deleted(&cart, 9, 10), OtherHistory);
        assert_eq!(known.deleted(&name("pay"), 9, 10), Old);
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_a_few_may_go_and_of_many_must_wait() {
        let window = Duration::from_secs(1);
        let mut deletions = Deletions::default();
        assert!(!deletions.too_many(9, 0, window), "there were nine");
        assert!(!deletions.too_many(50, 50, window), "half");
        assert!(deletions.too_many(51, 49, window));
        deletions.told(30);
        assert!(deletions.too_many(21, 49, window), "30 went before");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!deletions.too_many(21, 49, window), "long ago");
    }
}
