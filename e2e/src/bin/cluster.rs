//! `make cluster`: a real Kubernetes on this machine, with Ambit on it.
//! `docs/cluster.md` says what is built, where it is and how long it takes.
#![allow(clippy::print_stdout, reason = "it talks to whoever typed the command")]

use std::time::{Duration, Instant};

use ambit_e2e::kube::build::{self, Outcome, Part};
use ambit_e2e::kube::install;
use ambit_e2e::kube::{Api, Cluster, ClusterOptions, ControlPlaneOptions, Run, images};
use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

#[derive(Parser)]
enum Arguments {
    /// Builds Kubernetes' programs that are missing.
    Build {
        /// Which; by default those of `up`.
        parts: Vec<Which>,
    },
    /// Makes the images of the mesh and of Kubernetes.
    Images,
    /// Brings a cluster up and leaves it running.
    Up {
        /// Its name, for several at once.
        #[arg(long, default_value = "box")]
        name: String,
        /// How many nodes.
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// Port of the API server on this machine's loopback; 0 is any.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Kubernetes only: neither Ambit nor the shop.
        #[arg(long)]
        bare: bool,
    },
    /// Removes a cluster, and what killed runs left behind.
    Down {
        /// Its name.
        #[arg(long, default_value = "box")]
        name: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    /// etcd, API server, kubectl.
    Api,
    /// What nodes need, controllers, DNS, helm.
    Cluster,
    /// kwok.
    Scale,
    /// The conformance suite of Gateway API.
    Conformance,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match Arguments::parse() {
        Arguments::Build { parts } => build_parts(&parts),
        Arguments::Images => {
            for archive in [images::of_kubernetes()?, images::of_ambit()?].concat() {
                println!("{}", archive.display());
            }
            Ok(())
        }
        Arguments::Up {
            name,
            nodes,
            port,
            bare,
        } => runtime.block_on(up(&name, nodes, port, bare)),
        Arguments::Down { name } => {
            match Run::down(&name)? {
                true => println!("removed cluster {name}"),
                false => println!("there is no cluster {name}"),
            }
            Ok(())
        }
    }
}

fn build_parts(parts: &[Which]) -> Result<()> {
    let mut wanted: Vec<Part> = parts.iter().map(|which| part(*which)).collect();
    if wanted.is_empty() {
        wanted = vec![Part::Api, Part::Cluster];
    }
    build::build(&wanted, |source, outcome| match outcome {
        Outcome::Kept => println!("{:<28} kept", source.name),
        Outcome::Built(seconds) => println!("{:<28} built in {seconds} s", source.name),
    })
}

fn part(which: Which) -> Part {
    match which {
        Which::Api => Part::Api,
        Which::Cluster => Part::Cluster,
        Which::Scale => Part::Scale,
        Which::Conformance => Part::Conformance,
    }
}

async fn up(name: &str, nodes: u8, port: u16, bare: bool) -> Result<()> {
    // Before anything is up: a missing program shows at once.
    let images = match bare {
        true => Vec::new(),
        false => images::of_ambit()?,
    };
    // What a killed run of this name left goes; a cluster that is up stays.
    let run = Run::create(name)?;
    let started = Instant::now();
    let options = ClusterOptions {
        control: ControlPlaneOptions {
            port,
            ..ControlPlaneOptions::whole()
        },
        nodes,
        images,
    };
    let cluster = Cluster::start_in(run, options).await?;
    println!("{nodes} nodes are ready after {}", since(started));
    // What fails on it can be looked at: the cluster stays.
    let installed = match bare {
        true => Ok(()),
        false => install_all(cluster.api(), started).await,
    };
    let kubeconfig = cluster.leave()?;
    println!("export KUBECONFIG={}", kubeconfig.display());
    installed.context("the cluster stays up, see `make cluster-down`")
}

async fn install_all(api: &Api, started: Instant) -> Result<()> {
    install::gateway_api(api).await?;
    install::ambit(api).await?;
    println!("Ambit is installed after {}", since(started));
    install::shop(api).await?;
    println!("the shop runs after {}", since(started));
    Ok(())
}

fn since(started: Instant) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(started.elapsed().as_secs()))
}
