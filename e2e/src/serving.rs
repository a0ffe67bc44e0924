//! What the applications of scenarios share: how a connection to them begins.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// A server's side of TLS, with HTTP/2 and HTTP/1.1, from PEM files.
///
/// # Errors
/// If a file can't be read, or the key isn't the certificate's.
pub fn tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let provider = ambit_identity::provider();
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Whether a client begins with HTTP/2's preface; its first bytes stay unread.
///
/// # Errors
/// If the connection ended.
pub async fn begins_with_h2(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; 3];
    loop {
        let length = stream.peek(&mut start).await?;
        let seen = start.get(..length).unwrap_or_default();
        if length == 0 || length == start.len() || !b"PRI".starts_with(seen) {
            return Ok(seen == b"PRI");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs a connection: those of an application end with its process.
pub fn detach(connection: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::runtime::Handle::current().spawn(connection));
}
