//! What pods of the mesh reach outside of it as if there were no mesh: the API
//! server by its Service, and a cloud's metadata server by its link-local
//! address (`ztunnel-contract` 11.5: TestAPIServer, TestMetadataServer).

use std::net::SocketAddr;

use ambit_e2e::Cluster;
use ambit_e2e::http::{self, Ask};
use ambit_testkit::eventually;
use anyhow::{Result, ensure};
use serde_json::json;

use super::on;
use super::serve::{Given, Server, Speaks};

/// Whoever is outside is not asked for the mesh's TLS.
const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: all, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";

/// Waits until a pod's request is answered, and was carried in the clear.
async fn answered(cluster: &Cluster, to: SocketAddr, at: SocketAddr, body: &str) -> Result<()> {
    let ns = cluster.pod_ns("mesh", "client")?;
    eventually(body, async || {
        let reply = http::ask(&ns, to, &Ask::get("/latest")).await?;
        let said = String::from_utf8_lossy(&reply.body);
        ensure!(
            reply.status == 200 && said == body,
            "{} {said}",
            reply.status
        );
        Ok(())
    })
    .await?;
    let at = at.to_string();
    eventually("the proxy carried it", async || {
        let lines = cluster.access("node-1", &[("src.workload", "client"), ("dst.addr", &at)])?;
        ensure!(!lines.is_empty(), "no record of {at}");
        let tunnelled = lines.iter().any(|line| line.contains_key("dst.hbone_addr"));
        ensure!(!tunnelled, "{lines:?}");
        Ok(())
    })
    .await
}

#[test]
fn the_api_server_and_a_metadata_server_are_reached_from_the_mesh() {
    on("outside of the mesh", async |cluster| {
        cluster.apply(STRICT)?;
        // Its Service has no selector: the API server keeps the slice itself.
        let control = cluster.underlay.host("control")?;
        let (ns, ip) = (control.ns().clone(), control.ip());
        let _api = Server::start(&ns, 6443, Speaks::HTTP, |_| {
            Given::of(200, "the API server")
        })?;
        cluster.manifests.put(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
        }))?;
        cluster.manifests.put(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4", "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
        }))?;
        let vip = ([10, 96, 0, 1], 443).into();
        answered(cluster, vip, (ip, 6443).into(), "the API server").await?;

        let metadata: SocketAddr = ([169, 254, 169, 254], 80).into();
        let node = cluster.underlay.host("node-1")?;
        let netlink = node.netlink();
        netlink
            .add_addr("lo", "169.254.169.254/32".parse()?)
            .await?;
        let _metadata = Server::start(node.ns(), 80, Speaks::HTTP, |got| {
            Given::of(200, format!("metadata {}", got.path))
        })?;
        answered(cluster, metadata, metadata, "metadata /latest").await
    });
}
