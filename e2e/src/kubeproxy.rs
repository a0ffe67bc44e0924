//! Stands in for kube-proxy: virtual addresses for pods that the mesh doesn't
//! capture, as NAT on each node. It spreads over ready endpoints and knows
//! nothing else of kube-proxy's features.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use ambit_netns::NetNs;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::manifests::Manifests;

const TABLE: &str = "kube-proxy-stand-in";

/// Makes the nodes' NAT agree with the Services and Pods.
///
/// # Errors
/// If `nft` can't be run or refuses.
pub fn sync(manifests: &Manifests, node: &NetNs) -> Result<()> {
    let rules = rules(manifests)?;
    let script = format!(
        "add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n\
         chain prerouting {{ type nat hook prerouting priority -100;\n{rules}}}\n\
         chain output {{ type nat hook output priority -100;\n{rules}}}\n}}\n"
    );
    let mut child = node
        .run_on_thread(|| {
            Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        })?
        .context("run nft (package nftables)")?;
    child
        .stdin
        .take()
        .context("nft has an input")?
        .write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn rules(manifests: &Manifests) -> Result<String> {
    let mut rules = String::new();
    for (key, service) in manifests.of_kind("Service") {
        let text = |path: &str| service.pointer(path).and_then(Value::as_str);
        let Some(vip) = text("/spec/clusterIP").filter(|ip| *ip != "None") else {
            continue;
        };
        let ports = service.pointer("/spec/ports").and_then(Value::as_array);
        for port in ports.into_iter().flatten() {
            let number = port
                .get("port")
                .and_then(Value::as_u64)
                .context("a port has a number")?;
            let targets: Vec<_> = endpoints(manifests, &key.namespace, service, port).collect();
            if targets.is_empty() {
                continue;
            }
            let count = targets.len();
            write!(
                rules,
                "ip daddr {vip} tcp dport {number} dnat to numgen random mod {count} map {{ "
            )?;
            for (index, (ip, target)) in targets.iter().enumerate() {
                let comma = if index + 1 == count { "" } else { "," };
                write!(rules, "{index} : {ip} . {target}{comma} ")?;
            }
            writeln!(rules, "}}")?;
        }
    }
    Ok(rules)
}

fn endpoints<'a>(
    manifests: &'a Manifests,
    namespace: &'a str,
    service: &'a Value,
    port: &'a Value,
) -> impl Iterator<Item = (String, u64)> + 'a {
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    manifests.of_kind("Pod").filter_map(move |(key, pod)| {
        let selected = selector?
            .iter()
            .all(|(k, v)| pod["metadata"]["labels"].get(k) == Some(v));
        let ready = pod
            .pointer("/status/conditions/0/status")
            .and_then(Value::as_str);
        if key.namespace != namespace || !selected || ready != Some("True") {
            return None;
        }
        let ip = pod.pointer("/status/podIP")?.as_str()?.to_owned();
        Some((ip, target_port(port, pod)?))
    })
}

fn target_port(port: &Value, pod: &Value) -> Option<u64> {
    match port.get("targetPort") {
        None => port.get("port")?.as_u64(),
        Some(Value::Number(number)) => number.as_u64(),
        Some(name) => {
            let containers = pod.pointer("/spec/containers")?.as_array()?;
            let ports = containers
                .iter()
                .filter_map(|c| c.get("ports")?.as_array())
                .flatten();
            ports
                .into_iter()
                .find(|p| p.get("name") == Some(name))?
                .get("containerPort")?
                .as_u64()
        }
    }
}
