//! Backends that end TLS themselves, and the authority that vouches for them:
//! what scenarios of TLSRoute and BackendTLSPolicy need beside the base.
//!
//! The authority's certificate is the ConfigMap `mesh/authority`; `mesh/stranger`
//! is another one's, `mesh/junk` holds no certificate.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use serde_json::json;

use crate::Cluster;

/// What the backends' certificate says of them.
const NAMES: [&str; 2] = ["abc.example.com", "other.example.com"];
const URI: &str = "spiffe://abc.example.com/test-identity";

/// Starts `secure-v1-0` and `secure-v2-0`, and applies the authorities.
///
/// # Errors
/// If a certificate, an object or a pod can't be made.
pub async fn run(cluster: &mut Cluster) -> Result<()> {
    let (pem, issuer) = authority_of(KeyPair::generate()?)?;
    let (stranger, _) = authority_of(KeyPair::generate()?)?;
    fs::write(file(cluster), &pem)?;
    for (name, pem) in [
        ("authority", &*pem),
        ("stranger", &*stranger),
        ("junk", "no certificate"),
    ] {
        cluster.manifests.put(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "mesh"}, "data": {"ca.crt": pem},
        }))?;
    }
    for version in ["v1", "v2"] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
        params.subject_alt_names.push(SanType::URI(URI.try_into()?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let chain = cluster.dir().join(format!("secure-{version}.crt"));
        let key_file = cluster.dir().join(format!("secure-{version}.key"));
        fs::write(&chain, params.signed_by(&key, &issuer)?.pem())?;
        fs::write(&key_file, key.serialize_pem())?;
        cluster.run_pod(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("secure-{version}-0"), "namespace": "mesh", "uid": format!("mesh-secure-{version}-0"),
                "labels": {"app": "secure", "secure": version},
            },
            "spec": {"nodeName": "node-2", "serviceAccountName": "echo", "containers": [{
                "name": "app", "image": "ambit-echo", "ports": [{"containerPort": 8443}],
                "args": ["serve", "--tls=8443", format!("--tls-cert={}", chain.display()),
                    format!("--tls-key={}", key_file.display())],
            }]},
        })).await?;
    }
    Ok(())
}

/// The authority's certificate, PEM.
pub(super) fn authority(cluster: &Cluster) -> Result<Vec<u8>> {
    fs::read(file(cluster)).context("the authority: secure backends don't run")
}

fn file(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("secure-authority.crt")
}

fn authority_of(key: KeyPair) -> Result<(String, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}
