//! The objects in a real Kubernetes: etcd, kube-apiserver, and kwok in place of
//! a hundred kubelets.
//!
//! Controllers and scheduler don't run: pods are created with their nodes, and
//! what is measured is the way of a change from the API server on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_runtime::Scope;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::mesh::{self, Mesh};
use crate::kube::space::Program;
use crate::kube::{ControlPlane, ControlPlaneOptions, paths};
use crate::peer::{self, Credential};

/// An API server with simulated nodes.
pub(super) struct Kubernetes {
    client: Client,
    kubeconfig: PathBuf,
    kwok: Program,
    // Last: it ends what runs in it.
    control: ControlPlane,
}

/// The administrator's connection to it. Clones share it.
#[derive(Clone)]
pub(super) struct Client(SendRequest<Full<Bytes>>);

impl Kubernetes {
    /// Starts it, without objects.
    pub(super) async fn start() -> Result<Self> {
        paths::kube_program("kwok")?;
        let control = ControlPlane::start(ControlPlaneOptions::default()).await?;
        let kubeconfig = control.dir().join("inside.kubeconfig");
        let url = control.inside_url();
        control.authority().kubeconfig("admin", &url, &kubeconfig)?;
        let client = Client::connect(&control).await?;
        let kwok = simulate(&control, &kubeconfig)?;
        Ok(Self {
            client,
            kubeconfig,
            kwok,
            control,
        })
    }

    /// The network that it is in.
    pub(super) fn ns(&self) -> &NetNs {
        self.control.ns()
    }

    /// By which istiod-lite reads it.
    pub(super) fn configure(&self, command: &mut Command) {
        command.arg("--kubeconfig").arg(&self.kubeconfig);
    }

    /// A client for changes.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Creates everything, and waits until all pods run.
    pub(super) async fn fill(&mut self, mesh: &Mesh) -> Result<()> {
        // In steps: what the next one refers to has to be there.
        let few = mesh.kinds().chain(mesh.nodes());
        self.client.create_all(few).await?;
        let is = |kind: &'static str| move |object: &Value| object["kind"] == kind;
        let namespaces = mesh.objects().filter(is("Namespace"));
        self.client.create_all(namespaces).await?;
        self.client.create_all(mesh.accounts()).await?;
        let rest = mesh.objects().filter(|object| !is("Namespace")(object));
        self.client.create_all(rest.map(as_created)).await?;
        let (client, kwok) = (self.client.clone(), &mut self.kwok);
        eventually_within(PATIENCE, "every pod runs", async || {
            kwok.check()?;
            let path = "/api/v1/pods?fieldSelector=status.phase!=Running&limit=1";
            let left = client.request(Method::GET, path, &Value::Null).await?;
            ensure!(
                left["items"].as_array().is_some_and(Vec::is_empty),
                "not all"
            );
            Ok(())
        })
        .await
    }

    /// A token of a pod's account, bound to the pod as the kubelet does it.
    pub(super) async fn token(&self, account: &str, node: usize) -> Result<String> {
        let pod = format!("{account}-n{node}");
        let path = format!("/api/v1/namespaces/{}/pods/{pod}", mesh::SYSTEM);
        let found = self
            .client
            .request(Method::GET, &path, &Value::Null)
            .await?;
        let path = format!(
            "/api/v1/namespaces/{}/serviceaccounts/{account}/token",
            mesh::SYSTEM
        );
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": ["istio-ca"], "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": pod, "uid": found["metadata"]["uid"]}},
        });
        let answer = self.client.request(Method::POST, &path, &request).await?;
        let token = answer["status"]["token"].as_str();
        Ok(token.context("no token in the answer")?.to_owned())
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        // To be waited for before the box ends.
        let _ = self.kwok.kill();
    }
}

/// An object as somebody creates it who isn't the server; pods of the mesh as
/// their node's agent leaves them.
fn as_created(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    let enrolled = object["kind"] == "Pod" && object["spec"]["hostNetwork"] != true;
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("uid");
        if enrolled {
            metadata["annotations"]["ambient.istio.io/redirection"] = json!("enabled");
        }
    }
    object
}

