//! BackendTLSPolicy: TLS that the waypoint originates (`waypoint-contract` 2.7).

use std::sync::Arc;

use ambit_kube::gateway::BackendTlsPolicy;
use ambit_kube::{Kind, Located, Object, ObjectKey};
use ambit_proto::waypoint::string_match::Kind as TextKind;
use ambit_proto::waypoint::{BackendTls, Origin, StringMatch};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;

use super::redirect::{is_dns, is_precise};
use super::report::{Failure, Fault, Report};
use super::status::{no, yes};
use super::traffic::Target;
use super::{codes, unit};
use crate::{ParentStatus, PortInfo, ServiceInfo, Translated, World};

/// TLS of one port.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    pub(super) port: u16,
    pub(super) origin: Origin,
    /// Or why it can't be had.
    pub(super) tls: Result<BackendTls, String>,
}

/// `spec`, in our names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    target_refs: Vec<Value>,
    validation: Validation,
    options: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Validation {
    hostname: String,
    ca_certificate_refs: Vec<Target>,
    #[serde(rename = "wellKnownCACertificates")]
    well_known_ca_certificates: Option<String>,
    subject_alt_names: Vec<AltName>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AltName {
    r#type: String,
    hostname: Option<String>,
    uri: Option<String>,
}

/// What a policy says, with what is wrong.
struct Read {
    tls: Result<BackendTls, Failure>,
    refs: Option<Failure>,
}

/// The policy's status per target, and what is wrong with it.
pub fn backend_tls_policy(
    policy: &Located<Arc<BackendTlsPolicy>>,
    world: &dyn World,
) -> Translated<()> {
    let (key, spec) = named(&policy.object);
    let mut report = Report::about(key.clone(), policy);
    for (option, value) in &spec.options {
        report.warning(
            codes::BAD_TLS,
            Fault {
                field: &format!("spec.options.{option}"),
                value,
                message: "a waypoint has no such option, and it has no effect",
                remedy: "remove it; TLS 1.2 and 1.3 are offered",
            },
        );
    }
    let read = read(&mut report, &spec, &key, world);
    let mut parents = Vec::new();
    for (index, value) in spec.target_refs.iter().enumerate() {
        let field = format!("spec.targetRefs[{index}]");
        let lost = lost(&mut report, &field, &Target::of(value), &key, world);
        let accepted = match (lost.as_ref(), &read.tls) {
            (Some(failure), _) | (None, Err(failure)) => no("Accepted", failure),
            (None, Ok(_)) => yes("Accepted", "Accepted", "the policy is in force"),
        };
        let resolved = match &read.refs {
            Some(failure) => no("ResolvedRefs", failure),
            None => yes("ResolvedRefs", "ResolvedRefs", "all references resolved"),
        };
        parents.push(ParentStatus {
            parent_ref: value.clone(),
            conditions: vec![accepted, resolved],
        });
    }
    Translated {
        parents,
        problems: report.into_problems(),
        ..Translated::default()
    }
}

/// TLS for each port of a service that has a policy.
pub(super) fn of_service(service: &ServiceInfo, world: &dyn World) -> Vec<Applied> {
    let policies = policies(&service.object.namespace, world);
    let mut applied = Vec::new();
    for port in &service.ports {
        let own = winner(&policies, service, Some(port));
        let Some(policy) = own.or_else(|| winner(&policies, service, None)) else {
            continue;
        };
        let (key, spec) = named(&policy.object);
        let mut silent = Report::about(key.clone(), policy);
        let tls = read(&mut silent, &spec, &key, world).tls;
        applied.push(Applied {
            port: port.number,
            origin: Origin {
                kind: key.kind.as_str().to_owned(),
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                generation: policy.object.metadata.generation.unwrap_or_default(),
            },
            tls: tls
                .map_err(|failure| format!("BackendTLSPolicy {}: {}", key.name, failure.message)),
        });
    }
    applied
}

type Policy = Located<Arc<BackendTlsPolicy>>;

/// Of a namespace, the oldest first, then by name (2.7).
fn policies(namespace: &str, world: &dyn World) -> Vec<Policy> {
    let objects = world.objects(Kind::BackendTlsPolicy, namespace);
    let mut policies: Vec<Policy> = objects
        .into_iter()
        .filter_map(|located| match located.object {
            Object::BackendTlsPolicy(object) => Some(Located {
                object,
                origin: located.origin,
                lines: located.lines,
            }),
            _ => None,
        })
        .collect();
    policies.sort_by_key(|policy| {
        let meta = &policy.object.metadata;
        (unit::created(meta), meta.name.clone())
    });
    policies
}

/// The policy of a port, or of the whole service.
fn winner<'a>(
    policies: &'a [Policy],
    service: &ServiceInfo,
    port: Option<&PortInfo>,
) -> Option<&'a Policy> {
    let section = port.map(|port| &*port.name);
    policies.iter().find(|policy| {
        named(&policy.object).1.target_refs.iter().any(|value| {
            let target = Target::of(value);
            target.names(service) && target.section_name.as_deref() == section
        })
    })
}

