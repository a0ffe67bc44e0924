//! Plays the controllers and the kubelet for waypoints: what istiod-lite renders
//! for a Gateway is started, and nothing else.
//!
//! The Deployment's pods get a network namespace, an address, the volumes that
//! their template mounts (the root's ConfigMap, a token of their own) and the
//! environment that it names; the Service gets a virtual address. Both become
//! manifests, as they would be in Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_testkit::process::Process;
use ambit_testkit::token::Subject;
use ambit_testkit::{client, eventually, eventually_within};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{CONTROL, Cluster, alive, pod_name};
use crate::kubelet::{self, Readiness};
use crate::manifests::Key;

/// A pod of a waypoint that is about to start.
#[derive(Debug, Clone)]
pub struct WaypointPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of its Gateway.
    pub gateway: String,
    /// Its service account.
    pub service_account: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub ip: IpAddr,
    /// A directory of its own, with `root-cert.pem` and `istio-token`.
    pub dir: PathBuf,
    /// Its container's environment.
    pub environment: BTreeMap<String, String>,
}

/// Says which program runs in a waypoint's pod; `None` for ours.
#[derive(Clone)]
pub struct WaypointProgram(
    /// The choice.
    pub Arc<ChooseProgram>,
);

/// A pod to the command that runs in it.
type ChooseProgram = dyn Fn(&WaypointPod) -> Result<Option<Command>> + Send + Sync;

impl fmt::Debug for WaypointProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaypointProgram")
    }
}

/// What runs for waypoints.
#[derive(Default)]
pub(super) struct Waypoints {
    pods: BTreeMap<Key, Running>,
    /// Pods wanted of a Gateway, where a test scales it.
    replicas: BTreeMap<(String, String), usize>,
    addresses: BTreeMap<Key, String>,
}

struct Running {
    process: Process,
    /// Of the Deployment: another template is another pod.
    template: Value,
    gateway: (String, String),
}

impl Cluster {
    /// What istiod-lite says is to run for waypoints.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub async fn rendered_waypoints(&self) -> Result<Vec<Value>> {
        let host = self.underlay.host(CONTROL)?;
        let to = SocketAddr::new(host.ip(), 15014);
        let answer = client::get(host.ns(), to, "/debug/waypoints").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// Starts, replaces and ends waypoints until what runs is what is
    /// rendered; waits until each is ready.
    ///
    /// # Errors
    /// What doesn't become ready, with its own words.
    pub async fn sync_waypoints(&mut self) -> Result<()> {
        let rendered = self.settled_waypoints().await?;
        let mut wanted = BTreeSet::new();
        for waypoint in &rendered {
            self.apply_waypoint_service(waypoint)?;
            wanted.extend(self.run_replicas(waypoint).await?);
        }
        let gone: Vec<Key> = self.waypoints.pods.keys().cloned().collect();
        for key in gone.into_iter().filter(|key| !wanted.contains(key)) {
            self.remove_waypoint_pod(&key).await?;
        }
        let services: BTreeSet<Key> = rendered
            .iter()
            .filter_map(|w| service_key(w).ok())
            .collect();
        let left: Vec<Key> = self.waypoints.addresses.keys().cloned().collect();
        for key in left.into_iter().filter(|key| !services.contains(key)) {
            self.waypoints.addresses.remove(&key);
            self.manifests.delete(&key)?;
        }
        self.sync_kube_proxy()
    }

    /// How many pods a Gateway's Deployment has from the next
    /// [`sync_waypoints`](Self::sync_waypoints) on.
    pub fn scale_waypoint(&mut self, namespace: &str, gateway: &str, replicas: usize) {
        let key = (namespace.to_owned(), gateway.to_owned());
        self.waypoints.replicas.insert(key, replicas);
    }

    /// The names of a Gateway's pods.
    pub fn waypoint_pods(&self, namespace: &str, gateway: &str) -> Vec<String> {
        let pods = self.waypoints.pods.iter();
        pods.filter(|(_, pod)| pod.gateway.0 == namespace && pod.gateway.1 == gateway)
            .map(|(key, _)| key.name.clone())
            .collect()
    }

