//! What is kept of a pod (`control-plane-contract` 2.2 to 2.4).

use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube::core::{ObjectMeta, Pod as PodObject};
use ambit_kube::k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};

use super::labels::{Labels, WORKLOAD_NAME};
use super::{BadValue, Hints, parse_ip};

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) uid: Arc<str>,
    pub(crate) labels: Labels,
    /// Empty until it is scheduled.
    pub(crate) node: Arc<str>,
    /// As written; empty means `default`.
    pub(crate) service_account: Arc<str>,
    /// In the order of the status; none until it has a network.
    pub(crate) addresses: Result<Box<[IpAddr]>, BadValue>,
    /// Phase `Succeeded` or `Failed`.
    pub(crate) terminal: bool,
    /// Ready, and not about to go.
    pub(crate) healthy: bool,
    /// Ready, and about to go.
    pub(crate) draining: bool,
    pub(crate) host_network: bool,
    pub(crate) workload_name: Box<str>,
    /// Named TCP ports of containers, then of native sidecars.
    ports: Box<[(Box<str>, u16)]>,
    pub(crate) hints: Hints,
}

impl Pod {
    pub(crate) fn new(object: &PodObject) -> Self {
        let meta = &object.metadata;
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        let text =
            |text: Option<&String>| text.map_or_else(|| "".into(), |text| text.as_str().into());
        let phase = status.and_then(|status| status.phase.as_deref());
        Self {
            uid: text(meta.uid.as_ref()),
            labels: Labels::new(meta.labels.as_ref()),
            node: text(spec.and_then(|spec| spec.node_name.as_ref())),
            service_account: text(spec.and_then(|spec| spec.service_account_name.as_ref())),
            addresses: status.map_or_else(|| Ok(Box::default()), addresses),
            terminal: matches!(phase, Some("Succeeded" | "Failed")),
            healthy: meta.deletion_timestamp.is_none() && status.is_some_and(is_ready),
            draining: meta.deletion_timestamp.is_some() && status.is_some_and(is_ready),
            host_network: spec.is_some_and(|spec| spec.host_network == Some(true)),
            workload_name: workload_name(meta).into(),
            ports: spec.map(named_ports).unwrap_or_default(),
            hints: Hints::of(meta),
        }
    }

    /// Whether it is sent at all (`control-plane-contract` 2.2).
    pub(crate) fn is_endpoint(&self) -> bool {
        !self.terminal && self.addresses.as_ref().is_ok_and(|ips| !ips.is_empty())
    }

    /// The TCP port of that name.
    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        self.ports
            .iter()
            .find(|(known, _)| **known == *name)
            .map(|(_, port)| *port)
    }

    /// The service account's name, with the default filled in.
    pub(crate) fn account(&self) -> &str {
        match &*self.service_account {
            "" => "default",
            account => account,
        }
    }
}

/// `podIPs` in their order, or `podIP`; one that can't be parsed spoils all.
fn addresses(status: &PodStatus) -> Result<Box<[IpAddr]>, BadValue> {
    let listed = status.pod_ips.iter().flatten().enumerate();
    let mut ips = Vec::new();
    for (at, ip) in listed.map(|(at, entry)| (at, entry.ip.as_str())) {
        ips.push(parse_ip(ip).ok_or_else(|| BadValue {
            field: format!("status.podIPs[{at}].ip"),
            value: ip.to_owned(),
        })?);
    }
    if ips.is_empty()
        && let Some(ip) = status.pod_ip.as_deref().filter(|ip| !ip.is_empty())
    {
        ips.push(parse_ip(ip).ok_or_else(|| BadValue {
            field: "status.podIP".to_owned(),
            value: ip.to_owned(),
        })?);
    }
    Ok(ips.into())
}

fn is_ready(status: &PodStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn named_ports(spec: &PodSpec) -> Box<[(Box<str>, u16)]> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(tcp_ports)
        .collect()
}

