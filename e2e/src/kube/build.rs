//! Builds Kubernetes' programs from their pinned Go modules.
//!
//! `e2e/kube/*/go.mod` and `go.sum` say which; the programs go to
//! `target/kube/bin`, beside each a stamp of what it was built from, so that a
//! second build does nothing. Go's own cache makes a rebuild short.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};

use super::paths;

/// A program that is built.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// What it is called.
    pub name: &'static str,
    /// Directory of its Go module, below `e2e/kube`.
    pub module: &'static str,
    /// Its package; `.` is the module's own tests.
    pub package: &'static str,
    /// What needs it.
    pub part: Part,
}

/// What programs are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// An API server to talk to.
    Api,
    /// Controllers, nodes, DNS.
    Cluster,
    /// Simulated nodes.
    Scale,
    /// The conformance suite of Gateway API.
    Conformance,
}

/// All of them, in the order of building.
pub const SOURCES: &[Source] = &[
    of("etcd", CONTROL, "go.etcd.io/etcd/server/v3", Part::Api),
    of(
        "kube-apiserver",
        CONTROL,
        "k8s.io/kubernetes/cmd/kube-apiserver",
        Part::Api,
    ),
    of(
        "kubectl",
        CONTROL,
        "k8s.io/kubernetes/cmd/kubectl",
        Part::Api,
    ),
    of("helm", CONTROL, "helm.sh/helm/v4/cmd/helm", Part::Cluster),
    of(
        "kube-controller-manager",
        CONTROL,
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        Part::Cluster,
    ),
    of(
        "kube-scheduler",
        CONTROL,
        "k8s.io/kubernetes/cmd/kube-scheduler",
        Part::Cluster,
    ),
    of(
        "kubelet",
        CONTROL,
        "k8s.io/kubernetes/cmd/kubelet",
        Part::Cluster,
    ),
    of(
        "kube-proxy",
        CONTROL,
        "k8s.io/kubernetes/cmd/kube-proxy",
        Part::Cluster,
    ),
    of(
        "containerd",
        NODE,
        "github.com/containerd/containerd/v2/cmd/containerd",
        Part::Cluster,
    ),
    of(
        "containerd-shim-runc-v2",
        NODE,
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        Part::Cluster,
    ),
    of(
        "ctr",
        NODE,
        "github.com/containerd/containerd/v2/cmd/ctr",
        Part::Cluster,
    ),
    of(
        "host-local",
        NODE,
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
        Part::Cluster,
    ),
    of(
        "loopback",
        NODE,
        "github.com/containernetworking/plugins/plugins/main/loopback",
        Part::Cluster,
    ),
    of(
        "bridge",
        NODE,
        "github.com/containernetworking/plugins/plugins/main/bridge",
        Part::Cluster,
    ),
    of(
        "ptp",
        NODE,
        "github.com/containernetworking/plugins/plugins/main/ptp",
        Part::Cluster,
    ),
    of(
        "portmap",
        NODE,
        "github.com/containernetworking/plugins/plugins/meta/portmap",
        Part::Cluster,
    ),
    of("coredns", NODE, "github.com/coredns/coredns", Part::Cluster),
    of("kwok", CONTROL, "sigs.k8s.io/kwok/cmd/kwok", Part::Scale),
    of("conformance.test", "conformance", ".", Part::Conformance),
];

const SUITE: &str = "sigs.k8s.io/gateway-api/conformance";
const CONTROL: &str = "control-plane";
const NODE: &str = "node";

const fn of(name: &'static str, module: &'static str, package: &'static str, part: Part) -> Source {
    Source {
        name,
        module,
        package,
        part,
    }
}

/// What became of a program.
#[derive(Debug)]
pub enum Outcome {
    /// It was there, from the same sources.
    Kept,
    /// It was built, in so many seconds.
    Built(u64),
}

/// Builds what is missing of the parts, one after the other, and says so to
/// `say`. Then collects the files of the modules that are used as they are.
///
/// # Errors
/// If Go is missing or too old, or a build fails, with the compiler's words.
pub fn build(parts: &[Part], mut say: impl FnMut(&Source, &Outcome)) -> Result<()> {
    let bin = paths::base()?.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    let go = go()?;
    for source in SOURCES.iter().filter(|s| parts.contains(&s.part)) {
        let started = Instant::now();
        let outcome = match build_one(&go, &bin, source)? {
            true => Outcome::Built(started.elapsed().as_secs()),
            false => Outcome::Kept,
        };
        say(source, &outcome);
    }
    collect_crds(&go)?;
    if parts.contains(&Part::Conformance) {
        let module = module_dir(&go, "conformance", SUITE)?;
        let to = paths::suite()?;
        let to = to.parent().context("a file is in a directory")?;
        copy_tree(&module.join("mesh"), to)?;
    }
    if parts.contains(&Part::Scale) {
        let stages = module_dir(&go, CONTROL, "sigs.k8s.io/kwok")?.join("kustomize/stage");
        copy_tree(&stages, &paths::base()?.join("kwok"))?;
    }
    Ok(())
}

