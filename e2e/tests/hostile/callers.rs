//! Callers of the control plane that aren't who they say they are.

use std::time::Duration;

use ambit_channel::{CaClient, CertificateFor, ChannelConfig, RootSource, TokenSource, connect};
use ambit_e2e::Cluster;
use ambit_e2e::observe::echoes;
use ambit_e2e::scenario::on_shop;
use ambit_e2e::scrape::Samples;
use ambit_identity::{CertificateSigner, csr};
use ambit_proto::ADDRESS_TYPE;
use ambit_proto::discovery::DeltaDiscoveryRequest;
use ambit_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use ambit_proto::enrolment::enrolment_client::EnrolmentClient;
use ambit_proto::enrolment::{NodeReport, PodRedirection, Redirection};
use ambit_testkit::client;
use ambit_testkit::token::{Subject, TokenIssuer};
use ambit_types::SpiffeId;
use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Status};

const HOUR: Duration = Duration::from_secs(3600);

/// A caller of the control plane, on a thread in its namespace.
#[derive(Clone)]
struct Caller {
    config: ChannelConfig,
    node: &'static str,
}

impl Caller {
    fn new(cluster: &Cluster, node: &'static str, token: Option<String>) -> Result<Self> {
        let config = ChannelConfig {
            address: cluster.control_plane_url()?,
            root: RootSource::Path(cluster.root_ca()),
            alt_hostname: None,
            token: token.map_or(TokenSource::None, TokenSource::Literal),
            cluster_id: "Kubernetes".to_owned(),
            headers: Vec::new(),
        };
        Ok(Self { config, node })
    }

    /// Asks for a certificate of an identity, with any CSR.
    async fn certificate(&self, id: &str, pem: Option<String>) -> Result<(), String> {
        let id: SpiffeId = id.parse().unwrap();
        let (request, _key) = csr(&id).unwrap();
        let pem = pem.unwrap_or_else(|| request.clone());
        let channel = connect(&self.config).unwrap();
        let signer = CaClient::new(channel, CertificateFor::Impersonated);
        let signed = signer.sign(&id, &pem, HOUR).await;
        signed.map(drop).map_err(|error| error.to_string())
    }

    /// Opens a discovery stream and waits for its first answer.
    async fn discover(&self) -> Code {
        let node = self.node;
        let metadata = ambit_xds::Metadata::new()
            .string("NAMESPACE", "istio-system")
            .string("NODE_NAME", node);
        let request = DeltaDiscoveryRequest {
            node: Some(ambit_xds::Node {
                id: format!(
                    "ztunnel~10.0.0.1~ztunnel-{node}.istio-system~istio-system.svc.cluster.local"
                ),
                metadata: Some(metadata.into_struct()),
                ..ambit_xds::Node::default()
            }),
            type_url: ADDRESS_TYPE.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        let outcome = async {
            let mut client = AggregatedDiscoveryServiceClient::new(connect(&self.config).unwrap());
            let requests = futures::stream::iter([request]).chain(futures::stream::pending());
            let stream = client.delta_aggregated_resources(requests).await?;
            stream.into_inner().message().await
        };
        outcome
            .await
            .map_or_else(|status: Status| status.code(), |_| Code::Ok)
    }

    /// Reports pods as redirected: the code, or the pods that don't count.
    async fn report(&self, node: &str, pods: &[(&str, &str, &str)]) -> Result<Vec<String>, Code> {
        let pods = pods.iter().map(|(namespace, name, uid)| PodRedirection {
            namespace: (*namespace).to_owned(),
            name: (*name).to_owned(),
            uid: (*uid).to_owned(),
            redirection: Redirection::Enabled.into(),
        });
        let report = NodeReport {
            node: node.to_owned(),
            sequence: 1,
            pods: pods.collect(),
        };
        let outcome = async {
            let mut client = EnrolmentClient::new(connect(&self.config).unwrap());
            let reports = futures::stream::iter([report]).chain(futures::stream::pending());
            let answers = client.report(reports).await?;
            answers.into_inner().message().await
        };
        let answer = outcome.await.map_err(|status: Status| status.code())?;
        Ok(answer
            .unwrap_or_default()
            .refused
            .into_iter()
            .map(|r| r.name)
            .collect())
    }
}

/// Runs calls in the control plane's namespace: channels dial from the thread
/// that they are on.
fn there<T: Send>(cluster: &Cluster, calls: impl Future<Output = T> + Send) -> Result<T> {
    let ns = cluster.underlay.host("control")?.ns().clone();
    let outcome = ns.run_on_thread(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok::<_, std::io::Error>(runtime.block_on(calls))
    })?;
    Ok(outcome?)
}

