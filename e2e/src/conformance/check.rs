//! What must be seen of an answer, and of an object's status.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{Outcome, within};
use crate::Cluster;
use crate::http::Echo;

/// What must come. What isn't written isn't looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Status; 200 if nothing is written.
    status: Option<u16>,
    /// One of these statuses.
    any_status: Vec<u16>,
    /// No answer: refused, reset or closed.
    fails: bool,
    /// Prefix of the answering pod's name.
    backend: Option<String>,
    /// Its namespace.
    namespace: Option<String>,
    /// What the backend saw.
    path: Option<String>,
    method: Option<String>,
    host: Option<String>,
    proto: Option<String>,
    /// The server name of the TLS that the backend ended.
    sni: Option<String>,
    headers: BTreeMap<String, String>,
    absent: Vec<String>,
    present: Vec<String>,
    /// What the client saw.
    response_headers: BTreeMap<String, String>,
    response_absent: Vec<String>,
    response_present: Vec<String>,
    location: Option<String>,
    body: Option<String>,
    grpc_status: Option<u32>,
    grpc_message: Option<String>,
    message: Option<String>,
    /// How long it may take.
    least_ms: Option<u64>,
    most_ms: Option<u64>,
}

/// Who answered: a pod's name, else the status or what failed.
pub(super) fn answered_by(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Reply(reply) => match reply.echo() {
            Ok(echo) => echo.pod,
            Err(_) => reply.status.to_string(),
        },
        Outcome::Grpc(reply) => match reply.echo() {
            Ok(echo) => echo.pod,
            Err(_) => format!("grpc {}", reply.status),
        },
        Outcome::WebSocket(status, _) => status.to_string(),
        Outcome::Tcp(line) => line.split(' ').next().unwrap_or_default().to_owned(),
        Outcome::Failed(_) => "failed".to_owned(),
    }
}

impl Expect {
    pub(super) fn check(&self, outcome: &Outcome, took: Duration) -> Result<()> {
        ensure!(
            within(took, self.least_ms, self.most_ms),
            "took {took:?}, wanted {:?} to {:?} ms",
            self.least_ms,
            self.most_ms
        );
        match outcome {
            Outcome::Failed(error) if self.fails => {
                let _ = error;
                Ok(())
            }
            Outcome::Failed(error) => bail!("failed: {error:#}"),
            _ if self.fails => bail!("answered by {}", answered_by(outcome)),
            Outcome::Tcp(line) => self.check_line(line),
            Outcome::WebSocket(status, message) => {
                let wanted = self.status.unwrap_or(101);
                ensure!(*status == wanted, "status {status}, wanted {wanted}");
                ensure!(*message == self.message, "message {message:?}");
                Ok(())
            }
            Outcome::Reply(reply) => {
                let status = reply.status;
                if self.any_status.is_empty() {
                    let wanted = self.status.unwrap_or(200);
                    let body = String::from_utf8_lossy(&reply.body);
                    ensure!(
                        status == wanted,
                        "status {status}, wanted {wanted}; body {body:?}"
                    );
                } else {
                    let wanted = &self.any_status;
                    ensure!(
                        wanted.contains(&status),
                        "status {status}, wanted {wanted:?}"
                    );
                }
                if let Some(body) = &self.body {
                    let got = String::from_utf8_lossy(&reply.body);
                    ensure!(got == *body, "body {got:?}, wanted {body:?}");
                }
                self.check_response(reply)?;
                if self.asks_backend() {
                    self.check_echo(&reply.echo()?)?;
                }
                Ok(())
            }
            Outcome::Grpc(reply) => {
                let wanted = self.grpc_status.unwrap_or(0);
                let (got, message) = (reply.status, &reply.message);
                ensure!(
                    got == wanted,
                    "grpc-status {got} ({message:?}), wanted {wanted}"
                );
                if let Some(wanted) = &self.grpc_message {
                    ensure!(message == wanted, "grpc-message {message:?}");
                }
                self.check_response(&reply.http)?;
                if self.asks_backend() {
                    self.check_echo(&reply.echo()?)?;
                }
                Ok(())
            }
        }
    }

    fn check_line(&self, line: &str) -> Result<()> {
        if let Some(backend) = &self.backend {
            ensure!(line.starts_with(&**backend), "answered {line:?}");
        }
        if let Some(message) = &self.message {
            ensure!(line.ends_with(&**message), "answered {line:?}");
        }
        Ok(())
    }

