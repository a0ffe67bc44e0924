//! Watches: what happened after a version, as lines.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::Shared;
use super::asked::Asked;

/// Something that happened to an object.
#[derive(Debug, Clone)]
pub(super) struct Happened {
    pub(super) version: u64,
    pub(super) path: String,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

/// A watch under way.
pub(super) struct Watch {
    shared: Arc<Shared>,
    asked: Asked,
    changed: watch::Receiver<()>,
    from: u64,
    /// Ends when this many times were ended.
    round: u64,
    /// Lines for everybody that were there before, or are told.
    injected: usize,
    over: bool,
}

impl Watch {
    pub(super) fn new(shared: &Arc<Shared>, asked: &Asked) -> Self {
        let state = shared.lock();
        let from = asked.parameter("resourceVersion");
        Self {
            shared: Arc::clone(shared),
            changed: state.changed.subscribe(),
            from: from.and_then(|from| from.parse().ok()).unwrap_or(0),
            round: state.rounds,
            injected: state.injected.len(),
            over: false,
            asked: Asked {
                path: asked.path.clone(),
                query: asked.query.clone(),
                only_metadata: asked.only_metadata,
                ..Asked::default()
            },
        }
    }

    /// The next lines; none at the end.
    pub(super) async fn next(&mut self) -> Option<String> {
        loop {
            let lines = self.news();
            if !lines.is_empty() {
                return Some(lines);
            }
            if self.over {
                return None;
            }
            self.changed.changed().await.ok()?;
        }
    }

    fn news(&mut self) -> String {
        let state = self.shared.lock();
        let mut lines = Vec::new();
        if self.over || state.rounds != self.round {
            self.over = true;
            return String::new();
        }
        if self.from < state.compacted {
            self.over = true;
            let status = json!({"kind": "Status", "code": 410, "reason": "Expired",
                                "message": "too old resource version"});
            lines.push(json!({"type": "ERROR", "object": status}).to_string());
        }
        let news = state.happened.iter();
        for happened in news.filter(|happened| happened.version > self.from) {
            let selected = |object: &&Value| self.asked.selects(&happened.path, object);
            let (before, after) = (&happened.before, &happened.after);
            let was = before.as_ref().filter(selected);
            let is = after.as_ref().filter(selected);
            let (kind, object) = match (was, is) {
                (None, Some(is)) => ("ADDED", is),
                (Some(_), Some(is)) => ("MODIFIED", is),
                (Some(was), None) => ("DELETED", after.as_ref().unwrap_or(was)),
                (None, None) => continue,
            };
            lines.push(event(kind, self.asked.form(object), happened.version));
        }
        self.from = self.from.max(state.version);
        let injected = state.injected.iter().skip(self.injected);
        let mine = injected.filter(|(path, _)| *path == self.asked.path);
        lines.extend(mine.map(|(_, line)| line.clone()));
        self.injected = state.injected.len();
        // Each ends.
        lines.push(String::new());
        lines.join("\n")
    }
}

/// A line of a watch: `kind` is `ADDED`, `MODIFIED` or `DELETED`.
pub fn event(kind: &str, mut object: Value, version: u64) -> String {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        let version = version.to_string().into();
        metadata.insert("resourceVersion".to_owned(), version);
    }
    json!({"type": kind, "object": object}).to_string()
}

/// A line of a watch that says up to where nothing happened.
pub fn bookmark(version: u64) -> String {
    event("BOOKMARK", json!({"metadata": {}}), version)
}
