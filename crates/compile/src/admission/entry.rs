//! ServiceEntry and WorkloadEntry by themselves.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ambit_kube::{
    Location, Object, Resolution, ServiceEntry, ServiceEntrySpec, ServicePort, WorkloadEntry,
    WorkloadEntrySpec,
};
use ipnet::IpNet;

use crate::about::{About, Told};
use crate::codes;
use crate::output::Diagnostic;

type Of<'a> = About<'a, Object>;

/// Collects what is said of one object.
struct Findings<'a> {
    about: Of<'a>,
    told: Vec<Diagnostic>,
}

impl Findings<'_> {
    fn error(&mut self, field: &str, value: Option<&str>, message: &str, remedy: &str) {
        let told = self.about.error(codes::ENTRY_VALUE, field, message);
        self.told.push(valued(told, value).remedy(remedy));
    }

    fn warning(&mut self, field: &str, value: Option<&str>, message: &str, remedy: &str) {
        let told = self.about.warning(codes::ENTRY_VALUE, field, message);
        self.told.push(valued(told, value).remedy(remedy));
    }
}

fn valued(told: Told, value: Option<&str>) -> Told {
    match value {
        Some(value) => told.value(value),
        None => told,
    }
}

/// A ServiceEntry.
pub(super) fn service_entry(about: Of<'_>, entry: &ServiceEntry) -> Vec<Diagnostic> {
    let spec = &entry.spec;
    let labels = entry.metadata.labels.as_ref();
    let label = |key: &str| {
        labels
            .and_then(|labels| labels.get(key))
            .map(String::as_str)
    };
    let mut found = Findings {
        about,
        told: Vec::new(),
    };
    sizes(&mut found, spec);
    hosts(&mut found, spec);
    addresses(&mut found, spec);
    ports(&mut found, &spec.ports);
    endpoints(&mut found, spec);
    if spec.resolution == Resolution::DynamicDns {
        let waypoint =
            label("istio.io/use-waypoint").filter(|name| !name.is_empty() && *name != "none");
        dynamic(&mut found, spec, waypoint);
    }
    let allocates = label("networking.istio.io/enable-autoallocate-ip") != Some("false");
    doubts(&mut found, spec, allocates);
    found.told
}

/// As the CRD has them.
fn sizes(found: &mut Findings<'_>, spec: &ServiceEntrySpec) {
    for (field, length, most) in [
        ("spec.hosts", spec.hosts.len(), 256),
        ("spec.addresses", spec.addresses.len(), 256),
        ("spec.ports", spec.ports.len(), 256),
        ("spec.endpoints", spec.endpoints.len(), 4096),
    ] {
        if length > most {
            let (value, message) = (length.to_string(), format!("more than {most}"));
            found.error(field, Some(&value), &message, "write several entries");
        }
    }
}

fn hosts(found: &mut Findings<'_>, spec: &ServiceEntrySpec) {
    if spec.hosts.is_empty() {
        found.error("spec.hosts", None, "no host", "write at least one DNS name");
    }
    for (at, host) in spec.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{at}]");
        let name = host.strip_prefix("*.");
        if host == "*" {
            let message = "a host for everything";
            found.error(&field, Some(host), message, "write a DNS name, or *.NAME");
        } else if !is_dns_name(name.unwrap_or(host)) {
            let remedy = "write a DNS name: letters, digits and `-`, at most 63 in a part, the last part no number";
            found.error(&field, Some(host), "not a DNS name", remedy);
        } else if name.is_some() && is_looked_up(spec.resolution) {
            let message = "a wildcard can't be looked up";
            let remedy = "write a DNS name, or resolution NONE, STATIC or DYNAMIC_DNS";
            found.error(&field, Some(host), message, remedy);
        }
    }
}

fn is_looked_up(resolution: Resolution) -> bool {
    matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin)
}

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && !last.chars().all(|c| c.is_ascii_digit())
}

