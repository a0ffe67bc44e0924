//! An API server on loopback that lists and watches what a test puts into it,
//! and misbehaves as it is told.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::Scope;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the server does to the next request that fits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Trouble {
    /// This status, in the API's words.
    Status(u16),
    /// The connection ends in the middle of the answer.
    CutList,
    /// It answers late.
    Slow(Duration),
    /// The next answer to a list lacks everything.
    EmptyList,
}

#[derive(Clone)]
struct Logged {
    version: u64,
    path: String,
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Default)]
struct World {
    version: u64,
    /// History up to here is gone.
    compacted: u64,
    objects: HashMap<String, BTreeMap<(String, String), Value>>,
    log: Vec<Logged>,
    /// Lines for everybody who watches a path, with their number.
    injected: Vec<(String, String)>,
    troubles: VecDeque<(&'static str, &'static str, Trouble)>,
    down: bool,
    /// Watches of an older number end.
    watches: u64,
    served: Vec<String>,
    page: Option<usize>,
}

/// The server. Ends when it is dropped.
pub(crate) struct Fake {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<()>,
    pub(crate) address: SocketAddr,
    tasks: Scope,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(Mutex::new(World {
            version: 100,
            ..World::default()
        }));
        let changed = watch::Sender::new(());
        let (shared, notice) = (Arc::clone(&world), changed.clone());
        let tasks = Scope::new("fake API server");
        let connections = tasks.clone();
        tasks.spawn("accept", async move {
            while let Ok((stream, _)) = listener.accept().await {
                if shared.lock().down {
                    continue;
                }
                let _ = stream.set_nodelay(true);
                let served = serve(stream, Arc::clone(&shared), notice.clone());
                connections.spawn("connection", async move {
                    // How a connection ended is the client's to see.
                    let _ = served.await;
                });
            }
        });
        Self {
            world,
            changed,
            address,
            tasks,
        }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let uri = format!("http://{}", self.address).parse().unwrap();
        kube::Client::try_from(kube::Config::new(uri)).unwrap()
    }

    /// Creates or replaces an object; its version.
    pub(crate) fn put(&self, path: &str, mut object: Value) -> u64 {
        let mut world = self.world.lock();
        world.version += 1;
        let version = world.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let key = key(&object);
        let all = world.objects.entry(path.to_owned()).or_default();
        let before = all.insert(key, object.clone());
        world.log.push(Logged {
            version,
            path: path.to_owned(),
            before,
            after: Some(object),
        });
        drop(world);
        self.changed.send_replace(());
        version
    }

    pub(crate) fn delete(&self, path: &str, namespace: &str, name: &str) {
        let mut world = self.world.lock();
        let all = world.objects.entry(path.to_owned()).or_default();
        let Some(before) = all.remove(&(namespace.to_owned(), name.to_owned())) else {
            return;
        };
        world.version += 1;
        let version = world.version;
        world.log.push(Logged {
            version,
            path: path.to_owned(),
            before: Some(before),
            after: None,
        });
        drop(world);
        self.changed.send_replace(());
    }

    /// Ends every watch, as a server does that restarts or rolls its connections.
    pub(crate) fn end_watches(&self) {
        self.world.lock().watches += 1;
        self.changed.send_replace(());
    }

    /// Forgets all history.
    pub(crate) fn compact(&self) {
        let mut world = self.world.lock();
        world.compacted = world.version;
    }

    /// From now on nobody answers, or somebody does again.
    pub(crate) fn set_down(&self, down: bool) {
        self.world.lock().down = down;
        if down {
            self.end_watches();
        }
    }

    /// A line for whoever watches the path now.
    pub(crate) fn inject(&self, path: &str, line: &str) {
        let mut world = self.world.lock();
        world.injected.push((path.to_owned(), line.to_owned()));
        drop(world);
        self.changed.send_replace(());
    }

    pub(crate) fn bookmark(&self, path: &str) {
        let version = self.world.lock().version;
        self.inject(path, &bookmark(version));
    }

    /// The next request whose path ends so, to list or to watch, meets trouble.
    pub(crate) fn trouble(&self, verb: &'static str, path: &'static str, trouble: Trouble) {
        self.world.lock().troubles.push_back((verb, path, trouble));
    }

    /// No trouble that was announced comes any more.
    pub(crate) fn clear_troubles(&self) {
        self.world.lock().troubles.clear();
    }

    /// As after a restore from an older snapshot: versions begin again lower,
    /// and everything is as it is told.
    pub(crate) fn restore(&self, version: u64, path: &str, objects: Vec<Value>) {
        let mut world = self.world.lock();
        (world.version, world.compacted) = (version, 0);
        world.log.clear();
        let objects = objects.into_iter().map(|mut object| {
            object["metadata"]["resourceVersion"] = version.to_string().into();
            (key(&object), object)
        });
        let objects = objects.collect();
        world.objects.insert(path.to_owned(), objects);
    }

    /// Objects a page, whatever is asked for.
    pub(crate) fn page(&self, size: usize) {
        self.world.lock().page = Some(size);
    }

    /// `list PATH` and `watch PATH`, in their order.
    pub(crate) fn served(&self, what: &str) -> usize {
        let world = self.world.lock();
        world.served.iter().filter(|line| *line == what).count()
    }
}

