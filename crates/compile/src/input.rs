//! What is kept of each object: what the compiler reads, and no more.
//!
//! Everything here depends on one object alone; what needs a second one is derived later. Two inputs that are
//! equal give equal resources, so that an update of something else (a heartbeat, a managed field) costs nothing.

mod entry;
mod gateway;
mod labels;
mod mesh;
mod pod;
mod service;
mod slice;

pub(crate) use entry::{EntryPort, ServiceEntry, Vip, WorkloadEntry};
pub(crate) use gateway::{Gateway, GatewayClass, Listener, ListenerScope};
pub(crate) use labels::{Labels, canonical_name, canonical_revision, speaks_hbone};
pub use mesh::Discovery;
pub(crate) use mesh::{Mesh, MeshFault, Selector, Visibility};
pub(crate) use pod::Pod;
pub(crate) use service::{Distribution, Preset, Service, Target, Transport, app_protocol_by_name};
pub(crate) use slice::Slice;

use std::cmp::Ordering;
use std::net::IpAddr;

use ambit_kube::core::{Namespace as NamespaceObject, Node, ObjectMeta};
use ambit_types::Locality;

use crate::enrolment::{self, Mode, REDIRECTION};
use crate::waypoint::BYPASS;

/// A value that can't be used, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadValue {
    /// Path of the field in the object.
    pub(crate) field: String,
    /// The value.
    pub(crate) value: String,
}

/// The text as an address, IPv4-mapped ones as the IPv4 that they are.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// How old an object is: older sorts first, and what never reached an API server counts as new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Age(Option<ambit_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>);

impl Age {
    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self(meta.creation_timestamp.clone())
    }
}

impl Ord for Age {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Some(mine), Some(theirs)) => mine.cmp(theirs),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A node: where it is.
pub(crate) fn locality_of(node: &Node) -> Locality {
    let label = |name: &str| {
        let labels = node.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(name))
            .map_or_else(|| "".into(), |value| value.as_str().into())
    };
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    }
}

/// A namespace: its labels and what they and its annotations ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) labels: Labels,
    pub(crate) distribution: Option<Distribution>,
    /// [`BYPASS`], as it is written.
    pub(crate) bypass: Option<Box<str>>,
    pub(crate) hints: Hints,
}

impl Namespace {
    pub(crate) fn new(object: &NamespaceObject) -> Self {
        let meta = &object.metadata;
        Self {
            labels: Labels::new(meta.labels.as_ref()),
            distribution: Distribution::of_annotation(meta.annotations.as_ref()),
            bypass: meta
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(BYPASS))
                .map(|text| text.as_str().into()),
            hints: Hints::of(meta),
        }
    }
}

/// Labels and annotations that give no resource in this version, only something to say about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hints(Option<Box<HintValues>>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HintValues {
    /// The two enrolment labels, long and short, where they disagree.
    pub(crate) disagreement: Option<(Box<str>, Box<str>)>,
    /// An enrolment label of a value that nobody knows.
    pub(crate) unknown_mode: Option<Box<str>>,
    /// A redirection annotation in a manifest.
    pub(crate) redirection: Option<Box<str>>,
    /// Field and value that ask another mesh for a sidecar, where no enrolment label is beside them.
    pub(crate) injection: Option<(Box<str>, Box<str>)>,
}

impl Hints {
    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        let find = |map: enrolment::Map<'_>, key: &str| -> Option<Box<str>> {
            map.and_then(|map| map.get(key))
                .map(|value| value.as_str().into())
        };
        let labels = meta.labels.as_ref();
        let told = enrolment::labelled(labels);
        let values = HintValues {
            disagreement: told
                .overruled
                .and_then(|short| Some((find(labels, enrolment::DATAPLANE_MODE)?, short.into()))),
            unknown_mode: match told.mode {
                Mode::Unknown(value) => Some(value.into()),
                Mode::Ambient | Mode::None | Mode::Unset => None,
            },
            redirection: find(meta.annotations.as_ref(), REDIRECTION),
            injection: enrolment::injection(labels, meta.annotations.as_ref())
                .filter(|_| told.mode == Mode::Unset)
                .map(|(field, value)| (field.into(), value.into())),
        };
        Self((values != HintValues::default()).then(|| Box::new(values)))
    }

    /// The annotation is what it seems to be.
    pub(crate) fn believe_redirection(&mut self) {
        if let Some(values) = &mut self.0 {
            values.redirection = None;
        }
        self.0 = self
            .0
            .take()
            .filter(|values| **values != HintValues::default());
    }

    pub(crate) fn get(&self) -> Option<&HintValues> {
        self.0.as_deref()
    }
}

/// An address as messages carry it.
pub(crate) fn octets(ip: &IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
