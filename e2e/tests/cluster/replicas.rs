//! Replicas of istiod-lite beside an API server that has no nodes: what scenarios of
//! tokens, roots, admission and watches stand on.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use ambit_e2e::kube::space::Program;
use ambit_e2e::kube::{Api, ControlPlane, ControlPlaneOptions, relay};
use ambit_e2e::programs;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

/// An API server, and replicas of istiod-lite that read it.
pub(crate) struct Mesh {
    pub(crate) control: ControlPlane,
    kubeconfig: PathBuf,
    relays: Vec<Child>,
    // Before the box: they are in it.
    pub(crate) replicas: Vec<Program>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for relay in &mut self.relays {
            let _ = relay.kill();
            let _ = relay.wait();
        }
        for replica in &mut self.replicas {
            let _ = replica.kill();
        }
    }
}

impl Mesh {
    pub(crate) async fn start() -> Result<Self> {
        let control = ControlPlane::start(ControlPlaneOptions::default()).await?;
        let kubeconfig = control.dir().join("inside.kubeconfig");
        let inside = control.inside_url();
        control
            .authority()
            .kubeconfig("admin", &inside, &kubeconfig)?;
        let mesh = Self {
            control,
            kubeconfig,
            relays: Vec::new(),
            replicas: Vec::new(),
        };
        for kind in [
            ("networking.istio.io", "ServiceEntry", "serviceentries"),
            (
                "security.istio.io",
                "AuthorizationPolicy",
                "authorizationpolicies",
            ),
            (
                "security.istio.io",
                "PeerAuthentication",
                "peerauthentications",
            ),
        ] {
            mesh.api().apply_object(&crd(kind)).await?;
        }
        let system =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}});
        mesh.api().apply_object(&system).await?;
        Ok(mesh)
    }

    pub(crate) fn api(&self) -> &Api {
        self.control.api()
    }

    /// Starts a replica; the first has the usual ports, others those above.
    pub(crate) async fn replica(&mut self) -> Result<()> {
        let nth = self.replicas.len();
        let port = |usual: usize| format!("0.0.0.0:{}", usual + nth * 100);
        let state = self.control.dir().join(format!("istiod-{nth}"));
        let mut command = Command::new(programs::bin_dir()?.join("istiod-lite"));
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--state-dir")
            .arg(state)
            .args(["--listen", &port(15012), "--http", &port(15014)])
            .args(["--webhook", &port(15017)])
            .env("POD_NAME", format!("istiod-{nth}"));
        let name = format!("istiod-{nth}");
        let program = Program::start(self.control.space(), self.control.dir(), &name, command)?;
        self.replicas.push(program);
        Ok(())
    }

    /// A port of this machine that leads to one in the box.
    pub(crate) fn relay(&mut self, port: u16) -> Result<u16> {
        let to = ([127, 0, 0, 1], port).into();
        let mut command = relay::command(to, self.control.space().init(), 0)?;
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("its output")?;
        self.relays.push(child);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line)?;
        Ok(line.trim().parse()?)
    }

    pub(crate) async fn map(&self, namespace: &str, name: &str) -> Result<Value> {
        self.api().object("v1", "ConfigMap", namespace, name).await
    }

    pub(crate) async fn root(&self, namespace: &str) -> Result<String> {
        let map = self.map(namespace, "istio-ca-root-cert").await?;
        let labelled = map["metadata"]["labels"]["istio.io/config"] == "true";
        ensure!(labelled, "{map}");
        let root = map["data"]["root-cert.pem"].as_str();
        Ok(root.context("a root")?.to_owned())
    }

    /// The root of the Secret.
    pub(crate) async fn kept(&self) -> Result<String> {
        let secret = self
            .api()
            .object("v1", "Secret", "istio-system", "istio-ca-secret")
            .await?;
        let text = secret["data"]["ca-cert.pem"].as_str().context("a root")?;
        Ok(String::from_utf8(STANDARD.decode(text)?)?)
    }

    /// A pod on a node that nobody runs, as its kubelet would say.
    pub(crate) async fn pod(
        &self,
        namespace: &str,
        name: &str,
        account: &str,
        node: &str,
    ) -> Result<Value> {
        let api = self.api();
        let account_object = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace}});
        api.apply_object(&account_object).await?;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {"nodeName": node, "serviceAccountName": account, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "none"}]}});
        let made = api.apply_object(&pod).await?;
        let status = json!({"status": {"phase": "Running", "podIP": "10.9.0.1", "podIPs": [{"ip": "10.9.0.1"}]}});
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        api.request(Method::PATCH, &path, &status).await?;
        Ok(made)
    }

    /// A token as the kubelet mounts it.
    pub(crate) async fn bound_token(&self, pod: &Value, audience: &str) -> Result<String> {
        let (meta, spec) = (&pod["metadata"], &pod["spec"]);
        let namespace = meta["namespace"].as_str().context("a namespace")?;
        let account = spec["serviceAccountName"].as_str().context("an account")?;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience], "boundObjectRef":
                {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}}});
        let token = self.api().request(Method::POST, &path, &body).await?;
        let token = token["status"]["token"].as_str();
        Ok(token.context("a token")?.to_owned())
    }
}

fn crd((group, kind, plural): (&str, &str, &str)) -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}}}]},
    })
}