fn addresses(found: &mut Findings<'_>, spec: &ServiceEntrySpec) {
    let ranges = matches!(spec.resolution, Resolution::None | Resolution::Static);
    for (at, address) in spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{at}]");
        if address.parse::<IpAddr>().is_ok() {
            continue;
        }
        match address.parse::<IpNet>() {
            Ok(_) if ranges => {}
            Ok(_) => {
                let message = "a block of addresses has no single host to look up";
                let remedy = "write single addresses, or resolution NONE or STATIC";
                found.error(&field, Some(address), message, remedy);
            }
            Err(_) => {
                let message = "neither an address nor a block of addresses";
                let remedy = "write an address, or a block such as 10.0.0.0/8";
                found.error(&field, Some(address), message, remedy);
            }
        }
    }
}

fn ports(found: &mut Findings<'_>, ports: &[ServicePort]) {
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (at, port) in ports.iter().enumerate() {
        let number = port.number.to_string();
        let field = format!("spec.ports[{at}]");
        if !(1..=65535).contains(&port.number) {
            let field = format!("{field}.number");
            found.error(
                &field,
                Some(&number),
                "not a port",
                "write a number from 1 to 65535",
            );
        } else if !numbers.insert(port.number) {
            let field = format!("{field}.number");
            found.error(
                &field,
                Some(&number),
                "the number of another port",
                "keep one",
            );
        }
        if port.target_port > 65535 {
            let (field, value) = (format!("{field}.targetPort"), port.target_port.to_string());
            found.error(
                &field,
                Some(&value),
                "not a port",
                "write a number from 1 to 65535",
            );
        }
        if !port.name.is_empty() && !names.insert(port.name.as_str()) {
            let field = format!("{field}.name");
            found.error(
                &field,
                Some(&port.name),
                "the name of another port",
                "rename one",
            );
        }
    }
}

fn endpoints(found: &mut Findings<'_>, spec: &ServiceEntrySpec) {
    let has = !spec.endpoints.is_empty();
    if has && spec.workload_selector.is_some() {
        let message = "endpoints are written out or selected by label, not both";
        found.error("spec.workloadSelector", None, message, "keep one");
    }
    if has && spec.resolution == Resolution::None {
        let message = "with resolution NONE connections go where the client wants";
        found.error(
            "spec.endpoints",
            None,
            message,
            "write resolution STATIC, or no endpoints",
        );
    }
    if spec.resolution == Resolution::DnsRoundRobin && spec.endpoints.len() > 1 {
        let message = "DNS_ROUND_ROBIN asks about one name";
        found.error(
            "spec.endpoints",
            None,
            message,
            "keep one endpoint, or write resolution DNS",
        );
    }
    for (at, endpoint) in spec.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{at}]");
        for name in endpoint.ports.keys() {
            if !spec.ports.iter().any(|port| port.name == *name) {
                let message = "no port of the entry is called that";
                let field = format!("{field}.ports.{name}");
                found.error(&field, Some(name), message, "use a name of spec.ports");
            }
        }
        endpoint_ports(found, &field, endpoint);
        labels(found, &field, endpoint);
    }
}

/// Resolved per request, by the name that the request asks for.
fn dynamic(found: &mut Findings<'_>, spec: &ServiceEntrySpec, waypoint: Option<&str>) {
    for (at, host) in spec.hosts.iter().enumerate() {
        if !host.starts_with("*.") {
            let field = format!("spec.hosts[{at}]");
            let message = "DYNAMIC_DNS is for wildcards";
            found.error(
                &field,
                Some(host),
                message,
                "write *.NAME, or resolution DNS",
            );
        }
    }
    let parts = [
        ("spec.addresses", !spec.addresses.is_empty()),
        ("spec.endpoints", !spec.endpoints.is_empty()),
        ("spec.workloadSelector", spec.workload_selector.is_some()),
    ];
    for (field, there) in parts {
        if there {
            let message = "DYNAMIC_DNS finds its endpoints by the name of the request";
            found.error(
                field,
                None,
                message,
                "remove it, or choose another resolution",
            );
        }
    }
    for (at, port) in spec.ports.iter().enumerate() {
        let protocol = port.protocol.to_ascii_uppercase();
        if !["HTTP", "HTTP2", "GRPC", "TLS"].contains(&protocol.as_str()) {
            let field = format!("spec.ports[{at}].protocol");
            let message = "DYNAMIC_DNS needs a protocol whose requests name their host";
            let remedy = "write HTTP, HTTP2, GRPC or TLS";
            found.error(&field, Some(&port.protocol), message, remedy);
        }
    }
    if spec.location == Location::MeshInternal
        && let Some(waypoint) = waypoint
    {
        let message = "a wildcard inside the mesh has no waypoint";
        let remedy = "remove the label istio.io/use-waypoint, or write location: MESH_EXTERNAL";
        found.error("spec.location", Some(waypoint), message, remedy);
    }
}

