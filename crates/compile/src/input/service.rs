//! What is kept of a Kubernetes Service (`control-plane-contract` 3.1 to 3.3).

use std::net::IpAddr;

use ambit_kube::core::Service as ServiceObject;
use ambit_kube::k8s_openapi::api::core::v1::ServicePort;
use ambit_kube::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ambit_proto::workload::load_balancing::{HealthPolicy, Mode, Scope};
use ambit_proto::workload::{AppProtocol, IpFamilies, LoadBalancing};

use super::labels::Labels;
use super::{BadValue, Hints, parse_ip};
use crate::enrolment::Map;

/// A Kubernetes Service that isn't an alias of an external name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Service {
    pub(crate) selector: Labels,
    pub(crate) vips: Box<[IpAddr]>,
    /// Cluster addresses that aren't any.
    pub(crate) bad_vips: Box<[BadValue]>,
    pub(crate) ports: Box<[Port]>,
    pub(crate) families: IpFamilies,
    /// From its spec and its own annotation; none leaves it to the namespace.
    pub(crate) preset: Option<Preset>,
    pub(crate) publish_not_ready: bool,
    pub(crate) hints: Hints,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Port {
    pub(crate) name: Box<str>,
    pub(crate) number: u16,
    pub(crate) target: Target,
    pub(crate) transport: Transport,
    pub(crate) app: AppProtocol,
}

/// Where a port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Number(u16),
    Name(Box<str>),
}

/// What a port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Other,
}

impl Service {
    /// None for `ExternalName`, which doesn't exist for proxies.
    pub(crate) fn new(object: &ServiceObject) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let (vips, bad_vips) = vips(spec.cluster_ips.as_deref(), spec.cluster_ip.as_deref());
        let local = spec.internal_traffic_policy.as_deref() == Some("Local");
        let preset = if local {
            Some(Preset::NodeLocal)
        } else {
            Distribution::of_spec(spec.traffic_distribution.as_deref())
                .or_else(|| Distribution::of_annotation(object.metadata.annotations.as_ref()))
                .map(Preset::Distribution)
        };
        let families: Vec<_> = spec
            .ip_families
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        Some(Self {
            selector: Labels::new(spec.selector.as_ref()),
            vips,
            bad_vips,
            ports: spec.ports.iter().flatten().filter_map(Port::new).collect(),
            families: match families.as_slice() {
                [] => IpFamilies::Automatic,
                ["IPv4"] => IpFamilies::Ipv4Only,
                ["IPv6"] => IpFamilies::Ipv6Only,
                _ => IpFamilies::Dual,
            },
            preset,
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
            hints: Hints::of(&object.metadata),
        })
    }
}

impl Port {
    fn new(port: &ServicePort) -> Option<Self> {
        let number = u16::try_from(port.port).ok()?;
        let udp = port.protocol.as_deref() == Some("UDP");
        let tcp = port.protocol.as_deref().unwrap_or("TCP") == "TCP";
        Some(Self {
            name: port.name.as_deref().unwrap_or_default().into(),
            number,
            target: match &port.target_port {
                Some(IntOrString::Int(target)) => {
                    let target = u16::try_from(*target).ok().filter(|target| *target != 0);
                    Target::Number(target.unwrap_or(number))
                }
                Some(IntOrString::String(name)) if !name.is_empty() => {
                    Target::Name(name.as_str().into())
                }
                Some(IntOrString::String(_)) | None => Target::Number(number),
            },
            transport: if tcp {
                Transport::Tcp
            } else {
                Transport::Other
            },
            app: if udp {
                AppProtocol::Unknown
            } else {
                app_protocol(port.app_protocol.as_deref(), port.name.as_deref(), number)
            },
        })
    }
}

/// `clusterIPs`, or `clusterIP` where there is no list; `None` and the empty text are no addresses.
fn vips(list: Option<&[String]>, single: Option<&str>) -> (Box<[IpAddr]>, Box<[BadValue]>) {
    let list = list.unwrap_or_default();
    let named: Vec<(String, &str)> = if list.is_empty() {
        single
            .map(|ip| ("spec.clusterIP".to_owned(), ip))
            .into_iter()
            .collect()
    } else {
        let numbered = list.iter().enumerate();
        numbered
            .map(|(at, ip)| (format!("spec.clusterIPs[{at}]"), ip.as_str()))
            .collect()
    };
    let (mut vips, mut bad) = (Vec::new(), Vec::new());
    for (field, text) in named {
        match parse_ip(text) {
            Some(ip) => vips.push(ip),
            None if matches!(text, "" | "None") => {}
            None => bad.push(BadValue {
                field,
                value: text.to_owned(),
            }),
        }
    }
    (vips.into(), bad.into())
}

