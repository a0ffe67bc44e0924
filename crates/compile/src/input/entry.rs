//! What is kept of a ServiceEntry and of a WorkloadEntry (`control-plane-contract` 3.4).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube::core::ObjectMeta;
use ambit_kube::{
    Resolution, ServiceEntry as EntryObject, ServicePort, WorkloadEntry as WorkloadObject,
    WorkloadEntrySpec,
};
use ambit_proto::workload::AppProtocol;
use ipnet::IpNet;

use super::labels::{Labels, WORKLOAD_NAME};
use super::{Age, BadValue, Distribution, Hints, app_protocol_by_name, parse_ip};
use crate::enrolment::REDIRECTION;

/// A WorkloadEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkloadEntry {
    /// Those of the metadata and, behind them, those of the spec.
    pub(crate) labels: Labels,
    pub(crate) spec: WorkloadEntrySpec,
    pub(crate) workload_name: Box<str>,
    /// Its annotation says that what runs there is redirected: no node agent could tell.
    pub(crate) captured: bool,
    pub(crate) hints: Hints,
}

impl WorkloadEntry {
    pub(crate) fn new(object: &WorkloadObject) -> Self {
        let meta = &object.metadata;
        let mut spec = object.spec.clone();
        let mut labels = std::mem::take(&mut spec.labels);
        labels.extend(meta.labels.clone().unwrap_or_default());
        let group = meta.annotations.as_ref();
        let group = group.and_then(|annotations| annotations.get("istio.io/autoRegistrationGroup"));
        let labels = Labels::of(&labels);
        let name = group
            .map(String::as_str)
            .or_else(|| labels.get(WORKLOAD_NAME))
            .filter(|name| !name.is_empty())
            .or(meta.name.as_deref());
        Self {
            workload_name: name.unwrap_or_default().into(),
            labels,
            spec,
            captured: is_captured(meta),
            hints: hints(meta),
        }
    }
}

/// A ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceEntry {
    /// Each once, in their order; without those that aren't host names.
    pub(crate) hosts: Box<[Arc<str>]>,
    pub(crate) bad_hosts: Box<[BadValue]>,
    /// One that can't be parsed drops the whole entry.
    pub(crate) addresses: Result<Box<[Vip]>, BadValue>,
    /// Addresses that a controller allocated, by host.
    pub(crate) allocated: Box<[(Vip, Box<str>)]>,
    pub(crate) ports: Box<[EntryPort]>,
    pub(crate) resolution: Resolution,
    /// Without their labels, which are in `endpoint_labels`.
    pub(crate) endpoints: Box<[WorkloadEntrySpec]>,
    /// By address; of endpoints that share one the first holds.
    endpoint_labels: BTreeMap<Box<str>, Labels>,
    /// Present: its members are pods and workload entries, and `endpoints` are none.
    pub(crate) selector: Option<Labels>,
    pub(crate) subject_alt_names: Box<[String]>,
    pub(crate) labels: Labels,
    pub(crate) distribution: Option<Distribution>,
    pub(crate) age: Age,
    /// As [`WorkloadEntry::captured`], of its endpoints.
    pub(crate) captured: bool,
    pub(crate) hints: Hints,
}

/// A virtual address, or a range of them with its host bits cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vip {
    pub(crate) ip: IpAddr,
    /// Absent for a single address.
    pub(crate) length: Option<u8>,
}

/// A port of a ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EntryPort {
    pub(crate) name: Box<str>,
    pub(crate) number: u16,
    /// Where it leads when the endpoint doesn't say; absent when the entry doesn't.
    pub(crate) target: Option<u16>,
    pub(crate) app: AppProtocol,
}

