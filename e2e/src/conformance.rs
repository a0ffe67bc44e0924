//! Conformance scenarios as data: manifests, requests, and what must be seen.
//!
//! A scenario is one YAML document of `e2e/conformance/`: objects that are
//! applied to a running mesh, requests whose answers are checked as a whole
//! (status, headers at both ends, Host, path, `Location`, which backend), shares
//! over many requests, and conditions. It names the upstream test that it
//! stands for, and goes further where that one looks away
//! (`waypoint-contract` 2.9, weak assertions).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ambit_netns::NetNs;
use ambit_testkit::eventually;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::Cluster;
use crate::http::{self, Ask, Reply};
use crate::manifests::{Key, parse};

mod check;
mod secure;
#[cfg(test)]
mod tests;

pub use check::{Condition, Expect};
pub use secure::run as run_secure;

/// One scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The upstream test's name, or ours.
    pub name: String,
    /// Other upstream tests that it stands for as well.
    #[serde(default)]
    pub covers: Vec<String>,
    /// Where the rule is from.
    pub clause: String,
    /// Objects, applied before and deleted after.
    #[serde(default)]
    pub apply: String,
    /// Requests, in order.
    #[serde(default)]
    pub ask: Vec<Question>,
    /// Shares of backends over many requests.
    #[serde(default)]
    pub share: Vec<Share>,
    /// Mirrored requests.
    #[serde(default)]
    pub mirror: Vec<Mirrored>,
    /// Conditions of objects.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Who asks whom for what.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `namespace/pod`.
    #[serde(default = "client")]
    pub from: String,
    /// A service, `name` of namespace `mesh` or `namespace/name`, or `pod:namespace/name`.
    pub to: String,
    #[serde(default = "http_port")]
    port: u16,
    #[serde(default = "get")]
    method: String,
    #[serde(default = "root")]
    path: String,
    host: Option<String>,
    #[serde(default)]
    headers: Vec<BTreeMap<String, String>>,
    body: Option<String>,
    #[serde(default)]
    h2: bool,
    /// gRPC method, `/package.Service/Method`.
    grpc: Option<String>,
    /// A server name: the request goes inside of TLS, which the backend ends.
    tls: Option<String>,
    /// Opaque bytes: what is sent; the echo application answers `POD TEXT`.
    tcp: Option<String>,
    /// A text message over WebSocket.
    websocket: Option<String>,
    /// Ask only once: the request has an effect that must be seen once.
    #[serde(default)]
    once: bool,
    /// What must come.
    pub expect: Expect,
}

/// How requests are spread.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The request.
    pub of: Question,
    /// How many.
    pub count: usize,
    /// Pod name prefix, or a status for what no backend answered, to its share.
    pub shares: BTreeMap<String, f64>,
    /// Deviation that is allowed, absolute.
    pub within: f64,
}

/// A request that others must see too.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirrored {
    /// The request; `ID` in its path is replaced by a fresh one each.
    pub of: Question,
    /// How many.
    #[serde(default = "one")]
    pub count: usize,
    /// Pod to the least and most copies it sees.
    pub seen: BTreeMap<String, [usize; 2]>,
    /// The Host that mirrored requests carry.
    pub host: Option<String>,
    /// Headers that mirrored requests carry.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

fn client() -> String {
    "mesh/client".to_owned()
}
fn http_port() -> u16 {
    80
}
fn get() -> String {
    "GET".to_owned()
}
fn root() -> String {
    "/".to_owned()
}
fn one() -> usize {
    1
}

/// All scenarios of a file.
///
/// # Errors
/// If it can't be read.
pub fn read(file: &Path) -> Result<Vec<Scenario>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_saphyr::from_str(&text).with_context(|| file.display().to_string())
}