    /// The process in a waypoint's pod.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn waypoint(&mut self, namespace: &str, pod: &str) -> Result<&mut Process> {
        let key = Key::new("Pod", namespace, pod);
        let running = self.waypoints.pods.get_mut(&key);
        Ok(&mut running
            .with_context(|| format!("no waypoint {key:?}"))?
            .process)
    }

    /// [`waypoint`](Self::waypoint), to look at only.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn waypoint_process(&self, namespace: &str, pod: &str) -> Result<&Process> {
        let key = Key::new("Pod", namespace, pod);
        let running = self.waypoints.pods.get(&key);
        Ok(&running
            .with_context(|| format!("no waypoint {key:?}"))?
            .process)
    }

    /// Marks a waypoint's pod as ready or not, as its kubelet would.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn mark_waypoint(&mut self, namespace: &str, pod: &str, ready: bool) -> Result<()> {
        let ip = self.underlay.pod(&format!("{namespace}/{pod}"))?.ip();
        let readiness = if ready {
            Readiness::Ready
        } else {
            Readiness::Starting
        };
        self.manifests
            .edit(&Key::new("Pod", namespace, pod), |pod| {
                kubelet::assign(pod, &ip.to_string(), None, readiness);
            })
    }

    /// A page of a waypoint's admin server (15000, 15020 or 15021).
    ///
    /// # Errors
    /// If it doesn't answer.
    pub async fn waypoint_page(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<client::Answer> {
        let net = self.underlay.pod(&format!("{namespace}/{pod}"))?;
        let ip = if port == 15000 {
            [127, 0, 0, 1].into()
        } else {
            net.ip()
        };
        client::get(net.ns(), SocketAddr::new(ip, port), path).await
    }

    /// Waits until the control plane has seen every Gateway of a waypoint class.
    async fn settled_waypoints(&self) -> Result<Vec<Value>> {
        let gateways: BTreeSet<String> = self
            .manifests
            .of_kind("Gateway")
            .filter(|(_, gateway)| {
                let class = gateway
                    .pointer("/spec/gatewayClassName")
                    .and_then(Value::as_str);
                let own = gateway.pointer("/spec/addresses").is_none();
                own && class.is_some_and(|class| class.ends_with("-waypoint"))
            })
            .map(|(key, _)| format!("{}/{}", key.namespace, key.name))
            .collect();
        eventually("the control plane has rendered the waypoints", async || {
            let rendered = self.rendered_waypoints().await?;
            let names = rendered.iter().filter_map(|w| w["gateway"].as_str());
            let names: BTreeSet<String> = names.map(str::to_owned).collect();
            ensure!(names == gateways, "{names:?} and not {gateways:?}");
            Ok(rendered)
        })
        .await
    }

    /// The API server gives a Service its virtual address.
    fn apply_waypoint_service(&mut self, waypoint: &Value) -> Result<()> {
        let key = service_key(waypoint)?;
        let taken: BTreeSet<&str> = self
            .manifests
            .of_kind("Service")
            .filter_map(|(_, service)| service.pointer("/spec/clusterIP")?.as_str())
            .collect();
        let mut all = (1..=254_u8).map(|at| format!("10.96.200.{at}"));
        let free = all.find(|ip| !taken.contains(ip.as_str()));
        let free = free.context("no virtual address is left")?;
        let address = self.waypoints.addresses.entry(key.clone()).or_insert(free);
        let mut service = json!({"apiVersion": "v1", "kind": "Service"});
        merge(&mut service, &waypoint["service"]);
        service["spec"]["clusterIP"] = json!(address);
        if self.manifests.get(&key).ok() != Some(&service) {
            self.manifests.put(service)?;
        }
        Ok(())
    }

    async fn run_replicas(&mut self, waypoint: &Value) -> Result<Vec<Key>> {
        let gateway = waypoint["gateway"].as_str().context("a Gateway's name")?;
        let (namespace, gateway) = gateway.split_once('/').context("namespace and name")?;
        let name = waypoint
            .pointer("/deployment/metadata/name")
            .and_then(Value::as_str);
        let name = name.context("a Deployment has a name")?;
        let spec = &waypoint["deployment"]["spec"];
        let gateway = (namespace.to_owned(), gateway.to_owned());
        let replicas = match self.waypoints.replicas.get(&gateway) {
            Some(replicas) => *replicas,
            None => usize::try_from(spec["replicas"].as_u64().unwrap_or(1))?,
        };
        let mut keys = Vec::new();
        for at in 0..replicas {
            let key = Key::new("Pod", namespace, &format!("{name}-{at}"));
            let template = &spec["template"];
            let running = self.waypoints.pods.get_mut(&key);
            let is_it = running.is_some_and(|running| {
                running.template == *template && alive(&mut running.process).is_ok()
            });
            if !is_it {
                self.remove_waypoint_pod(&key).await?;
                let node = self.options.nodes.get(at % self.options.nodes.len());
                let node = node.context("a node")?.clone();
                self.run_waypoint_pod(&key, &gateway, template, &node)
                    .await?;
            }
            keys.push(key);
        }
        Ok(keys)
    }

    async fn run_waypoint_pod(
        &mut self,
        key: &Key,
        gateway: &(String, String),
        template: &Value,
        node: &str,
    ) -> Result<()> {
        let net = self
            .underlay
            .add_pod(&self.sandbox, &pod_name(key), node)
            .await?;
        let (ip, path, ns) = (net.ip(), net.ns_path().to_owned(), net.ns().clone());
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod"});
        merge(&mut pod, template);
        pod["metadata"]["name"] = json!(key.name);
        pod["metadata"]["namespace"] = json!(key.namespace);
        pod["metadata"]["uid"] = json!(format!("uid-{}-{}-{ip}", key.namespace, key.name));
        pod["spec"]["nodeName"] = json!(node);
        kubelet::assign(&mut pod, &ip.to_string(), Some(&path), Readiness::Starting);
        self.manifests.put(pod.clone())?;
        let socket = self.node_dir(node).join("cni.sock");
        eventually(&format!("{} may start", key.name), async || {
            kubelet::cni_add(&socket, key, &path, &ip.to_string()).await
        })
        .await?;
        let prepared = self.prepare(key, &gateway.1, &pod, ip)?;
        let mut process = self.start_waypoint(&prepared, &pod, &ns)?;
        wait_ready(&mut process, &ns, ip).await?;
        let running = Running {
            process,
            template: template.clone(),
            gateway: gateway.clone(),
        };
        self.waypoints.pods.insert(key.clone(), running);
        self.mark_waypoint(&key.namespace, &key.name, true)
    }

    /// The pod's volumes and environment.
    fn prepare(&self, key: &Key, gateway: &str, pod: &Value, ip: IpAddr) -> Result<WaypointPod> {
        let text = |path: &str| {
            pod.pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let account = text("/spec/serviceAccountName");
        let node = text("/spec/nodeName");
        let dir = self
            .dir()
            .join(format!("waypoint-{}-{}", key.namespace, key.name));
        std::fs::create_dir_all(&dir)?;
        let subject = Subject {
            namespace: &key.namespace,
            service_account: account,
            pod: &key.name,
            pod_uid: text("/metadata/uid"),
            node,
        };
        std::fs::write(dir.join("istio-token"), self.issuer.token(&subject)?)?;
        std::fs::copy(self.root_ca(), dir.join("root-cert.pem"))?;
        let mut environment = BTreeMap::new();
        let variables = pod
            .pointer("/spec/containers/0/env")
            .and_then(Value::as_array);
        for variable in variables.into_iter().flatten() {
            let name = variable["name"].as_str().context("a variable has a name")?;
            let value = value_of(variable, pod).with_context(|| format!("value of {name}"))?;
            environment.insert(name.to_owned(), self.as_seen_here(&value, &dir)?);
        }
        environment.extend(self.options.waypoint_environment.clone());
        Ok(WaypointPod {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            gateway: gateway.to_owned(),
            service_account: account.to_owned(),
            node: node.to_owned(),
            ip,
            dir,
            environment,
        })
    }

    /// Files of mounted volumes and the control plane's DNS name, which exist
    /// here under other names.
    fn as_seen_here(&self, value: &str, dir: &Path) -> Result<String> {
        if let Some(file) = value.strip_prefix("/var/run/secrets/") {
            let name = Path::new(file).file_name().context("a file")?;
            return Ok(dir.join(name).to_string_lossy().into_owned());
        }
        if value.starts_with("https://istiod.istio-system.svc:") {
            return self.control_plane_url();
        }
        Ok(value.to_owned())
    }

    fn start_waypoint(&self, pod: &WaypointPod, object: &Value, ns: &NetNs) -> Result<Process> {
        let other = match &self.options.waypoint_program {
            Some(choose) => choose.0(pod)?,
            None => None,
        };
        let command = match other {
            Some(command) => command,
            None => {
                let program = self.bin.join("waypoint");
                ensure!(
                    program.exists(),
                    "{} is missing: run `cargo build -p waypoint`",
                    program.display()
                );
                let mut command = Command::new(program);
                let arguments = object.pointer("/spec/containers/0/args");
                let arguments = arguments.and_then(Value::as_array).into_iter().flatten();
                command.args(arguments.filter_map(Value::as_str));
                command.envs(&pod.environment).current_dir(&pod.dir);
                command
            }
        };
        let name = format!("waypoint-{}-{}", pod.namespace, pod.name);
        Process::start(self.dir(), ns, &name, command)
    }

    /// A waypoint's pod ends: it leaves its Service, then is told to go; who
    /// asks it meanwhile may be in this very process.
    async fn remove_waypoint_pod(&mut self, key: &Key) -> Result<()> {
        if !self.waypoints.pods.contains_key(key) {
            return Ok(());
        }
        self.mark_waypoint(&key.namespace, &key.name, false)?;
        let process = self.waypoint(&key.namespace, &key.name)?;
        if process.exited()?.is_none() {
            process.signal(Signal::SIGTERM)?;
            eventually_within(GRACE, "the waypoint ends", async || {
                ensure!(process.exited()?.is_some(), "still there");
                Ok(())
            })
            .await?;
        }
        self.waypoints.pods.remove(key);
        self.manifests.delete(key)?;
        self.underlay.remove_pod(&pod_name(key)).await
    }
}

async fn wait_ready(process: &mut Process, ns: &NetNs, ip: IpAddr) -> Result<()> {
    eventually("the waypoint is ready", async || {
        alive(process)?;
        let to = SocketAddr::new(ip, 15021);
        let answer = client::get(ns, to, "/healthz/ready").await?;
        ensure!(answer.status == 200, "{}", answer.body);
        Ok(())
    })
    .await
    .with_context(|| process.log())
}

/// A variable's value, as the downward API gives it.
fn value_of(variable: &Value, pod: &Value) -> Result<String> {
    if let Some(value) = variable["value"].as_str() {
        return Ok(value.to_owned());
    }
    if let Some(path) = variable
        .pointer("/valueFrom/fieldRef/fieldPath")
        .and_then(Value::as_str)
    {
        let pointer = format!("/{}", path.replace('.', "/"));
        let value = pod.pointer(&pointer).and_then(Value::as_str);
        return Ok(value.with_context(|| format!("no {path}"))?.to_owned());
    }
    let resource = variable.pointer("/valueFrom/resourceFieldRef/resource");
    let Some(resource) = resource.and_then(Value::as_str) else {
        bail!("neither a value nor a reference");
    };
    let pointer = format!(
        "/spec/containers/0/resources/{}",
        resource.replace('.', "/")
    );
    match pod.pointer(&pointer) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => bail!("no {resource}"),
    }
}

fn service_key(waypoint: &Value) -> Result<Key> {
    let text = |path: &str| waypoint.pointer(path).and_then(Value::as_str);
    let namespace = text("/service/metadata/namespace").context("a Service has a namespace")?;
    let name = text("/service/metadata/name").context("a Service has a name")?;
    Ok(Key::new("Service", namespace, name))
}

/// Fields of `from`, over those of `to`.
fn merge(to: &mut Value, from: &Value) {
    let (Some(to), Some(from)) = (to.as_object_mut(), from.as_object()) else {
        return;
    };
    for (key, value) in from {
        to.insert(key.clone(), value.clone());
    }
}

/// How long a waypoint has to drain.
const GRACE: Duration = Duration::from_secs(15);
