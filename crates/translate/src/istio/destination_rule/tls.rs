//! `tls` of a traffic policy: TLS that the waypoint originates (3.5, 1.4).
//!
//! Owns where certificates come from. Traffic whose certificates aren't there is
//! refused, never sent in plain.

use ambit_kube::{DrTls, DrTlsMode};
use ambit_proto::waypoint::BackendTls;

use super::{PolicyScope, Says, Secrets};
use crate::istio::codes;
use crate::istio::say::Fault;
use crate::istio::values::exact;

/// The message, none for plain bytes; an error is why traffic is refused.
pub(super) fn backend_tls(
    says: &mut Says,
    written: &DrTls,
    path: &str,
    scope: &PolicyScope<'_>,
) -> Result<Option<BackendTls>, String> {
    if matches!(written.mode, DrTlsMode::Disable | DrTlsMode::IstioMutual) {
        // Between workloads of the mesh HBONE carries the mesh's own TLS.
        return Ok(None);
    }
    let sni = written.sni.clone().filter(|sni| !sni.is_empty());
    let mut built = BackendTls {
        hostname: sni.unwrap_or_else(|| scope.hostname.trim_start_matches("*.").to_owned()),
        insecure_skip_verify: written.insecure_skip_verify.unwrap_or_default(),
        ..BackendTls::default()
    };
    for name in &written.subject_alt_names {
        if name.contains("://") {
            built.uris.push(name.clone());
        } else {
            built.dns_names.push(exact(name));
        }
    }
    if let Some(crl) = set(&written.ca_crl) {
        says.fields.error(
            codes::RULE_REFUSED,
            Fault {
                field: &format!("{path}.caCrl"),
                value: crl,
                message: "a revocation list in a file isn't read, so traffic to this host is refused",
                remedy: "put it into the Secret of credentialName, as ca.crl",
            },
        );
        return Err("DestinationRule caCrl isn't supported".to_owned());
    }
    match set(&written.credential_name) {
        Some(name) => from_secret(says, written, (name, path), scope, &mut built)?,
        None => from_files(says, written, path, &mut built)?,
    }
    Ok(Some(built))
}

fn set(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn from_files(
    says: &mut Says,
    written: &DrTls,
    path: &str,
    built: &mut BackendTls,
) -> Result<(), String> {
    match set(&written.ca_certificates) {
        Some(file) if file != "system" => built.ca_file = file.to_owned(),
        _ => built.system_roots = true,
    }
    if written.mode != DrTlsMode::Mutual {
        return Ok(());
    }
    let (certificate, key) = (set(&written.client_certificate), set(&written.private_key));
    let (Some(certificate), Some(key)) = (certificate, key) else {
        says.fields.error(
            codes::RULE_VALUE,
            Fault {
                field: path,
                value: "MUTUAL",
                message: "there is no client certificate with its key, so traffic to this host is refused",
                remedy: "set credentialName, or clientCertificate and privateKey",
            },
        );
        return Err("DestinationRule tls has no client certificate".to_owned());
    };
    certificate.clone_into(&mut built.certificate_file);
    key.clone_into(&mut built.private_key_file);
    Ok(())
}

fn from_secret(
    says: &mut Says,
    written: &DrTls,
    (name, path): (&str, &str),
    scope: &PolicyScope<'_>,
    built: &mut BackendTls,
) -> Result<(), String> {
    let Some(secrets) = scope.secrets else {
        return Ok(());
    };
    let name = name.strip_prefix("kubernetes://").unwrap_or(name);
    let roots = format!("{name}-cacert");
    let ca = text(&secrets, name, &["ca.crt", "cacert"])
        .or_else(|| text(&secrets, &roots, &["ca.crt", "cacert"]));
    match ca {
        Some(ca) => built.ca_pem = ca,
        None => built.system_roots = true,
    }
    built.crl_pem = text(&secrets, name, &["ca.crl", "crl"]).unwrap_or_default();
    let certificate = text(&secrets, name, &["tls.crt", "cert"]);
    let key = text(&secrets, name, &["tls.key", "key"]);
    let missing = if written.mode == DrTlsMode::Mutual {
        let missing = certificate.is_none() || key.is_none();
        built.certificate_pem = certificate.unwrap_or_default();
        built.private_key_pem = key.unwrap_or_default();
        missing.then_some("tls.crt and tls.key")
    } else {
        // Asked for roots of its own, the system's aren't meant.
        built.system_roots.then_some("ca.crt")
    };
    let Some(missing) = missing else {
        return Ok(());
    };
    says.secrets.error(
        codes::NO_CERTIFICATE,
        Fault {
            field: &format!("{path}.credentialName"),
            value: name,
            message: &format!(
                "there is no Secret {}/{name} with {missing}, so traffic to this host is refused",
                secrets.namespace
            ),
            remedy: "create the Secret in the waypoint's namespace",
        },
    );
    Err(format!(
        "no Secret {}/{name} with {missing}",
        secrets.namespace
    ))
}

/// PEM text of the first key that is there.
fn text(secrets: &Secrets<'_>, name: &str, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| {
        let bytes = secrets.world.secret(secrets.namespace, name, key)?;
        let text = std::str::from_utf8(&bytes).ok()?;
        text.contains("-----BEGIN").then(|| text.to_owned())
    })
}
