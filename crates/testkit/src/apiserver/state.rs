//! What a server holds, and what requests do to it.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::Served;
use super::apply::{self, Fields};
use super::asked::Asked;
use super::watching::Happened;

/// Everything that is there.
#[derive(Debug)]
pub(super) struct State {
    objects: BTreeMap<String, Stored>,
    /// Of the last change.
    pub(super) version: u64,
    pub(super) served: Vec<Served>,
    /// Collections in which something was once, as they end.
    known: HashSet<String>,
    /// In the order of versions.
    pub(super) happened: Vec<Happened>,
    /// History up to here is gone.
    pub(super) compacted: u64,
    /// Paths, and lines for everybody who watches them.
    pub(super) injected: Vec<(String, String)>,
    /// How often all watches were ended.
    pub(super) rounds: u64,
    pub(super) page: Option<usize>,
    pub(super) changed: watch::Sender<()>,
}

#[derive(Debug, Default, Clone)]
struct Stored {
    object: Value,
    /// By manager and subresource, what it applied last.
    managers: BTreeMap<(String, bool), Fields>,
}

/// Everything as it was.
#[derive(Debug, Clone)]
pub struct Snapshot {
    objects: BTreeMap<String, Stored>,
    version: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            version: FIRST,
            served: Vec::new(),
            known: HashSet::new(),
            happened: Vec::new(),
            compacted: 0,
            injected: Vec::new(),
            rounds: 0,
            page: None,
            changed: watch::Sender::new(()),
        }
    }
}

/// As a person would.
impl State {
    pub(super) fn get(&self, path: &str) -> Option<Value> {
        Some(self.objects.get(path)?.object.clone())
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    /// The version of the object.
    pub(super) fn put(&mut self, path: &str, object: Value) -> u64 {
        let stored = self.objects.get(path).cloned().unwrap_or_default();
        let object = self.store(path, Stored { object, ..stored });
        let version = object.pointer("/metadata/resourceVersion");
        let version = version.and_then(Value::as_str);
        version
            .and_then(|version| version.parse().ok())
            .unwrap_or_default()
    }

    pub(super) fn delete(&mut self, path: &str) {
        if let Some(stored) = self.objects.remove(path) {
            self.version += 1;
            self.happens(path, Some(stored.object), None);
        }
    }

    pub(super) fn end_watches(&mut self) {
        self.rounds += 1;
        self.changed.send_replace(());
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
    }

    pub(super) fn inject(&mut self, path: &str, line: &str) {
        self.injected.push((path.to_owned(), line.to_owned()));
        self.changed.send_replace(());
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            objects: self.objects.clone(),
            version: self.version,
        }
    }

    pub(super) fn restore(&mut self, old: &Snapshot) {
        self.objects = old.objects.clone();
        self.version = old.version;
        self.compacted = 0;
        self.happened.clear();
    }

    fn happens(&mut self, path: &str, before: Option<Value>, after: Option<Value>) {
        self.happened.push(Happened {
            version: self.version,
            path: path.to_owned(),
            before,
            after,
        });
        self.changed.send_replace(());
    }
}

/// What requests do.
impl State {
    pub(super) fn answer(&mut self, asked: &Asked) -> Result<(u16, Value), u16> {
        let (path, status) = match asked.path.strip_suffix("/status") {
            Some(path) => (path, true),
            None => (&*asked.path, false),
        };
        match &*asked.verb {
            "GET" => Ok((200, self.get(path).ok_or(404_u16)?)),
            "LIST" => self.list(asked),
            "WATCH" if self.is_known(path) => Ok((200, Value::Null)),
            "POST" => {
                let name = asked.body.pointer("/metadata/name");
                let name = name.and_then(Value::as_str).ok_or(422_u16)?;
                let path = format!("{path}/{name}");
                if self.objects.contains_key(&path) {
                    return Err(409);
                }
                let object = asked.body.clone();
                if asked.parameter("dryRun").is_some() {
                    return Ok((201, object));
                }
                let stored = Stored {
                    object,
                    ..Stored::default()
                };
                Ok((201, self.store(&path, stored)))
            }
            "PUT" => {
                let before = self.current(path, &asked.body)?;
                let object = asked.body.clone();
                Ok((200, self.store(path, Stored { object, ..before })))
            }
            "APPLY" => self.apply(path, status, asked),
            "PATCH" => {
                let mut stored = self.current(path, &asked.body)?;
                apply::merge_patch(&mut stored.object, &asked.body, asked.strategic);
                Ok((200, self.store(path, stored)))
            }
            "DELETE" => {
                let stored = self.objects.get(path).ok_or(404_u16)?;
                let wanted = asked.body.pointer("/preconditions/uid");
                if wanted.is_some_and(|uid| stored.object.pointer("/metadata/uid") != Some(uid)) {
                    return Err(409);
                }
                self.delete(path);
                Ok((
                    200,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                ))
            }
            "WATCH" => Err(404),
            _ => Err(405),
        }
    }

    /// Whether there is such a collection: of the core group always, of others if they are usual or had something.
    fn is_known(&self, path: &str) -> bool {
        let (_, last) = path.rsplit_once('/').unwrap_or_default();
        path.starts_with("/api/") || COLLECTIONS.contains(&last) || self.known.contains(last)
    }

