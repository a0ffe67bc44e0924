//! A small underlay: nodes on one bridge, pods behind their nodes, routed as a
//! layer-3 CNI does it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ambit_netns::{NamedNetNs, NetNs, Netlink};
use anyhow::{Context, Result};
use ipnet::IpNet;

use crate::sandbox::Sandbox;

/// Address that every pod's default route points to; every node answers for it.
const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The namespaces of a run and what connects them. Links go with the
/// namespaces when it is dropped.
pub struct Underlay {
    fabric: Host,
    hosts: BTreeMap<String, Host>,
    pods: BTreeMap<String, PodNet>,
}

/// A host on the bridge: a node, the control plane's, an outsider's.
pub struct Host {
    ns: NamedNetNs,
    netlink: Netlink,
    ip: Ipv4Addr,
    index: u8,
    pods: u8,
}

/// A pod's namespace.
pub struct PodNet {
    ns: NamedNetNs,
    ip: Ipv4Addr,
    host: String,
    link: String,
}

impl Host {
    /// Its namespace.
    pub fn ns(&self) -> &NetNs {
        self.ns.ns()
    }

    /// Its address on the bridge.
    pub fn ip(&self) -> IpAddr {
        IpAddr::V4(self.ip)
    }

    /// Where its namespace is mounted.
    pub fn ns_path(&self) -> &Path {
        self.ns.path()
    }

    /// Netlink in its namespace.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }
}

impl PodNet {
    /// Its namespace.
    pub fn ns(&self) -> &NetNs {
        self.ns.ns()
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        IpAddr::V4(self.ip)
    }

    /// Where its namespace is mounted.
    pub fn ns_path(&self) -> &Path {
        self.ns.path()
    }

    /// The host that it is on.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl Underlay {
    /// A bridge without hosts.
    ///
    /// # Errors
    /// If namespaces or links can't be made.
    pub async fn new(sandbox: &Sandbox) -> Result<Self> {
        let ns = NamedNetNs::create(&sandbox.ns_dir(), "fabric").context("make a namespace")?;
        let netlink = Netlink::in_ns(ns.ns())?;
        netlink.link_up("lo").await?;
        netlink.add_bridge("br0").await?;
        netlink.link_up("br0").await?;
        let fabric = Host {
            ns,
            netlink,
            ip: Ipv4Addr::UNSPECIFIED,
            index: 0,
            pods: 0,
        };
        Ok(Self {
            fabric,
            hosts: BTreeMap::new(),
            pods: BTreeMap::new(),
        })
    }

    /// Adds a host at 172.30.0.N with the pod range 10.30.N.0/24.
    ///
    /// # Errors
    /// If the name is taken or something can't be made.
    pub async fn add_host(&mut self, sandbox: &Sandbox, name: &str) -> Result<&Host> {
        let index = u8::try_from(self.hosts.len() + 1)?;
        let ns = NamedNetNs::create(&sandbox.ns_dir(), &format!("host-{name}"))
            .with_context(|| format!("make the namespace of {name}"))?;
        let netlink = Netlink::in_ns(ns.ns())?;
        netlink.link_up("lo").await?;
        let port = format!("p{index}");
        self.fabric.netlink.add_veth(&port, "eth0", ns.ns()).await?;
        self.fabric.netlink.set_master(&port, "br0").await?;
        self.fabric.netlink.link_up(&port).await?;
        let ip = Ipv4Addr::new(172, 30, 0, index);
        netlink.add_addr("eth0", IpNet::new(ip.into(), 24)?).await?;
        netlink.link_up("eth0").await?;
        write_sysctl(ns.ns(), "net/ipv4/ip_forward", "1")?;
        for other in self.hosts.values() {
            let range = |index| IpNet::new(Ipv4Addr::new(10, 30, index, 0).into(), 24);
            netlink
                .add_route(range(other.index)?, Some(other.ip.into()), "eth0")
                .await?;
            other
                .netlink
                .add_route(range(index)?, Some(ip.into()), "eth0")
                .await?;
        }
        self.hosts.insert(
            name.to_owned(),
            Host {
                ns,
                netlink,
                ip,
                index,
                pods: 0,
            },
        );
        self.host(name)
    }

    /// Adds a pod's namespace behind a host.
    ///
    /// # Errors
    /// If there is no such host or something can't be made.
    pub async fn add_pod(&mut self, sandbox: &Sandbox, pod: &str, host: &str) -> Result<&PodNet> {
        let at = self
            .hosts
            .get_mut(host)
            .with_context(|| format!("no host {host}"))?;
        at.pods = at.pods.checked_add(1).context("too many pods on a host")?;
        let (number, ip) = (at.pods, Ipv4Addr::new(10, 30, at.index, at.pods));
        let ns = NamedNetNs::create(&sandbox.ns_dir(), &format!("pod-{host}-{number}"))
            .with_context(|| format!("make the namespace of {pod}"))?;
        let netlink = Netlink::in_ns(ns.ns())?;
        let link = format!("v{number}");
        at.netlink.add_veth(&link, "eth0", ns.ns()).await?;
        at.netlink
            .add_addr(&link, IpNet::new(POD_GATEWAY.into(), 32)?)
            .await?;
        at.netlink.link_up(&link).await?;
        at.netlink
            .add_route(IpNet::new(ip.into(), 32)?, None, &link)
            .await?;
        netlink.link_up("lo").await?;
        netlink.add_addr("eth0", IpNet::new(ip.into(), 32)?).await?;
        netlink.link_up("eth0").await?;
        netlink
            .add_route(IpNet::new(POD_GATEWAY.into(), 32)?, None, "eth0")
            .await?;
        netlink
            .add_route("0.0.0.0/0".parse()?, Some(POD_GATEWAY.into()), "eth0")
            .await?;
        let made = PodNet {
            ns,
            ip,
            host: host.to_owned(),
            link,
        };
        self.pods.insert(pod.to_owned(), made);
        self.pod(pod)
    }

    /// Removes a pod's link and namespace, as a CNI does when a pod is deleted.
    ///
    /// # Errors
    /// If the link can't be removed.
    pub async fn remove_pod(&mut self, pod: &str) -> Result<()> {
        let Some(gone) = self.pods.remove(pod) else {
            return Ok(());
        };
        let host = self.host(&gone.host)?;
        host.netlink.del_link(&gone.link).await?;
        Ok(())
    }

    /// A host by name.
    ///
    /// # Errors
    /// If there is none.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .get(name)
            .with_context(|| format!("no host {name}"))
    }

    /// A pod's network by name.
    ///
    /// # Errors
    /// If there is none.
    pub fn pod(&self, name: &str) -> Result<&PodNet> {
        self.pods
            .get(name)
            .with_context(|| format!("no pod {name}"))
    }
}

/// Writes a sysctl of a namespace.
///
/// # Errors
/// If it can't be written.
pub fn write_sysctl(ns: &NetNs, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    ns.run_on_thread(|| fs::write(&path, value))?
        .with_context(|| format!("write {path}"))
}
