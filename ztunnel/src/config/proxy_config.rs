//! The `PROXY_CONFIG` document and the mesh file (`ztunnel-contract` 8.2).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::reader::Reader;

/// Node metadata: names without their prefix.
pub type Metadata = BTreeMap<String, Value>;

/// What both documents may hold. Keys that belong to other readers of the
/// same document are theirs, so unknown ones are left alone.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyConfig {
    /// Address of the control plane.
    pub discovery_address: Option<String>,
    /// Port of the admin server.
    pub proxy_admin_port: Option<u16>,
    /// Port of the metrics server.
    pub stats_port: Option<u16>,
    /// Data threads; 0 means one per core.
    pub concurrency: Option<usize>,
    /// Node metadata, `ISTIO_META_` prefix optional.
    pub proxy_metadata: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeshFile {
    default_config: Option<ProxyConfig>,
}

impl ProxyConfig {
    /// The mesh file's `defaultConfig` with `PROXY_CONFIG` merged over it.
    pub(crate) fn read(r: &mut Reader<'_>, mesh: Option<&str>) -> Self {
        let base = mesh.and_then(|text| match serde_saphyr::from_str::<MeshFile>(text) {
            Ok(file) => file.default_config,
            Err(error) => {
                r.problem(
                    "./etc/istio/config/mesh",
                    &format!("does not parse: {error}"),
                );
                None
            }
        });
        let over = r
            .text("PROXY_CONFIG")
            .and_then(|text| match serde_saphyr::from_str(&text) {
                Ok(document) => Some(document),
                Err(error) => {
                    r.problem("PROXY_CONFIG", &format!("does not parse: {error}"));
                    None
                }
            });
        let given = [("defaultConfig", &base), ("PROXY_CONFIG", &over)];
        for (name, document) in given {
            let document: &Option<Self> = document;
            if document
                .as_ref()
                .is_some_and(|d| d.proxy_metadata.is_none())
            {
                r.problem(
                    name,
                    "has no proxyMetadata, which must be there (it may be {})",
                );
            }
        }
        base.unwrap_or_default().merged(over.unwrap_or_default())
    }

    fn merged(self, over: Self) -> Self {
        let mut metadata = self.proxy_metadata.unwrap_or_default();
        metadata.extend(over.proxy_metadata.unwrap_or_default());
        Self {
            discovery_address: over.discovery_address.or(self.discovery_address),
            proxy_admin_port: over.proxy_admin_port.or(self.proxy_admin_port),
            stats_port: over.stats_port.or(self.stats_port),
            concurrency: over.concurrency.or(self.concurrency),
            proxy_metadata: Some(metadata),
        }
    }
}

/// The document's metadata, then `ISTIO_META_*` of the environment, then
/// `ISTIO_METAJSON_*`: the later wins.
pub(crate) fn metadata(r: &mut Reader<'_>, document: &ProxyConfig) -> Metadata {
    let mut metadata = Metadata::new();
    for (key, value) in document.proxy_metadata.iter().flatten() {
        let key = key.strip_prefix(META).unwrap_or(key);
        let value = match value {
            Value::String(text) => Value::String(text.clone()),
            other => Value::String(other.to_string()),
        };
        metadata.insert(key.to_owned(), value);
    }
    for (key, value) in r.prefixed(META) {
        metadata.insert(key, Value::String(value));
    }
    for (key, text) in r.prefixed(META_JSON) {
        match serde_json::from_str(&text) {
            Ok(value) => {
                metadata.insert(key, value);
            }
            Err(error) => r.problem(
                &format!("{META_JSON}{key}"),
                &format!("is not JSON: {error}"),
            ),
        }
    }
    metadata
}

const META: &str = "ISTIO_META_";
const META_JSON: &str = "ISTIO_METAJSON_";
