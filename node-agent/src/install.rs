//! Brings the CNI plugin to the node, keeps it there and takes it away, like a
//! guest (`cli-install-observability-contract` 4.4): what others wrote stays
//! byte for byte as it was, apart from one entry in a list.
//!
//! Every step is one rename or one removal, looks at what is there first, and
//! may be begun again after a crash at any point.

mod conflist;
mod files;
mod scan;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ambit_cluster::Connection;
use ambit_cluster::node::{OwnDaemonSet, daemon_set};
use ambit_runtime::ReadyGuard;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use self::conflist::ConflistError;
use self::files::{FileError, Stamp};
use crate::agent::Agent;
use crate::args::{Args, CniArgs, OnExit};

/// The plugin can't be brought or taken away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("no usable CNI configuration in {0}; is there a network plugin yet?")]
    NoNetwork(PathBuf),
    #[error("CNI configuration {path}")]
    Conflist {
        path: PathBuf,
        #[source]
        cause: ConflistError,
    },
}

/// What comes to the node, and where to.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    /// The program to copy.
    plugin: PathBuf,
    bin_dir: PathBuf,
    conf_dir: PathBuf,
    /// The file to join, if it isn't the runtime's choice.
    conf_name: Option<String>,
    /// Our entry in a list of plugins.
    entry: String,
    installed: Option<Stamp>,
}

/// What a visit changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) program: bool,
    pub(crate) configuration: bool,
}

impl Guest {
    /// None if the agent isn't asked to install anything.
    pub(crate) fn of(args: &Args) -> Option<Self> {
        let cni: &CniArgs = &args.cni;
        let entry = json!({
            "type": PLUGIN,
            "socket": cni.cni_node_socket,
            "excludeNamespaces": args.exclude_namespaces,
            "agentNamespace": cni.pod_namespace,
            "agentPrefix": format!("{}-", cni.daemon_set),
        });
        Some(Self {
            plugin: cni.cni_plugin.clone(),
            bin_dir: cni.cni_bin_dir.clone()?,
            conf_dir: cni.cni_conf_dir.clone(),
            conf_name: cni.cni_conf_name.clone().filter(|name| !name.is_empty()),
            entry: entry.to_string(),
            installed: None,
        })
    }

    /// Joins, and joins again whenever somebody has changed something, until
    /// it's dropped.
    pub(crate) async fn stay(mut self, installed: ReadyGuard) {
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        let mut trouble = None;
        loop {
            if watcher.is_none() {
                watcher = watch(&self.conf_dir, &self.bin_dir, Arc::clone(&changed));
            }
            let visit = tokio::task::spawn_blocking(move || {
                let joined = self.join();
                (self, joined)
            });
            // It's only cancelled when the runtime ends.
            let Ok((back, joined)) = visit.await else {
                return;
            };
            self = back;
            match joined {
                Ok(joined) => {
                    if joined != Joined::default() {
                        let Joined {
                            program,
                            configuration,
                        } = joined;
                        info!(program, configuration, "the CNI plugin was put in place");
                    }
                    trouble = None;
                    installed.ready();
                }
                Err(error) => {
                    let text = with_causes(&error);
                    if trouble.as_ref() != Some(&text) {
                        warn!(
                            trouble = text,
                            "the CNI plugin isn't in place; trying again"
                        );
                    }
                    trouble = Some(text);
                }
            }
            let _ = timeout(SLOW_POLL, changed.notified()).await;
            // Whoever writes several files is let finish.
            sleep(DEBOUNCE).await;
        }
    }

    /// Puts the program and the entry where they must be, if they aren't.
    pub(crate) fn join(&mut self) -> Result<Joined, InstallError> {
        files::remove_leftovers(&self.bin_dir)?;
        files::remove_leftovers(&self.conf_dir)?;
        // Never an entry without its program: that would stop every pod.
        let program = self.bring_program()?;
        let configuration = self.join_network()?;
        Ok(Joined {
            program,
            configuration,
        })
    }

    fn bring_program(&mut self) -> Result<bool, InstallError> {
        let target = self.bin_dir.join(PLUGIN);
        if self.installed.is_some() && files::stamp(&target) == self.installed {
            return Ok(false);
        }
        let program = files::read(&self.plugin)?;
        let same = files::read(&target).is_ok_and(|there| there == program)
            && files::is_executable(&target);
        if !same {
            files::replace(&target, &program, files::Like::Program)?;
        }
        self.installed = files::stamp(&target);
        Ok(!same)
    }