pub(crate) fn bookmark(version: u64) -> String {
    json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version.to_string()}}})
        .to_string()
}

pub(crate) fn event(kind: &str, mut object: Value, version: u64) -> String {
    object["metadata"]["resourceVersion"] = version.to_string().into();
    json!({"type": kind, "object": object}).to_string()
}

fn key(object: &Value) -> (String, String) {
    let of = |field: &str| {
        let value = object["metadata"][field].as_str();
        value.unwrap_or_default().to_owned()
    };
    (of("namespace"), of("name"))
}

struct Question {
    path: String,
    query: HashMap<String, String>,
}

impl Question {
    fn selects(&self, object: &Value) -> bool {
        let label = self.query.get("labelSelector");
        if label.is_some_and(|label| object["metadata"]["labels"][label].is_null()) {
            return false;
        }
        match self.query.get("fieldSelector").map(String::as_str) {
            None => true,
            Some("status.phase!=Failed") => object["status"]["phase"] != "Failed",
            Some(other) => {
                let name = other.strip_prefix("metadata.name=").unwrap();
                object["metadata"]["name"] == name
            }
        }
    }
}

async fn question(stream: &mut BufReader<TcpStream>) -> Option<Question> {
    let mut first = String::new();
    stream.read_line(&mut first).await.ok()?;
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header).await.ok()? == 0 {
            return None;
        }
        if header.trim().is_empty() {
            break;
        }
    }
    let uri = first.split(' ').nth(1)?;
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    Some(Question {
        path: path.to_owned(),
        query: pairs
            .map(|(key, value)| (key.to_owned(), unescape(value)))
            .collect(),
    })
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next().unwrap(), rest.next().unwrap()];
        let digits = std::str::from_utf8(&digits).unwrap().to_owned();
        bytes.push(u8::from_str_radix(&digits, 16).unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// None when the connection is to be cut.
async fn serve(
    stream: TcpStream,
    world: Arc<Mutex<World>>,
    changed: watch::Sender<()>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let question = question(&mut stream).await?;
    let watching = question.query.contains_key("watch");
    let verb = if watching { "watch" } else { "list" };
    let trouble = {
        let mut world = world.lock();
        world.served.push(format!("{verb} {}", question.path));
        let fits =
            |(of, path, _): &(&str, &str, Trouble)| *of == verb && question.path.ends_with(path);
        let at = world.troubles.iter().position(fits);
        at.and_then(|at| world.troubles.remove(at))
    };
    let trouble = trouble.map(|(_, _, trouble)| trouble);
    match &trouble {
        Some(Trouble::Slow(wait)) => tokio::time::sleep(*wait).await,
        Some(Trouble::Status(code)) => {
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                              "code": code, "message": "as told", "reason": "Test"});
            return answer(&mut stream, *code, &body.to_string()).await;
        }
        _ => {}
    }
    if watching {
        return follow(&mut stream, &question, &world, changed.subscribe()).await;
    }
    let known =
        world.lock().objects.contains_key(&question.path) || !question.path.starts_with("/apis/");
    if !known && !question.path.ends_with("definitions") && !question.path.ends_with("slices") {
        let body = json!({"kind": "Status", "code": 404, "message": "no", "reason": "NotFound",
                          "status": "Failure"});
        return answer(&mut stream, 404, &body.to_string()).await;
    }
    let mut body = list(&question, &world.lock());
    if trouble == Some(Trouble::EmptyList) {
        body["items"] = json!([]);
        body["metadata"]["continue"] = "".into();
    }
    let body = body.to_string();
    if trouble == Some(Trouble::CutList) {
        let half = &body[..body.len() / 2];
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{half}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        return None;
    }
    answer(&mut stream, 200, &body).await
}

