//! AuthorizationPolicy and RequestAuthentication by themselves.

use std::net::IpAddr;

use ambit_kube::{Action, AuthorizationPolicy, Object, RequestAuthentication};
use ipnet::IpNet;

use super::{faults, idle_selector, references};
use crate::about::About;
use crate::codes;
use crate::output::Diagnostic;
use crate::policy::faults_of;

type Of<'a> = About<'a, Object>;

/// An AuthorizationPolicy, whatever its action and whoever enforces it.
pub(super) fn authorization(about: Of<'_>, policy: &AuthorizationPolicy) -> Vec<Diagnostic> {
    let spec = &policy.spec;
    let mut told = references(
        about,
        (spec.target_ref.as_ref(), &spec.target_refs),
        spec.selector.is_some(),
    );
    told.extend(faults(about, faults_of(policy, &about.key.namespace)));
    told.extend(idle_selector(about, spec.selector.as_ref()));
    let provider = spec
        .provider
        .as_ref()
        .map(|provider| provider.name.as_str());
    let provider = provider.filter(|name| !name.is_empty());
    match spec.action {
        Action::Custom => {
            if provider.is_none() {
                let message = "CUSTOM asks a provider, and none is named";
                let error = about.error(codes::POLICY_VALUE, "spec.provider", message);
                told.push(error.remedy("name one of the mesh configuration's extensionProviders"));
            }
            if spec.rules.is_empty() {
                let message = "a CUSTOM without rules asks about nothing";
                let error = about.error(codes::POLICY_VALUE, "spec.rules", message);
                told.push(error.remedy("write the rules, or one empty rule ({}) for everything"));
            }
        }
        Action::Allow | Action::Deny | Action::Audit => {
            if let Some(provider) = provider {
                let message = "a provider is asked by CUSTOM only";
                let warning = about.warning(codes::POLICY_VALUE, "spec.provider", message);
                told.push(
                    warning
                        .value(provider)
                        .remedy("remove it, or write action: CUSTOM"),
                );
            }
        }
    }
    told.extend(remote_blocks(about, policy));
    told
}

/// Address blocks that only waypoints look at.
fn remote_blocks(about: Of<'_>, policy: &AuthorizationPolicy) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    let mut look = |field: String, blocks: &[String]| {
        let broken = blocks
            .iter()
            .enumerate()
            .filter(|(_, text)| !is_block(text));
        for (at, text) in broken {
            let message = "neither an address nor a block of addresses";
            let error = about.error(codes::POLICY_VALUE, &format!("{field}[{at}]"), message);
            told.push(
                error
                    .value(text)
                    .remedy("write an address, or a block such as 10.0.0.0/8"),
            );
        }
    };
    for (at, rule) in policy.spec.rules.iter().enumerate() {
        let rule_at = format!("spec.rules[{at}]");
        for (at, from) in rule.from.iter().enumerate() {
            let source = format!("{rule_at}.from[{at}].source");
            look(
                format!("{source}.remoteIpBlocks"),
                &from.source.remote_ip_blocks,
            );
            look(
                format!("{source}.notRemoteIpBlocks"),
                &from.source.not_remote_ip_blocks,
            );
        }
        for (at, when) in rule
            .when
            .iter()
            .enumerate()
            .filter(|(_, w)| w.key == "remote.ip")
        {
            look(format!("{rule_at}.when[{at}].values"), &when.values);
            look(format!("{rule_at}.when[{at}].notValues"), &when.not_values);
        }
    }
    told
}

fn is_block(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok()
}

/// A RequestAuthentication: what it attaches to. Its rules are the compiler's to judge.
pub(super) fn request_authentication(
    about: About<'_, Object>,
    policy: &RequestAuthentication,
) -> Vec<Diagnostic> {
    let spec = &policy.spec;
    let mut told = references(
        about,
        (spec.target_ref.as_ref(), &spec.target_refs),
        spec.selector.is_some(),
    );
    told.extend(idle_selector(about, spec.selector.as_ref()));
    told
}
