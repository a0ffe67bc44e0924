//! Which certificate authority this is, and keeping it fresh
//! (`control-plane-contract` 7.5).
//!
//! Files of a plugged-in CA come first; then, on a cluster, the root in a Secret
//! that all replicas share; without a cluster, the root in the state directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_ca::{Adopted, CertificateAuthority, Fingerprint, Lifetimes, Reloaded, RootPem};
use ambit_cluster::{KeptRoot, RootSecret, SecretError};
use anyhow::{Context, bail};
use rand::RngExt;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

/// Where the root of a replica is kept.
pub(crate) enum Keeping {
    /// In the state directory, by the authority itself.
    Directory,
    /// In files that somebody else writes.
    PluggedIn(PathBuf),
    /// In a Secret, as it was at the start.
    Secret(Box<SecretKeeper>, RootPem),
}

/// The authority, and where its root is kept.
pub(crate) struct Chosen {
    pub(crate) authority: Arc<CertificateAuthority>,
    pub(crate) keeping: Keeping,
}

/// What is known of how to make an authority.
pub(crate) struct Choice<'a> {
    /// `--ca-dir`, if given.
    pub(crate) ca_dir: Option<&'a Path>,
    /// For a root of our own without a cluster.
    pub(crate) state_dir: &'a Path,
    /// The Secret, on a cluster.
    pub(crate) secret: Option<RootSecret>,
    /// Ours.
    pub(crate) trust_domain: &'a str,
    /// Bounds of workload certificates.
    pub(crate) lifetimes: Lifetimes,
}

impl Choice<'_> {
    /// Loads or makes the authority; on a cluster it waits for the API server.
    ///
    /// # Errors
    /// Files or a Secret that are there and can't be used: a root is never
    /// replaced by another one.
    pub(crate) async fn open(self) -> anyhow::Result<Chosen> {
        let mounted = self.secret.as_ref().map(|_| Path::new(MOUNTED));
        let mounted = mounted.filter(|dir| CertificateAuthority::is_plugged_in(dir));
        let chosen = if let Some(dir) = self.ca_dir.or(mounted) {
            let authority = CertificateAuthority::plugged_in(dir)?;
            info!(dir = %dir.display(), "plugged-in certificate authority");
            (authority, Keeping::PluggedIn(dir.into()))
        } else if let Some(secret) = self.secret {
            let keeper = SecretKeeper {
                secret,
                trust_domain: self.trust_domain.to_owned(),
            };
            let root = keeper.load_or_make().await?;
            let place = keeper.place();
            let authority = CertificateAuthority::kept(&root, self.trust_domain, &place)?;
            (authority, Keeping::Secret(Box::new(keeper), root))
        } else {
            let authority = CertificateAuthority::self_signed(self.state_dir, self.trust_domain)?;
            (authority, Keeping::Directory)
        };
        let (authority, keeping) = chosen;
        Ok(Chosen {
            authority: Arc::new(authority.with_lifetimes(self.lifetimes)),
            keeping,
        })
    }
}

/// Keeps the authority fresh; `changed` publishes what it has become, and is
/// called off the runtime's threads. Never returns.
pub(crate) async fn keep(
    authority: Arc<CertificateAuthority>,
    keeping: Keeping,
    changed: Arc<dyn Fn() + Send + Sync>,
) {
    match keeping {
        Keeping::Directory => keep_directory(authority, changed).await,
        Keeping::PluggedIn(dir) => keep_plugged_in(authority, dir, changed).await,
        Keeping::Secret(keeper, root) => keeper.keep(authority, root, changed).await,
    }
}

async fn publish(changed: &Arc<dyn Fn() + Send + Sync>) {
    let changed = Arc::clone(changed);
    if let Err(error) = tokio::task::spawn_blocking(move || changed()).await {
        error!(%error, "the new root isn't published");
    }
}

async fn keep_directory(
    authority: Arc<CertificateAuthority>,
    changed: Arc<dyn Fn() + Send + Sync>,
) {
    loop {
        let looking = Arc::clone(&authority);
        let look = move || looking.rotate_if_due(SystemTime::now());
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => publish(&changed).await,
            outcome => error!(?outcome, "root not renewed"),
        }
        sleep(ROTATION_CHECK).await;
    }
}

/// Looks at the files instead of waiting for events: a mounted Secret is
/// exchanged by a link, of which not every file system tells.
async fn keep_plugged_in(
    authority: Arc<CertificateAuthority>,
    dir: PathBuf,
    changed: Arc<dyn Fn() + Send + Sync>,
) {
    // Of nothing: what changed since the start isn't missed.
    let mut known = None;
    loop {
        let looked = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || Fingerprint::of(&dir)).await
        };
        let Ok(now) = looked else {
            sleep(LOOK).await;
            continue;
        };
        let settled = known.as_ref().is_some_and(|(print, _)| *print == now);
        let handled = known.as_ref().is_some_and(|(_, handled)| *handled);
        if settled && !handled {
            reload(&authority, &changed).await;
        }
        known = Some((now, settled));
        // Several files are written one after another.
        sleep(if settled { LOOK } else { SETTLE }).await;
    }
}

async fn reload(authority: &Arc<CertificateAuthority>, changed: &Arc<dyn Fn() + Send + Sync>) {
    let reloading = Arc::clone(authority);
    let reloaded = tokio::task::spawn_blocking(move || reloading.reload(SystemTime::now())).await;
    match reloaded {
        Ok(Ok(Reloaded::Same)) => {}
        Ok(Ok(what)) => {
            info!(?what, "plugged-in certificate authority read again");
            publish(changed).await;
        }
        Ok(Err(error)) => {
            error!(%error, "plugged-in certificate authority not read again; what was in force stays")
        }
        Err(error) => error!(%error, "plugged-in certificate authority"),
    }
}