async fn control_metrics(cluster: &Cluster) -> Result<Samples> {
    let host = cluster.underlay.host("control")?;
    let answer = client::get(host.ns(), (host.ip(), 15014).into(), "/metrics").await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(Samples::parse(&answer.body))
}

fn subject<'a>(account: &'a str, node: &'a str, pod: &'a str, uid: &'a str) -> Subject<'a> {
    Subject {
        namespace: "istio-system",
        service_account: account,
        pod,
        pod_uid: uid,
        node,
    }
}

/// Tokens that must not be believed, by the reason that is counted.
fn bad_tokens(cluster: &Cluster) -> Result<Vec<(&'static str, Option<String>)>> {
    let uid = cluster.uid("istio-system", "ztunnel-node-1")?;
    let proxy = subject("ztunnel", "node-1", "ztunnel-node-1", &uid);
    let ours = cluster.issuer();
    let stranger = TokenIssuer::new(ours.issuer())?;
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut claims = ours.claims(&proxy, "istio-ca", HOUR)?;
        change(&mut claims);
        ours.sign(&claims)
    };
    let good = ours.token(&proxy)?;
    let mut forged = good.clone();
    forged.truncate(good.len() - 8);
    forged.push_str("AAAAAAAA");
    Ok(vec![
        ("none", None),
        ("garbage", Some("garbage".to_owned())),
        ("another key", Some(stranger.token(&proxy)?)),
        ("another signature", Some(forged)),
        (
            "another issuer",
            Some(changed(&|c| c["iss"] = "https://elsewhere".into())?),
        ),
        (
            "another audience",
            Some(changed(&|c| c["aud"] = "vault".into())?),
        ),
        (
            "expired",
            Some(changed(&|c| c["exp"] = 1_000_000_000.into())?),
        ),
        (
            "no Kubernetes claims",
            Some(changed(&|c| {
                drop(c.as_object_mut().unwrap().remove("kubernetes.io"))
            })?),
        ),
    ])
}

#[test]
fn callers_without_a_right_token_are_refused() {
    on_shop("callers without a right token", async |cluster| {
        cluster.wait_shop().await?;
        let id = "spiffe://cluster.local/ns/shop/sa/web";
        let web = cluster.uid("shop", "web-0")?;
        for (what, token) in bad_tokens(cluster)? {
            let failures = control_metrics(cluster)
                .await?
                .sum("ambit_authentication_failures", &[]);
            let caller = Caller::new(cluster, "node-1", token)?;
            let (ca, xds, report) = there(cluster, async {
                let ca = caller.certificate(id, None).await;
                let xds = caller.discover().await;
                (
                    ca,
                    xds,
                    caller.report("node-1", &[("shop", "web-0", &web)]).await,
                )
            })?;
            let ca = ca.err().with_context(|| format!("{what}: a certificate"))?;
            ensure!(
                ca.contains("Unauthenticated") || ca.contains("unauthenticated"),
                "{what}: {ca}"
            );
            ensure!(xds == Code::Unauthenticated, "{what}: xDS {xds:?}");
            ensure!(
                report == Err(Code::Unauthenticated),
                "{what}: report {report:?}"
            );
            let now = control_metrics(cluster)
                .await?
                .sum("ambit_authentication_failures", &[]);
            ensure!(now == failures + 3.0, "{what}: {failures} → {now}");
        }
        garbage(cluster).await?;
        let caller = real(cluster, "ztunnel", "node-1")?;
        let good = there(cluster, async {
            (caller.certificate(id, None).await, caller.discover().await)
        })?;
        ensure!(good == (Ok(()), Code::Ok), "{good:?}");
        Ok(())
    });
}

/// Somebody with the token of a system pod.
fn real(cluster: &Cluster, account: &str, node: &'static str) -> Result<Caller> {
    let token = cluster.node_dir(node).join(format!("{account}-token"));
    Caller::new(cluster, node, Some(std::fs::read_to_string(token)?))
}

