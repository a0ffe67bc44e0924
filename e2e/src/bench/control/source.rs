//! Where objects are committed, and how istiod-lite is told of it.

use std::path::Path;
use std::process::Command;

use ambit_netns::{NamedNetNs, NetNs, Netlink};
use ambit_testkit::sandbox::Sandbox;
use ambit_testkit::token::{Subject, TokenIssuer};
use anyhow::Result;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::Instant;

use super::kubernetes::Kubernetes;
use super::mesh::{self, Mesh};
use crate::manifests::Manifests;

/// Which source of objects is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Kind {
    /// Files.
    Directory,
    /// A real API server.
    Kubernetes,
}

/// A source of objects.
pub(super) enum Source {
    Directory(Box<Directory>),
    Kubernetes(Box<Kubernetes>),
}

/// A directory of manifests, a file each, and what stands in for the rest of a
/// cluster: an issuer of tokens, a network.
pub(super) struct Directory {
    manifests: Manifests,
    issuer: TokenIssuer,
    ns: NamedNetNs,
}

impl Source {
    /// Makes one and puts a mesh into it.
    pub(super) async fn start(kind: Kind, mesh: &Mesh, sandbox: &Sandbox) -> Result<Self> {
        match kind {
            Kind::Directory => {
                let ns = NamedNetNs::create(&sandbox.ns_dir(), "control")?;
                Netlink::in_ns(ns.ns())?.link_up("lo").await?;
                let issuer = TokenIssuer::new("https://kubernetes.default.svc.cluster.local")?;
                issuer.write_jwks(&sandbox.dir().join("jwks.json"))?;
                let mut manifests = Manifests::new(sandbox.dir().join("manifests"))?;
                for object in mesh.objects() {
                    manifests.put(object)?;
                }
                Ok(Self::Directory(Box::new(Directory {
                    manifests,
                    issuer,
                    ns,
                })))
            }
            Kind::Kubernetes => {
                let mut kubernetes = Kubernetes::start().await?;
                kubernetes.fill(mesh).await?;
                Ok(Self::Kubernetes(Box::new(kubernetes)))
            }
        }
    }

    /// The network to run istiod-lite in.
    pub(super) fn ns(&self) -> &NetNs {
        match self {
            Self::Directory(directory) => directory.ns.ns(),
            Self::Kubernetes(kubernetes) => kubernetes.ns(),
        }
    }

    /// The arguments by which istiod-lite reads it.
    pub(super) fn configure(&self, command: &mut Command, dir: &Path) {
        match self {
            Self::Directory(directory) => {
                command.arg("--from").arg(directory.manifests.dir());
                command.arg("--jwks").arg(dir.join("jwks.json"));
                command.args(["--token-issuer", directory.issuer.issuer()]);
            }
            Self::Kubernetes(kubernetes) => kubernetes.configure(command),
        }
    }

    /// Whether agents have to report their pods; objects say it otherwise.
    pub(super) fn wants_reports(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    /// Resources that a node's proxy is sent.
    pub(super) fn resources(&self, mesh: &Mesh) -> usize {
        match self {
            // Proxies and agents are workloads too.
            Self::Directory(_) => mesh.resources() + 2 * mesh::NODES,
            // Simulated nodes have no addresses, so that pods of their network
            // are no workloads. The Service `kubernetes` has one endpoint.
            Self::Kubernetes(_) => mesh.resources() + 2,
        }
    }

    /// A token of an account's pod on a node.
    pub(super) async fn token(&self, account: &str, node: usize) -> Result<String> {
        match self {
            Self::Directory(directory) => {
                let pod = format!("{account}-n{node}");
                directory.issuer.token(&Subject {
                    namespace: mesh::SYSTEM,
                    service_account: account,
                    pod: &pod,
                    pod_uid: &format!("uid-{pod}"),
                    node: &format!("n{node}"),
                })
            }
            Self::Kubernetes(kubernetes) => kubernetes.token(account, node).await,
        }
    }

    /// Commits another form of an object; when that was done. What takes time
    /// is left to the future.
    pub(super) fn commit(&mut self, object: Value) -> BoxFuture<'static, Result<Instant>> {
        match self {
            Self::Directory(directory) => {
                let done = directory.manifests.put(object).map(|()| Instant::now());
                std::future::ready(done).boxed()
            }
            Self::Kubernetes(kubernetes) => {
                let client = kubernetes.client();
                async move { client.change(&object).await.map(|()| Instant::now()) }.boxed()
            }
        }
    }
}
