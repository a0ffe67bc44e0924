//! Which of our kinds the cluster has: its CustomResourceDefinitions.

use ambit_kube::Kind;
use serde::Deserialize;

/// What a definition says of one of our kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) kind: Kind,
    /// The version to read: the one that we like best of those that are
    /// served. None while nothing that we can read is served.
    pub(super) version: Option<&'static str>,
}

#[derive(Deserialize)]
struct Shape {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    group: String,
    names: Names,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Names {
    kind: String,
}

#[derive(Deserialize)]
struct Version {
    name: String,
    #[serde(default)]
    served: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

impl Definition {
    /// Reads a CustomResourceDefinition; none if it is of no kind of ours.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let Shape { spec, status } = serde_json::from_slice(text).ok()?;
        let ours = |kind: &Kind| {
            is_custom(*kind) && kind.group() == spec.group && kind.as_str() == spec.names.kind
        };
        let kind = Kind::ALL.iter().copied().find(ours)?;
        let established = status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Established" && condition.status == "True");
        let served = |version: &&&str| {
            let mut served = spec.versions.iter().filter(|version| version.served);
            served.any(|known| known.name == ***version)
        };
        let version = kind.versions().iter().find(served).copied();
        Some(Self {
            kind,
            version: version.filter(|_| established),
        })
    }
}

/// Whether a kind is there only where somebody has defined it.
pub(super) fn is_custom(kind: Kind) -> bool {
    !kind.group().is_empty() && kind != Kind::EndpointSlice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(kind: &str, versions: &str, established: &str) -> Option<Definition> {
        let text = format!(
            r#"{{"metadata": {{"name": "x"}},
                "spec": {{"group": "gateway.networking.k8s.io", "names": {{"kind": "{kind}", "plural": "x"}},
                          "versions": [{versions}]}},
                "status": {{"conditions": [{{"type": "Established", "status": "{established}"}}]}}}}"#
        );
        Definition::read(text.as_bytes())
    }

    #[test]
    fn the_best_version_that_is_served_is_read() {
        let old = r#"{"name": "v1alpha2", "served": true, "schema": {"a": 1}}"#;
        let new = r#"{"name": "v1", "served": true}"#;
        let off = r#"{"name": "v1", "served": false}"#;
        let cases = [
            (format!("{old}, {new}"), "True", Some("v1")),
            (format!("{old}, {off}"), "True", Some("v1alpha2")),
            (off.to_owned(), "True", None),
            (new.to_owned(), "False", None),
        ];
        for (versions, established, want) in cases {
            let read = definition("GRPCRoute", &versions, established).unwrap();
            assert_eq!(
                (read.kind, read.version),
                (Kind::GrpcRoute, want),
                "{versions}"
            );
        }
        assert_eq!(definition("Teapot", new, "True"), None);
        assert_eq!(Definition::read(b"[]"), None);
    }
}
