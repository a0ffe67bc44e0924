//! The root bundle that everybody else starts from (`control-plane-contract`
//! 7.6): our CA's roots and those of the mesh configuration.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ambit_ca::CertificateAuthority;
use ambit_kube::core::LabelSelector;
use ambit_kube::{Change, Kind, Object};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::files::{Readable, replace};

/// The bundle and its file.
pub(crate) struct RootBundle {
    authority: Arc<CertificateAuthority>,
    path: PathBuf,
    state: Mutex<State>,
    published: watch::Sender<Published>,
    /// The mesh's settings are known, so that what is published is for good.
    settled: watch::Sender<bool>,
}

/// What is published beyond the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Published {
    /// The bundle, PEM.
    pub(crate) roots: String,
    /// The list of revoked certificates, PEM; empty without one.
    pub(crate) revoked: String,
    /// The namespaces that get it: any of these, or all if there are none.
    pub(crate) selectors: Vec<LabelSelector>,
}

#[derive(Default)]
struct State {
    /// PEM texts of the mesh configuration.
    extra: Vec<String>,
    written: Option<String>,
    /// Which namespaces are discovered; none: all.
    selectors: Vec<LabelSelector>,
}

impl RootBundle {
    /// A bundle that isn't written yet.
    pub(crate) fn new(authority: Arc<CertificateAuthority>, path: PathBuf) -> Self {
        Self {
            authority,
            path,
            state: Mutex::default(),
            published: watch::Sender::default(),
            settled: watch::Sender::default(),
        }
    }

    /// Takes what concerns roots. Whether there was any: then
    /// [`write`](Self::write) it.
    pub(crate) fn learn(&self, changes: &[Change]) -> bool {
        let mut any = false;
        for change in changes {
            match change {
                Change::Apply(located) => {
                    if let Object::MeshConfig(mesh) = &located.object {
                        let certificates = mesh.spec.ca_certificates.iter();
                        let pems = certificates.filter_map(|c| c.pem.clone());
                        let mut state = self.state.lock();
                        state.extra = pems.collect();
                        state.selectors.clone_from(&mesh.spec.discovery_selectors);
                        any = true;
                    }
                }
                Change::Delete(key) if key.kind == Kind::MeshConfig => {
                    let mut state = self.state.lock();
                    state.extra.clear();
                    state.selectors.clear();
                    any = true;
                }
                Change::Delete(_)
                | Change::Problems(_)
                | Change::Redirection { .. }
                | Change::Synced => {}
            }
        }
        any
    }

    /// Everything that was there at the start has been learnt and written.
    pub(crate) fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// Turns true by [`settle`](Self::settle).
    pub(crate) fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Sees what is published now, and every change of it.
    pub(crate) fn watch(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// Writes the file if it isn't as it should be, and tells who watches. Blocks on the disk.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn write(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut text = self.authority.roots_pem();
        for pem in &state.extra {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(pem.trim_start());
        }
        let published = Published {
            roots: text.clone(),
            revoked: self.authority.revoked_pem(),
            selectors: state.selectors.clone(),
        };
        self.published.send_if_modified(|known| {
            let differs = *known != published;
            *known = published;
            differs
        });
        if state.written.as_ref() == Some(&text) {
            return Ok(());
        }
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        replace(&self.path, text.as_bytes(), Readable::ByAll)?;
        tracing::info!(path = %self.path.display(), "root bundle written");
        state.written = Some(text);
        Ok(())
    }
}