impl ServiceEntry {
    pub(crate) fn new(object: &EntryObject) -> Self {
        let (meta, spec) = (&object.metadata, &object.spec);
        let (mut hosts, mut bad_hosts) = (Vec::<Arc<str>>::new(), Vec::new());
        for (at, host) in spec.hosts.iter().enumerate() {
            if !is_host(host, spec.resolution) {
                bad_hosts.push(BadValue {
                    field: format!("spec.hosts[{at}]"),
                    value: host.clone(),
                });
            } else if !hosts.iter().any(|known| **known == **host) {
                hosts.push(host.as_str().into());
            }
        }
        let mut endpoints = spec.endpoints.clone();
        let mut endpoint_labels = BTreeMap::new();
        for endpoint in &mut endpoints {
            let labels = Labels::of(&std::mem::take(&mut endpoint.labels));
            let address = endpoint.address.as_str().into();
            endpoint_labels.entry(address).or_insert(labels);
        }
        endpoint_labels.retain(|_, labels| !labels.is_empty());
        let allocated = object.status.iter().flat_map(|status| &status.addresses);
        Self {
            hosts: hosts.into(),
            bad_hosts: bad_hosts.into(),
            addresses: addresses(&spec.addresses),
            allocated: allocated
                .filter_map(|address| {
                    Some((Vip::parse(&address.value)?, address.host.as_str().into()))
                })
                .collect(),
            ports: spec.ports.iter().filter_map(EntryPort::new).collect(),
            resolution: spec.resolution,
            endpoints: endpoints.into(),
            endpoint_labels,
            selector: spec
                .workload_selector
                .as_ref()
                .map(|selector| Labels::of(&selector.labels)),
            subject_alt_names: spec.subject_alt_names.as_slice().into(),
            labels: Labels::new(meta.labels.as_ref()),
            distribution: Distribution::of_annotation(meta.annotations.as_ref()),
            age: Age::of(meta),
            captured: is_captured(meta),
            hints: hints(meta),
        }
    }

    /// The labels of the endpoint that is written with this address.
    pub(crate) fn endpoint_labels(&self, address: &str) -> Option<&Labels> {
        self.endpoint_labels.get(address)
    }

    /// Whether its hosts are resolved by DNS when it has no endpoints.
    pub(crate) fn asks_dns(&self) -> bool {
        match self.resolution {
            Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns => true,
            Resolution::None | Resolution::Static => false,
        }
    }

    /// The addresses of one host: its own, or the allocated ones.
    pub(crate) fn addresses_of(&self, host: &str) -> Vec<Vip> {
        let Ok(own) = &self.addresses else {
            return Vec::new();
        };
        let wildcard = host.starts_with('*') && self.resolution != Resolution::DynamicDns;
        if !own.is_empty() || self.resolution == Resolution::None || wildcard {
            return own.to_vec();
        }
        let mine = self.allocated.iter().filter(|(_, of)| **of == *host);
        mine.map(|(vip, _)| *vip).collect()
    }
}

impl Vip {
    pub(crate) fn single(ip: IpAddr) -> Self {
        Self { ip, length: None }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(ip) = parse_ip(text) {
            return Some(Self::single(ip));
        }
        let net = text.parse::<IpNet>().ok()?.trunc();
        Some(Self {
            ip: net.addr(),
            length: Some(net.prefix_len()),
        })
    }

    /// The addresses that it stands for.
    pub(crate) fn net(&self) -> IpNet {
        let single = IpNet::from(self.ip);
        let length = self.length.unwrap_or(single.prefix_len());
        IpNet::new(self.ip, length).unwrap_or(single)
    }
}

impl EntryPort {
    fn new(port: &ServicePort) -> Option<Self> {
        let number = u16::try_from(port.number)
            .ok()
            .filter(|number| *number != 0)?;
        let protocol = port.protocol.to_ascii_lowercase();
        Some(Self {
            name: port.name.as_str().into(),
            number,
            target: u16::try_from(port.target_port)
                .ok()
                .filter(|port| *port != 0),
            app: app_protocol_by_name(&protocol).unwrap_or(AppProtocol::Unknown),
        })
    }
}

fn addresses(texts: &[String]) -> Result<Box<[Vip]>, BadValue> {
    let mut vips = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let vip = Vip::parse(text).ok_or_else(|| BadValue {
            field: format!("spec.addresses[{at}]"),
            value: text.clone(),
        })?;
        if !vips.contains(&vip) {
            vips.push(vip);
        }
    }
    Ok(vips.into())
}

/// Whether the annotation says so: whoever writes an entry says what runs there (`control-plane-contract` 1.1, 2.3).
fn is_captured(meta: &ObjectMeta) -> bool {
    let annotations = meta.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(REDIRECTION))
        .is_some_and(|state| state == "enabled")
}

fn hints(meta: &ObjectMeta) -> Hints {
    let mut hints = Hints::of(meta);
    hints.believe_redirection();
    hints
}

/// A DNS name, or one below `*.` where no lookup of the host itself is asked for.
fn is_host(host: &str, resolution: Resolution) -> bool {
    let wildcard = matches!(
        resolution,
        Resolution::None | Resolution::Static | Resolution::DynamicDns
    );
    let name = match host.strip_prefix("*.") {
        Some(name) if wildcard => name,
        _ => host,
    };
    name.len() <= 253
        && name.split('.').all(|label| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            (1..=63).contains(&label.len()) && label.chars().all(plain)
        })
}
