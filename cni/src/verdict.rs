//! Whom the agent must be asked about.

use crate::config::{Config, Invocation};

/// What becomes of a pod, as far as it can be told without the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It's never enrolled.
    Pass,
    /// The agent knows.
    Ask,
}

/// Pure. Everybody whom this lets pass is somebody whom the agent never
/// enrols, so that no answer of this program is more open than the agent's.
pub(crate) fn of(config: &Config, invocation: &Invocation) -> Verdict {
    let Some((namespace, name)) = &invocation.pod else {
        return Verdict::Pass;
    };
    let excluded = config.exclude_namespaces.contains(namespace);
    // The agent can't hold the pod that it comes in.
    let agents_own = !config.agent_prefix.is_empty()
        && *namespace == config.agent_namespace
        && name.starts_with(&config.agent_prefix);
    if excluded || agents_own {
        Verdict::Pass
    } else {
        Verdict::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(namespace: &str, name: &str) -> Verdict {
        let config = r#"{"excludeNamespaces": ["kube-system"], "agentNamespace": "istio-system",
            "agentPrefix": "istio-cni-node-"}"#;
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
        let variable = |variable: &str| match variable {
            "CNI_ARGS" => Some(arguments.clone()),
            "CNI_CONTAINERID" => Some("c1".to_owned()),
            _ => None,
        };
        of(
            &Config::read(config).unwrap(),
            &Invocation::read(&variable).unwrap(),
        )
    }

    #[test]
    fn only_those_pass_who_are_never_enrolled() {
        assert_eq!(verdict("shop", "web"), Verdict::Ask);
        assert_eq!(verdict("kube-system", "coredns"), Verdict::Pass);
        assert_eq!(verdict("istio-system", "istio-cni-node-x7"), Verdict::Pass);
        assert_eq!(verdict("istio-system", "istiod-1"), Verdict::Ask);
        assert_eq!(verdict("shop", "istio-cni-node-x7"), Verdict::Ask);
        assert_eq!(verdict("kube-system-2", "a"), Verdict::Ask);
    }

    #[test]
    fn whoever_is_no_pod_passes() {
        assert_eq!(verdict("", ""), Verdict::Pass);
    }

    #[test]
    fn an_empty_prefix_exempts_nobody() {
        let config = Config::read(r#"{"agentNamespace": "shop"}"#).unwrap();
        let invocation = Invocation {
            container: "c1".into(),
            netns: String::new(),
            pod: Some(("shop".into(), "web".into())),
            uid: None,
        };
        assert_eq!(of(&config, &invocation), Verdict::Ask);
    }
}
