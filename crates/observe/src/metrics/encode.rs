//! The exposition: which labels a series has, and each family in turn.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_telemetry::EndLabels;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use super::series::{Histogram, Series, Snapshot};
use super::{Labels, RequestMetrics};
use crate::record::RequestProtocol;

/// Labels as they are written, in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Written(Vec<(Cow<'static, str>, String)>);

impl EncodeLabelSet for Written {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in &self.0 {
            EncodeLabel::encode(&(&**name, value.as_str()), encoder.encode_label())?;
        }
        Ok(())
    }
}

/// What a family is about.
#[derive(Clone, Copy)]
enum Family {
    Counter(fn(&Series) -> &AtomicU64),
    Histogram(fn(&Series) -> &Histogram),
}

/// Which protocols have a family.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Requests,
    Grpc,
    Tcp,
}

impl Of {
    fn has(self, protocol: RequestProtocol) -> bool {
        match self {
            Self::Requests => protocol != RequestProtocol::Tcp,
            Self::Grpc => protocol == RequestProtocol::Grpc,
            Self::Tcp => protocol == RequestProtocol::Tcp,
        }
    }
}

/// A family: its Telemetry API name, its name without `_total`, help, kind.
struct Spec {
    api: &'static str,
    name: &'static str,
    help: &'static str,
    of: Of,
    family: Family,
}

const FAMILIES: [Spec; 10] = [
    Spec {
        api: "REQUEST_COUNT",
        name: "istio_requests",
        help: "The total number of requests",
        of: Of::Requests,
        family: Family::Counter(|s| &s.requests),
    },
    Spec {
        api: "REQUEST_DURATION",
        name: "istio_request_duration_milliseconds",
        help: "The duration of requests",
        of: Of::Requests,
        family: Family::Histogram(|s| &s.duration),
    },
    Spec {
        api: "REQUEST_SIZE",
        name: "istio_request_bytes",
        help: "The size of request bodies",
        of: Of::Requests,
        family: Family::Histogram(|s| &s.request_bytes),
    },
    Spec {
        api: "RESPONSE_SIZE",
        name: "istio_response_bytes",
        help: "The size of response bodies",
        of: Of::Requests,
        family: Family::Histogram(|s| &s.response_bytes),
    },
    Spec {
        api: "GRPC_REQUEST_MESSAGES",
        name: "istio_request_messages",
        help: "The total number of gRPC messages from clients",
        of: Of::Grpc,
        family: Family::Counter(|s| &s.request_messages),
    },
    Spec {
        api: "GRPC_RESPONSE_MESSAGES",
        name: "istio_response_messages",
        help: "The total number of gRPC messages to clients",
        of: Of::Grpc,
        family: Family::Counter(|s| &s.response_messages),
    },
    Spec {
        api: "TCP_OPENED_CONNECTIONS",
        name: "istio_tcp_connections_opened",
        help: "The total number of TCP connections opened",
        of: Of::Tcp,
        family: Family::Counter(|s| &s.opened),
    },
    Spec {
        api: "TCP_CLOSED_CONNECTIONS",
        name: "istio_tcp_connections_closed",
        help: "The total number of TCP connections closed",
        of: Of::Tcp,
        family: Family::Counter(|s| &s.closed),
    },
    Spec {
        api: "TCP_SENT_BYTES",
        name: "istio_tcp_sent_bytes",
        help: "The total bytes sent to clients over TCP",
        of: Of::Tcp,
        family: Family::Counter(|s| &s.sent),
    },
    Spec {
        api: "TCP_RECEIVED_BYTES",
        name: "istio_tcp_received_bytes",
        help: "The total bytes received from clients over TCP",
        of: Of::Tcp,
        family: Family::Counter(|s| &s.received),
    },
];

/// The names that the Telemetry API gives the metrics.
pub(crate) fn is_metric(name: &str) -> bool {
    FAMILIES.iter().any(|spec| spec.api == name)
}

impl Collector for RequestMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let reporters: &[&'static str] = if self.inner.destination_reporter.load(Ordering::Relaxed)
        {
            &["waypoint", "destination"]
        } else {
            &["waypoint"]
        };
        // The lock is held for the copy only, not while the text is written.
        let series: Vec<(Labels, Arc<Series>)> = {
            let series = self.inner.series.read();
            let mut all: Vec<_> = series
                .iter()
                .map(|(labels, one)| (labels.clone(), Arc::clone(one)))
                .collect();
            all.sort_by_cached_key(|(labels, _)| written(labels, "", Of::Requests, ""));
            all
        };
        for spec in &FAMILIES {
            match spec.family {
                Family::Counter(of) => encode_counters(&mut encoder, spec, of, &series, reporters)?,
                Family::Histogram(of) => {
                    encode_histograms(&mut encoder, spec, of, &series, reporters)?;
                }
            }
        }
        Ok(())
    }
}

type All = [(Labels, Arc<Series>)];

