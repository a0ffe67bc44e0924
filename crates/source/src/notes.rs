//! What the system's notifications amount to: which files to look at, and when.
//!
//! A file is looked at as soon as its writer is done with it: it was closed, renamed into place or removed. One that
//! is being written, or whose end can't be noticed, is looked at when nothing has happened to it for a moment. Time
//! is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind};

use crate::files::is_manifest;

/// Notifications that have not been acted on.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    done: BTreeSet<PathBuf>,
    /// Being written: since when, and last.
    open: BTreeMap<PathBuf, (Instant, Instant)>,
    /// Moved away, maybe directories: since when.
    left: BTreeMap<PathBuf, Instant>,
    everything: bool,
}

/// What to look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Everything but these files, which are being written.
    Everything {
        /// See there.
        but: BTreeSet<PathBuf>,
    },
    /// These files, which may be gone.
    At(BTreeSet<PathBuf>),
}

impl Notes {
    /// Takes a notification. Whether it is one that anybody waits for.
    pub(crate) fn take(&mut self, event: &Event, now: Instant) -> bool {
        if event.need_rescan() {
            self.everything = true;
            return true;
        }
        let mut matters = false;
        for path in &event.paths {
            matters |= self.note(event.kind, path, now);
        }
        // Moved within our sight: the old name was a file's if the new one is.
        if event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::Both))
            && let [from, to] = event.paths.as_slice()
            && is_manifest(to)
        {
            self.left.remove(from);
        }
        if self.done.len() + self.open.len() + self.left.len() > MAX_NOTES {
            *self = Self {
                everything: true,
                ..Self::default()
            };
        }
        matters
    }

    fn note(&mut self, kind: EventKind, path: &Path, now: Instant) -> bool {
        let hidden = path
            .file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        match kind {
            // Directories: what is in them came and went with them.
            EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder)
                if !hidden =>
            {
                self.everything = true;
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_)
                if is_manifest(path) =>
            {
                self.open.remove(path);
                self.done.insert(path.to_owned());
            }
            EventKind::Modify(ModifyKind::Name(mode)) => {
                return self.renamed(mode, path, hidden, now);
            }
            EventKind::Modify(ModifyKind::Metadata(_)) if is_manifest(path) => {
                if !self.open.contains_key(path) {
                    self.done.insert(path.to_owned());
                }
            }
            EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other
                if is_manifest(path) =>
            {
                let (_, last) = self.open.entry(path.to_owned()).or_insert((now, now));
                *last = now;
            }
            // Of something that is no manifest by its name: a link to a directory, maybe.
            EventKind::Create(CreateKind::Any | CreateKind::Other) | EventKind::Remove(_)
                if !hidden =>
            {
                self.left.insert(path.to_owned(), now);
            }
            EventKind::Create(CreateKind::File) if !hidden && path.is_dir() => {
                self.everything = true;
            }
            _ => return false,
        }
        true
    }

    fn renamed(&mut self, mode: RenameMode, path: &Path, hidden: bool, now: Instant) -> bool {
        if is_manifest(path) && !hidden {
            self.open.remove(path);
            self.done.insert(path.to_owned());
        } else if mode == RenameMode::To {
            // A directory, or what leads to one; hidden links are what visible ones lead through.
            self.everything |= path.is_dir();
        } else if !hidden && mode != RenameMode::Both {
            self.left.insert(path.to_owned(), now);
        } else {
            return false;
        }
        true
    }

    /// When there is something to look at, unless something happens before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let settled =
            |(first, last): &(Instant, Instant)| (*last + SETTLE).min(*first + MAX_SETTLE);
        let open = self.open.values().map(settled);
        open.chain(self.left.values().map(|at| *at + SETTLE)).min()
    }

    /// What to look at now, if anything.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Look> {
        let Self { done, open, .. } = self;
        open.retain(|path, (first, last)| {
            let settled = now >= *last + SETTLE || now >= *first + MAX_SETTLE;
            if settled {
                done.insert(path.clone());
            }
            !settled
        });
        let left = self.left.len();
        self.left.retain(|_, at| now < *at + SETTLE);
        if std::mem::take(&mut self.everything) || self.left.len() < left {
            self.done.clear();
            return Some(self.everything());
        }
        let done = std::mem::take(&mut self.done);
        (!done.is_empty()).then_some(Look::At(done))
    }

    /// A look at everything, whatever the notifications say.
    pub(crate) fn everything(&self) -> Look {
        Look::Everything {
            but: self.open.keys().cloned().collect(),
        }
    }
}