    fn asks_backend(&self) -> bool {
        self.backend.is_some()
            || self.namespace.is_some()
            || self.path.is_some()
            || self.method.is_some()
            || self.host.is_some()
            || self.proto.is_some()
            || self.sni.is_some()
            || !self.headers.is_empty()
            || !self.absent.is_empty()
            || !self.present.is_empty()
    }

    fn check_response(&self, reply: &crate::http::Reply) -> Result<()> {
        let all = |name: &str| {
            let values = reply.headers.get_all(name).iter();
            let values: Vec<_> = values.filter_map(|v| v.to_str().ok()).collect();
            (!values.is_empty()).then(|| values.join(","))
        };
        for (name, value) in &self.response_headers {
            let got = all(name);
            ensure!(
                got.as_deref() == Some(value),
                "response header {name} is {got:?}, wanted {value:?}"
            );
        }
        for name in &self.response_absent {
            let got = all(name);
            ensure!(got.is_none(), "response header {name} is {got:?}");
        }
        for name in &self.response_present {
            ensure!(all(name).is_some(), "no response header {name}");
        }
        if let Some(location) = &self.location {
            let got = all("location");
            ensure!(
                got.as_deref() == Some(location),
                "location {got:?}, wanted {location:?}"
            );
        }
        Ok(())
    }

    fn check_echo(&self, echo: &Echo) -> Result<()> {
        if let Some(backend) = &self.backend {
            ensure!(
                echo.pod.starts_with(&**backend),
                "answered by {}, wanted {backend}",
                echo.pod
            );
        }
        let same = |what: &str, got: &str, wanted: &Option<String>| {
            let right = wanted.as_deref().is_none_or(|wanted| wanted == got);
            ensure!(right, "the backend saw {what} {got:?}, wanted {wanted:?}");
            Ok(())
        };
        same("namespace", &echo.namespace, &self.namespace)?;
        same("path", &echo.path, &self.path)?;
        same("method", &echo.method, &self.method)?;
        same("host", &echo.host, &self.host)?;
        same("proto", &echo.proto, &self.proto)?;
        same("sni", echo.sni.as_deref().unwrap_or("none"), &self.sni)?;
        for (name, value) in &self.headers {
            let got = echo.header(name);
            ensure!(
                got.as_deref() == Some(value),
                "the backend saw {name}: {got:?}, wanted {value:?}"
            );
        }
        for name in &self.absent {
            let got = echo.header(name);
            ensure!(got.is_none(), "the backend saw {name}: {got:?}");
        }
        for name in &self.present {
            ensure!(echo.header(name).is_some(), "the backend saw no {name}");
        }
        Ok(())
    }
}

/// A condition of an object, as the control plane says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// `Kind/namespace/name`.
    of: String,
    /// Of the parent at this place; of the object itself if unset.
    parent: Option<usize>,
    /// Its type.
    condition: String,
    /// `True` or `False`.
    status: String,
    /// Its reason.
    reason: String,
    /// A text within its message.
    #[serde(default)]
    message: String,
    /// `observedGeneration`.
    generation: Option<i64>,
}

impl Condition {
    pub(super) async fn check(&self, cluster: &Cluster) -> Result<()> {
        let page = cluster.statusz().await?;
        let (kind, name) = self.of.split_once('/').context("of: Kind/namespace/name")?;
        let all = page["statuses"].as_array().into_iter().flatten();
        let of = |entry: &&Value| {
            let object = &entry["object"];
            let at = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
            at("kind") == kind && format!("{}/{}", at("namespace"), at("name")) == name
        };
        let status = all
            .clone()
            .find(of)
            .map(|entry| &entry["status"])
            .with_context(|| format!("{} has no status", self.of))?;
        let conditions = match self.parent {
            Some(at) => {
                let parents = status.get("parents").or_else(|| status.get("ancestors"));
                let parent = parents.and_then(|all| all.get(at)).context("no parent")?;
                parent.get("conditions")
            }
            None => status.get("conditions"),
        };
        let conditions = conditions
            .and_then(Value::as_array)
            .context("no conditions")?;
        let found = conditions
            .iter()
            .find(|c| c["type"] == *self.condition)
            .with_context(|| format!("{}: no {} in {conditions:?}", self.of, self.condition))?;
        ensure!(
            found["status"] == *self.status && found["reason"] == *self.reason,
            "{}: {found}, wanted {} {}",
            self.of,
            self.status,
            self.reason
        );
        let generation = found["observedGeneration"].as_i64();
        ensure!(
            self.generation.is_none() || generation == self.generation,
            "{}: observedGeneration {generation:?}",
            self.of
        );
        let message = found["message"].as_str().unwrap_or_default();
        ensure!(message.contains(&self.message), "{}: {message:?}", self.of);
        Ok(())
    }
}
