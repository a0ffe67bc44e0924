//! An API server for tests of clients: objects in memory on a loopback port, and faults on request.
//!
//! Speaks what Ambit's own writers use: get, list, create, replace, apply, merge patch and delete with their
//! preconditions, resource versions, generations, the `status` subresource and field ownership. It knows no kinds:
//! no schema, no defaults, no admission, no watches. What real servers do is for the tests on one.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

mod apply;

use apply::Fields;

/// A server; it ends when the last clone is gone.
#[derive(Clone)]
pub struct ApiServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _serving: Arc<Serving>,
}

struct Serving(tokio::task::AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One request that was served.
#[derive(Debug, Clone)]
pub struct Served {
    /// `PATCH`, or `APPLY` for a patch that applies.
    pub verb: String,
    /// Without the query.
    pub path: String,
    /// Of what was sent.
    pub body: Value,
    /// Of the answer.
    pub code: u16,
}

type Fault = Box<dyn FnMut(&str, &str) -> Option<Trouble> + Send>;

/// What happens to a request instead of, or before, its being served.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// This answer, and nothing else is done.
    Refuse(u16),
    /// It is done, and this is answered all the same.
    LoseAnswer(u16),
    /// It is done after this long.
    Delay(Duration),
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    version: u64,
    served: Vec<Served>,
    fault: Option<Fault>,
}

#[derive(Default, Clone)]
struct Stored {
    object: Value,
    /// By manager and subresource, what it applied last.
    managers: BTreeMap<(String, bool), Fields>,
}

struct Asked {
    verb: String,
    path: String,
    manager: String,
    force: bool,
    body: Value,
}

impl ApiServer {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// No port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        #[expect(
            clippy::disallowed_methods,
            reason = "aborted when the server is dropped"
        )]
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| serve(Arc::clone(&state), request));
                    let builder = Builder::new();
                    let stream = TokioIo::new(stream);
                    let _ = builder.serve_connection(stream, service).await;
                });
            }
        });
        Ok(Self {
            address,
            state,
            _serving: Arc::new(Serving(task.abort_handle())),
        })
    }

    /// Where it is, for a client.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on each request is shown to this (verb and path), which may make trouble.
    pub fn trouble(&self, fault: impl FnMut(&str, &str) -> Option<Trouble> + Send + 'static) {
        self.lock().fault = Some(Box::new(fault));
    }

    /// No more trouble.
    pub fn calm(&self) {
        self.lock().fault = None;
    }

    /// What it holds at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        let state = self.lock();
        state.objects.get(path).map(|stored| stored.object.clone())
    }

    /// Every path that it holds.
    pub fn paths(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Puts an object there as somebody else would; it gets its uid and versions.
    pub fn put(&self, path: &str, object: Value) {
        let mut state = self.lock();
        let stored = state.objects.get(path).cloned().unwrap_or_default();
        state.store(path, Stored { object, ..stored });
    }

    /// Deletes an object as somebody else would.
    pub fn delete(&self, path: &str) {
        self.lock().objects.remove(path);
    }

    /// What was asked, in order.
    pub fn served(&self) -> Vec<Served> {
        self.lock().served.clone()
    }

    /// What was asked since the last call of this.
    pub fn take_served(&self) -> Vec<Served> {
        std::mem::take(&mut self.lock().served)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    let asked = Asked::read(request).await;
    let trouble = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = state.fault.as_mut();
        fault.and_then(|fault| fault(&asked.verb, &asked.path))
    };
    if let Some(Trouble::Delay(wait)) = trouble {
        tokio::time::sleep(wait).await;
    }
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let (code, body) = match trouble {
        Some(Trouble::Refuse(code)) => refusal(code),
        Some(Trouble::LoseAnswer(code)) => {
            let _ = state.answer(&asked);
            refusal(code)
        }
        Some(Trouble::Delay(_)) | None => state.answer(&asked).unwrap_or_else(refusal),
    };
    state.served.push(Served {
        verb: asked.verb,
        path: asked.path,
        body: asked.body,
        code,
    });
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
}

fn refusal(code: u16) -> (u16, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("the test says {code}"), "reason": reason, "code": code,
    });
    (code, body)
}

