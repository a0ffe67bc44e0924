//! The cluster that a scenario runs on.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use ambit_e2e::kube::{Api, Cluster, ClusterOptions, images, install};
use anyhow::{Context, Result};

/// A cluster: a box that goes with the scenario, or somebody else's.
pub(crate) struct World {
    pub(crate) api: Api,
    /// The box. Held: it is removed with this.
    pub(crate) own: Option<Box<Cluster>>,
    /// CNI configuration of each node before anything was installed.
    pub(crate) conflists: Files,
}

/// Files by node and name.
pub(crate) type Files = BTreeMap<(String, String), Vec<u8>>;

impl World {
    /// The cluster of `KUBECONFIG`, or a box with two nodes and our images.
    pub(crate) async fn any() -> Result<Self> {
        if let Some(kubeconfig) = given() {
            return Ok(Self {
                api: Api::new(&kubeconfig)?,
                own: None,
                conflists: Files::new(),
            });
        }
        let options = ClusterOptions {
            images: images::of_ambit()?,
            ..ClusterOptions::default()
        };
        let own = Cluster::start(options).await?;
        Ok(Self {
            api: own.api().clone(),
            conflists: files(&own, CNI_CONFIGURATION)?,
            own: Some(Box::new(own)),
        })
    }

    /// [`any`](Self::any), with Ambit installed by its charts.
    pub(crate) async fn ambit() -> Result<Self> {
        let world = Self::any().await?;
        install::gateway_api(&world.api).await?;
        install::ambit(&world.api).await?;
        Ok(world)
    }

    /// [`ambit`](Self::ambit), and the shop running.
    pub(crate) async fn meshed() -> Result<Self> {
        let world = Self::ambit().await?;
        install::shop(&world.api).await?;
        Ok(world)
    }

    /// The box, for scenarios that [need one](needs_a_box).
    pub(crate) fn own(&mut self) -> Result<&mut Cluster> {
        self.own.as_deref_mut().context("the cluster isn't ours")
    }

    /// True if parts of it may be stopped: a box of ours, or with
    /// `AMBIT_DISPOSABLE=1` any other.
    pub(crate) fn may_break(&self, what: &str) -> bool {
        let may = self.own.is_some() || variable("AMBIT_DISPOSABLE").is_some();
        if !may {
            eprintln!("SKIPPED {what}: it stops parts of a cluster (AMBIT_DISPOSABLE=1 allows it)");
        }
        may
    }

    /// CNI configuration of each node now; of a box only.
    pub(crate) fn conflists(&self) -> Result<Files> {
        let own = self.own.as_deref().context("the cluster isn't ours")?;
        files(own, CNI_CONFIGURATION)
    }
}

fn files(cluster: &Cluster, dir: &str) -> Result<Files> {
    let mut found = Files::new();
    for node in cluster.nodes() {
        for entry in fs::read_dir(node.file(dir)?)? {
            let path = entry?.path();
            let name = path.file_name().context("an entry has a name")?;
            let name = name.to_string_lossy().into_owned();
            found.insert((node.name().to_owned(), name), fs::read(&path)?);
        }
    }
    Ok(found)
}

/// The cluster that was given, if one was.
pub(crate) fn given() -> Option<PathBuf> {
    variable("KUBECONFIG").map(PathBuf::from)
}

fn variable(name: &str) -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "how a test is told its cluster")]
    let given = std::env::var(name).ok();
    given.filter(|value| !value.is_empty())
}

/// True if the scenario needs a box of its own and another cluster was given.
pub(crate) fn needs_a_box(what: &str) -> bool {
    let other = given().is_some();
    if other {
        eprintln!("SKIPPED {what}: it stops parts of a cluster, which KUBECONFIG's isn't for");
    }
    other
}

/// The steps of scenarios that share a cluster. One that fails doesn't keep the
/// others from running. `AMBIT_STEPS=WORD,WORD` runs those with a word in their
/// names.
pub(crate) struct Steps {
    only: Vec<String>,
    failed: Vec<String>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        let only = variable("AMBIT_STEPS").unwrap_or_default();
        let only = only.split(',').filter(|word| !word.is_empty());
        Self {
            only: only.map(str::to_owned).collect(),
            failed: Vec::new(),
        }
    }

    /// Runs one.
    pub(crate) async fn run(&mut self, name: &str, step: impl Future<Output = Result<()>>) {
        if !self.only.is_empty() && !self.only.iter().any(|word| name.contains(word.as_str())) {
            return;
        }
        let started = Instant::now();
        let outcome = step.await;
        let seconds = started.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => eprintln!("  ok   {name} ({seconds:.1} s)"),
            Err(error) => {
                eprintln!("  FAIL {name} ({seconds:.1} s): {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Fails if any failed.
    pub(crate) fn finish(self) {
        assert!(self.failed.is_empty(), "failed: {:?}", self.failed);
    }
}

const CNI_CONFIGURATION: &str = "/etc/cni/net.d";
