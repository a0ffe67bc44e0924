//! A node: containerd, kubelet and kube-proxy in namespaces of their own, below
//! a box. Looks like a machine to what runs on it; keeps its disks over a
//! restart.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ambit_netns::{NetNs, Netlink};
use ambit_testkit::eventually_within;
use ambit_testkit::net::write_sysctl;
use anyhow::{Context, Result, ensure};
use ipnet::{IpNet, Ipv4Net};
use serde_json::json;

use super::certs::Leaf;
use super::control::{BRIDGE, ControlPlane};
use super::options::nth;
use super::space::{Holder, Program, Space, tail};
use super::{cgroups, images, paths};

/// What a node is to be.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Its name.
    pub name: String,
    /// From 1; its address and the range of its pods follow from it.
    pub index: u8,
    /// How many nodes there will be.
    pub of: u8,
    /// Image archives to import before its first pod.
    pub images: Vec<PathBuf>,
}

/// A node. Ends with its box.
pub struct Node {
    options: NodeOptions,
    ip: Ipv4Addr,
    dir: PathBuf,
    running: Option<Running>,
}

struct Running {
    space: Space,
    holder: Holder,
    programs: BTreeMap<&'static str, Program>,
}

impl Node {
    /// Makes a node's files and its object, and boots it.
    ///
    /// # Errors
    /// What couldn't be started, with the program's own words.
    pub async fn start(control: &ControlPlane, options: NodeOptions) -> Result<Self> {
        let node = Self {
            ip: address(control, options.index),
            dir: control.dir().join("nodes").join(&options.name),
            options,
            running: None,
        };
        node.write_files(control)?;
        node.register(control).await?;
        let mut node = node;
        node.boot(control).await?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip.into()
    }

    /// Its network.
    ///
    /// # Errors
    /// If it is down.
    pub fn ns(&self) -> Result<&NetNs> {
        Ok(self.running()?.space.net())
    }

    /// Its namespaces, to start programs in.
    ///
    /// # Errors
    /// If it is down.
    pub fn space(&self) -> Result<&Space> {
        Ok(&self.running()?.space)
    }

    /// Pulls its plug: every process on it ends at once.
    ///
    /// # Errors
    /// If it is down already.
    pub fn kill(&mut self) -> Result<()> {
        let running = self.running.take().context("the node is down")?;
        running.holder.kill();
        for mut program in running.programs.into_values() {
            program.kill()?;
        }
        drop(running.holder);
        Ok(())
    }

    /// Leaves it to its box: it stays when this process ends.
    ///
    /// # Errors
    /// If it is down.
    pub(crate) fn leave(mut self) -> Result<()> {
        let running = self.running.take().context("the node is down")?;
        running.holder.let_go()
    }

    /// Boots it (again), with the disks that it had.
    ///
    /// # Errors
    /// What couldn't be started, with the program's own words.
    pub async fn boot(&mut self, control: &ControlPlane) -> Result<()> {
        ensure!(self.running.is_none(), "{} is up", self.name());
        // A kernel leaves none behind; whoever pulled the plug did.
        let cgroup = self.cgroup(control);
        cgroups::remove(&cgroup)?;
        cgroups::create(&cgroup)?;
        let mut command = Command::new(paths::own_program("kube-init")?);
        command
            .args(["node", self.name()])
            .arg(self.state())
            .arg(paths::kube_bin()?);
        let log = self.dir.join("init.log");
        let (space, holder) = control.space().create_node(command, &log)?;
        self.connect(control, &space).await?;
        self.running = Some(Running {
            space,
            holder,
            programs: BTreeMap::new(),
        });
        self.begin("containerd", &[])?;
        self.wait_for_containerd().await?;
        for archive in self.options.images.clone() {
            self.import(&archive)?;
        }
        self.begin("kubelet", &self.kubelet_flags())?;
        self.begin("kube-proxy", &self.proxy_flags(control))
    }

    /// Restarts its Kubernetes components, one after another; its pods go on.
    ///
    /// # Errors
    /// If it is down, or one doesn't stop or start.
    pub(crate) fn restart_components(&mut self, control: &ControlPlane) -> Result<()> {
        let kubelet = ("kubelet", self.kubelet_flags());
        let proxy = ("kube-proxy", self.proxy_flags(control));
        for (name, flags) in [kubelet, proxy] {
            let running = self.running.as_mut().context("the node is down")?;
            let program = running.programs.get_mut(name);
            let program = program.with_context(|| format!("no {name}"))?;
            program.stop(Duration::from_secs(20))?;
            self.begin(name, &flags)?;
        }
        Ok(())
    }