/// What a question came to.
pub enum Outcome {
    /// HTTP.
    Reply(Box<Reply>),
    /// gRPC.
    Grpc(Box<http::GrpcReply>),
    /// WebSocket: status and message.
    WebSocket(u16, Option<String>),
    /// Bytes.
    Tcp(String),
    /// No answer, or not a whole one.
    Failed(anyhow::Error),
}

impl Scenario {
    /// Applies, asks, looks, and takes its objects away again.
    ///
    /// # Errors
    /// What wasn't as it must be.
    pub async fn run(&self, cluster: &mut Cluster) -> Result<()> {
        cluster.apply(&self.apply)?;
        let result = self.hold(cluster).await;
        for object in parse(&self.apply)?.iter().rev() {
            let meta = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
            let kind = object["kind"].as_str().unwrap_or_default();
            cluster
                .manifests
                .delete(&Key::new(kind, meta("namespace"), meta("name")))?;
        }
        result.with_context(|| format!("{} ({})", self.name, self.clause))
    }

    async fn hold(&self, cluster: &Cluster) -> Result<()> {
        for condition in &self.conditions {
            eventually("conditions", async || condition.check(cluster).await).await?;
        }
        let repeated: Vec<_> = self.ask.iter().filter(|q| !q.once).collect();
        let mirrored = self.mirror.iter().map(Mirrored::unmarked);
        let mirrored: Vec<_> = mirrored.collect();
        eventually("the first pass", async || {
            for question in repeated.iter().copied().chain(&mirrored) {
                question.check(cluster).await?;
            }
            Ok(())
        })
        .await?;
        // What held once must go on to hold: three in a row, as upstream asks.
        for _ in 0..2 {
            for question in &repeated {
                question.check(cluster).await.context("held before")?;
            }
        }
        for question in self.ask.iter().filter(|q| q.once) {
            question.check(cluster).await?;
        }
        for share in &self.share {
            share.check(cluster).await?;
        }
        for mirrored in &self.mirror {
            mirrored.check(cluster).await?;
        }
        Ok(())
    }
}

impl Question {
    async fn check(&self, cluster: &Cluster) -> Result<()> {
        let started = Instant::now();
        let outcome = self.ask(cluster).await?;
        let took = started.elapsed();
        self.expect.check(&outcome, took).with_context(|| {
            let what = self.grpc.as_deref().unwrap_or(&self.path);
            format!(
                "{} {what} of {}:{} from {}",
                self.method, self.to, self.port, self.from
            )
        })
    }

    async fn ask(&self, cluster: &Cluster) -> Result<Outcome> {
        let (ns, to) = self.way(cluster)?;
        let headers: Vec<(String, String)> = self.headers.iter().flat_map(|h| h.clone()).collect();
        if let Some(method) = &self.grpc {
            return Ok(
                match http::grpc(&ns, to, method, &headers, b"hello").await {
                    Ok(reply) => Outcome::Grpc(Box::new(reply)),
                    Err(error) => Outcome::Failed(error),
                },
            );
        }
        if let Some(text) = &self.websocket {
            return Ok(match http::websocket(&ns, to, &self.path, text).await {
                Ok((status, message)) => Outcome::WebSocket(status, message),
                Err(error) => Outcome::Failed(error),
            });
        }
        if let Some(text) = &self.tcp {
            return Ok(match http::line(&ns, to, text).await {
                Ok(line) => Outcome::Tcp(line),
                Err(error) => Outcome::Failed(error),
            });
        }
        let mut ask = Ask::get(&self.path).method(&self.method);
        ask.headers = headers;
        ask.host.clone_from(&self.host);
        if let Some(body) = &self.body {
            ask = ask.body(body.clone());
        }
        if self.h2 {
            ask = ask.h2();
        }
        let reply = match &self.tls {
            None => http::ask(&ns, to, &ask).await,
            Some(name) => {
                let authority = secure::authority(cluster)?;
                http::ask_in_tls(&ns, to, &ask, (name, &authority)).await
            }
        };
        Ok(match reply {
            Ok(reply) => Outcome::Reply(Box::new(reply)),
            Err(error) => Outcome::Failed(error),
        })
    }

