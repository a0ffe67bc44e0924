//! Egress: the API of a partner, outside of the mesh, behind the store's
//! waypoint, which speaks TLS to it and enforces a policy on the way.

use ambit_testkit::eventually;
use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use super::Report;
use crate::Cluster;
use crate::http::{self, Ask};

const HOST: &str = "api.partner.example";
const ADDRESS: [u8; 4] = [10, 96, 4, 50];

/// Runs the partner, and checks what its clients in the mesh get.
pub(super) async fn a_partner(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    report.section("Egress to a partner's API, over TLS");
    let authority = run_partner(cluster).await?;
    cluster.apply(OBJECTS)?;
    trust(cluster, &authority)?;
    let held = wait(cluster, "shopper", "GET", 200).await;
    report.check(
        "applications speak plain HTTP, the waypoint verified TLS (ServiceEntry, DestinationRule)",
        held,
    );
    cluster.apply(POLICY)?;
    let refused = async {
        wait(cluster, "shopper", "POST", 403).await?;
        wait(cluster, "auditor", "GET", 403).await?;
        wait(cluster, "shopper", "GET", 200).await
    };
    report.check(
        "only the shopper, and only GET (AuthorizationPolicy on the ServiceEntry)",
        refused.await,
    );
    trust(cluster, &authority_of(KeyPair::generate()?)?.0)?;
    let refused = wait(cluster, "shopper", "GET", 503).await;
    report.check("a certificate of another authority is refused", refused);
    Ok(())
}

/// Starts the API; gives its authority's certificate as PEM.
async fn run_partner(cluster: &mut Cluster) -> Result<String> {
    let (pem, authority) = authority_of(KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let chain = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &authority)?;
    let file = |name: &str| cluster.dir().join(name);
    let (chain_file, key_file) = (file("partner.crt"), file("partner.key"));
    std::fs::write(&chain_file, chain.pem())?;
    std::fs::write(&key_file, key.serialize_pem())?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "api-0", "namespace": "partner", "labels": {"app": "api"}},
        "spec": {"nodeName": "node-2", "serviceAccountName": "api", "containers": [{
            "name": "app", "image": "ambit-echo", "ports": [{"containerPort": 8443}],
            "args": ["serve", "--tls=8443", format!("--tls-cert={}", chain_file.display()),
                format!("--tls-key={}", key_file.display())],
        }]},
    });
    cluster.run_pod(pod).await?;
    let ip = cluster.pod_addr("partner", "api-0", 0)?.ip();
    cluster.manifests.put(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "partner", "namespace": "store"},
        "spec": {
            "hosts": [HOST], "addresses": ["10.96.4.50"], "location": "MESH_EXTERNAL",
            "resolution": "STATIC", "endpoints": [{"address": ip.to_string()}],
            "ports": [{"number": 80, "targetPort": 8443, "name": "http", "protocol": "HTTP"}],
        },
    }))?;
    Ok(pem)
}

fn authority_of(key: KeyPair) -> Result<(String, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

/// The Secret with the authority that the waypoint trusts for the partner.
fn trust(cluster: &mut Cluster, authority: &str) -> Result<()> {
    cluster.manifests.put(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "partner", "namespace": "store"},
        "stringData": {"ca.crt": authority},
    }))
}

async fn wait(cluster: &Cluster, pod: &str, method: &str, status: u16) -> Result<()> {
    let ns = cluster.pod_ns("store", pod)?;
    let ask = Ask::get("/orders").method(method).host(HOST);
    eventually("the partner's API", async || {
        let reply = http::ask(&ns, (ADDRESS, 80).into(), &ask).await?;
        let got = reply.status;
        ensure!(got == status, "{method} of {pod}: {got}, wanted {status}");
        if status == 200 {
            let echo = reply.echo()?;
            ensure!(echo.pod == "api-0" && echo.host == HOST, "{echo:?}");
        }
        Ok(())
    })
    .await
}

const OBJECTS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: partner, namespace: store}
spec:
  host: api.partner.example
  trafficPolicy: {tls: {mode: SIMPLE, credentialName: partner, sni: api.partner.example}}
";

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: partner, namespace: store}
spec:
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: partner}]
  action: ALLOW
  rules:
    - from: [{source: {principals: [cluster.local/ns/store/sa/shopper]}}]
      to: [{operation: {methods: [GET]}}]
";
