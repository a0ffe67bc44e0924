//! The label set of the traffic metrics (`ztunnel-contract` 9.3), in its order.

use std::fmt;
use std::sync::Arc;

use ambit_types::{Direction, ResponseFlag, SpiffeId};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

/// One end of a flow. Empty strings are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct EndLabels {
    /// Name of the owner, for example of the Deployment.
    pub workload: Arc<str>,
    /// Also the label `app`.
    pub canonical_service: Arc<str>,
    /// Also the label `version`.
    pub canonical_revision: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Source: the identity that TLS proved. Destination: the configured one.
    pub principal: Option<SpiffeId>,
    /// Cluster id.
    pub cluster: Arc<str>,
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
}

/// The service that the client meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceLabels {
    /// FQDN.
    pub hostname: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Name of the Service or ServiceEntry.
    pub name: Arc<str>,
}

/// Everything that a traffic series is labelled with but for the flags.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrafficLabels {
    /// Which side reports.
    pub reporter: Direction,
    /// Who opened the flow.
    pub source: EndLabels,
    /// The next hop.
    pub destination: EndLabels,
    /// The intended service, where one is known.
    pub service: Option<ServiceLabels>,
    /// Carried over mutual TLS.
    pub mutual_tls: bool,
}

/// Labels with their flag, as one set to encode.
pub(crate) struct Flagged<'a>(pub(crate) &'a TrafficLabels, pub(crate) ResponseFlag);

impl fmt::Debug for Flagged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flagged")
            .field(self.0)
            .field(&self.1)
            .finish()
    }
}

impl EncodeLabelSet for Flagged<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Self(labels, flag) = self;
        let (from, to) = (&labels.source, &labels.destination);
        let mut label = |name: &str, value: &str| put(encoder, name, known(value));
        label("reporter", labels.reporter.reporter())?;
        label("source_workload", &from.workload)?;
        label("source_canonical_service", &from.canonical_service)?;
        label("source_canonical_revision", &from.canonical_revision)?;
        label("source_workload_namespace", &from.namespace)?;
        label("source_principal", &principal(from))?;
        label("source_app", &from.canonical_service)?;
        label("source_version", &from.canonical_revision)?;
        label("source_cluster", &from.cluster)?;
        let service = labels.service.as_ref();
        label("destination_service", service.map_or("", |s| &s.hostname))?;
        label(
            "destination_service_namespace",
            service.map_or("", |s| &s.namespace),
        )?;
        label("destination_service_name", service.map_or("", |s| &s.name))?;
        label("destination_workload", &to.workload)?;
        label("destination_canonical_service", &to.canonical_service)?;
        label("destination_canonical_revision", &to.canonical_revision)?;
        label("destination_workload_namespace", &to.namespace)?;
        label("destination_principal", &principal(to))?;
        label("destination_app", &to.canonical_service)?;
        label("destination_version", &to.canonical_revision)?;
        label("destination_cluster", &to.cluster)?;
        label("request_protocol", "tcp")?;
        label("response_flags", flag.as_str())?;
        label(
            "connection_security_policy",
            if labels.mutual_tls { "mutual_tls" } else { "" },
        )?;
        label("source_region", &from.region)?;
        label("source_zone", &from.zone)?;
        label("destination_region", &to.region)?;
        label("destination_zone", &to.zone)
    }
}

fn known(value: &str) -> &str {
    if value.is_empty() { "unknown" } else { value }
}

fn principal(end: &EndLabels) -> String {
    end.principal
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn put(encoder: &mut LabelSetEncoder<'_>, name: &str, value: &str) -> fmt::Result {
    EncodeLabel::encode(&(name, value), encoder.encode_label())
}
