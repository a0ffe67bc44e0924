//! What the tests look at beside dumps and metrics: access log lines, what a
//! pod's kernel holds, what `ambit analyze` says; and the pods they add.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use ambit_netns::{NetNs, Netlink};
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::Cluster;

/// One line of an access log, by field; its message is the field `message`.
pub type Line = BTreeMap<String, String>;

/// The access log in a program's output.
pub fn access_lines(log: &str) -> Vec<Line> {
    let lines = log.lines().map(|line| line.splitn(5, '\t'));
    lines
        .filter_map(|mut parts| {
            let target = parts.nth(2)?;
            let message = parts.next()?;
            (target == "access").then(|| fields(message, parts.next().unwrap_or_default()))
        })
        .collect()
}

fn fields(message: &str, mut text: &str) -> Line {
    let mut line = Line::from([("message".to_owned(), message.to_owned())]);
    while let Some((key, rest)) = text.split_once('=') {
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        line.insert(key.trim().to_owned(), value.to_owned());
        text = rest;
    }
    line
}

/// True if a line has all these fields with these values.
pub fn has(line: &Line, fields: &[(&str, &str)]) -> bool {
    fields
        .iter()
        .all(|(k, v)| line.get(*k).is_some_and(|value| value == v))
}

impl Cluster {
    /// Lines of a proxy's access log with these fields.
    ///
    /// # Errors
    /// If the proxy isn't running.
    pub fn access(&self, node: &str, fields: &[(&str, &str)]) -> Result<Vec<Line>> {
        let mut lines = access_lines(&self.ztunnel_process(node)?.log());
        lines.retain(|line| has(line, fields));
        Ok(lines)
    }

    /// Waits for a line with these fields whose `error` holds a text.
    ///
    /// # Errors
    /// If it doesn't appear, with the errors that did.
    pub async fn wait_refusal(
        &self,
        node: &str,
        fields: &[(&str, &str)],
        error: &str,
    ) -> Result<Line> {
        eventually(
            &format!("{node} logs {fields:?} with {error:?}"),
            async || {
                let lines = self.access(node, fields)?;
                let errors: Vec<_> = lines.iter().filter_map(|l| l.get("error")).collect();
                let found = lines
                    .iter()
                    .find(|l| l.get("error").is_some_and(|e| e.contains(error)));
                found
                    .cloned()
                    .with_context(|| format!("errors are {errors:?}"))
            },
        )
        .await
    }

    /// Waits until every pod of the shop is known as HBONE to both proxies, and
    /// every service has an endpoint that is ready.
    ///
    /// # Errors
    /// What isn't.
    pub async fn wait_shop(&self) -> Result<()> {
        for node in self.node_names() {
            for pod in ["web-0", "payments-0", "cart-0", "catalog-0", "worker-0"] {
                self.wait_protocol(node, "shop", pod, "HBONE").await?;
            }
            eventually(&format!("{node} knows where services are"), async || {
                let dump = self.config_dump(node).await?;
                let services = dump["services"].as_array().context("no services")?;
                let ready = |s: &Value| {
                    let endpoints = s["endpoints"].as_object().into_iter().flatten();
                    endpoints.into_iter().any(|(_, e)| e["status"] == "Healthy")
                };
                let empty = services.iter().filter(|s| !ready(s));
                let empty: Vec<_> = empty.map(|s| &s["name"]).collect();
                ensure!(
                    services.len() >= 5 && empty.is_empty(),
                    "nowhere: {empty:?}"
                );
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every proxy has all that was written so far: a policy that
    /// selects nothing is written after it, and arrives after it.
    ///
    /// # Errors
    /// If it doesn't arrive.
    pub async fn wait_config(&mut self, marker: &str) -> Result<()> {
        let nowhere = json!({"matchLabels": {"marker": marker}});
        self.manifests.put(json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": marker, "namespace": "legacy"},
            "spec": {"selector": nowhere, "action": "DENY", "rules": [{}]},
        }))?;
        for node in self.node_names() {
            self.wait_policy(node, marker, true).await?;
        }
        Ok(())
    }

    /// How a proxy knows a pod now: `HBONE` or `TCP`.
    ///
    /// # Errors
    /// If it doesn't know it.
    pub async fn protocol(&self, on: &str, namespace: &str, pod: &str) -> Result<String> {
        let dump = self.config_dump(on).await?;
        let workloads = dump["workloads"].as_array().context("no workloads")?;
        let found = workloads
            .iter()
            .find(|w| w["name"] == pod && w["namespace"] == namespace);
        let protocol = found.and_then(|w| w["protocol"].as_str());
        Ok(protocol
            .with_context(|| format!("no {namespace}/{pod}"))?
            .to_owned())
    }

    /// Index of a node's link to the others.
    ///
    /// # Errors
    /// If it has none.
    pub async fn uplink(&self, node: &str) -> Result<u32> {
        let links = self.underlay.host(node)?.netlink().links().await?;
        let link = links.iter().find(|link| link.name == "eth0");
        Ok(link.context("no eth0")?.index)
    }

    /// Exit code and findings of `ambit analyze` on the directory that the
    /// programs watch.
    ///
    /// # Errors
    /// If it can't be run or doesn't print JSON.
    pub fn analyze(&self) -> Result<(i32, Vec<Value>)> {
        let output = Command::new(self.bin_dir().join("ambit"))
            .args(["analyze", "-o", "json"])
            .arg(self.manifests.dir())
            .output()?;
        let code = output.status.code().context("ended by a signal")?;
        let findings = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok((code, findings))
    }
}

/// A pod of `ambit-echo` with the ports of the shop's: HTTP on 8080, TCP on 9000.
pub fn pod(namespace: &str, name: &str, node: &str, args: &[&str]) -> Value {
    let app = name.rsplit_once('-').map_or(name, |(app, _)| app);
    let mut all = vec!["serve", "--http=8080", "--tcp=9000"];
    all.extend(args);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
        "spec": {"nodeName": node, "serviceAccountName": app, "containers": [{
            "name": "app", "image": "ambit-echo", "args": all,
            "ports": [{"name": "http", "containerPort": 8080}, {"name": "tcp-echo", "containerPort": 9000}],
        }]},
    })
}

