//! Peers with wrong credentials, and with right ones but wrong requests.

use std::time::Duration;

use ambit_e2e::Cluster;
use ambit_e2e::observe::echoes;
use ambit_e2e::peer::{Credential, authority, connect_status};
use ambit_e2e::scenario::on_shop;
use ambit_netns::NetNs;
use ambit_testkit::eventually;
use anyhow::{Context, Result, bail, ensure};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::strange::{self, Request};

const WORKER: &str = "spiffe://cluster.local/ns/shop/sa/worker";
const LIFE: Duration = Duration::from_secs(300);

/// Refusals that a node's proxy counted on the accepting side.
pub(crate) async fn refusals(cluster: &Cluster, node: &str, reason: &str) -> Result<f64> {
    let labels = [("reporter", "destination"), ("reason", reason)];
    Ok(cluster
        .metrics(node)
        .await?
        .sum("ambit_refusals_total", &labels))
}

/// Runs something that must add so many refusals of a reason on node-2, and a
/// line of the access log with a text.
async fn refuses<T>(
    cluster: &Cluster,
    (count, reason, text): (f64, &str, &str),
    what: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let before = refusals(cluster, "node-2", reason).await?;
    let lines = cluster.access("node-2", &[("direction", "inbound")])?.len();
    let done = what().await?;
    eventually(&format!("{reason} is counted and logged"), async || {
        let now = refusals(cluster, "node-2", reason).await?;
        ensure!(now == before + count, "{before} + {count} is not {now}");
        let all = cluster.access("node-2", &[("direction", "inbound")])?;
        let new = all.iter().skip(lines);
        let errors: Vec<_> = new.filter_map(|line| line.get("error")).collect();
        let said = errors.iter().any(|error| error.contains(text));
        ensure!(said, "no {text:?} in {errors:?}");
        Ok(())
    })
    .await?;
    Ok(done)
}

fn self_signed(id: &str) -> Result<Credential> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.der().clone();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok(Credential::Chain(vec![certificate], key.into()))
}

/// A certificate of the mesh's own authority that ended a minute ago.
fn expired(state: &std::path::Path, id: &str) -> Result<Credential> {
    let read = |name: &str| -> Result<String> {
        let dir = state.join("ca");
        let path = dir.join(name);
        std::fs::read_to_string(&path).with_context(|| {
            let all: Vec<_> = std::fs::read_dir(&dir)
                .into_iter()
                .flatten()
                .flatten()
                .collect();
            format!("{}: {all:?}", path.display())
        })
    };
    let key = KeyPair::from_pem(&read("ca-key.pem")?)?;
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca-cert.pem")?, key)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    let now = std::time::SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now - Duration::from_secs(60)).into();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.der().clone();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok(Credential::Chain(vec![certificate], key.into()))
}

#[test]
fn peers_without_a_right_certificate_are_refused() {
    on_shop("peers without a right certificate", async |cluster| {
        cluster.wait_shop().await?;
        let state = cluster.dir().join("istiod-state");
        let ca = authority(&state, "cluster.local")?;
        let stranger = tempfile::tempdir()?;
        let other_ca = authority(stranger.path(), "cluster.local")?;
        let foreign = "spiffe://elsewhere/ns/shop/sa/worker";
        let batch = cluster.pod_ns("legacy", "batch-0")?;
        let hbone = cluster.pod_addr("shop", "cart-0", 15008)?;
        let app = cluster.pod_addr("shop", "cart-0", 9000)?.to_string();
        let signed = |ca, id| Credential::signed(ca, id, LIFE);
        let cases = [
            (
                "wrong_trust_domain",
                signed(&ca, foreign)?,
                "not in our trust domain",
            ),
            (
                "unknown_issuer",
                signed(&other_ca, WORKER)?,
                "not issued by",
            ),
            ("unknown_issuer", self_signed(WORKER)?, "not issued by"),
            ("expired", expired(&state, WORKER)?, "expired"),
            ("no_certificate", Credential::None, "certificate"),
        ];
        for (reason, credential, text) in cases {
            refuses(cluster, (1.0, reason, text), async || match connect_status(
                &batch,
                hbone,
                &credential,
                &app,
            )
            .await
            {
                Ok(status) => bail!("answered with {status}"),
                Err(_) => Ok(()),
            })
            .await
            .context(reason)?;
        }
        let good = Credential::signed(&ca, WORKER, LIFE)?;
        let status = connect_status(&batch, hbone, &good, &app).await?;
        ensure!(status == 200, "a good certificate: {status}");
        Ok(())
    });
}

