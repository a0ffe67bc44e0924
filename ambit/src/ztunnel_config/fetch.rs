//! Where a dump comes from: a file, or the proxy of a node.
//!
//! Until a cluster can be asked, nodes are those of the demo, which describes each in a file
//! `nodes/<name>.json` of its state directory: `{"netns": "/run/...", "admin": "127.0.0.1:15000"}`.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_runtime::Env;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::dump::Dump;
use crate::args::Target;
use crate::exit::Failure;
use crate::streams::Streams;

/// The dump that the arguments name. Without any, the first node's, unless `one_proxy_only`.
pub(super) fn dump(
    target: &Target,
    one_proxy_only: bool,
    env: &dyn Env,
    streams: &mut Streams<'_>,
) -> Result<Dump, Failure> {
    let nodes = env
        .get(DEMO_DIR)
        .map_or_else(|| PathBuf::from(DEFAULT_DEMO_DIR), PathBuf::from)
        .join("nodes");
    let (from, text) = match (&target.file, &target.node) {
        (Some(path), _) if path == Path::new("-") => {
            ("standard input".into(), streams.read_input()?)
        }
        (Some(path), _) => (path.display().to_string(), read(path)?),
        (None, Some(name)) => (name.clone(), ask(name, &nodes, target.proxy_admin_port)?),
        (None, None) if one_proxy_only => {
            return Err(Failure::Usage(
                "ztunnel pod name or --node must be set (or --file)",
            ));
        }
        (None, None) => {
            let Some(first) = node_names(&nodes).into_iter().next() else {
                return Err(Failure::Usage(
                    "name a proxy: --node NAME of the demo, or --file DUMP",
                ));
            };
            streams.note(&format!("the proxy of {first}; name another with --node"));
            let text = ask(&first, &nodes, target.proxy_admin_port)?;
            (first, text)
        }
    };
    Dump::parse(&text).map_err(|source| Failure::Dump { from, source })
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|source| Failure::File {
        path: path.to_owned(),
        source,
    })
}

/// A node of the demo.
#[derive(Debug, Deserialize)]
struct NodeFile {
    netns: PathBuf,
    #[serde(default = "default_admin")]
    admin: SocketAddr,
}

fn default_admin() -> SocketAddr {
    ([127, 0, 0, 1], ambit_types::wire::ADMIN_PORT).into()
}

fn node_names(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let json = files.filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    let mut names: Vec<String> = json
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// The dump of a node's proxy, asked from inside the node's network namespace.
fn ask(name: &str, dir: &Path, port: Option<u16>) -> Result<String, Failure> {
    // A name is one path component, whatever somebody types.
    let known = node_names(dir);
    if !known.iter().any(|node| node == name) {
        let known = if known.is_empty() {
            "none is described".into()
        } else {
            known.join(", ")
        };
        return Err(Failure::UnknownNode {
            name: name.to_owned(),
            dir: dir.to_owned(),
            known,
        });
    }
    let path = dir.join(format!("{name}.json"));
    let node: NodeFile =
        serde_json::from_str(&read(&path)?).map_err(|source| Failure::Node { path, source })?;
    let mut address = node.admin;
    address.set_port(port.unwrap_or(address.port()));
    let answer = NetNs::open(&node.netns)
        .and_then(|netns| netns.run(|| get(address)).and_then(|answer| answer));
    answer.map_err(|source| Failure::Proxy {
        node: name.to_owned(),
        address: address.to_string(),
        source,
    })
}

/// One request, on a runtime that never leaves this thread: only the thread is in the namespace.
fn get(address: SocketAddr) -> io::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, config_dump(address))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))?
    })
}

async fn config_dump(address: SocketAddr) -> io::Result<String> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let request = http::Request::get("/config_dump")
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        if response.status() != http::StatusCode::OK {
            return Err(io::Error::other(format!(
                "/config_dump answers {}",
                response.status()
            )));
        }
        let body = Limited::new(response.into_body(), MAX_DUMP)
            .collect()
            .await
            .map_err(io::Error::other)?;
        String::from_utf8(body.to_bytes().into()).map_err(io::Error::other)
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end before its last bytes are taken up.
        _ = &mut connection => answer.await,
    }
}

/// Names the demo's state directory.
const DEMO_DIR: &str = "AMBIT_DEMO_DIR";
/// Where the demo keeps its state unless told otherwise.
const DEFAULT_DEMO_DIR: &str = ".demo";
/// For the whole exchange.
const PATIENCE: Duration = Duration::from_secs(10);
/// A dump of a hundred thousand workloads fits.
const MAX_DUMP: usize = 256 * 1024 * 1024;
