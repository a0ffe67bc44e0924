//! The cluster that a scenario runs on.

use std::path::PathBuf;

use ambit_e2e::kube::{Api, Cluster, ClusterOptions, images, install};
use anyhow::{Context, Result};

/// A cluster: a box that goes with the scenario, or somebody else's.
pub(crate) struct World {
    pub(crate) api: Api,
    // Removed with this.
    own: Option<Box<Cluster>>,
}

impl World {
    /// The cluster of `KUBECONFIG`, or a box with two nodes and our images.
    pub(crate) async fn any() -> Result<Self> {
        if let Some(kubeconfig) = given() {
            return Ok(Self {
                api: Api::new(&kubeconfig)?,
                own: None,
            });
        }
        let options = ClusterOptions {
            images: images::of_ambit()?,
            ..ClusterOptions::default()
        };
        let own = Cluster::start(options).await?;
        Ok(Self {
            api: own.api().clone(),
            own: Some(Box::new(own)),
        })
    }

    /// [`any`](Self::any), with Ambit installed by its charts and the shop running.
    pub(crate) async fn meshed() -> Result<Self> {
        let world = Self::any().await?;
        install::gateway_api(&world.api).await?;
        install::ambit(&world.api).await?;
        install::shop(&world.api).await?;
        Ok(world)
    }

    /// The box, for scenarios that [need one](needs_a_box).
    pub(crate) fn own(&mut self) -> Result<&mut Cluster> {
        self.own.as_deref_mut().context("the cluster isn't ours")
    }
}

/// The cluster that was given, if one was.
pub(crate) fn given() -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "how a test is told its cluster")]
    let given = std::env::var_os("KUBECONFIG");
    given.filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// True if the scenario needs a box of its own and another cluster was given.
pub(crate) fn needs_a_box(what: &str) -> bool {
    let other = given().is_some();
    if other {
        eprintln!("SKIPPED {what}: it stops parts of a cluster, which KUBECONFIG's isn't for");
    }
    other
}
