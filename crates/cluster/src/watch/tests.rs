//! Against an API server that does what it is told to.

mod faults;
mod kinds;
mod once;
mod orders;

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_kube::{Change, Object, ObjectKey, Problem};
use ambit_runtime::Scope;
use ambit_testkit::apiserver::ApiServer;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{ApiSettings, ApiSource};
use crate::follow::Timing;
use crate::scripted;

const PODS: &str = "/api/v1/pods";
const SERVICES: &str = "/api/v1/services";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const POLICIES: &str = "/apis/security.istio.io/v1/authorizationpolicies";

fn quick() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        patience: ms(2000),
        silence: ms(60_000),
        watch: Duration::from_secs(300),
        retry: ms(5),
        retry_at_most: ms(50),
        settled: ms(1000),
        confirm: ms(50),
        window: ms(1000),
        wanted: ms(500),
    }
}

/// A source, and what it has told so far.
struct Seen {
    source: ApiSource,
    changes: mpsc::Receiver<Vec<Change>>,
    scope: Scope,
    objects: BTreeMap<ObjectKey, Object>,
    problems: Vec<Problem>,
    /// How many times everything was told.
    synced: usize,
    /// `+kind name` and `-kind name`, in their order.
    told: Vec<String>,
}

impl Seen {
    fn of(api: &ApiServer) -> Self {
        Self::with(api, quick())
    }

    fn with(api: &ApiServer, timing: Timing) -> Self {
        let settings = ApiSettings {
            system_namespace: "istio-system".into(),
            revision: "default".into(),
            shared_mesh_config: Some("shared".into()),
            timing,
        };
        let source = ApiSource::new(scripted::connect(api), settings);
        let scope = Scope::new("test");
        let (tx, changes) = mpsc::channel(8);
        source.run(&scope, tx);
        Self {
            source,
            changes,
            scope,
            objects: BTreeMap::new(),
            problems: Vec::new(),
            synced: 0,
            told: Vec::new(),
        }
    }

    /// Once everything that was there is told.
    async fn synced(api: &ApiServer) -> Self {
        let mut seen = Self::of(api);
        seen.until("synced", |seen| seen.synced > 0).await;
        seen
    }

    fn take(&mut self, batch: Vec<Change>) {
        for change in batch {
            match change {
                Change::Apply(located) => {
                    let key = located.object.key();
                    self.told.push(format!("+{key}"));
                    self.objects.insert(key, located.object);
                }
                Change::Delete(key) => {
                    self.told.push(format!("-{key}"));
                    self.objects.remove(&key);
                }
                Change::Problems(problems) => self.problems = problems,
                Change::Synced => self.synced += 1,
                Change::Redirection { .. } => panic!("a source knows of no redirection"),
            }
        }
    }

    /// Takes changes until something holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            // Not everything that is waited for comes with a change.
            let moment = Duration::from_millis(20);
            match tokio::time::timeout(moment, self.changes.recv()).await {
                Ok(Some(batch)) => self.take(batch),
                Ok(None) => panic!("the source has ended before: {what}"),
                Err(_) if tokio::time::Instant::now() < deadline => {}
                Err(_) => panic!(
                    "never: {what}; told {:?}; watches {:?}",
                    self.told,
                    self.source.watches().all()
                ),
            }
        }
    }

    /// Takes what comes within a while, in which nothing should.
    async fn quiet(&mut self) {
        let until = tokio::time::Instant::now() + Duration::from_millis(150);
        while let Ok(Some(batch)) = tokio::time::timeout_at(until, self.changes.recv()).await {
            self.take(batch);
        }
    }

    fn names(&self, kind: &str) -> Vec<String> {
        let of = |key: &&ObjectKey| key.kind.to_string() == kind;
        let keys = self.objects.keys().filter(of);
        keys.map(|key| key.name.to_string()).collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.names(kind).len()
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

fn pod(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("u-{name}"), "labels": {"app": "cart"},
                     "managedFields": [{"manager": "kubelet"}]},
        "spec": {"nodeName": "n1", "serviceAccountName": "cart",
                 "volumes": [{"name": "v"}],
                 "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "b"}],
                                 "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                   "containerStatuses": [{"name": "c", "ready": true}],
                   "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]},
    })
}

fn pods(api: &ApiServer, count: usize) {
    for at in 0..count {
        api.add(PODS, pod(&format!("p{at:03}"), &format!("10.0.0.{at}")));
    }
}

/// The definition of AuthorizationPolicies.
fn policies_definition() -> Value {
    definition(
        "security.istio.io",
        "AuthorizationPolicy",
        "authorizationpolicies",
        &["v1", "v1beta1"],
    )
}

fn definition(group: &str, kind: &str, plural: &str, versions: &[&str]) -> Value {
    let versions = versions
        .iter()
        .map(|name| json!({"name": name, "served": true}));
    json!({
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "names": {"kind": kind, "plural": plural},
                 "versions": versions.collect::<Vec<_>>()},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    })
}

fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
           "metadata": {"name": name, "namespace": "shop", "generation": 1}, "spec": spec})
}
