//! The root bundle that everybody else starts from (`control-plane-contract`
//! 7.6): our CA's roots and those of the mesh configuration.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ambit_ca::CertificateAuthority;
use ambit_kube::{Change, Kind, Object};
use parking_lot::Mutex;

use crate::files::{Readable, replace};

/// The bundle and its file.
pub(crate) struct RootBundle {
    authority: Arc<CertificateAuthority>,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// PEM texts of the mesh configuration.
    extra: Vec<String>,
    written: Option<String>,
}

impl RootBundle {
    /// A bundle that isn't written yet.
    pub(crate) fn new(authority: Arc<CertificateAuthority>, path: PathBuf) -> Self {
        Self {
            authority,
            path,
            state: Mutex::default(),
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
                        self.state.lock().extra = pems.collect();
                        any = true;
                    }
                }
                Change::Delete(key) if key.kind == Kind::MeshConfig => {
                    self.state.lock().extra.clear();
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

    /// Writes the file if it isn't as it should be. Blocks on the disk.
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