/// Bytes that aren't TLS on the secure port.
async fn garbage(cluster: &Cluster) -> Result<()> {
    let control = cluster.underlay.host("control")?;
    let before = control_metrics(cluster)
        .await?
        .sum("ambit_handshake_failures", &[]);
    for _ in 0..10 {
        let mut stream = client::connect(control.ns(), (control.ip(), 15012).into()).await?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        // An alert, or a reset.
        let _ = tokio::time::timeout(Duration::from_secs(15), ended)
            .await
            .context("still open")?;
        ensure!(rest.len() < 64, "{rest:?}");
    }
    let after = control_metrics(cluster)
        .await?
        .sum("ambit_handshake_failures", &[]);
    ensure!(after == before + 10.0, "{before} → {after}");
    Ok(())
}

#[test]
fn a_node_speaks_for_itself_only() {
    on_shop("a node speaks for itself only", async |cluster| {
        cluster.wait_shop().await?;
        let id = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let (web, cart) = (id("web"), id("cart"));
        let elsewhere = "spiffe://elsewhere/ns/shop/sa/web";
        let one = real(cluster, "ztunnel", "node-1")?;
        let agent = real(cluster, "node-agent", "node-1")?;
        // The proxy of node-1 that says that it runs on node-2.
        let uid = cluster.uid("istio-system", "ztunnel-node-1")?;
        let lying = subject("ztunnel", "node-2", "ztunnel-node-1", &uid);
        let lying = Caller::new(cluster, "node-2", Some(cluster.issuer().token(&lying)?))?;
        for (what, caller, id) in [
            ("a pod of another node", &one, cart.as_str()),
            ("another trust domain", &one, elsewhere),
            ("a node agent", &agent, web.as_str()),
            ("a proxy that lies about its node", &lying, cart.as_str()),
        ] {
            let refused = there(cluster, caller.certificate(id, None))?;
            let refused = refused.err().with_context(|| what.to_owned())?;
            ensure!(
                refused.contains("request authenticate failure"),
                "{what}: {refused}"
            );
        }
        let metrics = control_metrics(cluster).await?;
        for outcome in [
            "no_such_pod_on_node",
            "other_trust_domain",
            "account_not_trusted",
            "caller_node_differs",
        ] {
            let all: f64 = metrics
                .of("ambit_impersonations")
                .filter(|(labels, _)| labels.values().any(|value| value == outcome))
                .map(|(_, count)| count)
                .sum();
            ensure!(all == 1.0, "{outcome}: {all}");
        }
        let (huge, two) = there(cluster, async {
            let huge = one.certificate(&web, Some("x".repeat(1 << 20))).await;
            (huge, one.certificate(&web, Some("no PEM".to_owned())).await)
        })?;
        ensure!(huge.is_err() && two.is_err(), "{huge:?} {two:?}");
        ensure!(
            there(cluster, one.certificate(&web, None))? == Ok(()),
            "its own pod"
        );
        reports(cluster, &agent, &one)?;
        // None of it changed anything.
        let worker = cluster.pod_ns("shop", "worker-0")?;
        echoes(&worker, cluster.service_addr("shop", "web", 9000)?).await?;
        for pod in ["batch-0", "invoices-0"] {
            let namespace = if pod == "batch-0" {
                "legacy"
            } else {
                "billing"
            };
            let protocol = cluster.protocol("node-1", namespace, pod).await?;
            ensure!(protocol == "TCP", "{pod}: {protocol}");
        }
        Ok(())
    });
}

fn reports(cluster: &Cluster, agent: &Caller, proxy: &Caller) -> Result<()> {
    let (web, payments) = (
        cluster.uid("shop", "web-0")?,
        cluster.uid("shop", "payments-0")?,
    );
    let uid = cluster.uid("billing", "invoices-0")?;
    let invoices = ("billing", "invoices-0", &*uid);
    let (other, foreign, not_an_agent) = there(cluster, async {
        (
            agent.report("node-2", &[invoices]).await,
            // A report replaces the one before: its own pods stay in.
            agent
                .report(
                    "node-1",
                    &[
                        ("shop", "web-0", &web),
                        ("shop", "payments-0", &payments),
                        invoices,
                    ],
                )
                .await,
            proxy.report("node-1", &[("shop", "web-0", &web)]).await,
        )
    })?;
    ensure!(
        other == Err(Code::PermissionDenied),
        "another node: {other:?}"
    );
    let want = Ok(vec!["invoices-0".to_owned()]);
    ensure!(foreign == want, "another node's pod: {foreign:?}");
    ensure!(
        not_an_agent == Err(Code::PermissionDenied),
        "a proxy: {not_an_agent:?}"
    );
    Ok(())
}
