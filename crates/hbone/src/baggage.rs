//! Workload metadata on CONNECT and on its answer (`ztunnel-contract` 2.4).

use std::fmt;

use ambit_types::{WorkloadType, wire};
use http::HeaderMap;

/// What one end says about its workload. Empty means absent: those keys are
/// left out. Unauthenticated, so for labels only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster_id: String,
    /// `k8s.namespace.name`.
    pub namespace: String,
    /// The type in `k8s.<type>.name`.
    pub workload_type: WorkloadType,
    /// The value of `k8s.<type>.name`.
    pub workload_name: String,
    /// `service.name`.
    pub canonical_name: String,
    /// `service.version`.
    pub canonical_revision: String,
    /// `cloud.region`.
    pub region: String,
    /// `cloud.availability_zone`.
    pub zone: String,
}

impl Baggage {
    /// Reads every `baggage` line of a message; later lines and later members
    /// win. A line that isn't ASCII voids the whole.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut baggage = Self::default();
        let mut any = false;
        for line in headers.get_all(wire::BAGGAGE) {
            baggage.merge(line.to_str().ok()?);
            any = true;
        }
        any.then_some(baggage)
    }

    /// Reads one line.
    pub fn parse(line: &str) -> Self {
        let mut baggage = Self::default();
        baggage.merge(line);
        baggage
    }

    fn merge(&mut self, line: &str) {
        for member in line.split(',') {
            let mut pieces = member.split('=');
            let (Some(key), Some(value)) = (pieces.next(), pieces.next()) else {
                continue;
            };
            let value = value.trim();
            let slot = match key.trim() {
                "k8s.cluster.name" => &mut self.cluster_id,
                "k8s.namespace.name" => &mut self.namespace,
                "service.name" => &mut self.canonical_name,
                "service.version" => &mut self.canonical_revision,
                "cloud.region" => &mut self.region,
                "cloud.availability_zone" => &mut self.zone,
                other => {
                    let kind = other
                        .strip_prefix("k8s.")
                        .and_then(|rest| rest.strip_suffix(".name"))
                        .and_then(WorkloadType::from_name);
                    let Some(kind) = kind else { continue };
                    self.workload_type = kind;
                    &mut self.workload_name
                }
            };
            value.clone_into(slot);
        }
    }

    fn members(&self) -> [(&'static str, &str); 7] {
        let workload = match self.workload_type {
            WorkloadType::Deployment => "k8s.deployment.name",
            WorkloadType::CronJob => "k8s.cronjob.name",
            WorkloadType::Pod => "k8s.pod.name",
            WorkloadType::Job => "k8s.job.name",
        };
        [
            ("k8s.cluster.name", &self.cluster_id),
            ("k8s.namespace.name", &self.namespace),
            (workload, &self.workload_name),
            ("service.name", &self.canonical_name),
            ("service.version", &self.canonical_revision),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ]
    }
}

impl fmt::Display for Baggage {
    /// The header's value. A value that would read as something else (a comma,
    /// an equals sign, a space at an end, anything that isn't printable ASCII)
    /// is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (key, value) in self.members() {
            if value.is_empty() || !is_plain(value) {
                continue;
            }
            write!(f, "{separator}{key}={value}")?;
            separator = ",";
        }
        Ok(())
    }
}

fn is_plain(value: &str) -> bool {
    value.trim() == value
        && value
            .bytes()
            .all(|b| matches!(b, b' '..=b'~') && b != b',' && b != b'=')
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn full() -> Baggage {
        Baggage {
            cluster_id: "Kubernetes".into(),
            namespace: "shop".into(),
            workload_type: WorkloadType::Deployment,
            workload_name: "cart".into(),
            canonical_name: "cart".into(),
            canonical_revision: "v1".into(),
            region: "r1".into(),
            zone: "z1".into(),
        }
    }

    #[test]
    fn keys_come_in_the_contracts_order() {
        assert_eq!(
            full().to_string(),
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,\
             service.name=cart,service.version=v1,cloud.region=r1,cloud.availability_zone=z1"
        );
    }

    #[test]
    fn empty_and_unwritable_values_are_left_out() {
        let baggage = Baggage {
            region: String::new(),
            zone: "a,service.name=evil".into(),
            canonical_name: "caf\u{e9}".into(),
            ..full()
        };
        assert_eq!(
            baggage.to_string(),
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,service.version=v1"
        );
    }

    #[test]
    fn parsing_follows_the_contract() {
        let cases = [
            ("k8s.namespace.name=a=b", "a", "second piece only"),
            (
                "k8s.namespace.name=a,k8s.namespace.name=b",
                "b",
                "later wins",
            ),
            ("k8s.namespace.name=", "", "empty is absent"),
            ("k8s.namespace.name", "", "no value"),
            ("who.knows=x,k8s.namespace.name=a", "a", "unknown keys"),
        ];
        for (line, want, why) in cases {
            assert_eq!(Baggage::parse(line).namespace, want, "{why}");
        }
        let job = Baggage::parse("k8s.cronjob.name=nightly");
        assert_eq!(
            (job.workload_type, &*job.workload_name),
            (WorkloadType::CronJob, "nightly")
        );
    }

    #[test]
    fn lines_are_merged_and_one_that_is_not_ascii_voids_all() {
        let mut headers = HeaderMap::new();
        assert_eq!(Baggage::from_headers(&headers), None);
        headers.append(
            "baggage",
            HeaderValue::from_static("k8s.namespace.name=a,service.name=s"),
        );
        headers.append("baggage", HeaderValue::from_static("k8s.namespace.name=b"));
        let merged = Baggage::from_headers(&headers).unwrap();
        assert_eq!((&*merged.namespace, &*merged.canonical_name), ("b", "s"));
        headers.append(
            "baggage",
            HeaderValue::from_bytes(b"service.name=\xff").unwrap(),
        );
        assert_eq!(Baggage::from_headers(&headers), None);
    }

    proptest! {
        #[test]
        fn round_trips(values in prop::array::uniform7("[a-zA-Z0-9._/-]{0,20}"), kind in 0usize..4) {
            let [cluster_id, namespace, workload_name, canonical_name, canonical_revision, region, zone] = values;
            let kinds = [WorkloadType::Deployment, WorkloadType::CronJob, WorkloadType::Pod, WorkloadType::Job];
            let workload_type = if workload_name.is_empty() { WorkloadType::Deployment } else { kinds[kind] };
            let baggage = Baggage { cluster_id, namespace, workload_type, workload_name, canonical_name, canonical_revision, region, zone };
            prop_assert_eq!(Baggage::parse(&baggage.to_string()), baggage);
        }

        #[test]
        fn any_value_is_a_legal_header_and_never_another_member(value in any::<String>()) {
            let baggage = Baggage { namespace: value.clone(), ..Baggage::default() };
            let text = baggage.to_string();
            prop_assert!(HeaderValue::from_str(&text).is_ok());
            let back = Baggage::parse(&text);
            prop_assert!(back == Baggage::default() || back.namespace == value);
        }

        #[test]
        fn parsing_never_fails(line in any::<String>()) {
            let _ = Baggage::parse(&line);
        }
    }
}
