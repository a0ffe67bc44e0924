//! Which pods are to be enrolled, by their labels (`control-plane-contract` 1.1): the node agent's decision, and
//! the compiler's source of diagnostics on it. Pure; being enrolled says nothing about being captured.

use std::collections::BTreeMap;

/// The label of Istio's name, which wins on one object.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// The same label under the short name.
pub const DATAPLANE_MODE_SHORT: &str = "dataplane-mode";
/// Present on pods that have a sidecar, which excludes them.
pub const SIDECAR_STATUS: &str = "sidecar.istio.io/status";
/// What a node agent writes on captured pods; believed from the agent itself only.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";

/// Labels or annotations, as `ObjectMeta` has them.
pub type Map<'a> = Option<&'a BTreeMap<String, String>>;

/// What an object's labels ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode<'a> {
    /// `ambient`.
    Ambient,
    /// `none`.
    None,
    /// Something else, which enrols nothing and excludes nothing.
    Unknown(&'a str),
    /// No label.
    Unset,
}

/// What an object's labels ask for, and whether they agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Labelled<'a> {
    /// What holds.
    pub mode: Mode<'a>,
    /// The value of the short label where it says something else.
    pub overruled: Option<&'a str>,
}

/// What the decision depends on besides the namespace.
#[derive(Debug, Clone, Copy)]
pub struct PodFacts<'a> {
    /// `metadata.labels`.
    pub labels: Map<'a>,
    /// `metadata.annotations`.
    pub annotations: Map<'a>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Phase `Succeeded` or `Failed`.
    pub terminal: bool,
}

/// Whether a pod is to be captured, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Enrolment {
    /// Capture it.
    Enrolled,
    /// Neither the pod nor its namespace asks for it.
    NotAsked,
    /// The pod's label says `none`.
    OptedOut,
    /// The pod shares its node's addresses.
    HostNetwork,
    /// The pod has a sidecar.
    Sidecar,
    /// The pod is over.
    Terminal,
}

/// The field and the value by which a pod or a namespace asks a mesh with sidecars for one.
pub(crate) fn injection<'a>(labels: Map<'a>, annotations: Map<'a>) -> Option<(String, &'a str)> {
    const ASKS: [(bool, &str, &[&str]); 4] = [
        (true, "istio-injection", &["enabled"]),
        (true, "sidecar.istio.io/inject", &["true"]),
        (false, "sidecar.istio.io/inject", &["true"]),
        (false, "linkerd.io/inject", &["enabled", "ingress"]),
    ];
    ASKS.iter().find_map(|(is_label, name, values)| {
        let (map, field) = if *is_label {
            (labels, "metadata.labels")
        } else {
            (annotations, "metadata.annotations")
        };
        let value = map?.get(*name)?.as_str();
        values
            .contains(&value)
            .then(|| (format!("{field}.{name}"), value))
    })
}

/// Reads the labels of a pod or a namespace.
pub fn labelled(labels: Map<'_>) -> Labelled<'_> {
    let value = |name: &str| labels.and_then(|labels| labels.get(name).map(String::as_str));
    let (long, short) = (value(DATAPLANE_MODE), value(DATAPLANE_MODE_SHORT));
    let mode = match long.or(short) {
        Some("ambient") => Mode::Ambient,
        Some("none") => Mode::None,
        Some(other) => Mode::Unknown(other),
        None => Mode::Unset,
    };
    Labelled {
        mode,
        overruled: short.filter(|short| long.is_some_and(|long| long != *short)),
    }
}

/// Decides: hard exclusions, then the pod's label, then the namespace's.
pub fn decide(pod: PodFacts<'_>, namespace_labels: Map<'_>) -> Enrolment {
    let has_sidecar = pod
        .annotations
        .is_some_and(|annotations| annotations.contains_key(SIDECAR_STATUS));
    if pod.host_network {
        return Enrolment::HostNetwork;
    }
    if has_sidecar {
        return Enrolment::Sidecar;
    }
    if pod.terminal {
        return Enrolment::Terminal;
    }
    match labelled(pod.labels).mode {
        Mode::Ambient => Enrolment::Enrolled,
        Mode::None => Enrolment::OptedOut,
        Mode::Unknown(_) | Mode::Unset => match labelled(namespace_labels).mode {
            Mode::Ambient => Enrolment::Enrolled,
            Mode::None | Mode::Unknown(_) | Mode::Unset => Enrolment::NotAsked,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_pod_overrides_the_namespace_in_both_directions() {
        let (long, short) = (DATAPLANE_MODE, DATAPLANE_MODE_SHORT);
        let cases: [(&[_], &[_], Enrolment); 9] = [
            (&[], &[], Enrolment::NotAsked),
            (&[], &[(long, "ambient")], Enrolment::Enrolled),
            (&[], &[(short, "ambient")], Enrolment::Enrolled),
            (&[(long, "none")], &[(long, "ambient")], Enrolment::OptedOut),
            (
                &[(short, "none")],
                &[(long, "ambient")],
                Enrolment::OptedOut,
            ),
            (&[(long, "ambient")], &[(long, "none")], Enrolment::Enrolled),
            (
                &[(long, "ambeint")],
                &[(long, "ambient")],
                Enrolment::Enrolled,
            ),
            (&[(long, "ambeint")], &[], Enrolment::NotAsked),
            (
                &[(long, "none"), (short, "ambient")],
                &[],
                Enrolment::OptedOut,
            ),
        ];
        for (pod, namespace, want) in cases {
            let (labels, namespace) = (map(pod), map(namespace));
            let facts = PodFacts {
                labels: Some(&labels),
                annotations: None,
                host_network: false,
                terminal: false,
            };
            assert_eq!(decide(facts, Some(&namespace)), want, "{labels:?}");
        }
    }

    #[test]
    fn exclusions_beat_labels() {
        let labels = map(&[(DATAPLANE_MODE, "ambient")]);
        let sidecar = map(&[(SIDECAR_STATUS, "{}")]);
        let pod = PodFacts {
            labels: Some(&labels),
            annotations: None,
            host_network: false,
            terminal: false,
        };
        let host = PodFacts {
            host_network: true,
            ..pod
        };
        let injected = PodFacts {
            annotations: Some(&sidecar),
            ..pod
        };
        let over = PodFacts {
            terminal: true,
            ..pod
        };
        assert_eq!(decide(host, None), Enrolment::HostNetwork);
        assert_eq!(decide(injected, None), Enrolment::Sidecar);
        assert_eq!(decide(over, None), Enrolment::Terminal);
    }

    #[test]
    fn a_disagreement_is_told() {
        let both = map(&[(DATAPLANE_MODE, "ambient"), (DATAPLANE_MODE_SHORT, "none")]);
        let told = labelled(Some(&both));
        assert_eq!(told.mode, Mode::Ambient);
        assert_eq!(told.overruled, Some("none"));
        let same = map(&[(DATAPLANE_MODE, "none"), (DATAPLANE_MODE_SHORT, "none")]);
        assert_eq!(labelled(Some(&same)).overruled, None);
    }
}