/// What will work, and otherwise than it looks.
fn doubts(found: &mut Findings<'_>, spec: &ServiceEntrySpec, allocates: bool) {
    let opaque = |port: &&ServicePort| {
        let protocol = port.protocol.to_ascii_uppercase();
        matches!(protocol.as_str(), "" | "TCP" | "MONGO" | "REDIS" | "MYSQL")
    };
    let Some(port) = spec.ports.iter().find(opaque) else {
        return;
    };
    let number = port.number.to_string();
    // Addresses are allocated for what is looked up or listed, by host.
    let allocated = allocates && spec.resolution != Resolution::None;
    if spec.addresses.is_empty() && !allocated {
        let message = "a TCP port without an address: nothing tells its connections apart";
        let remedy = "write spec.addresses, or let addresses be allocated";
        found.warning("spec.addresses", Some(&number), message, remedy);
    }
    if spec.hosts.len() > 1 && !spec.addresses.is_empty() {
        let message = "several hosts share the addresses: on a TCP port they can't be told apart";
        found.warning(
            "spec.hosts",
            Some(&number),
            message,
            "write one entry a host",
        );
    }
}

/// A WorkloadEntry.
pub(super) fn workload_entry(about: Of<'_>, entry: &WorkloadEntry) -> Vec<Diagnostic> {
    let spec = &entry.spec;
    let mut found = Findings {
        about,
        told: Vec::new(),
    };
    if spec.address.is_empty() && spec.network.is_empty() {
        let message = "no address";
        let remedy = "write the address, or the network whose gateway leads to it";
        found.error("spec.address", None, message, remedy);
    }
    endpoint_ports(&mut found, "spec", spec);
    labels(&mut found, "spec", spec);
    found.told
}

fn endpoint_ports(found: &mut Findings<'_>, field: &str, spec: &WorkloadEntrySpec) {
    let unix = spec.address.starts_with("unix://");
    if unix && !spec.ports.is_empty() {
        let message = "a socket of the file system has no ports";
        found.error(&format!("{field}.ports"), None, message, "remove the ports");
    }
    if unix {
        let message = "sockets of the file system aren't reached through the mesh";
        let (field, remedy) = (format!("{field}.address"), "write an address or a DNS name");
        found.warning(&field, Some(&spec.address), message, remedy);
    }
    for (name, port) in &spec.ports {
        if !(1..=65535).contains(port) {
            let (field, value) = (format!("{field}.ports.{name}"), port.to_string());
            found.error(
                &field,
                Some(&value),
                "not a port",
                "write a number from 1 to 65535",
            );
        }
    }
}

fn labels(found: &mut Findings<'_>, field: &str, spec: &WorkloadEntrySpec) {
    for (key, value) in &spec.labels {
        let name = match key.split_once('/') {
            Some((prefix, name)) if is_dns_name(prefix) => name,
            Some(_) => "",
            None => key,
        };
        if !is_label(name) || name.is_empty() {
            let (field, remedy) = (format!("{field}.labels"), "write [PREFIX/]NAME");
            found.error(&field, Some(key), "not the name of a label", remedy);
        }
        if !is_label(value) {
            let message = "not the value of a label";
            let remedy = "write at most 63 letters, digits, `-`, `_` and `.`";
            found.error(
                &format!("{field}.labels.{key}"),
                Some(value),
                message,
                remedy,
            );
        }
    }
}

/// Empty, or up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at either end.
fn is_label(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| ends(c) || matches!(c, '-' | '_' | '.');
    text.len() <= 63
        && text.chars().all(inner)
        && (text.is_empty() || (text.starts_with(ends) && text.ends_with(ends)))
}
