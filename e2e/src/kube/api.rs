//! Objects of any cluster as JSON: get, apply, delete, wait.
//!
//! `kubectl proxy` does the authentication, so that every kubeconfig works that
//! kubectl knows, those of clouds with their credential programs too.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ambit_testkit::eventually_within;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::paths;
use super::space::Space;

/// An API server, whichever it is. Clones share the connection to it.
#[derive(Clone)]
pub struct Api {
    kubeconfig: PathBuf,
    proxy: Arc<Proxy>,
    kinds: Arc<Mutex<BTreeMap<(String, String), Kind>>>,
}

/// A `kubectl proxy`; ends when the last client is dropped.
struct Proxy {
    child: Mutex<Child>,
    at: SocketAddr,
}

impl Proxy {
    fn end(&self) {
        let child = self.child.lock();
        let mut child = child.unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the server refused.
#[derive(Debug, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// The server's words.
    pub message: String,
}

/// Where objects of a kind are.
#[derive(Debug, Clone)]
struct Kind {
    plural: String,
    namespaced: bool,
}

impl Api {
    /// A client for the cluster of a kubeconfig. The cluster isn't asked yet.
    ///
    /// # Errors
    /// If `kubectl` doesn't start.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        Self::with(kubeconfig, |command| Ok(command.spawn()?))
    }

    /// [`new`](Self::new), whose proxy ends with a box at the latest.
    pub(crate) fn of_box(kubeconfig: &Path, space: &Space) -> Result<Self> {
        Self::with(kubeconfig, |command| space.spawn_outside(command))
    }

