//! The parts of a `config_dump` that are shown (`ztunnel-contract` 9.2); everything else stays as it is.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A dump.
#[derive(Debug)]
pub(crate) struct Dump {
    pub(crate) workloads: Vec<Entry<Workload>>,
    pub(crate) services: Vec<Entry<Service>>,
    pub(crate) policies: Vec<Entry<Policy>>,
    pub(crate) certificates: Vec<Entry<Certificates>>,
    pub(crate) workload_states: Vec<Entry<WorkloadState>>,
    /// The whole.
    pub(crate) raw: Value,
}

/// One object of a collection: as it came, and what we understand of it.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    /// In collections that are maps.
    pub(crate) key: String,
    pub(crate) raw: Value,
    typed: T,
}

impl<T> std::ops::Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.typed
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Workload {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) workload_ips: Vec<String>,
    pub(crate) hostname: String,
    pub(crate) node: String,
    pub(crate) protocol: String,
    pub(crate) status: String,
    pub(crate) waypoint: Option<Gateway>,
}

/// A gateway reference: `network/ip` or `namespace/hostname`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Gateway {
    pub(crate) destination: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) hostname: String,
    /// `network/ip`.
    pub(crate) vips: Vec<String>,
    pub(crate) cidr_vips: Vec<CidrVip>,
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) waypoint: Option<Gateway>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CidrVip {
    pub(crate) cidr: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Endpoint {
    pub(crate) workload_uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) action: String,
    pub(crate) scope: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Certificates {
    pub(crate) identity: String,
    pub(crate) state: String,
    pub(crate) cert_chain: Vec<Certificate>,
    pub(crate) root_certs: Vec<Certificate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Certificate {
    /// Decimal.
    pub(crate) serial_number: String,
    pub(crate) valid_from: String,
    pub(crate) expiration_time: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WorkloadState {
    pub(crate) info: PodInfo,
    pub(crate) connections: Connections,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodInfo {
    pub(crate) name: String,
    pub(crate) namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Connections {
    pub(crate) inbound: Vec<Connection>,
    pub(crate) outbound: Vec<Connection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Connection {
    pub(crate) src: String,
    pub(crate) original_dst: Option<String>,
    pub(crate) actual_dst: String,
    pub(crate) protocol: String,
}

impl Dump {
    /// Parses the text of a dump. Each collection may be a list or a map, and may be absent.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let raw: serde_json::Map<String, Value> = serde_json::from_str(text)?;
        Ok(Self {
            workloads: collection(raw.get("workloads"))?,
            services: collection(raw.get("services"))?,
            policies: collection(raw.get("policies"))?,
            certificates: collection(raw.get("certificates"))?,
            workload_states: collection(raw.get("workloadState"))?,
            raw: Value::Object(raw),
        })
    }
}

fn collection<T: DeserializeOwned>(
    value: Option<&Value>,
) -> Result<Vec<Entry<T>>, serde_json::Error> {
    let entry = |key: &str, raw: &Value| {
        Ok(Entry {
            key: key.to_owned(),
            raw: raw.clone(),
            typed: T::deserialize(raw)?,
        })
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(map)) => map.iter().map(|(key, raw)| entry(key, raw)).collect(),
        Some(Value::Array(list)) => list.iter().map(|raw| entry("", raw)).collect(),
        Some(_) => Err(serde::de::Error::custom("a collection is a list or a map")),
    }
}

/// The address of a `network/address` pair.
pub(crate) fn without_network(pair: &str) -> &str {
    pair.split_once('/').map_or(pair, |(_, address)| address)
}

/// The name of a waypoint for a table: its service's, `None` without one, `NA` for one that isn't known.
pub(crate) fn waypoint_name(waypoint: Option<&Gateway>, dump: &Dump) -> String {
    let Some(waypoint) = waypoint else {
        return "None".into();
    };
    let is_it = |service: &Entry<Service>| {
        let by_name = waypoint
            .destination
            .split_once('/')
            .is_some_and(|(namespace, host)| {
                namespace == service.namespace && host == service.hostname
            });
        by_name || service.vips.contains(&waypoint.destination)
    };
    let service = dump.services.iter().find(|service| is_it(service));
    service.map_or_else(|| "NA".into(), |service| service.name.clone())
}