/// The root of all replicas, in a Secret.
pub(crate) struct SecretKeeper {
    secret: RootSecret,
    trust_domain: String,
}

/// What a look at the Secret came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing to do.
    Same,
    /// What is in force, or trusted, is another.
    Changed,
    /// Another replica was faster: look again.
    Again,
}

impl SecretKeeper {
    fn place(&self) -> PathBuf {
        Path::new("Secret").join(self.secret.place())
    }

    /// The root that is there, or a new one where there is none.
    async fn load_or_make(&self) -> anyhow::Result<RootPem> {
        let until = Instant::now() + STARTING;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.secret.read().await {
                Ok(Some(kept)) => return Ok(root_of(&kept)),
                Ok(None) => match self.make().await {
                    Ok(root) => return Ok(root),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match error {
                // Somebody else has made it just now.
                SecretError::Conflict => {}
                SecretError::Incomplete(_) => {
                    bail!(
                        "Secret {}: {error}; it isn't replaced, since certificates may be signed with it",
                        self.secret.place()
                    );
                }
                SecretError::Api(_) if Instant::now() >= until => {
                    return Err(error).context(format!("Secret {}", self.secret.place()));
                }
                SecretError::Api(_) => {
                    warn!(secret = self.secret.place(), %error, "waiting for the root");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn make(&self) -> Result<RootPem, SecretError> {
        let made = RootPem::make(&self.trust_domain, SystemTime::now());
        let root = made.map_err(|error| SecretError::Api(error.to_string()))?;
        self.secret.create(&kept_of(&root, "")).await?;
        info!(
            secret = self.secret.place(),
            trust_domain = self.trust_domain,
            "made a self-signed root"
        );
        Ok(root)
    }

    async fn keep(
        self,
        authority: Arc<CertificateAuthority>,
        root: RootPem,
        changed: Arc<dyn Fn() + Send + Sync>,
    ) {
        // Replicas that start together don't look together.
        let offset = LOOK_AT_SECRET.mul_f64(rand::rng().random_range(0.0..1.0));
        let mut next = Instant::now() + offset;
        // What this replica has last seen to be good: put back if the Secret is deleted.
        let mut seen = root;
        loop {
            sleep_until(next).await;
            next = Instant::now() + LOOK_AT_SECRET;
            match self.look(&authority, &mut seen, SystemTime::now()).await {
                Ok(Look::Same) => {}
                Ok(Look::Changed) => publish(&changed).await,
                Ok(Look::Again) => next = Instant::now() + FIRST_PAUSE,
                Err(error) => {
                    error!(
                        secret = self.secret.place(),
                        error = format!("{error:#}"),
                        "the kept root can't be used; what was in force stays"
                    );
                }
            }
        }
    }

    /// Takes over what is there, renews it when it is due, and puts back what is gone.
    async fn look(
        &self,
        authority: &CertificateAuthority,
        seen: &mut RootPem,
        now: SystemTime,
    ) -> anyhow::Result<Look> {
        let Some(kept) = self.secret.read().await? else {
            warn!(
                secret = self.secret.place(),
                "the Secret is gone; putting the root back"
            );
            return match self.secret.create(&kept_of(seen, "")).await {
                Ok(()) => Ok(Look::Same),
                Err(SecretError::Conflict) => Ok(Look::Again),
                Err(error) => Err(error.into()),
            };
        };
        let root = root_of(&kept);
        let adopted = authority.adopt(&root, now)?;
        match adopted {
            Adopted::OnlyTrusted => {
                warn!(
                    secret = self.secret.place(),
                    "the Secret has a root with another key: it is trusted from now on, and signed with after a restart. \
                     To change the key without an outage, put the new root into root-cert.pem first"
                );
                return Ok(Look::Changed);
            }
            Adopted::InForce => info!(secret = self.secret.place(), "took over the kept root"),
            Adopted::Same => {}
        }
        let place = self.place();
        if let Some(renewed) = root.renewed_if_due(&self.trust_domain, &place, now)? {
            return match self.secret.replace(&kept_of(&renewed, &kept.version)).await {
                Ok(()) => {
                    info!(secret = self.secret.place(), "renewed the self-signed root");
                    authority.adopt(&renewed, now)?;
                    *seen = renewed;
                    Ok(Look::Changed)
                }
                Err(SecretError::Conflict) => Ok(Look::Again),
                Err(error) => Err(error.into()),
            };
        }
        *seen = root;
        Ok(match adopted {
            Adopted::Same => Look::Same,
            Adopted::InForce | Adopted::OnlyTrusted => Look::Changed,
        })
    }
}

fn root_of(kept: &KeptRoot) -> RootPem {
    RootPem::new(
        kept.certificate.clone(),
        kept.key.clone(),
        kept.beside.clone(),
    )
}

fn kept_of(root: &RootPem, version: &str) -> KeptRoot {
    KeptRoot {
        certificate: root.certificate().to_owned(),
        key: root.key().clone(),
        beside: root.beside().to_owned(),
        version: version.to_owned(),
    }
}

/// Where the charts mount the Secret `cacerts`.
const MOUNTED: &str = "/etc/cacerts";
const ROTATION_CHECK: Duration = Duration::from_secs(60 * 60);
/// Replicas take over what another has written within this; whether it is due
/// is seen on the way.
const LOOK_AT_SECRET: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);
const SETTLE: Duration = Duration::from_millis(100);
/// How long a start waits for the API server.
const STARTING: Duration = Duration::from_secs(120);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
