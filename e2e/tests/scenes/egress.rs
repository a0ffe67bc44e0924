//! Egress: a service outside of the mesh behind a waypoint that speaks TLS to
//! it, with policies on it (`waypoint-contract` 3.5 tls, 2.7 BackendTLSPolicy).

use std::sync::Arc;

use ambit_e2e::Cluster;
use ambit_e2e::http::{self, Ask, Reply};
use ambit_testkit::eventually;
use anyhow::{Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::on;
use super::serve::{Given, Server, Speaks};

const NAME: &str = "api.partner.example";

/// A certificate authority of the partner's.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A chain and a key, as PEM.
struct Leaf {
    chain: String,
    key: String,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { pem, issuer })
    }

    fn leaf(&self, names: &[&str], uris: &[&str]) -> Result<Leaf> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        for uri in uris {
            let uri = SanType::URI((*uri).try_into()?);
            params.subject_alt_names.push(uri);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Ok(Leaf {
            chain: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// TLS of a server; with clients' certificates if asked.
    fn acceptor(&self, leaf: &Leaf, clients: bool) -> Result<TlsAcceptor> {
        let provider = ambit_identity::provider();
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes())?)?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_slice(leaf.chain.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?;
        Ok(TlsAcceptor::from(Arc::new(
            builder.with_single_cert(chain, key)?,
        )))
    }
}

/// The partner's API on a pod outside of the mesh.
fn partner(cluster: &Cluster, port: u16, tls: TlsAcceptor) -> Result<Server> {
    let speaks = Speaks {
        h2: false,
        tls: Some(tls),
    };
    let ns = cluster.pod_ns("plain", "client")?;
    Server::start(&ns, port, speaks, |got| {
        let host = got.header("host");
        Given::of(200, format!("{} {} at {host}", got.method, got.path))
    })
}

fn entry(cluster: &mut Cluster, port: u16) -> Result<()> {
    let ip = cluster.pod_addr("plain", "client", 0)?.ip();
    cluster.manifests.put(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "partner", "namespace": "mesh"},
        "spec": {
            "hosts": [NAME], "addresses": ["10.96.77.1"], "location": "MESH_EXTERNAL",
            "resolution": "STATIC", "endpoints": [{"address": ip.to_string()}],
            "ports": [{"number": 80, "targetPort": port, "name": "http", "protocol": "HTTP"}],
        },
    }))
}

fn secret(cluster: &mut Cluster, data: Value) -> Result<()> {
    cluster.manifests.put(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "partner", "namespace": "mesh"}, "stringData": data,
    }))
}

fn rule(cluster: &mut Cluster, tls: Value) -> Result<()> {
    cluster.manifests.put(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "partner", "namespace": "mesh"},
        "spec": {"host": NAME, "trafficPolicy": {"tls": tls}},
    }))
}

async fn call(cluster: &Cluster, ask: &Ask) -> Result<Reply> {
    let ns = cluster.pod_ns("mesh", "client")?;
    http::ask(&ns, ([10, 96, 77, 1], 80).into(), &ask.clone().host(NAME)).await
}

async fn wait(cluster: &Cluster, what: &str, ask: &Ask, status: u16) -> Result<Reply> {
    eventually(what, async || {
        let reply = call(cluster, ask).await?;
        ensure!(reply.status == status, "{} {:?}", reply.status, reply.body);
        Ok(reply)
    })
    .await
}

#[test]
fn the_waypoint_speaks_tls_to_a_partner_and_policies_hold() {
    on("egress", async |cluster| {
        let authority = Authority::new()?;
        let stranger = Authority::new()?;
        let leaf = authority.leaf(&[NAME], &["spiffe://partner/api"])?;
        let server = partner(cluster, 8443, authority.acceptor(&leaf, false)?)?;
        entry(cluster, 8443)?;
        secret(cluster, json!({"ca.crt": authority.pem}))?;
        let simple = json!({"mode": "SIMPLE", "credentialName": "partner", "sni": NAME});
        rule(cluster, simple.clone())?;
        let reply = wait(cluster, "over TLS", &Ask::get("/orders?a=b"), 200).await?;
        let body = String::from_utf8_lossy(&reply.body);
        ensure!(body == format!("GET /orders?a=b at {NAME}"), "{body:?}");
        // A policy on the ServiceEntry.
        cluster.apply(POLICY)?;
        wait(cluster, "POST", &Ask::get("/orders").method("POST"), 403).await?;
        wait(cluster, "GET", &Ask::get("/orders"), 200).await?;
        cluster.delete("AuthorizationPolicy", "mesh", "read-partner")?;
        // Names that the certificate doesn't have, and one that it has.
        let mut named = simple.clone();
        named["subjectAltNames"] = json!(["other.partner.example"]);
        rule(cluster, named.clone())?;
        wait(cluster, "another name", &Ask::get("/"), 503).await?;
        named["subjectAltNames"] = json!(["spiffe://partner/api"]);
        rule(cluster, named)?;
        wait(cluster, "its URI", &Ask::get("/"), 200).await?;
        // Another authority; no Secret at all: refused.
        secret(cluster, json!({"ca.crt": stranger.pem}))?;
        wait(cluster, "another authority", &Ask::get("/"), 503).await?;
        secret(cluster, json!({"ca.crt": authority.pem}))?;
        wait(cluster, "ours again", &Ask::get("/"), 200).await?;
        cluster.delete("Secret", "mesh", "partner")?;
        wait(cluster, "no Secret", &Ask::get("/"), 503).await?;
        never_plain(cluster, server, 8443).await
    });
}