    fn join_network(&self) -> Result<bool, InstallError> {
        let networks = conflist::networks(&self.conf_dir, self.conf_name.as_deref())?;
        // Copies whose original is gone, or has become a list.
        let mut changed = false;
        for copy in conflist::copies(&self.conf_dir)? {
            if networks.first().map(conflist::Network::copy_path) != Some(Some(copy.clone())) {
                files::remove(&copy)?;
                changed = true;
            }
        }
        let Some(network) = networks.first() else {
            return Err(InstallError::NoNetwork(self.conf_dir.clone()));
        };
        let path = network.path();
        let wrong = |cause| InstallError::Conflist {
            path: path.to_owned(),
            cause,
        };
        if let Some(copy) = network.copy_path() {
            let text = conflist::chained(network.text(), &self.entry).map_err(wrong)?;
            if files::read(&copy).is_ok_and(|there| there == text.as_bytes()) {
                return Ok(changed);
            }
            files::replace(&copy, text.as_bytes(), files::Like::File(path))?;
            return Ok(true);
        }
        let joined = conflist::with_entry(network.text(), PLUGIN, &self.entry).map_err(wrong)?;
        if let Some(joined) = joined {
            files::swap(path, network.text().as_bytes(), joined.as_bytes())?;
            changed = true;
        }
        Ok(changed)
    }

    /// Takes every trace away: first the entries, then the program.
    pub(crate) fn leave(&self) -> Result<(), InstallError> {
        for copy in conflist::copies(&self.conf_dir)? {
            files::remove(&copy)?;
        }
        for path in conflist::lists(&self.conf_dir)? {
            let Ok(bytes) = files::read(&path) else {
                continue;
            };
            let Ok(text) = std::str::from_utf8(&bytes) else {
                continue;
            };
            // What can't be read has no entry of ours.
            if let Ok(Some(without)) = conflist::without_entry(text, PLUGIN) {
                files::swap(&path, &bytes, without.as_bytes())?;
            }
        }
        files::remove(&self.bin_dir.join(PLUGIN))?;
        files::remove_leftovers(&self.bin_dir)?;
        files::remove_leftovers(&self.conf_dir)?;
        info!("the CNI plugin is gone from this node");
        Ok(())
    }
}

/// What becomes of the plugin when the agent is told to end.
pub(crate) struct Ending {
    guest: Guest,
    when: OnExit,
    own: Option<Own>,
}

/// How to ask whether the agent is still wanted.
struct Own {
    cluster: Connection,
    namespace: String,
    daemon_set: String,
    /// It was there, and the agent was allowed to ask.
    was_there: bool,
}

impl Ending {
    /// None if nothing is installed.
    pub(crate) async fn new(args: &Args, cluster: Option<Connection>) -> Option<Self> {
        let guest = Guest::of(args)?;
        let when = args.cni.cni_on_exit;
        let own = match cluster {
            Some(cluster) if when == OnExit::Auto => {
                let mut own = Own {
                    cluster,
                    namespace: args.cni.pod_namespace.clone(),
                    daemon_set: args.cni.daemon_set.clone(),
                    was_there: false,
                };
                own.was_there = matches!(own.ask().await, Some(OwnDaemonSet::There));
                Some(own)
            }
            _ => None,
        };
        Some(Self { guest, when, own })
    }

    pub(crate) async fn run(self, agent: &Agent) {
        let leaves = match self.when {
            OnExit::Keep => false,
            OnExit::Remove => true,
            OnExit::Auto => match &self.own {
                Some(own) => own.is_gone().await,
                None => false,
            },
        };
        if !leaves {
            info!("the CNI plugin stays; enrolled pods wait for the next agent");
            return;
        }
        if let Err(error) = self.guest.leave() {
            warn!(
                error = with_causes(&error),
                "the CNI plugin couldn't be taken away"
            );
        }
        // Their proxy goes as well, and nobody comes after us.
        agent.finish_leaving().await;
    }
}

impl Own {
    async fn ask(&self) -> Option<OwnDaemonSet> {
        let asked = daemon_set(&self.cluster.client, &self.namespace, &self.daemon_set);
        timeout(ASK, asked).await.ok()
    }

    /// An uninstallation takes the role away together with the DaemonSet, so
    /// that losing the right to ask is an answer.
    async fn is_gone(&self) -> bool {
        for _ in 0..TRIES {
            match self.ask().await {
                Some(OwnDaemonSet::There) => return false,
                Some(OwnDaemonSet::Gone) => return true,
                Some(OwnDaemonSet::NotAllowed) => return self.was_there,
                Some(OwnDaemonSet::Unknown) | None => sleep(BETWEEN).await,
            }
        }
        false
    }
}

fn watch(conf: &Path, bin: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let heard = move |event: notify::Result<notify::Event>| {
        // Our own reading is no change.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(heard).ok()?;
    for dir in [conf, bin] {
        watcher.watch(dir, RecursiveMode::NonRecursive).ok()?;
    }
    Some(watcher)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The program's name, and its type in a configuration.
const PLUGIN: &str = "ambit-cni";
/// Besides what the kernel tells of.
const SLOW_POLL: Duration = Duration::from_secs(5);
const DEBOUNCE: Duration = Duration::from_millis(50);
const ASK: Duration = Duration::from_secs(3);
const BETWEEN: Duration = Duration::from_millis(500);
const TRIES: u32 = 3;

#[cfg(test)]
mod tests;