async fn answer(stream: &mut BufReader<TcpStream>, code: u16, body: &str) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

fn list(question: &Question, world: &World) -> Value {
    let none = BTreeMap::new();
    let all = world.objects.get(&question.path).unwrap_or(&none);
    let limit = question
        .query
        .get("limit")
        .and_then(|limit| limit.parse().ok());
    let limit = world.page.or(limit).unwrap_or(usize::MAX);
    // Where the last page ended, and the version of the first.
    let token = question
        .query
        .get("continue")
        .filter(|token| !token.is_empty());
    let (after, version) = match token {
        None => (None, world.version),
        Some(token) => {
            let parts: (u64, (String, String)) = serde_json::from_str(token).unwrap();
            (Some(parts.1), parts.0)
        }
    };
    let rest = all.iter().filter(|(key, object)| {
        question.selects(object) && after.as_ref().is_none_or(|after| *key > after)
    });
    let rest: Vec<_> = rest.collect();
    let page: Vec<_> = rest.iter().take(limit).collect();
    let next = match page.last() {
        Some((last, _)) if rest.len() > page.len() => {
            serde_json::to_string(&(version, last)).unwrap()
        }
        _ => String::new(),
    };
    json!({
        "metadata": {"resourceVersion": version.to_string(), "continue": next},
        "items": page.iter().map(|(_, object)| object).collect::<Vec<_>>(),
    })
}

async fn follow(
    stream: &mut BufReader<TcpStream>,
    question: &Question,
    world: &Mutex<World>,
    mut changed: watch::Receiver<()>,
) -> Option<()> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut from: u64 = question.query["resourceVersion"].parse().unwrap();
    let (mine, mut injected) = {
        let world = world.lock();
        (world.watches, world.injected.len())
    };
    loop {
        let mut lines = Vec::new();
        let over = {
            let world = world.lock();
            if world.watches != mine {
                break;
            }
            let expired = from < world.compacted;
            if expired {
                let status = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410,
                                    "message": "too old resource version", "reason": "Expired"}});
                lines.push(status.to_string());
            }
            let news = world.log.iter();
            let news = news.filter(|of| of.version > from && of.path == question.path);
            for logged in news {
                let was = logged.before.as_ref().filter(|o| question.selects(o));
                let is = logged.after.as_ref().filter(|o| question.selects(o));
                let (kind, object) = match (was, is) {
                    (None, Some(is)) => ("ADDED", is.clone()),
                    (Some(_), Some(is)) => ("MODIFIED", is.clone()),
                    (Some(was), None) => ("DELETED", logged.after.as_ref().unwrap_or(was).clone()),
                    (None, None) => continue,
                };
                lines.push(event(kind, object, logged.version));
            }
            from = from.max(world.version);
            let more = world.injected.iter().skip(injected);
            lines.extend(
                more.filter(|(path, _)| *path == question.path)
                    .map(|(_, line)| line.clone()),
            );
            injected = world.injected.len();
            expired
        };
        for line in lines {
            let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
            stream.write_all(chunk.as_bytes()).await.ok()?;
        }
        if over {
            break;
        }
        changed.changed().await.ok()?;
    }
    stream.write_all(b"0\r\n\r\n").await.ok()
}