/// Series of a family by what is written of their labels: overrides can make
/// two of them the same.
fn merged<V>(
    spec: &Spec,
    series: &All,
    reporters: &[&'static str],
    value: impl Fn(&Series) -> V,
    add: impl Fn(&mut V, &V),
) -> Vec<(Written, V)> {
    let mut rows: Vec<(Written, V)> = Vec::new();
    let mut changed: BTreeMap<Written, V> = BTreeMap::new();
    for (labels, one) in series {
        let overrides = labels.overrides.as_ref();
        if !spec.of.has(labels.protocol) || overrides.is_some_and(|o| o.disables(spec.api)) {
            continue;
        }
        for reporter in reporters {
            let key = written(labels, reporter, spec.of, spec.api);
            let value = value(one);
            if overrides.is_none() {
                rows.push((key, value));
            } else if let Some(same) = changed.get_mut(&key) {
                add(same, &value);
            } else {
                changed.insert(key, value);
            }
        }
    }
    rows.extend(changed);
    rows
}

fn encode_counters(
    encoder: &mut DescriptorEncoder<'_>,
    spec: &Spec,
    of: fn(&Series) -> &AtomicU64,
    series: &All,
    reporters: &[&'static str],
) -> fmt::Result {
    let value = |one: &Series| of(one).load(Ordering::Relaxed);
    let rows = merged(spec, series, reporters, value, |sum, more| *sum += more);
    if rows.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(spec.name, spec.help, None, MetricType::Counter)?;
    for (labels, count) in &rows {
        family
            .encode_family(labels)?
            .encode_counter::<NoLabelSet, _, u64>(count, None)?;
    }
    Ok(())
}

fn encode_histograms(
    encoder: &mut DescriptorEncoder<'_>,
    spec: &Spec,
    of: fn(&Series) -> &Histogram,
    series: &All,
    reporters: &[&'static str],
) -> fmt::Result {
    let rows = merged(
        spec,
        series,
        reporters,
        |one| of(one).snapshot(),
        Snapshot::add,
    );
    if rows.is_empty() {
        return Ok(());
    }
    let mut family =
        encoder.encode_descriptor(spec.name, spec.help, None, MetricType::Histogram)?;
    for (labels, one) in &rows {
        let count = one.buckets.iter().map(|(_, count)| count).sum();
        family
            .encode_family(labels)?
            .encode_histogram::<NoLabelSet>(one.sum, count, &one.buckets, None)?;
    }
    Ok(())
}

fn written(labels: &Labels, reporter: &str, of: Of, api: &str) -> Written {
    let mut list: Vec<(Cow<'static, str>, String)> = Vec::with_capacity(28);
    let absent = if labels.overflow {
        "overflow"
    } else {
        "unknown"
    };
    let mut put = |name: &'static str, value: &str| {
        let value = if value.is_empty() { absent } else { value };
        list.push((Cow::Borrowed(name), value.to_owned()));
    };
    put("reporter", reporter);
    end(&mut put, &SOURCE, &labels.source);
    end(&mut put, &DESTINATION, &labels.destination);
    let service = labels.service.as_ref();
    put("destination_service", service.map_or("", |s| &s.hostname));
    put("destination_service_name", service.map_or("", |s| &s.name));
    put(
        "destination_service_namespace",
        service.map_or("", |s| &s.namespace),
    );
    put("request_protocol", labels.protocol.as_str());
    if of != Of::Tcp {
        put("response_code", &labels.status.to_string());
        let grpc = labels.grpc_status.map(|code| code.to_string());
        // Empty, not unknown, for what isn't gRPC.
        list.push((
            Cow::Borrowed("grpc_response_status"),
            grpc.unwrap_or_default(),
        ));
    }
    list.push((Cow::Borrowed("response_flags"), labels.flags.to_string()));
    let security = if labels.mutual_tls {
        "mutual_tls"
    } else {
        absent
    };
    list.push((
        Cow::Borrowed("connection_security_policy"),
        security.to_owned(),
    ));
    if let Some(overrides) = &labels.overrides {
        overrides.apply(api, &labels.extra, &mut list);
    }
    Written(list)
}

/// Label names of one end.
struct EndNames {
    workload: &'static str,
    namespace: &'static str,
    principal: &'static str,
    app: &'static str,
    version: &'static str,
    cluster: &'static str,
    canonical_service: &'static str,
    canonical_revision: &'static str,
}

const SOURCE: EndNames = EndNames {
    workload: "source_workload",
    namespace: "source_workload_namespace",
    principal: "source_principal",
    app: "source_app",
    version: "source_version",
    cluster: "source_cluster",
    canonical_service: "source_canonical_service",
    canonical_revision: "source_canonical_revision",
};

const DESTINATION: EndNames = EndNames {
    workload: "destination_workload",
    namespace: "destination_workload_namespace",
    principal: "destination_principal",
    app: "destination_app",
    version: "destination_version",
    cluster: "destination_cluster",
    canonical_service: "destination_canonical_service",
    canonical_revision: "destination_canonical_revision",
};

fn end(put: &mut impl FnMut(&'static str, &str), names: &EndNames, of: &EndLabels) {
    let principal = of.principal.as_ref().map(ToString::to_string);
    put(names.workload, &of.workload);
    put(names.namespace, &of.namespace);
    put(names.principal, principal.as_deref().unwrap_or_default());
    put(names.app, &of.canonical_service);
    put(names.version, &of.canonical_revision);
    put(names.cluster, &of.cluster);
    put(names.canonical_service, &of.canonical_service);
    put(names.canonical_revision, &of.canonical_revision);
}