    fn list(&self, asked: &Asked) -> Result<(u16, Value), u16> {
        if !self.is_known(&asked.path) {
            return Err(404);
        }
        let limit = asked.parameter("limit");
        let limit = limit.and_then(|limit| limit.parse().ok());
        let limit = self.page.or(limit).unwrap_or(usize::MAX);
        // The version of the first page, and where the last one ended.
        let token = asked.parameter("continue");
        let token = token.and_then(|token| serde_json::from_str::<(u64, String)>(token).ok());
        let (version, after) = token.map_or((self.version, None), |(v, after)| (v, Some(after)));
        let rest = self.objects.iter().filter(|(path, stored)| {
            asked.selects(path, &stored.object) && after.as_ref().is_none_or(|after| *path > after)
        });
        let rest: Vec<_> = rest.collect();
        let page = rest.iter().take(limit);
        let items: Vec<_> = page.map(|(_, stored)| asked.form(&stored.object)).collect();
        let next = match rest.get(items.len().wrapping_sub(1)) {
            Some((last, _)) if rest.len() > items.len() => json!([version, last]).to_string(),
            _ => String::new(),
        };
        Ok((
            200,
            json!({
                "kind": "List", "apiVersion": "v1", "items": items,
                "metadata": {"resourceVersion": version.to_string(), "continue": next},
            }),
        ))
    }

    /// What is there, if it is at the version that was asked for.
    fn current(&self, path: &str, body: &Value) -> Result<Stored, u16> {
        let stored = self.objects.get(path).ok_or(404_u16)?;
        let wanted = body.pointer("/metadata/resourceVersion");
        let wanted = wanted.filter(|version| version.as_str() != Some(""));
        if wanted.is_some_and(|version| {
            stored.object.pointer("/metadata/resourceVersion") != Some(version)
        }) {
            return Err(409);
        }
        Ok(stored.clone())
    }

    fn apply(&mut self, path: &str, status: bool, asked: &Asked) -> Result<(u16, Value), u16> {
        let known = self.objects.contains_key(path);
        if status && !known {
            return Err(404);
        }
        let mut stored = if known {
            self.current(path, &asked.body)?
        } else {
            Stored::default()
        };
        let manager = asked.parameter("fieldManager").unwrap_or_default();
        let key = (manager.to_owned(), status);
        let fields = Fields::of(&asked.body, status);
        let contested = stored.managers.iter().any(|(manager, theirs)| {
            *manager != key && theirs.contradicts(&fields, &stored.object, &asked.body)
        });
        if contested && asked.parameter("force") != Some("true") {
            return Err(409);
        }
        let before = stored.managers.insert(key, fields.clone());
        let others: Vec<_> = stored.managers.values().cloned().collect();
        if let Some(before) = before {
            apply::prune(&mut stored.object, &before, &others);
        }
        apply::merge(&mut stored.object, &asked.body, &fields);
        Ok((if known { 200 } else { 201 }, self.store(path, stored)))
    }

    fn store(&mut self, path: &str, mut stored: Stored) -> Value {
        let before = self.objects.get(path).map(|stored| &stored.object);
        let of = |pointer| before.and_then(|before| before.pointer(pointer)).cloned();
        let (uid, created) = (of("/metadata/uid"), of("/metadata/creationTimestamp"));
        let generation = of("/metadata/generation").and_then(|number| number.as_i64());
        let same_spec =
            before.is_some_and(|before| before.get("spec") == stored.object.get("spec"));
        let same = before.is_some_and(|before| apply::is_same(before, &stored.object));
        let version = before.and_then(|before| before.pointer("/metadata/resourceVersion"));
        let version = version.filter(|_| same).cloned();
        let version = version.unwrap_or_else(|| {
            self.version += 1;
            self.version.to_string().into()
        });
        let generation = match generation {
            Some(generation) if same_spec => generation,
            generation => generation.unwrap_or_default() + 1,
        };
        let managed = stored.managers.iter().map(|((manager, status), fields)| {
            json!({
                "manager": manager, "operation": "Apply", "fieldsType": "FieldsV1",
                "fieldsV1": fields.written(), "subresource": if *status { "status" } else { "" },
            })
        });
        let managed: Vec<_> = managed.collect();
        if let Some(object) = stored.object.as_object_mut() {
            let meta = object.entry("metadata").or_insert_with(|| json!({}));
            if let Some(meta) = meta.as_object_mut() {
                if let Some((_, rest)) = path.split_once("/namespaces/")
                    && let Some((namespace, _)) = rest.split_once('/')
                {
                    meta.insert("namespace".into(), namespace.into());
                }
                let uid = uid.or_else(|| meta.get("uid").cloned());
                let uid = uid.unwrap_or_else(|| format!("uid-{version}").into());
                meta.insert("uid".into(), uid);
                let created = created.unwrap_or_else(|| "2026-01-01T00:00:00Z".into());
                meta.insert("creationTimestamp".into(), created);
                meta.insert("generation".into(), generation.into());
                meta.insert("resourceVersion".into(), version);
                meta.insert("managedFields".into(), managed.into());
            }
        }
        let (collection, _) = path.rsplit_once('/').unwrap_or_default();
        let (_, plural) = collection.rsplit_once('/').unwrap_or_default();
        self.known.insert(plural.to_owned());
        let object = stored.object.clone();
        let before = self.objects.insert(path.to_owned(), stored);
        if !same {
            let before = before.map(|before| before.object);
            self.happens(path, before, Some(object.clone()));
        }
        object
    }
}

/// Before anything happened.
const FIRST: u64 = 100;
/// What is a list even when nothing was ever in it.
const COLLECTIONS: [&str; 12] = [
    "customresourcedefinitions",
    "endpointslices",
    "gateways",
    "gatewayclasses",
    "services",
    "serviceentries",
    "deployments",
    "serviceaccounts",
    "poddisruptionbudgets",
    "horizontalpodautoscalers",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
];