/// Why the policy isn't in force for a target.
fn lost(
    report: &mut Report,
    field: &str,
    target: &Target,
    key: &ObjectKey,
    world: &dyn World,
) -> Option<Failure> {
    let section = target.section_name.as_deref();
    let shown = format!(
        "{} {}/{} {}",
        target.kind,
        key.namespace,
        target.name,
        section.unwrap_or_default()
    );
    let shown = shown.trim_end();
    let found = target.service(&key.namespace, world).and_then(|service| {
        let port = section.map(|name| service.ports.iter().position(|port| *port.name == *name));
        match port {
            None => Some((service, None)),
            Some(Some(at)) => Some((service, Some(at))),
            Some(None) => None,
        }
    });
    let Some((service, at)) = found else {
        report.error(
            codes::POLICY_TARGET,
            Fault {
                field,
                value: shown,
                message: "there is no such service or port",
                remedy: "name a Service of the policy's own namespace, and as sectionName one of \
                         its ports' names",
            },
        );
        return Some(Failure {
            reason: "TargetNotFound",
            message: format!("{shown}: there is no such service or port"),
        });
    };
    let policies = policies(&key.namespace, world);
    let port = at.and_then(|at| service.ports.get(at));
    let winner = winner(&policies, &service, port)?;
    let name = winner.object.metadata.name.clone().unwrap_or_default();
    if *name == *key.name {
        return None;
    }
    report.warning(
        codes::POLICY_CONFLICT,
        Fault {
            field,
            value: shown,
            message: "an older policy has the same target",
            remedy: &format!("merge it into BackendTLSPolicy {name}"),
        },
    );
    Some(Failure {
        reason: "Conflicted",
        message: format!("BackendTLSPolicy {name} is older and has {shown}"),
    })
}

fn named(policy: &BackendTlsPolicy) -> (ObjectKey, Spec) {
    let meta = &policy.metadata;
    let key = ObjectKey::new(
        Kind::BackendTlsPolicy,
        meta.namespace.as_deref().unwrap_or("default"),
        meta.name.as_deref().unwrap_or_default(),
    );
    let value = serde_json::to_value(&policy.spec).ok();
    let spec = value.and_then(|value| serde_json::from_value(value).ok());
    (key, spec.unwrap_or_default())
}

fn read(report: &mut Report, spec: &Spec, key: &ObjectKey, world: &dyn World) -> Read {
    let validation = &spec.validation;
    let mut tls = BackendTls {
        hostname: validation.hostname.clone(),
        ..BackendTls::default()
    };
    if !is_precise(&validation.hostname) {
        bad(
            report,
            "spec.validation.hostname",
            &validation.hostname,
            "write the server's DNS name, without * and in lower case",
        );
    }
    if validation.subject_alt_names.len() > 5 {
        bad(
            report,
            "spec.validation.subjectAltNames",
            &validation.subject_alt_names.len().to_string(),
            "list at most 5 names",
        );
    }
    for (index, name) in validation.subject_alt_names.iter().enumerate() {
        alt_name(report, index, name, &mut tls);
    }
    let refs = authorities(report, validation, key, world, &mut tls);
    let tls = match (report.take_rule(), &refs) {
        (Some(failure), _) => Err(failure),
        (None, Some(failure)) if tls.ca_pem.is_empty() && !tls.system_roots => Err(Failure {
            reason: "NoValidCACertificate",
            message: failure.message.clone(),
        }),
        (None, _) => Ok(tls),
    };
    Read { tls, refs }
}

