//! The images of the box: ours from the programs that were built, and the two
//! that Kubernetes itself needs. Written to
//! `target/kube/images`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use super::image::Image;
use super::paths;
use crate::programs;

/// Image that holds a pod's namespaces.
pub const PAUSE: &str = "ambit.local/pause:dev";
/// Image of the cluster's DNS.
pub const COREDNS: &str = "ambit.local/coredns:dev";
/// Image of the application of scenarios.
pub const ECHO: &str = "ambit/echo:dev";

/// The archives that Kubernetes itself needs.
///
/// # Errors
/// If a program is missing.
pub fn of_kubernetes() -> Result<Vec<PathBuf>> {
    let pause = paths::own_program("kube-init")?;
    let coredns = paths::kube_program("coredns")?;
    Ok(vec![
        archive("pause", &[&pause], || {
            Image::new(&[PAUSE], &["/pause", "pause"])?.program(&pause, "/pause")
        })?,
        archive("coredns", &[&coredns], || {
            Image::new(&[COREDNS], &["/coredns"])?.program(&coredns, "/coredns")
        })?,
    ])
}

/// The archives of the mesh and of the scenarios' application.
///
/// # Errors
/// If a program is missing.
pub fn of_ambit() -> Result<Vec<PathBuf>> {
    let bin = programs::bin_dir()?;
    let mut made = Vec::new();
    for (name, user) in [
        ("ztunnel", None),
        ("istiod-lite", Some(MESH_USER)),
        ("waypoint", Some(MESH_USER)),
    ] {
        let program = bin.join(name);
        made.push(archive(name, &[&program], || {
            let to = format!("/usr/local/bin/{name}");
            let image = Image::new(&[&format!("ambit/{name}:dev")], &[&to])?;
            let image = match user {
                Some(id) => image.user(id),
                None => image,
            };
            image.program(&program, &to)
        })?);
    }
    made.push(node_agent(&bin)?);
    made.extend(of_echo()?);
    Ok(made)
}

/// The archive of the scenarios' application alone, and of the load that they
/// put on it.
///
/// # Errors
/// If a program is missing.
pub fn of_echo() -> Result<Vec<PathBuf>> {
    let bin = programs::bin_dir()?;
    let (echo, load) = (bin.join("ambit-echo"), bin.join("ambit-load"));
    let made = archive("echo", &[&echo, &load], || {
        let to = "/usr/local/bin/ambit-echo";
        Image::new(&[ECHO], &[to])?
            .program(&echo, to)?
            .program(&load, "/usr/local/bin/ambit-load")
    })?;
    Ok(vec![made])
}

/// The archive of what stands in for the conformance suite's application, under
/// the name that the suite's own manifests give it.
///
/// # Errors
/// If the program is missing, or the manifests weren't collected.
pub fn of_suite() -> Result<Vec<PathBuf>> {
    let (program, manifests) = (paths::own_program("echo-advanced")?, paths::suite()?);
    let names = named_images(
        &fs::read_to_string(&manifests)
            .with_context(|| format!("{} is missing: {BUILD}", manifests.display()))?,
    )?;
    let made = archive("echo-advanced", &[&program, &manifests], || {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let own = rcgen::generate_simple_self_signed(["echo".to_owned()])?;
        Image::new(&names, &["/usr/local/bin/echo-advanced"])?
            .program(&program, "/usr/local/bin/echo-advanced")?
            // The suite runs `client` in the pods.
            .link("/usr/local/bin/client", "echo-advanced")?
            .text("/cert.crt", &own.cert.pem())?
            .text("/cert.key", &own.signing_key.serialize_pem())
    })?;
    Ok(vec![made])
}

/// The images that Deployments of a YAML text run, each once.
fn named_images(yaml: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for object in crate::manifests::parse(yaml)? {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array();
        for container in containers.into_iter().flatten() {
            names.extend(container["image"].as_str().map(str::to_owned));
        }
    }
    ensure!(!names.is_empty(), "manifests that run no image");
    Ok(names)
}

const BUILD: &str = "run `cluster build conformance`";

/// The agent runs `nft`, and installs the CNI plugin where there is one.
fn node_agent(bin: &Path) -> Result<PathBuf> {
    let (agent, plugin, nft) = (bin.join("node-agent"), bin.join("ambit-cni"), nft()?);
    let mut inputs = vec![agent.as_path(), nft.as_path()];
    if plugin.exists() {
        inputs.push(&plugin);
    }
    archive("node-agent", &inputs, || {
        let to = "/usr/local/bin/node-agent";
        let image = Image::new(&["ambit/node-agent:dev"], &[to])?
            .program(&agent, to)?
            .program(&nft, "/usr/sbin/nft")?;
        match plugin.exists() {
            true => image.program(&plugin, "/opt/ambit/ambit-cni"),
            false => Ok(image),
        }
    })
}

fn nft() -> Result<PathBuf> {
    let places = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.context("nft is missing: run `make setup`")
}

/// Makes an archive unless it is newer than what goes into it.
fn archive(name: &str, inputs: &[&Path], make: impl FnOnce() -> Result<Image>) -> Result<PathBuf> {
    let dir = paths::images()?;
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let to = dir.join(format!("{name}.tar"));
    let newest = inputs.iter().map(|path| changed(path)).max().flatten();
    if changed(&to).is_some_and(|made| newest.is_some_and(|newest| made > newest)) {
        return Ok(to);
    }
    make()
        .and_then(|image| image.write(&to))
        .with_context(|| format!("make the image of {name}"))?;
    Ok(to)
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}

/// The user that upstream's charts run proxies and control planes as.
const MESH_USER: u32 = 1337;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_by_the_deployments_that_run_them() {
        let yaml = "kind: Namespace\nmetadata: {name: a}\n---\n\
            kind: Deployment\nspec: {template: {spec: {containers: [{image: 'x/echo:v1'}]}}}\n---\n\
            kind: Deployment\nspec: {template: {spec: {containers: [{image: 'x/echo:v1'}]}}}\n";
        let names = named_images(yaml).unwrap();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["x/echo:v1"]);
        assert!(named_images("kind: Namespace\nmetadata: {name: a}\n").is_err());
    }
}