/// Connects and has a few bytes echoed.
///
/// # Errors
/// If it isn't answered.
pub async fn echoes(ns: &NetNs, to: SocketAddr) -> Result<()> {
    let mut stream = client::connect(ns, to).await?;
    still_echoes(&mut stream).await
}

/// Has a few bytes echoed on a connection.
///
/// # Errors
/// If it isn't answered.
pub async fn still_echoes(stream: &mut TcpStream) -> Result<()> {
    let back = client::echo(stream, b"are you there").await?;
    ensure!(back == b"are you there", "other bytes came back");
    Ok(())
}

/// Waits until a new connection is answered.
///
/// # Errors
/// If it never is.
pub async fn wait_echo(what: &str, ns: &NetNs, to: SocketAddr) -> Result<()> {
    eventually(what, async || echoes(ns, to).await).await
}

/// Waits until new connections aren't answered any more.
///
/// # Errors
/// If they still are.
pub async fn wait_refused(what: &str, ns: &NetNs, to: SocketAddr) -> Result<()> {
    eventually(what, async || {
        // The first may have been open when policy turned against it; the
        // second is one that was never let in.
        for _ in 0..2 {
            ensure!(echoes(ns, to).await.is_err(), "still answered");
        }
        Ok(())
    })
    .await
}

/// Waits until a connection is ended by the other side.
///
/// # Errors
/// If it is still open after 20 s, or bytes arrive.
pub async fn wait_cut(stream: &mut TcpStream) -> Result<()> {
    let mut rest = [0; 64];
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut rest)).await;
    match ended.context("the connection is still open")? {
        Ok(0) | Err(_) => Ok(()),
        Ok(count) => bail!("{count} bytes instead of an end"),
    }
}

/// What redirection can leave in a pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The nftables rules, as `nft` prints them.
    pub ruleset: String,
    /// Policy routing by mark.
    pub rules: Vec<String>,
    /// Routes of table 100.
    pub routes: Vec<String>,
    /// Ports that somebody listens on.
    pub listening: BTreeSet<u16>,
}

impl Trace {
    /// What is in a namespace now.
    ///
    /// # Errors
    /// If it can't be listed.
    pub async fn of(ns: &NetNs) -> Result<Self> {
        let nft = ns.run_on_thread(|| Command::new("nft").args(["list", "ruleset"]).output())??;
        ensure!(nft.status.success(), "nft list ruleset failed");
        let tables = ["tcp", "tcp6"].map(|file| format!("/proc/thread-self/net/{file}"));
        let listening = ns.run_on_thread(|| {
            let texts = tables
                .iter()
                .filter_map(|file| std::fs::read_to_string(file).ok());
            texts.flat_map(|text| listening(&text)).collect()
        })?;
        let netlink = Netlink::in_ns(ns)?;
        let words = |all: Vec<String>| {
            let mut all = all;
            all.sort();
            all
        };
        let rules = netlink.mark_rules().await?;
        let routes = netlink.routes_in_table(100).await?;
        Ok(Self {
            ruleset: String::from_utf8_lossy(&nft.stdout).into_owned(),
            rules: words(rules.iter().map(|r| format!("{r:?}")).collect()),
            routes: words(routes.iter().map(|r| format!("{r:?}")).collect()),
            listening,
        })
    }
}

/// Local ports of the listening sockets in a `/proc/net/tcp` text.
fn listening(text: &str) -> Vec<u16> {
    let rows = text.lines().skip(1).map(|line| {
        let mut columns = line.split_whitespace();
        let local = columns.nth(1)?;
        let state = columns.nth(1)?;
        let port = local.rsplit_once(':')?.1;
        (state == "0A").then(|| u16::from_str_radix(port, 16).ok())?
    });
    rows.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_line_is_its_fields() {
        let log = "x\tinfo\taccess\tconnection complete\tsrc.addr=10.0.0.1:5 dst.workload=\"a b\" bytes_sent=3 error=\"no: x=y\"\n\
                   x\tinfo\tother\tconnection complete\ta=1\nrubbish\n";
        let lines = access_lines(log);
        assert_eq!(lines.len(), 1);
        assert!(has(
            &lines[0],
            &[("src.addr", "10.0.0.1:5"), ("dst.workload", "a b")]
        ));
        assert!(has(&lines[0], &[("bytes_sent", "3"), ("error", "no: x=y")]));
        assert_eq!(lines[0]["message"], "connection complete");
    }

    #[test]
    fn listening_ports_are_read() {
        let text = "  sl  local_address rem_address   st tx_queue\n\
                    0: 00000000:1F90 00000000:0000 0A 00000000\n\
                    1: 0100007F:3A98 00000000:0000 01 00000000\n";
        assert_eq!(listening(text), [8080]);
    }
}