fn alt_name(report: &mut Report, index: usize, name: &AltName, tls: &mut BackendTls) {
    let field = format!("spec.validation.subjectAltNames[{index}]");
    match (&*name.r#type, &name.hostname, &name.uri) {
        ("Hostname", Some(host), None) if is_dns(host.strip_prefix("*.").unwrap_or(host)) => {
            let kind = match host.strip_prefix('*') {
                Some(suffix) => TextKind::Suffix(suffix.to_owned()),
                None => TextKind::Exact(host.clone()),
            };
            tls.dns_names.push(StringMatch {
                kind: Some(kind),
                ignore_case: true,
            });
        }
        ("URI", None, Some(uri)) if uri.contains("://") => tls.uris.push(uri.clone()),
        (kind, host, uri) => bad(
            report,
            &field,
            host.as_deref().or(uri.as_deref()).unwrap_or(kind),
            "write type Hostname with hostname, or type URI with an absolute uri",
        ),
    }
}

/// Certificate authorities; what is wrong with a reference is `ResolvedRefs`.
fn authorities(
    report: &mut Report,
    validation: &Validation,
    key: &ObjectKey,
    world: &dyn World,
    tls: &mut BackendTls,
) -> Option<Failure> {
    let refs = &validation.ca_certificate_refs;
    let well_known = validation.well_known_ca_certificates.as_deref();
    match (refs.is_empty(), well_known) {
        (true, Some("System")) => {
            tls.system_roots = true;
            return None;
        }
        (false, None) => {}
        (_, other) => {
            bad(
                report,
                "spec.validation",
                other.unwrap_or_default(),
                "give either caCertificateRefs or wellKnownCACertificates: System",
            );
            return None;
        }
    }
    let mut wrong: Option<Failure> = None;
    for (index, reference) in refs.iter().enumerate() {
        match authority(reference, &key.namespace, world) {
            Ok(pem) => {
                tls.ca_pem.push_str(pem.trim_end());
                tls.ca_pem.push('\n');
            }
            Err((reason, message)) => {
                let field = format!("spec.validation.caCertificateRefs[{index}]");
                let shown = format!("{} {}/{}", reference.kind, key.namespace, reference.name);
                report.error(
                    codes::BAD_CA,
                    Fault {
                        field: &field,
                        value: &shown,
                        message,
                        remedy: "name a ConfigMap of the policy's namespace whose key ca.crt has \
                                 PEM certificates; connections fail until there is one",
                    },
                );
                wrong.get_or_insert(Failure {
                    reason,
                    message: format!("{field} {shown}: {message}"),
                });
            }
        }
    }
    wrong
}

fn authority(
    reference: &Target,
    namespace: &str,
    world: &dyn World,
) -> Result<Arc<str>, (&'static str, &'static str)> {
    if !(reference.group.is_empty() && reference.kind == "ConfigMap") {
        return Err((
            "InvalidKind",
            "certificate authorities are read from ConfigMaps",
        ));
    }
    let pem = world
        .config_map(namespace, &reference.name, "ca.crt")
        .ok_or((
            "InvalidCACertificateRef",
            "there is no such ConfigMap, or it has no key ca.crt",
        ))?;
    let mut count = 0_usize;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        // A certificate is a DER sequence.
        let fits = certificate.is_ok_and(|der| der.first() == Some(&0x30));
        if !fits {
            return Err((
                "InvalidCACertificateRef",
                "ca.crt has something that isn't a PEM certificate",
            ));
        }
        count += 1;
    }
    if count == 0 {
        return Err(("InvalidCACertificateRef", "ca.crt has no PEM certificate"));
    }
    Ok(pem)
}

fn bad(report: &mut Report, field: &str, value: &str, remedy: &str) {
    report.unusable(
        "Invalid",
        codes::BAD_TLS,
        Fault {
            field,
            value,
            message: "TLS can't be originated with this value; connections fail until it is \
                      corrected",
            remedy,
        },
    );
}
