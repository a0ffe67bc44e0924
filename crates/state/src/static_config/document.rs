//! The file's shape; its meaning is in `convert`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ambit_policy::{Action, Rule, Scope};
use ambit_types::Locality;
use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer};

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Document {
    pub(super) workloads: Vec<WorkloadDoc>,
    pub(super) services: Vec<ServiceDoc>,
    pub(super) policies: Vec<PolicyDoc>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WorkloadDoc {
    pub(super) workload_ips: Vec<IpAddr>,
    pub(super) namespace: String,
    pub(super) services: BTreeMap<String, Ports>,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) service_account: String,
    #[serde(default)]
    pub(super) trust_domain: String,
    #[serde(default)]
    pub(super) network: String,
    #[serde(default)]
    pub(super) node: String,
    #[serde(default)]
    pub(super) protocol: ProtocolDoc,
    #[serde(default)]
    pub(super) network_mode: NetworkModeDoc,
    #[serde(default)]
    pub(super) status: StatusDoc,
    #[serde(default)]
    pub(super) cluster_id: String,
    #[serde(default)]
    pub(super) hostname: String,
    #[serde(default)]
    pub(super) waypoint: Option<GatewayDoc>,
    #[serde(default)]
    pub(super) network_gateway: Option<GatewayDoc>,
    #[serde(default)]
    pub(super) workload_name: String,
    #[serde(default)]
    pub(super) workload_type: WorkloadTypeDoc,
    #[serde(default)]
    pub(super) canonical_name: String,
    #[serde(default)]
    pub(super) canonical_revision: String,
    #[serde(default)]
    pub(super) native_tunnel: bool,
    #[serde(default)]
    pub(super) application_tunnel: Option<TunnelDoc>,
    #[serde(default)]
    pub(super) authorization_policies: Vec<String>,
    #[serde(default)]
    pub(super) locality: Locality,
    #[serde(default)]
    pub(super) capacity: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceDoc {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) hostname: String,
    pub(super) vips: Vec<String>,
    pub(super) ports: Ports,
    #[serde(default)]
    pub(super) cidr_vips: Vec<CidrDoc>,
    /// Accepted since a dump has them; the workloads say who is an endpoint.
    #[serde(default, rename = "endpoints")]
    pub(super) _endpoints: IgnoredEndpoints,
    #[serde(default)]
    pub(super) subject_alt_names: Vec<String>,
    #[serde(default)]
    pub(super) waypoint: Option<GatewayDoc>,
    #[serde(default)]
    pub(super) weighted_waypoints: Vec<WeightedDoc>,
    #[serde(default)]
    pub(super) load_balancer: Option<BalancerDoc>,
    #[serde(default)]
    pub(super) ip_families: Option<FamiliesDoc>,
    #[serde(default)]
    pub(super) canonical: bool,
    #[serde(default)]
    pub(super) visibility: VisibilityDoc,
}

#[derive(Deserialize, Default)]
#[serde(transparent)]
pub(super) struct IgnoredEndpoints(
    #[expect(dead_code, reason = "checked to be a map, then not used")]
    BTreeMap<String, IgnoredAny>,
);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicyDoc {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) scope: Scope,
    pub(super) action: Action,
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
    #[serde(default)]
    pub(super) dry_run: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GatewayDoc {
    pub(super) destination: String,
    pub(super) hbone_mtls_port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WeightedDoc {
    pub(super) destination: GatewayDoc,
    pub(super) weight: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CidrDoc {
    #[serde(default)]
    pub(super) network: String,
    pub(super) cidr: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TunnelDoc {
    pub(super) protocol: TunnelProtocolDoc,
    #[serde(default)]
    pub(super) port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BalancerDoc {
    #[serde(default)]
    pub(super) routing_preferences: Vec<RoutingScopeDoc>,
    #[serde(default)]
    pub(super) mode: ModeDoc,
    #[serde(default)]
    pub(super) health_policy: HealthPolicyDoc,
}

/// `servicePort: targetPort`; quoted numbers are numbers too, since a dump in
/// JSON can't write its keys without quotes.
#[derive(Default)]
pub(super) struct Ports(pub(super) Vec<(u16, u16)>);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = BTreeMap::<String, u16>::deserialize(deserializer)?;
        let ports = read.into_iter().map(|(from, to)| {
            let port = from.parse::<u16>();
            port.map(|from| (from, to))
                .map_err(|_| D::Error::custom(format!("{from:?} is not a port")))
        });
        ports.collect::<Result<_, _>>().map(Self)
    }
}

/// Enums of the file: their names, and what they stand for.
macro_rules! named {
    ($doc:ident => $model:ty { $($name:ident $(| $alias:literal)* => $value:expr),+ $(,)? } default $default:ident) => {
        #[derive(Deserialize, Clone, Copy)]
        pub(super) enum $doc {
            $($(#[serde(alias = $alias)])* $name),+
        }
        impl Default for $doc {
            fn default() -> Self {
                Self::$default
            }
        }
        impl From<$doc> for $model {
            fn from(doc: $doc) -> Self {
                match doc {
                    $($doc::$name => $value),+
                }
            }
        }
    };
}

named!(ProtocolDoc => crate::model::Protocol {
    Tcp | "TCP" => Self::Tcp,
    Hbone | "HBONE" => Self::Hbone,
} default Tcp);
named!(NetworkModeDoc => crate::model::NetworkMode {
    Standard => Self::Standard,
    HostNetwork => Self::HostNetwork,
} default Standard);
named!(StatusDoc => crate::model::Health {
    Healthy => Self::Healthy,
    Unhealthy => Self::Unhealthy,
} default Healthy);
named!(WorkloadTypeDoc => ambit_types::WorkloadType {
    Deployment | "deployment" => Self::Deployment,
    CronJob | "cronjob" | "Cronjob" => Self::CronJob,
    Pod | "pod" => Self::Pod,
    Job | "job" => Self::Job,
} default Deployment);
named!(TunnelProtocolDoc => crate::model::TunnelProtocol {
    None | "NONE" => Self::None,
    Proxy | "PROXY" => Self::Proxy,
} default None);
named!(RoutingScopeDoc => crate::model::RoutingScope {
    Region => Self::Region,
    Zone => Self::Zone,
    Subzone => Self::Subzone,
    Node => Self::Node,
    Cluster => Self::Cluster,
    Network => Self::Network,
} default Region);
named!(ModeDoc => crate::model::LoadBalancingMode {
    Standard => Self::Standard,
    Strict => Self::Strict,
    Failover => Self::Failover,
    Passthrough => Self::Passthrough,
} default Standard);
named!(HealthPolicyDoc => crate::model::HealthPolicy {
    OnlyHealthy => Self::OnlyHealthy,
    AllowAll => Self::AllowAll,
} default OnlyHealthy);
named!(FamiliesDoc => crate::model::IpFamilies {
    IPv4 | "Ipv4" => Self::Ipv4,
    IPv6 | "Ipv6" => Self::Ipv6,
    Dual => Self::Dual,
} default Dual);
named!(VisibilityDoc => crate::model::Visibility {
    Public => Self::Public,
    Namespace => Self::Namespace,
} default Public);