/// What a Service's port speaks (`control-plane-contract` 3.2).
fn app_protocol(app: Option<&str>, name: Option<&str>, number: u16) -> AppProtocol {
    let text = match app {
        Some("kubernetes.io/h2c") => return AppProtocol::Http2,
        Some("kubernetes.io/ws") => return AppProtocol::Http11,
        Some("kubernetes.io/wss") => return AppProtocol::Tls,
        Some(text) => text,
        None => name.unwrap_or_default(),
    };
    let text = text.to_ascii_lowercase();
    let word = if text.starts_with("grpc-web") {
        "grpc-web"
    } else {
        text.split('-').next().unwrap_or_default()
    };
    app_protocol_by_name(word).unwrap_or(match number {
        25 | 53 | 3306 | 27017 => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    })
}

/// What a protocol name means, in lower case; none where nobody knows the name.
pub(crate) fn app_protocol_by_name(name: &str) -> Option<AppProtocol> {
    Some(match name {
        "http" => AppProtocol::Http11,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        "tls" | "https" => AppProtocol::Tls,
        "grpc-web" | "udp" | "mongo" | "mysql" | "redis" | "http_proxy" => AppProtocol::Unknown,
        _ => return None,
    })
}

/// How traffic is spread (`control-plane-contract` 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preset {
    /// `internalTrafficPolicy: Local`.
    NodeLocal,
    /// By trafficDistribution or its annotation.
    Distribution(Distribution),
    /// To the address that the client chose.
    Passthrough,
}

/// The values of trafficDistribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    SameZone,
    SameNode,
    Any,
}

impl Distribution {
    /// A value of the spec that nobody knows leaves the decision to the annotation.
    fn of_spec(value: Option<&str>) -> Option<Self> {
        match value? {
            "PreferClose" | "PreferSameZone" => Some(Self::SameZone),
            "PreferSameNode" => Some(Self::SameNode),
            _ => None,
        }
    }

    /// A value of the annotation that nobody knows means `Any`.
    pub(crate) fn of_annotation(annotations: Map<'_>) -> Option<Self> {
        let value = annotations?.get("networking.istio.io/traffic-distribution")?;
        Some(match value.to_ascii_lowercase().as_str() {
            "preferclose" | "prefersamezone" => Self::SameZone,
            "prefersamenode" => Self::SameNode,
            _ => Self::Any,
        })
    }
}

impl Preset {
    /// The message, made afresh each time; none where nothing applies.
    pub(crate) fn message(preset: Option<Self>, publish_not_ready: bool) -> Option<LoadBalancing> {
        const NEAR: [Scope; 5] = [
            Scope::Network,
            Scope::Region,
            Scope::Zone,
            Scope::Subzone,
            Scope::Node,
        ];
        let (mode, scopes): (Mode, &[Scope]) = match preset {
            Some(Self::NodeLocal) => (Mode::Strict, &[Scope::Node]),
            Some(Self::Distribution(Distribution::SameNode)) => (Mode::Failover, &NEAR),
            Some(Self::Distribution(Distribution::SameZone)) => {
                (Mode::Failover, NEAR.split_at(3).0)
            }
            Some(Self::Passthrough) => (Mode::Passthrough, &[]),
            Some(Self::Distribution(Distribution::Any)) | None => (Mode::UnspecifiedMode, &[]),
        };
        let health = if publish_not_ready || preset == Some(Self::Passthrough) {
            HealthPolicy::AllowAll
        } else {
            HealthPolicy::OnlyHealthy
        };
        let message = LoadBalancing {
            routing_preference: scopes.iter().map(|scope| (*scope).into()).collect(),
            mode: mode.into(),
            health_policy: health.into(),
        };
        (message != LoadBalancing::default()).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocols() {
        use AppProtocol::{Grpc, Http2, Http11, Tcp, Tls, Unknown};
        let cases = [
            (None, Some("http"), 80, Http11),
            (None, Some("HTTP2-web"), 80, Http2),
            (None, Some("grpc-web"), 80, Unknown),
            (None, Some("GRPC-Web-x"), 80, Unknown),
            (None, Some("grpc-api"), 80, Grpc),
            (None, Some("https-x"), 443, Tls),
            (None, Some("mysql"), 3306, Unknown),
            (None, Some("web"), 3306, Tcp),
            (None, None, 53, Tcp),
            (None, None, 8080, Unknown),
            (Some("kubernetes.io/h2c"), Some("tcp"), 80, Http2),
            (Some("kubernetes.io/ws"), None, 80, Http11),
            (Some("kubernetes.io/wss"), None, 80, Tls),
            (Some("tcp-x"), Some("http"), 80, Tcp),
            (Some("acme.io/thing"), Some("http"), 80, Unknown),
        ];
        for (app, name, number, want) in cases {
            assert_eq!(
                app_protocol(app, name, number),
                want,
                "{app:?} {name:?} {number}"
            );
        }
    }

    #[test]
    fn none_and_the_empty_text_are_no_addresses() {
        let list = ["None".to_owned(), String::new(), "10.0.0.300".to_owned()];
        let (listed, bad) = vips(Some(&list), Some("10.0.0.1"));
        assert!(listed.is_empty());
        assert_eq!(bad[0].field, "spec.clusterIPs[2]");
        let (single, _) = vips(None, Some("10.0.0.1"));
        assert_eq!(single.len(), 1);
    }
}