/// kwok, for every node that says so.
fn simulate(control: &ControlPlane, kubeconfig: &Path) -> Result<Program> {
    let stages = paths::base()?.join("kwok");
    let mut command = Command::new(paths::kube_program("kwok")?);
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--manage-all-nodes=false")
        .arg("--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake")
        .args(["--cidr", "10.128.0.0/14"])
        .args(["--server-address", "127.0.0.1:10247"])
        .args(["--node-lease-duration-seconds", "120"]);
    for stage in [
        "node/fast/node-initialize.yaml",
        "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
        "pod/fast/pod-ready.yaml",
        "pod/fast/pod-delete.yaml",
    ] {
        let file = stages.join(stage);
        let there = fs::exists(&file)?;
        ensure!(
            there,
            "{} is missing: `cluster build scale`",
            file.display()
        );
        command.arg("--config").arg(file);
    }
    Program::start(control.space(), control.dir(), "kwok", command)
}

impl Client {
    async fn connect(control: &ControlPlane) -> Result<Self> {
        let file = |name: &str| control.authority().path(name);
        let chain = CertificateDer::pem_file_iter(file("admin.crt"))?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(file("admin.key"))?;
        let credential = Credential::Chain(chain, key);
        let tls = peer::tls(control.ns(), control.address(), &credential).await?;
        let (send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await?;
        // Requests fail if it does.
        Scope::new("administrator").spawn("connection", async move {
            let _ = connection.await;
        });
        Ok(Self(send))
    }

    /// Creates objects, many at a time.
    async fn create_all(&self, objects: impl Iterator<Item = Value>) -> Result<()> {
        stream::iter(objects)
            .map(|object| async move { self.create(&object).await })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn create(&self, object: &Value) -> Result<()> {
        let path = collection(object)?;
        // A kind is served a moment after it was defined.
        eventually_within(SERVED, &format!("create in {path}"), async || {
            self.request(Method::POST, &path, object).await
        })
        .await
        .map(|_| ())
    }

    /// Merges what may change of an object into it; it is committed on return.
    pub(super) async fn change(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        let path = format!("{}/{name}", collection(object)?);
        let patch = match object["kind"].as_str() {
            // Of a pod's spec hardly anything may change.
            Some("Pod") => json!({"metadata": {"labels": object["metadata"]["labels"]}}),
            _ => json!({"spec": object["spec"]}),
        };
        self.request(Method::PATCH, &path, &patch).await.map(|_| ())
    }

    async fn request(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let bytes = match body {
            Value::Null => Vec::new(),
            body => serde_json::to_vec(body)?,
        };
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://kubernetes{path}"))
            .header("content-type", kind)
            .header("accept", "application/json")
            .body(Full::new(Bytes::from(bytes)))?;
        let mut send = self.0.clone();
        let exchange = async {
            send.ready().await?;
            let response = send.send_request(request).await?;
            let status = response.status();
            let bytes = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, bytes))
        };
        let (status, bytes) = timeout(PATIENCE, exchange).await.context("no answer")??;
        let said = || String::from_utf8_lossy(&bytes).into_owned();
        ensure!(status.is_success(), "{path}: {status}: {}", said());
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// Path of the collection that an object is in.
fn collection(object: &Value) -> Result<String> {
    let (version, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
    let (version, kind) = (version.context("a version")?, kind.context("a kind")?);
    let plural = match kind {
        "AuthorizationPolicy" => "authorizationpolicies".to_owned(),
        other => format!("{}s", other.to_lowercase()),
    };
    let base = if version.contains('/') { "apis" } else { "api" };
    Ok(match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{base}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{base}/{version}/{plural}"),
    })
}

/// Requests that are under way at a time while objects are created.
const AT_ONCE: usize = 32;
const SERVED: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(300);
