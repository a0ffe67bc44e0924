//! `HOLD=1`: the mesh stays up for somebody to look around.

use std::path::Path;

use ambit_runtime::Signals;
use anyhow::Result;
use serde_json::json;

use crate::Cluster;

/// Where `ambit ztunnel-config --node` finds the demo's proxies.
const DEMO_DIR: &str = ".demo";

/// Says how to look around, and waits for an interrupt.
///
/// # Errors
/// If the hints can't be written or signals can't be had.
#[allow(clippy::print_stdout, reason = "the demo's purpose is to print")]
pub async fn wait_for_interrupt(cluster: &Cluster) -> Result<()> {
    let nodes = Path::new(DEMO_DIR).join("nodes");
    std::fs::create_dir_all(&nodes)?;
    for node in cluster.node_names() {
        let host = cluster.underlay.host(node)?;
        let entry = json!({"netns": host.ns_path(), "admin": "127.0.0.1:15000"});
        std::fs::write(nodes.join(format!("{node}.json")), entry.to_string())?;
    }
    let node = cluster.underlay.host("node-1")?;
    let (bin, dir) = (cluster.bin_dir().display(), cluster.dir().display());
    println!("\nThe mesh is up. Look around from another terminal, in this directory:");
    println!("   {bin}/ambit ztunnel-config all --node node-1");
    println!("   {bin}/ambit analyze {dir}/manifests");
    println!(
        "   nsenter --net={} curl -s localhost:15000/config_dump",
        node.ns_path().display()
    );
    println!(
        "   nsenter --net={} curl -s {}:15020/metrics",
        node.ns_path().display(),
        node.ip()
    );
    println!("   tail -f {dir}/ztunnel-node-1.log");
    println!("Edit a file in {dir}/manifests and watch it take effect. Ctrl-C ends it.");
    Signals::new()?.next().await;
    std::fs::remove_dir_all(DEMO_DIR)?;
    Ok(())
}
