//! Who talks to whom: identities, addresses, services, counters, and bytes that
//! arrive as they were sent.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ambit_e2e::observe::{echoes, has, pod};
use ambit_e2e::scenario::on_shop;
use ambit_e2e::{Cluster, scrape::Samples};
use ambit_netns::NetNs;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

fn id(name: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{name}")
}

/// Listens in a pod, as an application of the test's own.
fn listen(ns: &NetNs, port: u16) -> Result<TcpListener> {
    let listener = ns.run(|| {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([0, 0, 0, 0], port).into())?;
        socket.listen(16)
    })??;
    Ok(listener)
}

/// A client's and a server's end of one connection.
async fn pair(from: &NetNs, to: &NetNs, addr: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = listen(to, addr.port())?;
    let (client, server) = tokio::try_join!(client::connect(from, addr), async {
        Ok(listener.accept().await?.0)
    })?;
    Ok((client, server))
}

/// Principals of one direction of a proxy's opened connections.
fn principals(samples: &Samples, reporter: &str, from: &str, to: &str) -> f64 {
    let (from, to) = (id(from), id(to));
    let labels = [
        ("reporter", reporter),
        ("source_principal", from.as_str()),
        ("destination_principal", to.as_str()),
        ("connection_security_policy", "mutual_tls"),
    ];
    samples.sum("istio_tcp_connections_opened_total", &labels)
}

