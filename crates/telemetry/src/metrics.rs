//! The registry of a program, and its exposition.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

/// Appended to the help text of a metric that may change.
pub const UNSTABLE: &str = "(unstable)";

/// What a program counts. Registered at start; encoded on each scrape.
#[derive(Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a metric under its name without `_total`; the help text gets
    /// its full stop from the encoder.
    pub fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.registry
            .register(name, help.trim_end_matches('.'), metric);
    }

    /// Registers something that encodes itself on each scrape.
    pub fn register_collector(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// `istio_build`, always 1 (`ztunnel-contract` 9.3).
    pub fn register_build(&mut self, component: &str, tag: &str) {
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct Build {
            component: String,
            tag: String,
        }
        let tag = if tag.is_empty() { "unknown" } else { tag };
        let build = Family::<Build, Gauge>::default();
        build
            .get_or_create(&Build {
                component: component.to_owned(),
                tag: tag.to_owned(),
            })
            .set(1);
        self.register("istio_build", "Istio component build info", build);
    }

    /// The exposition in the OpenMetrics text format.
    ///
    /// # Errors
    /// If a collector fails.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