    fn with(kubeconfig: &Path, start: impl FnOnce(&mut Command) -> Result<Child>) -> Result<Self> {
        let mut command = kubectl(kubeconfig)?;
        command
            .args(["proxy", "--port=0", "--keepalive=30s"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = start(&mut command).context("start kubectl")?;
        let output = child.stdout.take().context("its output is piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let at = line.split_whitespace().last().and_then(|a| a.parse().ok());
        let at = at.with_context(|| format!("kubectl proxy said {line:?}"))?;
        Ok(Self {
            kubeconfig: kubeconfig.to_owned(),
            proxy: Arc::new(Proxy {
                child: Mutex::new(child),
                at,
            }),
            kinds: Arc::default(),
        })
    }

    /// Ends the connection, of all clones.
    pub(crate) fn end(&self) {
        self.proxy.end();
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A request; the answer's JSON. A status that isn't 2xx is an error with
    /// the server's words.
    ///
    /// # Errors
    /// What the server refused, or why it wasn't reached.
    pub async fn request(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let kind = match (method.as_str(), body.is_array()) {
            ("PATCH", true) => "application/json-patch+json",
            ("PATCH", false) => "application/merge-patch+json",
            _ => "application/json",
        };
        self.send(method, path, kind, body).await
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<Value> {
        let what = format!("{method} {path}");
        let bytes = self
            .exchange(method, path, kind, body)
            .await
            .context(what)?;
        serde_json::from_slice(&bytes).context("an answer that isn't JSON")
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> Result<Bytes> {
        let body = match body {
            Value::Null => Vec::new(),
            body => serde_json::to_vec(body)?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.proxy.at.to_string())
            .header("content-type", kind)
            .header("accept", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let stream = TcpStream::connect(self.proxy.at).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let bytes = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, bytes))
        };
        let both = async {
            tokio::pin!(exchange);
            tokio::select! {
                biased;
                answer = &mut exchange => answer,
                ended = connection => { ended?; exchange.await }
            }
        };
        let (status, bytes) = timeout(DEADLINE, both).await.context("no answer")??;
        if status.is_success() {
            return Ok(bytes);
        }
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let message = match answer["message"].as_str() {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&bytes).into_owned(),
        };
        Err(Refusal { status, message }.into())
    }

    /// GET of a path whose answer isn't JSON: `/readyz`, `/metrics`, a log.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn text(&self, path: &str) -> Result<String> {
        let answer = self.exchange(Method::GET, path, "application/json", &Value::Null);
        let bytes = answer.await.with_context(|| format!("GET {path}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// GET of a path, `/api/v1/namespaces/shop/pods?labelSelector=app%3Dweb`.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.request(Method::GET, path, &Value::Null).await
    }

    /// An object.
    ///
    /// # Errors
    /// If there is none.
    pub async fn object(
        &self,
        version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Value> {
        let path = self.path(version, kind, namespace, name).await?;
        self.get(&path).await
    }

    /// Applies objects of a YAML text on the server's side, in order, as the
    /// field manager `box`.
    ///
    /// # Errors
    /// What the server refused.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        for object in crate::manifests::parse(yaml)? {
            self.apply_object(&object).await?;
        }
        Ok(())
    }

    /// [`apply`](Self::apply) of one object; what the server made of it.
    ///
    /// # Errors
    /// What the server refused.
    pub async fn apply_object(&self, object: &Value) -> Result<Value> {
        let path = self.path_of(object).await?;
        let path = format!("{path}?fieldManager=box&force=true");
        let kind = "application/apply-patch+yaml";
        self.send(Method::PATCH, &path, kind, object).await
    }

    /// Merges a patch into an object.
    ///
    /// # Errors
    /// What the server refused.
    pub async fn merge(&self, object: &Value, patch: &Value) -> Result<Value> {
        let path = self.path_of(object).await?;
        self.request(Method::PATCH, &path, patch).await
    }

    /// Deletes an object by its version, kind, namespace and name. One that
    /// isn't there is fine.
    ///
    /// # Errors
    /// What the server refused.
    pub async fn delete(&self, object: &Value) -> Result<()> {
        let path = self.path_of(object).await?;
        match self.request(Method::DELETE, &path, &Value::Null).await {
            Err(error) if refused_with(&error) != Some(StatusCode::NOT_FOUND) => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets a label of an object, or removes it.
    ///
    /// # Errors
    /// If there is no such object.
    pub async fn label(&self, object: &Value, key: &str, value: Option<&str>) -> Result<()> {
        let patch = json!({"metadata": {"labels": {key: value}}});
        self.merge(object, &patch).await.map(|_| ())
    }

    /// A token of a service account.
    ///
    /// # Errors
    /// If there is no such account.
    pub async fn token(&self, namespace: &str, account: &str, audience: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience]}});
        let answer = self.request(Method::POST, &path, &body).await?;
        let token = answer["status"]["token"].as_str();
        Ok(token.context("no token in the answer")?.to_owned())
    }

    /// Waits until a Deployment or a DaemonSet runs as it is written down.
    ///
    /// # Errors
    /// What it still lacks when the bound is over.
    pub async fn wait_rolled_out(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        bound: Duration,
    ) -> Result<()> {
        let what = format!("{kind} {namespace}/{name} is rolled out");
        eventually_within(bound, &what, async || {
            let object = self.object("apps/v1", kind, namespace, name).await?;
            let status = &object["status"];
            let number = |field: &str| status[field].as_i64().unwrap_or(0);
            ensure!(
                status["observedGeneration"] == object["metadata"]["generation"],
                "not observed yet"
            );
            let (wanted, updated, available) = match kind {
                "DaemonSet" => (
                    number("desiredNumberScheduled"),
                    number("updatedNumberScheduled"),
                    number("numberAvailable"),
                ),
                _ => (
                    object["spec"]["replicas"].as_i64().unwrap_or(1),
                    number("updatedReplicas"),
                    number("availableReplicas"),
                ),
            };
            ensure!(
                updated == wanted && available == wanted && number("replicas") <= wanted.max(0),
                "{available} of {wanted} available, {updated} updated: {status}"
            );
            ensure!(
                kind != "DaemonSet" || wanted > 0,
                "no node is to run it yet"
            );
            Ok(())
        })
        .await
    }

    /// `kubectl` for this cluster.
    ///
    /// # Errors
    /// If it isn't built.
    pub fn kubectl(&self) -> Result<Command> {
        kubectl(&self.kubeconfig)
    }

    /// What a program in a pod printed.
    ///
    /// # Errors
    /// If it failed, with what it said.
    pub fn exec(&self, namespace: &str, pod: &str, program: &[&str]) -> Result<String> {
        let mut command = self.kubectl()?;
        command.args(["exec", "-n", namespace, pod, "--"]);
        let output = command.args(program).output().context("start kubectl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "{program:?} in {namespace}/{pod}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// Path of an object, by its version, kind, namespace and name.
    ///
    /// # Errors
    /// If it lacks one of them, or the server doesn't know the kind.
    pub async fn path_of(&self, object: &Value) -> Result<String> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let version = text("/apiVersion").context("an object has an apiVersion")?;
        let kind = text("/kind").context("an object has a kind")?;
        let name = text("/metadata/name").context("an object has a name")?;
        let namespace = text("/metadata/namespace").unwrap_or("default");
        self.path(version, kind, namespace, name).await
    }

    /// Path of an object. The namespace of kinds that have none is ignored.
    ///
    /// # Errors
    /// If the server doesn't know the kind.
    pub async fn path(
        &self,
        version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<String> {
        let base = group_path(version);
        let known = self.kind(version, kind).await?;
        let plural = &known.plural;
        Ok(match known.namespaced {
            true => format!("{base}/namespaces/{namespace}/{plural}/{name}"),
            false => format!("{base}/{plural}/{name}"),
        })
    }

    async fn kind(&self, version: &str, kind: &str) -> Result<Kind> {
        let key = (version.to_owned(), kind.to_owned());
        if let Some(known) = self.kinds().get(&key) {
            return Ok(known.clone());
        }
        let list = self.get(&group_path(version)).await?;
        let mut found = None;
        for resource in list["resources"].as_array().into_iter().flatten() {
            let plural = resource["name"].as_str().unwrap_or_default();
            // `pods/status` is of kind Pod as well.
            if resource["kind"] == kind && !plural.contains('/') {
                found = Some(Kind {
                    plural: plural.to_owned(),
                    namespaced: resource["namespaced"] == true,
                });
            }
        }
        let Some(found) = found else {
            bail!("the server knows no {kind} of {version}");
        };
        self.kinds().insert(key, found.clone());
        Ok(found)
    }

    fn kinds(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Kind>> {
        self.kinds
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn group_path(version: &str) -> String {
    match version.contains('/') {
        true => format!("/apis/{version}"),
        false => format!("/api/{version}"),
    }
}

/// The status that the server refused with, if it was reached.
pub fn refused_with(error: &anyhow::Error) -> Option<StatusCode> {
    error
        .downcast_ref::<Refusal>()
        .map(|refusal| refusal.status)
}

fn kubectl(kubeconfig: &Path) -> Result<Command> {
    let mut command = Command::new(paths::kube_program("kubectl")?);
    command
        .env("KUBECONFIG", kubeconfig)
        // Else it keeps what it found out in the home directory.
        .env("KUBECACHEDIR", paths::base()?.join("cache"));
    Ok(command)
}

const DEADLINE: Duration = Duration::from_secs(30);