#[test]
fn both_proxies_know_both_identities() {
    on_shop("both proxies know both identities", async |cluster| {
        cluster.wait_shop().await?;
        // Across nodes, and on one node.
        for (from, at, to, on) in [
            ("web", "node-1", "cart", "node-2"),
            ("web", "node-1", "payments", "node-1"),
            ("worker", "node-2", "catalog", "node-2"),
        ] {
            let ns = cluster.pod_ns("shop", &format!("{from}-0"))?;
            let service = cluster.service_addr("shop", to, 80)?;
            let answer = client::get(&ns, service, "/").await?;
            ensure!(answer.status == 200, "{answer:?}");
            let source = principals(&cluster.metrics(at).await?, "source", from, to);
            let destination = principals(&cluster.metrics(on).await?, "destination", from, to);
            ensure!(
                (source, destination) == (1.0, 1.0),
                "{from} → {to}: {source} {destination}"
            );
            for (node, direction) in [(at, "outbound"), (on, "inbound")] {
                let (src, dst) = (id(from), id(to));
                let both = [
                    ("direction", direction),
                    ("src.identity", src.as_str()),
                    ("dst.identity", dst.as_str()),
                ];
                eventually("the access log has the pair", async || {
                    let lines = cluster.access(node, &both)?;
                    ensure!(lines.len() == 1, "{lines:?}");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    });
}

#[test]
fn plaintext_proves_no_identity() {
    on_shop("plaintext proves no identity", async |cluster| {
        cluster.wait_shop().await?;
        let batch = cluster.pod_ns("legacy", "batch-0")?;
        echoes(&batch, cluster.pod_addr("shop", "cart-0", 9000)?).await?;
        let cart = id("cart");
        let labels = [
            ("reporter", "destination"),
            ("source_workload", "batch-0"),
            ("source_principal", "unknown"),
            ("destination_principal", cart.as_str()),
            ("connection_security_policy", "unknown"),
        ];
        let opened = cluster.metrics("node-2").await?;
        let opened = opened.sum("istio_tcp_connections_opened_total", &labels);
        ensure!(opened == 1.0, "{opened}");
        eventually("the access log claims none", async || {
            let lines = cluster.access("node-2", &[("src.workload", "batch-0")])?;
            ensure!(lines.len() == 1, "{lines:?}");
            let named =
                |line: &BTreeMap<_, _>| line.keys().any(|k: &String| k.ends_with(".identity"));
            ensure!(!lines.iter().any(named), "{lines:?}");
            Ok(())
        })
        .await
    });
}

#[test]
fn an_application_sees_its_clients_own_address() {
    on_shop(
        "an application sees its client's own address",
        async |cluster| {
            cluster.wait_shop().await?;
            // In the mesh across nodes and on one node, and from outside of it.
            for (namespace, from) in [
                ("shop", "web-0"),
                ("shop", "worker-0"),
                ("legacy", "batch-0"),
            ] {
                let ns = cluster.pod_ns(namespace, from)?;
                let ip = cluster.pod_addr(namespace, from, 0)?.ip().to_string();
                for to in [
                    cluster.pod_addr("shop", "cart-0", 8080)?,
                    cluster.service_addr("shop", "cart", 80)?,
                ] {
                    let answer = client::get(&ns, to, "/").await?;
                    let body: serde_json::Value = serde_json::from_str(&answer.body)?;
                    ensure!(
                        body["client"] == ip.as_str(),
                        "{from} → {to}: {body}, not {ip}"
                    );
                }
            }
            Ok(())
        },
    );
}

#[test]
fn services_are_addressed_by_named_ports_headless_and_by_pod() {
    on_shop("services and pods are addressed", async |cluster| {
        cluster.apply(
            "
apiVersion: v1
kind: Service
metadata: {name: cart-headless, namespace: shop}
spec:
  clusterIP: None
  selector: {app: cart}
  ports: [{name: http, port: 8080, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: cart-echo, namespace: shop}
spec:
  clusterIP: 10.96.0.77
  selector: {app: cart}
  ports: [{name: tcp, port: 7777, targetPort: tcp-echo}]
",
        )?;
        cluster.wait_shop().await?;
        let web = cluster.pod_ns("shop", "web-0")?;
        cluster.wait_config("services-are-there").await?;
        // `targetPort: tcp-echo` is the pod's 9000.
        echoes(&web, cluster.service_addr("shop", "cart-echo", 7777)?).await?;
        // What DNS answers for a headless service: the pod's own address.
        let pod = cluster.pod_addr("shop", "cart-0", 8080)?;
        let answer = client::get(&web, pod, "/").await?;
        ensure!(answer.status == 200, "{answer:?}");
        let by_service = [
            ("direction", "outbound"),
            ("dst.service", "cart-echo.shop.svc.cluster.local"),
        ];
        eventually("both were carried by HBONE", async || {
            ensure!(
                cluster.access("node-1", &by_service)?.len() == 1,
                "no line by service"
            );
            let carried = [
                ("direction", "outbound"),
                ("dst.hbone_addr", &*pod.to_string()),
            ];
            ensure!(
                cluster.access("node-1", &carried)?.len() == 1,
                "no line by pod"
            );
            Ok(())
        })
        .await?;
        // A service port that isn't there isn't answered.
        let closed = cluster.service_addr("shop", "cart-echo", 7778)?;
        ensure!(echoes(&web, closed).await.is_err(), "port 7778 answered");
        Ok(())
    });
}

const GREETING: &str = "a server that speaks first";

/// The value of a counter of one pair of workloads.
async fn counted(cluster: &Cluster, reporter: &str, name: &str) -> Result<f64> {
    let node = if reporter == "source" {
        "node-1"
    } else {
        "node-2"
    };
    let labels = [
        ("reporter", reporter),
        ("source_workload", "web-0"),
        ("destination_workload", "greeter-0"),
        ("source_workload_namespace", "shop"),
        ("destination_workload_namespace", "shop"),
        ("destination_service", "greeter.shop.svc.cluster.local"),
        ("request_protocol", "tcp"),
        ("connection_security_policy", "mutual_tls"),
        ("source_app", "web"),
        ("destination_app", "greeter"),
    ];
    Ok(cluster.metrics(node).await?.sum(name, &labels))
}

#[test]
fn one_exchange_is_counted_and_logged_once_on_each_side() {
    on_shop("one exchange is counted and logged once", async |cluster| {
        let greeting = format!("--greeting={GREETING}");
        cluster
            .run_pod(pod("shop", "greeter-0", "node-2", &[&greeting]))
            .await?;
        cluster.apply(
            "
apiVersion: v1
kind: Service
metadata: {name: greeter, namespace: shop}
spec:
  clusterIP: 10.96.0.78
  selector: {app: greeter}
  ports: [{name: tcp-echo, port: 9000}]
",
        )?;
        cluster.wait_shop().await?;
        cluster
            .wait_protocol("node-1", "shop", "greeter-0", "HBONE")
            .await?;
        cluster.wait_config("the-service-is-there").await?;
        let web = cluster.pod_ns("shop", "web-0")?;
        let service = cluster.service_addr("shop", "greeter", 9000)?;

        // Server first: the greeting comes before the client says anything.
        let mut stream = client::connect(&web, service).await?;
        let mut greeting = [0; GREETING.len()];
        stream.read_exact(&mut greeting).await?;
        ensure!(greeting == GREETING.as_bytes(), "{greeting:?}");
        let back = client::echo(&mut stream, b"11 bytes up").await?;
        ensure!(back == b"11 bytes up", "{back:?}");
        // The client ends first, and still gets the end of the server.
        stream.shutdown().await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        ensure!(rest.is_empty(), "{rest:?}");

        let (up, down) = (11.0, GREETING.len() as f64 + 11.0);
        eventually("both proxies have counted it", async || {
            for reporter in ["source", "destination"] {
                for (name, want) in [
                    ("istio_tcp_connections_opened_total", 1.0),
                    ("istio_tcp_connections_closed_total", 1.0),
                    ("istio_tcp_connections_failed_total", 0.0),
                    ("istio_tcp_received_bytes_total", up),
                    ("istio_tcp_sent_bytes_total", down),
                ] {
                    let have = counted(cluster, reporter, name).await?;
                    ensure!(have == want, "{reporter} {name}: {have}, not {want}");
                }
            }
            Ok(())
        })
        .await?;
        for (node, direction, sent, received) in [
            ("node-1", "outbound", up, down),
            ("node-2", "inbound", down, up),
        ] {
            let greeters = [("direction", direction), ("dst.workload", "greeter-0")];
            let lines = cluster.access(node, &greeters)?;
            ensure!(lines.len() == 1, "{node} has {lines:#?}");
            let line = lines.first().context("counted")?;
            let (sent, received) = (sent.to_string(), received.to_string());
            let whole = [
                ("message", "connection complete"),
                ("src.workload", "web-0"),
                ("src.namespace", "shop"),
                ("src.identity", "spiffe://cluster.local/ns/shop/sa/web"),
                ("dst.namespace", "shop"),
                ("dst.identity", "spiffe://cluster.local/ns/shop/sa/greeter"),
                ("dst.service", "greeter.shop.svc.cluster.local"),
                ("bytes_sent", sent.as_str()),
                ("bytes_recv", received.as_str()),
            ];
            ensure!(has(line, &whole), "{line:#?}");
            ensure!(!line.contains_key("error"), "{line:#?}");
        }
        Ok(())
    });
}

#[test]
fn either_side_may_end_first() {
    on_shop("either side may end first", async |cluster| {
        cluster.wait_shop().await?;
        let (web, cart) = (
            cluster.pod_ns("shop", "web-0")?,
            cluster.pod_ns("shop", "cart-0")?,
        );
        let to = cluster.pod_addr("shop", "cart-0", 9100)?;
        let (mut client, mut server) = pair(&web, &cart, to).await?;
        // The server ends; the client goes on.
        server.write_all(b"that's all from me").await?;
        server.shutdown().await?;
        let mut from_server = String::new();
        client.read_to_string(&mut from_server).await?;
        ensure!(from_server == "that's all from me", "{from_server}");
        client.write_all(b"but I have more").await?;
        client.shutdown().await?;
        let mut from_client = String::new();
        server.read_to_string(&mut from_client).await?;
        ensure!(from_client == "but I have more", "{from_client}");
        drop((client, server));

        // The client ends; the server goes on.
        let to = cluster.pod_addr("shop", "cart-0", 9101)?;
        let (mut client, mut server) = pair(&web, &cart, to).await?;
        client.write_all(b"a question").await?;
        client.shutdown().await?;
        let mut question = String::new();
        server.read_to_string(&mut question).await?;
        ensure!(question == "a question", "{question}");
        server.write_all(b"a late answer").await?;
        server.shutdown().await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        ensure!(answer == "a late answer", "{answer}");
        drop((client, server));

        eventually("both ended without an error", async || {
            for (node, direction) in [("node-1", "outbound"), ("node-2", "inbound")] {
                let pair = [
                    ("direction", direction),
                    ("src.workload", "web-0"),
                    ("dst.workload", "cart-0"),
                ];
                let lines = cluster.access(node, &pair)?;
                ensure!(lines.len() == 2, "{node}: {lines:?}");
                ensure!(
                    lines.iter().all(|l| !l.contains_key("error")),
                    "{node}: {lines:?}"
                );
            }
            Ok(())
        })
        .await
    });
}

/// Bytes that don't repeat within a window of a proxy.
fn bytes(count: usize, seed: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut state = seed;
    let mut left = count;
    std::iter::from_fn(move || {
        let size = left.min(16 * 1024);
        left -= size;
        let next = (0..size).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        });
        let block: Vec<u8> = next.collect();
        (!block.is_empty()).then_some(block)
    })
}

/// FNV-1a over a stream of bytes.
fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(sum, step)
}

async fn send(mut to: impl AsyncWriteExt + Unpin, count: usize, seed: u64) -> Result<u64> {
    let mut sum = 0;
    for block in bytes(count, seed) {
        sum = checksum(sum, &block);
        to.write_all(&block).await?;
    }
    to.shutdown().await?;
    Ok(sum)
}

async fn receive(mut from: impl AsyncReadExt + Unpin) -> Result<(usize, u64)> {
    let (mut count, mut sum, mut block) = (0, 0, vec![0; 64 * 1024]);
    loop {
        let read = from.read(&mut block).await?;
        if read == 0 {
            return Ok((count, sum));
        }
        count += read;
        sum = checksum(sum, block.get(..read).unwrap_or_default());
    }
}

#[test]
fn large_transfers_arrive_whole_in_both_directions() {
    on_shop("large transfers arrive whole", async |cluster| {
        const UP: usize = 48 << 20;
        const DOWN: usize = 33_333_333;
        cluster.wait_shop().await?;
        let (web, cart) = (
            cluster.pod_ns("shop", "web-0")?,
            cluster.pod_ns("shop", "cart-0")?,
        );
        let to = cluster.pod_addr("shop", "cart-0", 9100)?;
        let (client, server) = pair(&web, &cart, to).await?;
        let (client_in, client_out) = client.into_split();
        let (server_in, server_out) = server.into_split();
        let (up, down, at_server, at_client) = tokio::try_join!(
            send(client_out, UP, 7),
            send(server_out, DOWN, 11),
            receive(server_in),
            receive(client_in)
        )?;
        ensure!(at_server == (UP, up), "up: {at_server:?}");
        ensure!(at_client == (DOWN, down), "down: {at_client:?}");
        eventually("every byte is counted", async || {
            for (node, reporter) in [("node-1", "source"), ("node-2", "destination")] {
                let metrics = cluster.metrics(node).await?;
                let pair = [
                    ("reporter", reporter),
                    ("source_workload", "web-0"),
                    ("destination_workload", "cart-0"),
                ];
                let received = metrics.sum("istio_tcp_received_bytes_total", &pair);
                let sent = metrics.sum("istio_tcp_sent_bytes_total", &pair);
                ensure!(
                    (received, sent) == (UP as f64, DOWN as f64),
                    "{reporter}: {received} {sent}"
                );
            }
            Ok(())
        })
        .await
    });
}