fn tcp_ports(container: &Container) -> impl Iterator<Item = (Box<str>, u16)> {
    let ports = container.ports.iter().flatten();
    ports.filter_map(|port| {
        let tcp = port.protocol.as_deref().unwrap_or("TCP") == "TCP";
        let name = port.name.as_deref().filter(|_| tcp)?;
        Some((name.into(), u16::try_from(port.container_port).ok()?))
    })
}

/// The name of what made the pod, guessed from its owner (`control-plane-contract` 2.4).
fn workload_name(meta: &ObjectMeta) -> &str {
    let label = |key: &str| {
        let labels = meta.labels.as_ref();
        labels
            .and_then(|labels| labels.get(key))
            .map(String::as_str)
    };
    let name = meta.name.as_deref().unwrap_or_default();
    if let Some(told) = label(WORKLOAD_NAME).filter(|told| !told.is_empty()) {
        return told;
    }
    let owners = meta.owner_references.iter().flatten();
    let controller = owners
        .filter(|_| {
            meta.generate_name
                .as_ref()
                .is_some_and(|name| !name.is_empty())
        })
        .find(|owner| owner.controller == Some(true));
    let Some(owner) = controller else {
        return name;
    };
    let without = |hash: Option<&'_ str>| {
        let hash = hash.filter(|hash| !hash.is_empty())?;
        owner.name.strip_suffix(hash)?.strip_suffix('-')
    };
    match owner.kind.as_str() {
        "ReplicaSet" => without(label("pod-template-hash"))
            .or_else(|| without(label("rollouts-pod-template-hash")))
            .unwrap_or(&owner.name),
        "ReplicationController" => label("deploymentconfig").unwrap_or(&owner.name),
        "Job" => cron_job(&owner.name).unwrap_or(&owner.name),
        _ => &owner.name,
    }
}

/// `<x>` of a job `<x>-<8 to 10 digits>`.
fn cron_job(job: &str) -> Option<&str> {
    let (name, digits) = job.rsplit_once('-')?;
    let scheduled = (8..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    (scheduled && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn meta(kind: &str, owner: &str, labels: &[(&str, &str)]) -> ObjectMeta {
        ObjectMeta {
            name: Some("the-pod".to_owned()),
            generate_name: Some("the-".to_owned()),
            owner_references: Some(vec![OwnerReference {
                kind: kind.to_owned(),
                name: owner.to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            labels: Some(
                labels
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            ),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn owners_name_workloads() {
        let hash = ("pod-template-hash", "5d4f");
        let rollout = ("rollouts-pod-template-hash", "77aa");
        let cases: [(&str, &str, &[_], &str); 9] = [
            ("ReplicaSet", "cart-5d4f", &[hash], "cart"),
            ("ReplicaSet", "cart-77aa", &[rollout], "cart"),
            ("ReplicaSet", "cart-0000", &[hash], "cart-0000"),
            (
                "ReplicationController",
                "dc-1",
                &[("deploymentconfig", "dc")],
                "dc",
            ),
            ("Job", "nightly-28391040", &[], "nightly"),
            ("Job", "nightly-1234567", &[], "nightly-1234567"),
            ("Job", "nightly-12345678901", &[], "nightly-12345678901"),
            ("StatefulSet", "db", &[], "db"),
            ("StatefulSet", "db", &[(WORKLOAD_NAME, "named")], "named"),
        ];
        for (kind, owner, labels, want) in cases {
            assert_eq!(
                workload_name(&meta(kind, owner, labels)),
                want,
                "{kind} {owner}"
            );
        }
    }

    #[test]
    fn without_generate_name_or_controller_the_pod_names_itself() {
        let mut bare = meta("StatefulSet", "db", &[]);
        bare.generate_name = None;
        assert_eq!(workload_name(&bare), "the-pod");
        let mut owned = meta("StatefulSet", "db", &[]);
        owned.owner_references.as_mut().unwrap()[0].controller = None;
        assert_eq!(workload_name(&owned), "the-pod");
    }
}