    /// Imports an image archive. A pod that already waits for an image of that
    /// name does not notice.
    ///
    /// # Errors
    /// If containerd refuses it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let output = self.dir.join("import.log");
        let mut command = Command::new("/run/box/bin/ctr");
        command
            .args(["-n", "k8s.io", "images", "import", "--local", "-"])
            .stdin(fs::File::open(archive).with_context(|| archive.display().to_string())?)
            .stdout(fs::File::create(&output)?)
            .stderr(fs::File::options().append(true).open(&output)?);
        let status = self.space()?.spawn(&mut command)?.wait()?;
        ensure!(
            status.success(),
            "import {}: {}",
            archive.display(),
            tail(&output)
        );
        Ok(())
    }

    /// The link of the box that leads to it.
    pub fn link(&self) -> String {
        format!("node{}", self.options.index)
    }

    /// What one of its programs wrote: `containerd`, `kubelet`, `kube-proxy`.
    pub fn log(&self, program: &str) -> String {
        fs::read_to_string(self.dir.join(format!("{program}.log"))).unwrap_or_default()
    }

    /// A file of the node, as this machine sees it.
    ///
    /// # Errors
    /// If it is down.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        let root = format!("/proc/{}/root", self.space()?.init());
        Ok(Path::new(&root).join(path.trim_start_matches('/')))
    }

    fn running(&self) -> Result<&Running> {
        self.running.as_ref().context("the node is down")
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn cgroup(&self, control: &ControlPlane) -> String {
        format!("{}/{}", control.run().cgroup(), self.name())
    }

    fn begin(&mut self, name: &'static str, arguments: &[String]) -> Result<()> {
        let mut command = Command::new(format!("/run/box/bin/{name}"));
        command
            .args(arguments)
            .env_clear()
            .env(
                "PATH",
                "/run/box/bin:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin",
            )
            .env("HOME", "/var/lib/kubelet");
        if name == "containerd" {
            command.args(["-c", &inside("containerd.toml")]);
        }
        let running = self.running.as_mut().context("the node is down")?;
        let started = Program::start(&running.space, &self.dir, name, command)?;
        running.programs.insert(name, started);
        Ok(())
    }

    fn kubelet_flags(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", inside("kubelet.kubeconfig")),
            format!("--config={}", inside("kubelet.yaml")),
            format!("--hostname-override={}", self.name()),
            format!("--node-ip={}", self.ip),
        ]
    }

    fn proxy_flags(&self, control: &ControlPlane) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", inside("kube-proxy.kubeconfig")),
            format!("--hostname-override={}", self.name()),
            format!("--cluster-cidr={}", control.options().pods),
            "--proxy-mode=nftables".to_owned(),
            // Sysctls of the machine, which a node may not write.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0s".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
        ]
    }

    async fn wait_for_containerd(&mut self) -> Result<()> {
        let socket = self.file("/run/containerd/containerd.sock")?;
        let running = self.running.as_mut().context("the node is down")?;
        eventually_within(MINUTE, "containerd answers", async || {
            for program in running.programs.values_mut() {
                program.check()?;
            }
            Ok(UnixStream::connect(&socket)?)
        })
        .await
        .map(|_| ())
    }

    /// Its link to the box, its routes to the pods of others.
    async fn connect(&self, control: &ControlPlane, space: &Space) -> Result<()> {
        let options = control.options();
        let outside = control.netlink();
        outside.add_veth(&self.link(), "eth0", space.net()).await?;
        outside.set_master(&self.link(), BRIDGE).await?;
        outside.link_up(&self.link()).await?;
        write_sysctl(control.ns(), "net/ipv4/ip_forward", "1")?;
        let own = pods_of(options.pods, self.options.index);
        // There already if the node boots again.
        match outside.add_route(own.into(), Some(self.ip()), BRIDGE).await {
            Err(error) if !error.exists() => return Err(error.into()),
            _ => {}
        }
        let netlink = Netlink::in_ns(space.net())?;
        netlink.link_up("lo").await?;
        let address = IpNet::new(self.ip(), options.nodes.prefix_len())?;
        netlink.add_addr("eth0", address).await?;
        netlink.link_up("eth0").await?;
        let gateway = options.address().into();
        netlink
            .add_route("0.0.0.0/0".parse()?, Some(gateway), "eth0")
            .await?;
        for other in (1..=self.options.of).filter(|i| *i != self.options.index) {
            let range = pods_of(options.pods, other).into();
            let via = address_of(options.nodes, other).into();
            netlink.add_route(range, Some(via), "eth0").await?;
        }
        write_sysctl(space.net(), "net/ipv4/ip_forward", "1")
    }

    /// The node's object, with what a cloud would write there.
    async fn register(&self, control: &ControlPlane) -> Result<()> {
        let range = pods_of(control.options().pods, self.options.index);
        let zone = char::from(b'a' + (self.options.index - 1) % 26);
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name(), "labels": {
                "topology.kubernetes.io/region": "north",
                "topology.kubernetes.io/zone": format!("north-{zone}")}},
            "spec": {"podCIDR": range.to_string(), "podCIDRs": [range.to_string()]},
        });
        control.api().apply_object(&object).await.map(|_| ())
    }

    fn write_files(&self, control: &ControlPlane) -> Result<()> {
        let kube = self.state().join("kube");
        let root = self.state().join("root");
        let (cni, plugins) = (
            root.join("etc/upper/cni/net.d"),
            root.join("opt/upper/cni/bin"),
        );
        for dir in [&kube, &cni, &plugins] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        for plugin in ["ptp", "host-local", "loopback", "portmap"] {
            fs::copy(paths::kube_program(plugin)?, plugins.join(plugin))
                .with_context(|| format!("copy {plugin}"))?;
        }
        let authority = control.authority();
        let leaf = format!("kubelet-{}", self.name());
        authority.leaf(&Leaf {
            file: &leaf,
            user: &format!("system:node:{}", self.name()),
            groups: &["system:nodes"],
            addresses: &[self.ip()],
            names: &[self.name()],
        })?;
        let url = control.inside_url();
        authority.kubeconfig(&leaf, &url, &kube.join("kubelet.kubeconfig"))?;
        authority.kubeconfig("kube-proxy", &url, &kube.join("kube-proxy.kubeconfig"))?;
        for (from, to) in [
            ("ca.crt".to_owned(), "ca.crt"),
            (format!("{leaf}.crt"), "kubelet.crt"),
            (format!("{leaf}.key"), "kubelet.key"),
        ] {
            fs::copy(authority.path(&from), kube.join(to))?;
        }
        fs::write(
            kube.join("containerd.toml"),
            CONTAINERD.replace("SANDBOX", images::PAUSE),
        )?;
        let kubelet = kubelet_config(&self.cgroup(control), control.options().dns());
        fs::write(
            kube.join("kubelet.yaml"),
            serde_json::to_string_pretty(&kubelet)?,
        )?;
        let range = pods_of(control.options().pods, self.options.index);
        let network = serde_json::to_string_pretty(&network_config(range))?;
        fs::write(cni.join("10-box.conflist"), network)?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.running.is_some() {
            let _ = self.kill();
        }
    }
}