impl Asked {
    async fn read(request: Request<Incoming>) -> Self {
        let (head, body) = request.into_parts();
        let of_apply = head.headers.get("content-type");
        let of_apply =
            of_apply.is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"));
        let verb = match head.method {
            Method::PATCH if of_apply => "APPLY".to_owned(),
            method => method.to_string(),
        };
        let query = head.uri.query().unwrap_or_default();
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let manager = parameter("fieldManager").unwrap_or_default();
        let manager = manager.replace("%2F", "/");
        let force = parameter("force") == Some("true");
        let body = body.collect().await.map(|body| body.to_bytes());
        let body = body.unwrap_or_default();
        Self {
            path: head.uri.path().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            verb,
            manager,
            force,
        }
    }
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Result<(u16, Value), u16> {
        let (path, status) = match asked.path.strip_suffix("/status") {
            Some(path) => (path, true),
            None => (&*asked.path, false),
        };
        match &*asked.verb {
            "GET" => self.read(path),
            "POST" => {
                let name = asked.body.pointer("/metadata/name");
                let name = name.and_then(Value::as_str).ok_or(422_u16)?;
                let path = format!("{path}/{name}");
                if self.objects.contains_key(&path) {
                    return Err(409);
                }
                let object = asked.body.clone();
                let stored = Stored {
                    object,
                    ..Stored::default()
                };
                Ok((201, self.store(&path, stored)))
            }
            "PUT" => {
                let before = self.known(path, &asked.body)?;
                let object = asked.body.clone();
                Ok((200, self.store(path, Stored { object, ..before })))
            }
            "APPLY" => self.apply(path, status, asked),
            "PATCH" => {
                let mut stored = self.known(path, &asked.body)?;
                apply::merge_patch(&mut stored.object, &asked.body);
                Ok((200, self.store(path, stored)))
            }
            "DELETE" => {
                let stored = self.objects.get(path).ok_or(404_u16)?;
                let wanted = asked.body.pointer("/preconditions/uid");
                if wanted.is_some_and(|uid| stored.object.pointer("/metadata/uid") != Some(uid)) {
                    return Err(409);
                }
                self.objects.remove(path);
                Ok((
                    200,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                ))
            }
            _ => Err(405),
        }
    }

    fn read(&self, path: &str) -> Result<(u16, Value), u16> {
        if let Some(stored) = self.objects.get(path) {
            return Ok((200, stored.object.clone()));
        }
        let (parent, last) = path.rsplit_once('/').unwrap_or_default();
        let is_of = |at: &str| {
            let (collection, _) = at.rsplit_once('/').unwrap_or_default();
            let of_all = || {
                let rest = collection
                    .strip_prefix(parent)?
                    .strip_prefix("/namespaces/")?;
                let (namespace, plural) = rest.split_once('/')?;
                (!namespace.is_empty() && plural == last).then_some(())
            };
            collection == path || of_all().is_some()
        };
        let items = self.objects.iter().filter(|(at, _)| is_of(at));
        let items: Vec<_> = items.map(|(_, stored)| stored.object.clone()).collect();
        if items.is_empty() && !COLLECTIONS.contains(&last) {
            return Err(404);
        }
        let version = self.version.to_string();
        Ok((
            200,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        ))
    }

    /// What is there, if it is at the version that was asked for.
    fn known(&self, path: &str, body: &Value) -> Result<Stored, u16> {
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
            self.known(path, &asked.body)?
        } else {
            Stored::default()
        };
        let key = (asked.manager.clone(), status);
        let fields = Fields::of(&asked.body, status);
        let contested = stored.managers.iter().any(|(manager, theirs)| {
            *manager != key && theirs.contradicts(&fields, &stored.object, &asked.body)
        });
        if contested && !asked.force {
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
                let uid = uid.unwrap_or_else(|| format!("uid-{version}").into());
                meta.insert("uid".into(), uid);
                let created = created.unwrap_or_else(|| "2026-01-01T00:00:00Z".into());
                meta.insert("creationTimestamp".into(), created);
                meta.insert("generation".into(), generation.into());
                meta.insert("resourceVersion".into(), version);
                meta.insert("managedFields".into(), managed.into());
            }
        }
        let object = stored.object.clone();
        self.objects.insert(path.to_owned(), stored);
        object
    }
}

/// What is a list even when nothing is in it.
const COLLECTIONS: [&str; 10] = [
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

#[cfg(test)]
mod tests;