/// A partner that takes plaintext at the same port gets none.
async fn never_plain(cluster: &Cluster, tls: Server, port: u16) -> Result<()> {
    drop(tls);
    let ns = cluster.pod_ns("plain", "client")?;
    let plain = eventually("the port is free", async || {
        Server::start(&ns, port, Speaks::HTTP, |_| Given::of(200, "plain"))
    })
    .await?;
    for _ in 0..10 {
        let reply = call(cluster, &Ask::get("/")).await?;
        ensure!((500..600).contains(&reply.status), "{}", reply.status);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    ensure!(plain.seen().is_empty(), "plaintext: {:?}", plain.seen());
    Ok(())
}

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: read-partner, namespace: mesh}
spec:
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: partner}]
  action: ALLOW
  rules:
    - from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]
      to: [{operation: {methods: [GET]}}]
";

#[test]
fn the_waypoint_shows_its_certificate_where_the_partner_wants_one() {
    on("egress mutual", async |cluster| {
        let authority = Authority::new()?;
        let leaf = authority.leaf(&[NAME], &[])?;
        let own = authority.leaf(&["mesh.example"], &[])?;
        let _server = partner(cluster, 8444, authority.acceptor(&leaf, true)?)?;
        entry(cluster, 8444)?;
        secret(cluster, json!({"ca.crt": authority.pem}))?;
        rule(
            cluster,
            json!({"mode": "SIMPLE", "credentialName": "partner"}),
        )?;
        wait(cluster, "without a certificate", &Ask::get("/"), 503).await?;
        secret(
            cluster,
            json!({"ca.crt": authority.pem, "tls.crt": own.chain, "tls.key": own.key}),
        )?;
        rule(
            cluster,
            json!({"mode": "MUTUAL", "credentialName": "partner"}),
        )?;
        wait(cluster, "with one", &Ask::get("/"), 200).await?;
        Ok(())
    });
}

/// BackendTLSPolicy: host name, subjectAltNames, an authority that didn't sign.
#[test]
fn a_backend_tls_policy_verifies_or_refuses() {
    on("BackendTLSPolicy", async |cluster| {
        let authority = Authority::new()?;
        let stranger = Authority::new()?;
        let leaf = authority.leaf(
            &["abc.example.com", "san.example.com"],
            &["spiffe://abc/tls"],
        )?;
        let server = partner(cluster, 8445, authority.acceptor(&leaf, false)?)?;
        cluster.apply(
            "
apiVersion: v1
kind: Service
metadata: {name: tls, namespace: mesh}
spec:
  clusterIP: 10.96.77.1
  ports: [{name: http, port: 80, targetPort: 8445, appProtocol: http}]
",
        )?;
        let ip = cluster.pod_addr("plain", "client", 0)?.ip();
        cluster.manifests.put(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "tls-1", "namespace": "mesh", "labels": {"kubernetes.io/service-name": "tls"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8445, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
        }))?;
        let rows = [
            (
                "its name",
                &authority,
                json!({"hostname": "abc.example.com"}),
                200,
            ),
            (
                "another name",
                &authority,
                json!({"hostname": "xyz.example.com"}),
                503,
            ),
            (
                "a name of subjectAltNames",
                &authority,
                json!({"hostname": "sni.example.com", "subjectAltNames": [{"type": "Hostname", "hostname": "san.example.com"}]}),
                200,
            ),
            (
                "a URI",
                &authority,
                json!({"hostname": "sni.example.com", "subjectAltNames": [{"type": "URI", "uri": "spiffe://abc/tls"}]}),
                200,
            ),
            (
                "another URI",
                &authority,
                json!({"hostname": "abc.example.com", "subjectAltNames": [{"type": "URI", "uri": "spiffe://abc/other"}]}),
                503,
            ),
            (
                "another authority",
                &stranger,
                json!({"hostname": "abc.example.com"}),
                503,
            ),
        ];
        for (what, authority, mut validation, status) in rows {
            validation["caCertificateRefs"] =
                json!([{"group": "", "kind": "ConfigMap", "name": "ca"}]);
            cluster.manifests.put(json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "ca", "namespace": "mesh"}, "data": {"ca.crt": authority.pem},
            }))?;
            cluster.manifests.put(json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
                "metadata": {"name": "tls", "namespace": "mesh"},
                "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "tls"}], "validation": validation},
            }))?;
            wait(cluster, what, &Ask::get("/"), status).await?;
        }
        // References that can't be resolved: 5xx, never plaintext.
        cluster.delete("ConfigMap", "mesh", "ca")?;
        never_plain(cluster, server, 8445).await
    });
}
