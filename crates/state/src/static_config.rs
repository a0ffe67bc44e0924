//! The static state file of `LOCAL_XDS_PATH` (`ztunnel-contract` 8.3), field
//! for field. Unknown fields are refused. Nothing is defaulted that the file
//! leaves empty: an empty trust domain stays empty.

mod convert;
mod document;

use std::sync::Arc;

use ambit_policy::Authorization;
use serde::{Serialize, Serializer};

use crate::model::{Service, Workload};
use document::Document;

/// A static state file, read and checked.
#[derive(Debug, Clone, Default)]
pub struct StaticConfig {
    workloads: Vec<Arc<Workload>>,
    services: Vec<Arc<Service>>,
    policies: Vec<Authorization>,
}

/// Why a static state file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StaticConfigError {
    /// Not YAML, an unknown or missing field, or a value of the wrong kind.
    #[error("static state: {0}")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// A value that can't be used.
    #[error("static state: {path}: {value:?} {problem}")]
    Value {
        /// Where, for example `workloads[2].waypoint.destination`.
        path: String,
        /// What it says.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl StaticConfig {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and value.
    pub fn parse(yaml: &str) -> Result<Self, StaticConfigError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_nodes: MOST_NODES, max_events: 4 * MOST_NODES },
        };
        let document: Document = serde_saphyr::from_str_with_options(yaml, options)
            .map_err(|error| StaticConfigError::Yaml(Box::new(error)))?;
        convert::read(document)
    }

    /// Its workloads, in the file's order.
    pub fn workloads(&self) -> &[Arc<Workload>] {
        &self.workloads
    }

    /// Its services, in the file's order. Their endpoints are those of the
    /// workloads; what the file says of them under `endpoints` is not used.
    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// Its policies, in the file's order.
    pub fn policies(&self) -> &[Authorization] {
        &self.policies
    }
}

/// As in `config_dump` under `staticConfig`.
impl Serialize for StaticConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::dump::static_config(self).serialize(serializer)
    }
}

/// Nodes of a file, several dozen per workload: room for a hundred thousand
/// workloads in a file that the operator wrote.
const MOST_NODES: usize = 10_000_000;

#[cfg(test)]
mod tests;