    fn way(&self, cluster: &Cluster) -> Result<(NetNs, SocketAddr)> {
        let (namespace, pod) = self.from.split_once('/').context("from: namespace/pod")?;
        let ns = cluster.pod_ns(namespace, pod)?;
        let to = match self.to.strip_prefix("pod:") {
            Some(to) => {
                let (namespace, pod) = to.split_once('/').context("to: pod:namespace/name")?;
                cluster.pod_addr(namespace, pod, self.port)?
            }
            None => {
                let (namespace, name) = self.to.split_once('/').unwrap_or(("mesh", &self.to));
                cluster.service_addr(namespace, name, self.port)?
            }
        };
        Ok((ns, to))
    }
}

impl Share {
    async fn check(&self, cluster: &Cluster) -> Result<()> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..self.count {
            let outcome = self.of.ask(cluster).await?;
            let answered = check::answered_by(&outcome);
            let known = self.shares.keys().find(|key| answered.starts_with(*key));
            *seen
                .entry(known.map_or(answered.clone(), Clone::clone))
                .or_default() += 1;
        }
        for (who, wanted) in &self.shares {
            let got = *seen.get(who).unwrap_or(&0) as f64 / self.count as f64;
            ensure!(
                (got - wanted).abs() <= self.within,
                "{who} has {got:.3} of the requests, wanted {wanted} ± {}: {seen:?}",
                self.within
            );
        }
        let strange = seen.keys().find(|who| !self.shares.contains_key(*who));
        ensure!(strange.is_none(), "answered by {strange:?} too: {seen:?}");
        Ok(())
    }
}

impl Mirrored {
    /// The request with an id that nobody counts.
    fn unmarked(&self) -> Question {
        let mut question = self.of.clone();
        question.path = question.path.replace("ID", "unmarked");
        question
    }

    async fn check(&self, cluster: &Cluster) -> Result<()> {
        let id = format!("mirror-{}", fresh());
        let mut question = self.of.clone();
        question.path = question.path.replace("ID", &id);
        for _ in 0..self.count {
            question.check(cluster).await?;
        }
        let (ns, _) = question.way(cluster)?;
        for (pod, [least, most]) in &self.seen {
            let (namespace, name) = pod.split_once('/').unwrap_or(("mesh", pod));
            let at = cluster.pod_addr(namespace, name, 8080)?;
            let path = format!("/__seen?id={id}");
            eventually(&format!("{pod} has seen its copies"), async || {
                let reply = http::ask(&ns, at, &Ask::get(&path)).await?;
                let seen: serde_json::Value = serde_json::from_slice(&reply.body)?;
                let count = usize::try_from(seen["count"].as_u64().context("a count")?)?;
                ensure!(
                    (*least..=*most).contains(&count),
                    "{pod} has seen {count}, wanted {least} to {most}"
                );
                if count > 0 {
                    let last: http::Echo = serde_json::from_value(seen["last"].clone())?;
                    self.check_copy(&last)?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    fn check_copy(&self, last: &http::Echo) -> Result<()> {
        if let Some(host) = &self.host {
            ensure!(last.host == *host, "the copy's Host is {:?}", last.host);
        }
        for (name, value) in &self.headers {
            let got = last.header(name);
            ensure!(
                got.as_deref() == Some(value),
                "the copy's {name} is {got:?}, wanted {value:?}"
            );
        }
        Ok(())
    }
}

/// A number that no other request of this process has.
fn fresh() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Bounds of how long an answer may take.
pub(crate) fn within(took: Duration, least_ms: Option<u64>, most_ms: Option<u64>) -> bool {
    least_ms.is_none_or(|least| took >= Duration::from_millis(least))
        && most_ms.is_none_or(|most| took <= Duration::from_millis(most))
}
