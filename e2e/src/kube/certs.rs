//! The box's certificate authority, its leaves, and kubeconfigs that use them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use serde_json::json;

/// An authority whose files are in one directory: `ca.crt`, `ca.key`, and
/// `NAME.crt`, `NAME.key` of each leaf.
pub struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Whom a leaf is for.
#[derive(Debug, Clone, Default)]
pub struct Leaf<'a> {
    /// Name of its files.
    pub file: &'a str,
    /// Common name: the user, for the API server.
    pub user: &'a str,
    /// Organizations: the user's groups.
    pub groups: &'a [&'a str],
    /// Addresses that it serves at.
    pub addresses: &'a [IpAddr],
    /// Names that it serves at.
    pub names: &'a [&'a str],
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// If files can't be written.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let issuer = CertifiedIssuer::self_signed(params, key()?)?;
        let made = Self {
            dir: dir.to_owned(),
            issuer,
        };
        fs::write(made.path("ca.crt"), made.issuer.pem())?;
        fs::write(made.path("ca.key"), made.issuer.key().serialize_pem())?;
        Ok(made)
    }

    /// A file of the directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The root certificate, PEM.
    pub fn root(&self) -> String {
        self.issuer.pem()
    }

    /// Makes a leaf for client and server, and its files.
    ///
    /// # Errors
    /// If a name can't be in a certificate, or files can't be written.
    pub fn leaf(&self, leaf: &Leaf<'_>) -> Result<()> {
        let names: Vec<String> = leaf.names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        let addresses = leaf.addresses.iter().map(|ip| SanType::IpAddress(*ip));
        params.subject_alt_names.extend(addresses);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, leaf.user);
        for group in leaf.groups {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.path(&format!("{}.crt", leaf.file)), certificate.pem())?;
        fs::write(
            self.path(&format!("{}.key", leaf.file)),
            key.serialize_pem(),
        )?;
        Ok(())
    }

    /// Makes a key pair that signs service-account tokens: `sa.key`, `sa.pub`.
    ///
    /// # Errors
    /// If files can't be written.
    pub fn token_key(&self) -> Result<()> {
        let key = key()?;
        fs::write(self.path("sa.key"), key.serialize_pem())?;
        fs::write(self.path("sa.pub"), key.public_key_pem())?;
        Ok(())
    }

    /// Writes a kubeconfig for a leaf, with everything inside of it, so that it
    /// can be copied and read from inside of nodes.
    ///
    /// # Errors
    /// If files can't be read or written.
    pub fn kubeconfig(&self, leaf: &str, server: &str, to: &Path) -> Result<()> {
        use base64::Engine;
        let encoded = |file: &str| -> Result<String> {
            let bytes = fs::read(self.path(file)).with_context(|| format!("read {file}"))?;
            Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
        };
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "box",
            "clusters": [{"name": "box", "cluster": {
                "server": server, "certificate-authority-data": encoded("ca.crt")?}}],
            "users": [{"name": leaf, "user": {
                "client-certificate-data": encoded(&format!("{leaf}.crt"))?,
                "client-key-data": encoded(&format!("{leaf}.key"))?}}],
            "contexts": [{"name": "box", "context": {"cluster": "box", "user": leaf}}],
        });
        // YAML is a superset.
        fs::write(to, serde_json::to_string_pretty(&config)?)
            .with_context(|| format!("write {}", to.display()))
    }
}

fn key() -> Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}