/// Quiet for this long, and the writer is taken to be done.
const SETTLE: Duration = Duration::from_millis(100);
/// Whatever happens to a file, it is looked at after this long.
const MAX_SETTLE: Duration = Duration::from_secs(1);
/// More than this, and a look at everything is cheaper.
const MAX_NOTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, paths: &[&str]) -> Event {
        let event = Event::new(kind);
        paths
            .iter()
            .fold(event, |event, path| event.add_path(PathBuf::from(path)))
    }

    fn at(paths: &[&str]) -> Option<Look> {
        Some(Look::At(paths.iter().map(PathBuf::from).collect()))
    }

    fn everything(but: &[&str]) -> Option<Look> {
        Some(Look::Everything {
            but: but.iter().map(PathBuf::from).collect(),
        })
    }

    const CREATED: EventKind = EventKind::Create(CreateKind::File);
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Any);
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const REMOVED: EventKind = EventKind::Remove(RemoveKind::File);
    const OPENED: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));

    fn name(mode: RenameMode) -> EventKind {
        EventKind::Modify(ModifyKind::Name(mode))
    }

    #[test]
    fn a_file_is_looked_at_when_its_writer_is_done() {
        let now = Instant::now();
        let directory = EventKind::Create(CreateKind::Folder);
        let rename = [RenameMode::From, RenameMode::To, RenameMode::Both].map(name);
        let cases: [(&str, Vec<Event>, Option<Look>); 9] = [
            ("opened to be read", vec![event(OPENED, &["a.yaml"])], None),
            (
                "being written",
                vec![event(CREATED, &["a.yaml"]), event(WRITTEN, &["a.yaml"])],
                None,
            ),
            (
                "closed",
                vec![event(WRITTEN, &["a.yaml"]), event(CLOSED, &["a.yaml"])],
                at(&["a.yaml"]),
            ),
            (
                "removed",
                vec![event(REMOVED, &["a.yaml"])],
                at(&["a.yaml"]),
            ),
            (
                "replaced by an editor",
                vec![
                    event(CREATED, &[".a.swp"]),
                    event(CLOSED, &[".a.swp"]),
                    event(rename[0], &[".a.swp"]),
                    event(rename[1], &["a.yaml"]),
                    event(rename[2], &[".a.swp", "a.yaml"]),
                ],
                at(&["a.yaml"]),
            ),
            (
                "replaced by a program",
                vec![
                    event(CLOSED, &["a.tmp"]),
                    event(rename[0], &["a.tmp"]),
                    event(rename[1], &["a.yaml"]),
                    event(rename[2], &["a.tmp", "a.yaml"]),
                ],
                at(&["a.yaml"]),
            ),
            (
                "a directory",
                vec![event(directory, &["d"])],
                everything(&[]),
            ),
            (
                "a directory while a file is written",
                vec![event(CREATED, &["a.yaml"]), event(directory, &["d"])],
                everything(&["a.yaml"]),
            ),
            (
                "no manifest",
                vec![event(CREATED, &["n.txt"]), event(CLOSED, &["n.txt"])],
                None,
            ),
        ];
        for (what, events, want) in cases {
            let mut notes = Notes::default();
            for event in events {
                notes.take(&event, now);
            }
            assert_eq!(notes.look(now), want, "{what}");
            assert_eq!(notes.look(now), None, "{what}: once");
        }
    }

    #[test]
    fn what_is_never_closed_is_looked_at_when_it_is_quiet_or_after_a_second() {
        let start = Instant::now();
        let mut notes = Notes::default();
        notes.take(&event(WRITTEN, &["a.yaml"]), start);
        assert_eq!(notes.due(), Some(start + SETTLE));
        assert_eq!(notes.look(start + SETTLE), at(&["a.yaml"]));
        let mut now = start;
        while now < start + MAX_SETTLE {
            notes.take(&event(WRITTEN, &["a.yaml"]), now);
            assert_eq!(notes.look(now), None);
            now += SETTLE / 2;
        }
        assert_eq!(notes.look(now), at(&["a.yaml"]));
        assert_eq!(notes.due(), None);
    }

    #[test]
    fn what_moved_away_may_have_been_a_directory() {
        let now = Instant::now();
        let mut notes = Notes::default();
        notes.take(&event(name(RenameMode::From), &["d"]), now);
        assert_eq!((notes.look(now), notes.due()), (None, Some(now + SETTLE)));
        assert_eq!(notes.look(now + SETTLE), everything(&[]));
    }

    #[test]
    fn a_flood_is_a_look_at_everything() {
        let now = Instant::now();
        let mut notes = Notes::default();
        for n in 0..=MAX_NOTES {
            notes.take(&event(CLOSED, &[&format!("{n}.yaml")]), now);
        }
        assert_eq!(notes.look(now), everything(&[]));
    }
}
