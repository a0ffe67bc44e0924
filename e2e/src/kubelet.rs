//! Stands in for the kubelet and the CNI plugin: gives a pod its namespace and
//! address, asks the node agent before the application starts, runs the
//! application, and says when it is ready.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use ambit_netns::NetNs;
use ambit_testkit::process::Process;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::manifests::{Key, Manifests, set_meta};

/// Fills in what a kubelet reports of a pod.
pub fn assign(pod: &mut Value, ip: &str, netns: Option<&Path>, ready: Readiness) {
    if let Some(path) = netns {
        set_meta(
            pod,
            "annotations",
            "ambit.mesh/netns",
            Some(&path.to_string_lossy()),
        );
    }
    let name = pod
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let uid = format!("uid-{name}");
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.entry("uid").or_insert_with(|| json!(uid));
    }
    let status = if ready == Readiness::Ready {
        "True"
    } else {
        "False"
    };
    if let Some(pod) = pod.as_object_mut() {
        pod.insert(
            "status".to_owned(),
            json!({
                "phase": "Running",
                "podIP": ip,
                "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": status}],
            }),
        );
    }
}

/// Whether a pod's application answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet.
    Starting,
    /// Yes.
    Ready,
}

/// Asks the node agent to prepare a pod's namespace, as its CNI plugin does,
/// and waits for its answer.
///
/// # Errors
/// If the agent can't be reached or refuses: the pod may not start.
pub async fn cni_add(socket: &Path, key: &Key, netns: &Path, ip: &str) -> Result<()> {
    let event = json!({
        "Netns": netns, "PodName": key.name, "PodNamespace": key.namespace,
        "IPs": [{"Interface": 0, "Address": {"IP": ip, "Mask": "/////w=="}, "Gateway": "169.254.1.1"}],
    });
    let answer = client::post_unix(socket, "/cmdadd", event.to_string()).await?;
    ensure!(
        answer.status == 200,
        "the node agent refused {key:?}: {}",
        answer.body
    );
    Ok(())
}

/// Starts a pod's container and waits until its ports are open.
///
/// # Errors
/// If it can't be started or doesn't listen.
pub async fn run(
    sandbox: &Path,
    bin_dir: &Path,
    manifests: &Manifests,
    key: &Key,
    ns: &NetNs,
) -> Result<Process> {
    let pod = manifests.get(key)?;
    let container = pod
        .pointer("/spec/containers/0")
        .context("a pod has a container")?;
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .context("an image")?;
    ensure!(
        ["ambit-echo", "ambit-load"].contains(&image),
        "no image named {image}: only ambit-echo and ambit-load run here"
    );
    let mut command = Command::new(bin_dir.join(image));
    let strings = |list: Option<&Value>| -> Vec<String> {
        let items = list.and_then(Value::as_array).into_iter().flatten();
        items
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    command
        .args(strings(container.get("args")))
        .env("POD_NAME", &key.name)
        .env("POD_NAMESPACE", &key.namespace);
    command.envs(service_environment(manifests, &key.namespace));
    let name = format!("pod-{}-{}", key.namespace, key.name);
    let mut process = Process::start(sandbox, ns, &name, command)?;
    let ports = container.get("ports").and_then(Value::as_array);
    for port in ports.into_iter().flatten() {
        let number = u16::try_from(port["containerPort"].as_u64().context("a port")?)?;
        eventually(&format!("{name} listens on {number}"), async || {
            ensure!(
                process.exited()?.is_none(),
                "{name} ended:\n{}",
                process.log()
            );
            // Loopback inside a pod is never captured.
            client::connect(ns, ([127, 0, 0, 1], number).into())
                .await
                .map(drop)
        })
        .await?;
    }
    Ok(process)
}

/// `CART_SERVICE_HOST` and the like, as Kubernetes gives them to containers.
fn service_environment(manifests: &Manifests, namespace: &str) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for (key, service) in manifests
        .of_kind("Service")
        .filter(|(k, _)| k.namespace == namespace)
    {
        let name = key.name.to_ascii_uppercase().replace('-', "_");
        if let Some(ip) = service.pointer("/spec/clusterIP").and_then(Value::as_str) {
            environment.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        }
        if let Some(port) = service
            .pointer("/spec/ports/0/port")
            .and_then(Value::as_u64)
        {
            environment.insert(format!("{name}_SERVICE_PORT"), port.to_string());
        }
    }
    environment
}
