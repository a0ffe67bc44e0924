//! What is wrong with the configuration, for people: logged once when it
//! appears and when it goes, and shown as `/debug/statusz`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ambit_compile::{Diagnostic, Status};
use ambit_kube::{ObjectKey, Severity};
use parking_lot::Mutex;
use serde::Serialize;
use tracing::{info, warn};

/// The current page. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Page(Arc<Mutex<Shown>>);

#[derive(Default)]
struct Shown {
    version: u64,
    diagnostics: Arc<[Diagnostic]>,
    /// As the compiler has them: shared, since there may be thousands.
    statuses: BTreeMap<ObjectKey, Arc<Status>>,
}

/// The page as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Contents {
    /// Version of the configuration that nodes are sent.
    version: u64,
    /// Everything wrong or doubtful.
    diagnostics: Arc<[Diagnostic]>,
    /// What objects' statuses would say.
    statuses: Vec<ObjectStatus>,
}

/// The status of one object.
#[derive(Debug, Serialize)]
struct ObjectStatus {
    object: ObjectKey,
    status: Arc<Status>,
}

impl Page {
    /// The page now.
    pub(crate) fn contents(&self) -> Contents {
        let shown = self.0.lock();
        let statuses = shown.statuses.iter();
        Contents {
            version: shown.version,
            diagnostics: Arc::clone(&shown.diagnostics),
            statuses: statuses
                .map(|(object, status)| ObjectStatus {
                    object: object.clone(),
                    status: Arc::clone(status),
                })
                .collect(),
        }
    }

    /// Takes the statuses that changed with a version.
    pub(crate) fn learn(&self, version: u64, changed: BTreeMap<ObjectKey, Option<Arc<Status>>>) {
        let mut shown = self.0.lock();
        shown.version = version;
        for (object, status) in changed {
            match status {
                Some(status) => shown.statuses.insert(object, status),
                None => shown.statuses.remove(&object),
            };
        }
    }

    /// Replaces the diagnostics, and logs what is new and what is gone.
    pub(crate) fn replace(&self, diagnostics: Vec<Diagnostic>) {
        let new: Arc<[Diagnostic]> = diagnostics.into();
        let old = std::mem::replace(&mut self.0.lock().diagnostics, Arc::clone(&new));
        let (new, gone) = difference(&old, &new);
        for diagnostic in new {
            appeared(diagnostic);
        }
        for diagnostic in gone {
            info!(
                code = %diagnostic.code,
                origin = %diagnostic.origin,
                object = diagnostic.key.as_ref().map(ToString::to_string),
                "resolved"
            );
        }
    }
}

fn appeared(diagnostic: &Diagnostic) {
    let object = diagnostic.key.as_ref().map(ToString::to_string);
    let Diagnostic { code, origin, .. } = diagnostic;
    let document = origin.document;
    match diagnostic.severity {
        Severity::Error | Severity::Warning => {
            warn!(%code, %origin, document, object, "{diagnostic}");
        }
        Severity::Info => info!(%code, %origin, document, object, "{diagnostic}"),
    }
}

/// What is in `new` only, and what is in `old` only. A line that moved is the
/// same diagnostic.
fn difference<'a>(
    old: &'a [Diagnostic],
    new: &'a [Diagnostic],
) -> (Vec<&'a Diagnostic>, Vec<&'a Diagnostic>) {
    let identity = |d: &Diagnostic| {
        let place = (d.code, d.key.clone(), d.origin.file.clone());
        (place, d.field.clone(), d.message.clone())
    };
    let mut known: HashMap<_, Vec<&Diagnostic>> = HashMap::new();
    for diagnostic in old {
        known
            .entry(identity(diagnostic))
            .or_default()
            .push(diagnostic);
    }
    let appeared = new.iter().filter(|diagnostic| {
        let same = known.get_mut(&identity(diagnostic));
        same.and_then(Vec::pop).is_none()
    });
    let appeared = appeared.collect();
    (appeared, known.into_values().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<Diagnostic> {
        ambit_kube::read_manifest("f.yaml", text).problems
    }

    #[test]
    fn a_diagnostic_is_new_once_and_gone_once() {
        let one = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspek: {}\n";
        let (bad, fine) = (problems(one), Vec::new());
        assert!(!bad.is_empty());
        let moved = problems(&format!("# a comment\n\n{one}"));
        assert_eq!(difference(&fine, &bad).0.len(), bad.len());
        assert_eq!(difference(&bad, &fine).1.len(), bad.len());
        let (new, gone) = difference(&bad, &moved);
        assert!(new.is_empty() && gone.is_empty(), "{new:?} {gone:?}");
        let twice: Vec<_> = [bad.clone(), bad.clone()].concat();
        assert_eq!(difference(&bad, &twice).0.len(), bad.len());
    }
}
