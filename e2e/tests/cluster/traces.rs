//! The machine is afterwards what it was before, whichever way a box ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use ambit_e2e::kube::run::{self, ProcessId};
use ambit_e2e::kube::{Cluster, ClusterOptions, Run, cgroups};
use ambit_testkit::eventually;
use anyhow::{Result, ensure};

use crate::world::needs_a_box;

/// What a box could leave behind, besides processes and cgroups.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    routes: String,
    rules: String,
    files: BTreeSet<String>,
    sysctls: Vec<String>,
    runs: BTreeSet<String>,
}

impl Traces {
    /// Of this machine now.
    fn now() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        // Whoever else uses this machine mounts things too.
        let ours = |line: &&str| {
            ["ambit-box", "/kube/"]
                .iter()
                .any(|part| line.contains(part))
        };
        let dirs = ["/etc", "/opt", "/run", "/var/lib", "/var/log", "/dev/shm"];
        let sysctl = |name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
        Ok(Self {
            mounts: mounts.lines().filter(ours).map(str::to_owned).collect(),
            links: names(Path::new("/sys/class/net")),
            routes: fs::read_to_string("/proc/net/route")?,
            rules: said_by("nft", &["list", "tables"]),
            files: dirs
                .iter()
                .flat_map(|dir| names(Path::new(dir)))
                .filter(|name| ["cni", "containerd", "kubelet", "box"].contains(&name.as_str()))
                .collect(),
            sysctls: [
                "vm/overcommit_memory",
                "kernel/panic",
                "kernel/panic_on_oops",
            ]
            .map(sysctl)
            .into(),
            runs: names(&run::runs()?),
        })
    }
}

/// Every process that a process started, and that those started.
fn descendants(of: u32) -> Vec<ProcessId> {
    let mut found: Vec<u32> = vec![of];
    let all: Vec<(u32, u32)> = names(Path::new("/proc"))
        .iter()
        .filter_map(|name| {
            let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            Some((name.parse().ok()?, parent.parse().ok()?))
        })
        .collect();
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(
            all.iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| *pid),
        );
        at += 1;
    }
    let started = found.into_iter().skip(1);
    started.filter_map(ProcessId::of).collect()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[tokio::test]
async fn a_cluster_leaves_no_trace() {
    if needs_a_box("the removal of a cluster") {
        return;
    }
    let before = Traces::now().unwrap();
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let cgroup = cluster.control().run().cgroup();
    assert!(!cgroups::existing(&cgroup).unwrap().is_empty());
    let processes = descendants(std::process::id());
    assert!(processes.len() > 12, "{processes:?}");
    // It is in namespaces of its own all the while.
    let during = Traces::now().unwrap();
    let run = cluster.control().dir().file_name().unwrap();
    let mut expected = before.runs.clone();
    expected.insert(run.to_string_lossy().into_owned());
    assert_eq!(during.runs, expected);
    assert_eq!(
        Traces {
            runs: before.runs.clone(),
            ..during
        },
        before
    );
    drop(cluster);
    assert_eq!(Traces::now().unwrap(), before);
    assert!(cgroups::existing(&cgroup).unwrap().is_empty());
    let left: Vec<_> = processes.iter().filter(|process| process.runs()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Not a scenario: the run that the next one kills.
#[tokio::test]
#[ignore = "started by the scenario below"]
async fn a_cluster_that_waits_to_be_killed() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    println!("\nUP {}", cluster.control().run().cgroup());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_run_leaves_no_process_and_the_next_removes_the_rest() {
    if needs_a_box("the end of a killed run") {
        return;
    }
    let before = Traces::now().unwrap();
    let mut runner = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("traces::a_cluster_that_waits_to_be_killed")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(runner.stdout.take().unwrap());
    let mut lines = output.lines().map_while(Result::ok);
    let up = lines.find_map(|line| line.strip_prefix("UP ").map(str::to_owned));
    let processes = descendants(runner.id());
    runner.kill().unwrap();
    runner.wait().unwrap();
    let cgroup = up.unwrap();
    assert!(processes.len() > 12, "{processes:?}");
    // They end by themselves: nobody is left to end them.
    eventually("its processes ended", async || {
        let left: Vec<_> = processes.iter().filter(|process| process.runs()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert!(!cgroups::existing(&cgroup).unwrap().is_empty());
    // What `make cluster-down` does.
    assert!(!Run::down("there-is-none").unwrap());
    assert!(cgroups::existing(&cgroup).unwrap().is_empty());
    assert_eq!(Traces::now().unwrap(), before);
}
