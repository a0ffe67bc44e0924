//! Labels in the space that they need, and selectors over them.

use std::collections::BTreeMap;

/// Sorted by key. As a selector: all must be present and equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    pub(crate) fn new(map: Option<&BTreeMap<String, String>>) -> Self {
        map.map(Self::of).unwrap_or_default()
    }

    pub(crate) fn of(map: &BTreeMap<String, String>) -> Self {
        Self(
            map.iter()
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
        )
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let at = self
            .0
            .binary_search_by(|(known, _)| (**known).cmp(key))
            .ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a selector, whether it picks something with these labels; an empty one picks everything.
    pub(crate) fn selects(&self, labels: &Self) -> bool {
        self.0
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (key, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// `service.istio.io/canonical-name` and what stands in for it.
pub(crate) fn canonical_name<'a>(labels: &'a Labels, workload_name: &'a str) -> &'a str {
    first(
        labels,
        &[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ],
    )
    .unwrap_or(workload_name)
}

/// `service.istio.io/canonical-revision` and what stands in for it.
pub(crate) fn canonical_revision(labels: &Labels) -> &str {
    first(
        labels,
        &[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ],
    )
    .unwrap_or("latest")
}

fn first<'a>(labels: &'a Labels, keys: &[&str]) -> Option<&'a str> {
    keys.iter()
        .find_map(|key| labels.get(key).filter(|value| !value.is_empty()))
}

/// Whether the label `networking.istio.io/tunnel` says that the application speaks HBONE itself.
pub(crate) fn speaks_hbone(labels: &Labels) -> bool {
    labels
        .get("networking.istio.io/tunnel")
        .is_some_and(|list| list.split(',').any(|item| item.trim() == "http"))
}

/// Names the workload; wins over every heuristic.
pub(crate) const WORKLOAD_NAME: &str = "service.istio.io/workload-name";
