//! What is wrong with objects, told as a whole when it changes.

use std::collections::{BTreeMap, HashSet};

use ambit_kube::{Change, Code, Loaded, ObjectKey, Origin, Problem, Severity};

/// What is wrong, by object.
#[derive(Debug, Default)]
pub(super) struct Problems {
    by_object: BTreeMap<ObjectKey, Vec<Problem>>,
    changed: bool,
    /// Objects of kinds that can be unreadable that were good once.
    good: HashSet<ObjectKey>,
}

impl Problems {
    /// Takes in what was read of an object: the changes that it makes.
    pub(super) fn read(&mut self, key: &ObjectKey, loaded: Loaded, changes: &mut Vec<Change>) {
        let mut problems = loaded.problems;
        if loaded.objects.is_empty() {
            let kept = self.good.contains(key).then(|| kept(key));
            problems.extend(kept);
        } else if may_break(key) {
            self.good.insert(key.clone());
        }
        changes.extend(loaded.objects.into_iter().map(Change::Apply));
        self.set(key, problems);
    }

    /// An object is gone.
    pub(super) fn gone(&mut self, key: &ObjectKey) {
        self.good.remove(key);
        self.set(key, Vec::new());
    }

    /// An object of the API server isn't one.
    pub(super) fn garbled(&mut self, key: &ObjectKey, why: &str) {
        let problem = Problem {
            code: Code::WRONG_TYPE,
            severity: Severity::Error,
            key: Some(key.clone()),
            origin: Origin::api(key),
            field: None,
            value: None,
            message: why.to_owned(),
            remedy: Some("the object has no effect as it is".to_owned()),
        };
        let kept = self.good.contains(key).then(|| kept(key));
        self.set(key, std::iter::once(problem).chain(kept).collect());
    }

    fn set(&mut self, key: &ObjectKey, problems: Vec<Problem>) {
        let differs = if problems.is_empty() {
            self.by_object.remove(key).is_some()
        } else {
            let before = self.by_object.insert(key.clone(), problems);
            before.as_ref() != self.by_object.get(key)
        };
        self.changed |= differs;
    }

    /// All of them, if they aren't those that were told last.
    pub(super) fn told(&mut self) -> Option<Change> {
        std::mem::take(&mut self.changed)
            .then(|| Change::Problems(self.by_object.values().flatten().cloned().collect()))
    }
}

/// Whether objects of the kind can turn out to be unreadable. Those of the many
/// small kinds can't, if the API server took them.
fn may_break(key: &ObjectKey) -> bool {
    use ambit_kube::Kind;
    !matches!(
        key.kind,
        Kind::Pod | Kind::Node | Kind::Namespace | Kind::Service | Kind::EndpointSlice
    )
}

fn kept(key: &ObjectKey) -> Problem {
    Problem {
        code: Code::LAST_GOOD_KEPT,
        severity: Severity::Warning,
        key: Some(key.clone()),
        origin: Origin::api(key),
        field: None,
        value: None,
        message: format!("{key} stays in force in its last good form"),
        remedy: Some("correct the object, or delete it".to_owned()),
    }
}