/// Says whether it had to be built.
fn build_one(go: &Path, bin: &Path, source: &Source) -> Result<bool> {
    let dir = paths::sources().join(source.module);
    let (program, stamp) = (
        bin.join(source.name),
        bin.join(format!(".{}.stamp", source.name)),
    );
    let wanted = fingerprint(&dir, source)?;
    if program.exists() && fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(false);
    }
    let fresh = bin.join(format!(".{}.new", source.name));
    let mut command = Command::new(go);
    match source.package {
        "." => command.args(["test", "-c"]),
        _ => command.arg("build"),
    };
    let output = command
        .args([
            "-trimpath",
            "-buildvcs=false",
            "-mod=readonly",
            "-ldflags",
            &linker_flags(&dir)?,
        ])
        .arg("-o")
        .arg(&fresh)
        .arg(source.package)
        .env("CGO_ENABLED", "0")
        .current_dir(&dir)
        .output()
        .context("start go")?;
    ensure!(
        output.status.success(),
        "build {}: {}",
        source.name,
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&fresh, &program)?;
    fs::write(stamp, wanted)?;
    Ok(true)
}

/// What decides what a program is.
fn fingerprint(dir: &Path, source: &Source) -> Result<String> {
    let mut all = String::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        files.push(entry?.path());
    }
    files.sort();
    for file in files {
        all.push_str(&fs::read_to_string(&file).with_context(|| file.display().to_string())?);
    }
    write!(all, "{} {}", source.package, linker_flags(dir)?)?;
    let mut text = String::new();
    for byte in digest(&SHA256, all.as_bytes()).as_ref() {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

/// Kubernetes' programs learn their version from the linker, or call
/// themselves v0.0.0.
fn linker_flags(dir: &Path) -> Result<String> {
    let module = fs::read_to_string(dir.join("go.mod"))?;
    let mut flags = String::from("-s -w");
    let version = module
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"))
        // `// indirect` follows.
        .and_then(|rest| rest.split_whitespace().next());
    if let Some(version) = version {
        let mut parts = version.split('.');
        let (major, minor) = (parts.next(), parts.next());
        let base = "k8s.io/component-base/version";
        write!(flags, " -X {base}.gitVersion=v{version}")?;
        write!(flags, " -X {base}.gitMajor={}", major.unwrap_or_default())?;
        write!(flags, " -X {base}.gitMinor={}", minor.unwrap_or_default())?;
    }
    Ok(flags)
}

/// The machine's Go, or the one that `xtask/setup.sh` installed.
fn go() -> Result<PathBuf> {
    let installed = paths::base()?.join("go/bin/go");
    let mut seen = Vec::new();
    for go in [PathBuf::from("go"), installed] {
        let Ok(output) = Command::new(&go).arg("version").output() else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if go_version(&text).is_some_and(|version| version >= GO) {
            return Ok(go);
        }
        seen.push(text.trim().to_owned());
    }
    bail!(
        "Go {}.{}.{} or newer is needed ({seen:?} is here): run `xtask/setup.sh --cluster`",
        GO.0,
        GO.1,
        GO.2
    )
}

/// Numbers of `go version go1.26.8 linux/amd64`.
fn go_version(text: &str) -> Option<(u32, u32, u32)> {
    let version = text.split(' ').find_map(|word| word.strip_prefix("go1"))?;
    let mut parts = version.trim_start_matches('.').split('.');
    let minor = parts.next()?.parse().ok()?;
    let patch = parts.next().and_then(|p| p.parse().ok()).unwrap_or(0);
    Some((1, minor, patch))
}

/// Gateway API's CRDs, experimental channel, as its module has them.
fn collect_crds(go: &Path) -> Result<()> {
    let module = module_dir(go, "conformance", "sigs.k8s.io/gateway-api")?;
    let to = paths::base()?.join("crds/gateway-api");
    copy_tree(&module.join("config/crd/experimental"), &to)?;
    // Not an object, only a list of the others.
    let _ = fs::remove_file(to.join("kustomization.yaml"));
    Ok(())
}

fn module_dir(go: &Path, in_module: &str, module: &str) -> Result<PathBuf> {
    let run = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(go)
            .args(arguments)
            .current_dir(paths::sources().join(in_module))
            .output()
            .context("start go")?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "go {arguments:?}: {text}");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    run(&["mod", "download", module])?;
    let dir = run(&["list", "-m", "-f", "{{.Dir}}", module])?;
    ensure!(!dir.is_empty(), "{module} isn't downloaded");
    Ok(PathBuf::from(dir))
}

/// Module caches are read-only; copies of them are not.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::write(&target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// The newest that a `go.mod` here asks for.
const GO: (u32, u32, u32) = (1, 26, 6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_read() {
        assert_eq!(
            go_version("go version go1.26.8 linux/amd64"),
            Some((1, 26, 8))
        );
        assert_eq!(
            go_version("go version go1.27 linux/amd64"),
            Some((1, 27, 0))
        );
        assert_eq!(go_version("something else"), None);
    }

    #[test]
    fn modules_pin_what_they_build_and_need_no_newer_go_than_is_asked_for() {
        for source in SOURCES {
            let dir = paths::sources().join(source.module);
            let module = fs::read_to_string(dir.join("go.mod")).unwrap();
            let line = module.lines().find_map(|l| l.strip_prefix("go ")).unwrap();
            let version = go_version(&format!("go version go{line}")).unwrap();
            assert!(version <= GO, "{}: {line}", source.module);
            assert!(dir.join("go.sum").exists(), "{}", source.module);
            let tool = format!("\t{}\n", source.package);
            assert!(
                source.package == "." || module.contains(&tool),
                "{}",
                source.name
            );
        }
        let control = linker_flags(&paths::sources().join("control-plane")).unwrap();
        assert!(
            control.contains("gitVersion=v1.") && !control.contains("//"),
            "{control}"
        );
    }
}
