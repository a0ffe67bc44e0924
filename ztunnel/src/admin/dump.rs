//! `config_dump` (`ztunnel-contract` 9.2). istioctl parses it: names are fixed.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_types::Direction;
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::enrol::board::Board;
use crate::flow::Flow;
use crate::node::{FlowDirectory, Node};
use crate::report::Original;

/// Everything that the dump is made of.
pub(crate) struct Dump {
    pub(crate) node: Arc<Node>,
    pub(crate) config: Arc<Config>,
    pub(crate) board: Board,
    pub(crate) directory: FlowDirectory,
}

impl Dump {
    /// The dump at this moment.
    pub(crate) fn now(&self) -> Value {
        let mut dump = match ambit_state::dump(&self.node.state.view()) {
            Value::Object(map) => map,
            other => Map::from_iter([("state".to_owned(), other)]),
        };
        dump.insert(
            "version".to_owned(),
            version(self.config.node.istio_version.as_deref()),
        );
        dump.insert("config".to_owned(), self.config.dump());
        let certificates = serde_json::to_value(self.node.certs.dump());
        dump.insert("certificates".to_owned(), certificates.unwrap_or_default());
        dump.insert("workloadState".to_owned(), self.workload_state());
        Value::Object(dump)
    }

    fn workload_state(&self) -> Value {
        let pods = self.board.pods();
        let state = pods.into_iter().map(|(uid, info, state)| {
            let flows: Vec<_> = self
                .directory
                .of(&uid)
                .iter()
                .flat_map(|flows| flows.running())
                .collect();
            let entry = json!({
                "state": state.as_str(),
                "info": {
                    "name": info.name,
                    "namespace": info.namespace,
                    "serviceAccount": info.service_account,
                },
                "connections": {
                    "inbound": connections(&flows, Direction::Inbound),
                    "outbound": connections(&flows, Direction::Outbound),
                },
            });
            (uid, entry)
        });
        json!(state.collect::<BTreeMap<_, _>>())
    }
}

fn connections(flows: &[Arc<Flow>], direction: Direction) -> Vec<Value> {
    let of_direction = flows
        .iter()
        .filter(|flow| flow.facts.direction == direction);
    of_direction
        .map(|flow| {
            let facts = &flow.facts;
            let original = match &facts.original {
                Original::Unknown => Value::Null,
                Original::Host(host) => json!(host),
                Original::Addr(addr) => json!(addr),
            };
            json!({
                "src": facts.src,
                "originalDst": original,
                "actualDst": facts.actual,
                "protocol": facts.carrier.as_str(),
            })
        })
        .collect()
}

/// Of this program and what it was built with.
pub(crate) fn version(istio_version: Option<&str>) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "gitRevision": option_env!("AMBIT_GIT_REVISION").unwrap_or("unknown"),
        "rustVersion": option_env!("AMBIT_RUST_VERSION").unwrap_or("unknown"),
        "buildProfile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "buildStatus": option_env!("AMBIT_BUILD_STATUS").unwrap_or("unknown"),
        "istioVersion": istio_version.unwrap_or("unknown"),
        "cryptoProvider": ambit_identity::PROVIDER_NAME,
    })
}