/// Where a file of the node's configuration is, inside of it.
fn inside(file: &str) -> String {
    format!("/run/box/state/kube/{file}")
}

fn address(control: &ControlPlane, index: u8) -> Ipv4Addr {
    address_of(control.options().nodes, index)
}

/// The control plane has the first address.
fn address_of(nodes: Ipv4Net, index: u8) -> Ipv4Addr {
    nth(nodes, u32::from(index) + 1)
}

fn pods_of(pods: Ipv4Net, index: u8) -> Ipv4Net {
    Ipv4Net::new_assert(nth(pods, u32::from(index) << 8), 24)
}

/// One link per pod and a route to it, like kind's: what is on the same node
/// is routed too, so that services work without filtering bridges.
fn network_config(range: Ipv4Net) -> serde_json::Value {
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "ptp", "mtu": 1500, "ipam": {
            "type": "host-local", "ranges": [[{"subnet": range.to_string()}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}},
    ]})
}

fn kubelet_config(cgroup: &str, dns: Ipv4Addr) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        // Version 1 is what this machine may have; version 2 is what most have.
        "failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{cgroup}"),
        // Agents find a pod by its UID in a process' cgroup.
        "cgroupsPerQOS": true, "enforceNodeAllocatable": [],
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true},
            "x509": {"clientCAFile": inside("ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local", "clusterDNS": [dns],
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "resolvConf": "", "failSwapOn": false, "localStorageCapacityIsolation": false,
        "tlsCertFile": inside("kubelet.crt"), "tlsPrivateKeyFile": inside("kubelet.key"),
        "serializeImagePulls": false, "maxPods": 250,
        // Images can't be pulled again, and the disk is the machine's to watch.
        "evictionHard": {"memory.available": "100Mi"}, "imageGCHighThresholdPercent": 100,
        // A node is ready, or known to be dead, within seconds.
        "nodeStatusUpdateFrequency": "4s", "nodeStatusReportFrequency": "30s",
        "nodeLeaseDurationSeconds": 16,
    })
}

const CONTAINERD: &str = "version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
[grpc]
  address = '/run/containerd/containerd.sock'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'SANDBOX'
[plugins.'io.containerd.cri.v1.runtime']
  # Root without CAP_SYS_RESOURCE can't lower scores.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/opt/cni/bin']
  conf_dir = '/etc/cni/net.d'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
";
const MINUTE: Duration = Duration::from_secs(60);
