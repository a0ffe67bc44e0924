//! What is analysed: a cluster's objects, and over them those of files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ambit_compile::enrolment::REDIRECTION;
use ambit_kube::{Change, Object, ObjectKey, Problem, Redirection};
use ambit_source::Manifests;

use crate::exit::Failure;
use crate::streams::Streams;

/// Objects for the compiler, and what the readers said of them.
#[derive(Default)]
pub(super) struct Input {
    pub(super) changes: Vec<Change>,
    pub(super) problems: Vec<Problem>,
}

impl Input {
    /// What a source told.
    pub(super) fn of(told: Vec<Change>) -> Self {
        let mut input = Self::default();
        for change in told {
            match change {
                // Each time all of them.
                Change::Problems(problems) => input.problems = problems,
                Change::Synced => {}
                change => input.push(change),
            }
        }
        input
    }

    /// A pod that an API server gave has what its node's agent wrote on it, and that is the agent's word.
    fn push(&mut self, mut change: Change) {
        let said = match &mut change {
            Change::Apply(located) => match &mut located.object {
                Object::Pod(pod) if is_served(&pod.metadata) => redirection(pod),
                _ => None,
            },
            _ => None,
        };
        self.changes.push(change);
        self.changes.extend(said);
    }

    /// The objects that are given.
    pub(super) fn keys(&self) -> BTreeSet<ObjectKey> {
        let given = self.changes.iter().filter_map(|change| match change {
            Change::Apply(located) => Some(located.object.key()),
            _ => None,
        });
        given.collect()
    }

    /// This, and another one over it: where both have an object, the other's holds.
    pub(super) fn under(mut self, over: Self) -> Self {
        let given = over.keys();
        let is_over = |key: &Option<ObjectKey>| key.as_ref().is_some_and(|key| given.contains(key));
        self.problems.retain(|problem| !is_over(&problem.key));
        self.changes.extend(over.changes);
        self.problems.extend(over.problems);
        self
    }
}

fn is_served(meta: &ambit_kube::core::ObjectMeta) -> bool {
    meta.uid.is_some() && meta.creation_timestamp.is_some()
}

fn redirection(pod: &mut Arc<ambit_kube::core::Pod>) -> Option<Change> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(REDIRECTION)?;
    let meta = &mut Arc::make_mut(pod).metadata;
    let state = match meta.annotations.as_mut()?.remove(REDIRECTION)?.as_str() {
        "enabled" => Redirection::Enabled,
        "pending" => Redirection::Pending,
        _ => Redirection::None,
    };
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    Some(Change::Redirection {
        namespace: text(&meta.namespace),
        name: text(&meta.name),
        uid: text(&meta.uid),
        state,
    })
}

/// Everything that the files hold.
pub(super) fn files(paths: &[PathBuf], streams: &mut Streams<'_>) -> Result<Vec<Change>, Failure> {
    let mut manifests = Manifests::default();
    for path in paths {
        if path == Path::new("-") {
            let text = streams.read_input()?;
            manifests.add_text(path, &text);
            continue;
        }
        let listing = ambit_source::list(path);
        if let Some((path, source)) = listing.faults.into_iter().next() {
            return Err(Failure::File { path, source });
        }
        for skipped in &listing.skipped {
            streams.note(&format!(
                "Skipping {}: not .yaml, .yml or .json",
                skipped.display()
            ));
        }
        for file in listing.files.keys() {
            manifests.add_file(file);
        }
    }
    Ok(manifests.changes())
}
