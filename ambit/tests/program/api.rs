//! An API server of lists on loopback, for a program that looks once.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

/// What it answers, by path: objects, or a status. Every other list is empty.
#[derive(Default)]
pub(crate) struct Lists {
    pub(crate) objects: BTreeMap<String, Vec<Value>>,
    pub(crate) refused: BTreeMap<String, u16>,
}

/// The server. Its threads end with the test.
pub(crate) struct Api {
    dir: TempDir,
}

impl Api {
    pub(crate) fn serve(lists: Lists) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let lists = Arc::new(lists);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let lists = Arc::clone(&lists);
                // How a connection ends is the client's to see.
                std::thread::spawn(move || answer(stream, &lists).ok());
            }
        });
        let dir = tempfile::tempdir().expect("a directory");
        let api = Self { dir };
        std::fs::write(api.kubeconfig(), kubeconfig(at)).expect("written");
        api
    }

    /// Of two contexts: `here`, with the namespace `shop`, and `away`, where nobody is.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }
}

fn kubeconfig(at: SocketAddr) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [
            {"name": "here", "cluster": {"server": format!("http://{at}")}},
            {"name": "away", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "shop"}},
            {"name": "away", "context": {"cluster": "away", "user": "me"}}],
    })
    .to_string()
}

fn answer(mut stream: TcpStream, lists: &Lists) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(request) = lines.next().transpose()? {
        while lines
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (code, body) = match lists.refused.get(path) {
            Some(code) => (
                *code,
                json!({"kind": "Status", "status": "Failure", "code": code, "message": "not you"}),
            ),
            // Nothing ever happens.
            None if query.contains("watch=") => (200, Value::Null),
            None => (200, list(lists, path, query)),
        };
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
    }
    Ok(())
}

fn list(lists: &Lists, path: &str, query: &str) -> Value {
    let named = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"));
    let labelled = query.contains("labelSelector=");
    let all = lists.objects.get(path).into_iter().flatten();
    let items = all.filter(|item| {
        !labelled && named.is_none_or(|name| item.pointer("/metadata/name") == Some(&name.into()))
    });
    let items: Vec<_> = items.collect();
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items})
}