#[test]
fn requests_that_are_not_for_this_pod_are_refused() {
    on_shop("requests that are not for this pod", async |cluster| {
        cluster.wait_shop().await?;
        let ca = authority(&cluster.dir().join("istiod-state"), "cluster.local")?;
        let good = Credential::signed(&ca, WORKER, LIFE)?;
        let batch = cluster.pod_ns("legacy", "batch-0")?;
        let hbone = cluster.pod_addr("shop", "cart-0", 15008)?;
        let ip = hbone.ip();
        let payments = cluster.pod_addr("shop", "payments-0", 8080)?.to_string();
        let port = |port: u16| format!("{ip}:{port}");
        let cases: [(String, u16, &str, &str); 7] = [
            (payments, 400, "address_mismatch", "ip mismatch"),
            (
                "192.0.2.1:80".to_owned(),
                400,
                "address_mismatch",
                "ip mismatch",
            ),
            (
                "127.0.0.1:8080".to_owned(),
                400,
                "address_mismatch",
                "ip mismatch",
            ),
            (port(15008), 503, "recursive_call", ""),
            (port(15001), 503, "recursive_call", ""),
            (port(15006), 503, "recursive_call", ""),
            (
                "nobody.example.com:80".to_owned(),
                503,
                "unknown_destination",
                "nobody.example.com",
            ),
        ];
        for (authority, want, reason, text) in cases {
            refuses(cluster, (1.0, reason, text), async || {
                let status = connect_status(&batch, hbone, &good, &authority).await?;
                ensure!(status == want, "status {status}");
                Ok(())
            })
            .await
            .with_context(|| authority.clone())?;
        }
        strange_requests(cluster, &batch, &good).await?;
        // Nobody listens there: 503, and the reason is the application's.
        let status = connect_status(&batch, hbone, &good, &port(4)).await?;
        ensure!(status == 503, "{status}");
        let status = connect_status(&batch, hbone, &good, &port(9000)).await?;
        ensure!(status == 200, "{status}");
        Ok(())
    });
}

async fn strange_requests(cluster: &Cluster, batch: &NetNs, good: &Credential) -> Result<()> {
    let hbone = cluster.pod_addr("shop", "cart-0", 15008)?;
    for (request, text) in [
        (Request::Get, "GET instead of CONNECT"),
        (Request::Authority("cart"), "authority"),
        (Request::Authority("cart:99999"), "authority"),
        (Request::Authority(":80"), "authority"),
    ] {
        refuses(cluster, (1.0, "bad_request", text), async || {
            let status = strange::ask(batch, hbone, good, request).await?;
            ensure!(status == 400, "{request:?}: {status}");
            Ok(())
        })
        .await
        .with_context(|| format!("{request:?}"))?;
    }
    // More header than is read: an error of HTTP/2 or a refusal, nothing more.
    let huge = strange::ask(batch, hbone, good, Request::HugeHeaders).await;
    ensure!(!matches!(huge, Ok(200)), "{huge:?}");
    Ok(())
}

#[test]
fn garbage_is_refused_on_every_port() {
    on_shop("garbage is refused on every port", async |cluster| {
        cluster.wait_shop().await?;
        let batch = cluster.pod_ns("legacy", "batch-0")?;
        let hbone = cluster.pod_addr("shop", "cart-0", 15008)?;
        for garbage in [
            &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            &[0; 300],
            b"\x16\x03\x01\xff\xff",
        ] {
            let mut stream = ambit_testkit::client::connect(&batch, hbone).await?;
            refuses(cluster, (1.0, "tls_failure", "TLS"), async || {
                stream.write_all(garbage).await?;
                // The peer doesn't wait for more once it can't become a hello.
                stream.shutdown().await?;
                let mut rest = Vec::new();
                let ended = stream.read_to_end(&mut rest);
                // A TLS alert, or a reset.
                let _ = tokio::time::timeout(Duration::from_secs(5), ended)
                    .await
                    .context("still open")?;
                ensure!(rest.len() < 64, "{rest:?}");
                Ok(())
            })
            .await
            .with_context(|| format!("{garbage:?}"))?;
        }
        captured_ports(cluster, &batch).await?;
        let worker = cluster.pod_ns("shop", "worker-0")?;
        echoes(&worker, cluster.service_addr("shop", "cart", 9000)?).await
    });
}

/// The proxy's own ports, asked directly from outside of the pod.
async fn captured_ports(cluster: &Cluster, batch: &NetNs) -> Result<()> {
    for port in [15001, 15006] {
        let to = cluster.pod_addr("shop", "cart-0", port)?;
        refuses(cluster, (1.0, "recursive_call", ""), async || {
            let mut stream = ambit_testkit::client::connect(batch, to).await?;
            // It may be over before this is written.
            let _ = stream.write_all(b"anything").await;
            let mut rest = Vec::new();
            let ended = stream.read_to_end(&mut rest);
            let _ = tokio::time::timeout(Duration::from_secs(5), ended)
                .await
                .context("still open")?;
            ensure!(rest.is_empty(), "{rest:?}");
            Ok(())
        })
        .await
        .with_context(|| port.to_string())?;
    }
    Ok(())
}
