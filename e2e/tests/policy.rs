//! What policy refuses and allows, why, and when.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ambit_e2e::Cluster;
use ambit_e2e::observe::{echoes, pod, still_echoes, wait_cut, wait_echo, wait_refused};
use ambit_e2e::scenario::on_shop;
use ambit_netns::NetNs;
use ambit_testkit::{client, eventually};
use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

const STATIC_STRICT: &str = "istio-system/istio_converted_static_strict";

/// Flows that a node's proxy refused by policy, or cut.
async fn denied(cluster: &Cluster, node: &str, reporter: &str, to: &str) -> Result<f64> {
    let labels = [
        ("reporter", reporter),
        ("response_flags", "DENY"),
        ("destination_workload", to),
    ];
    Ok(cluster
        .metrics(node)
        .await?
        .sum("istio_tcp_connections_failed_total", &labels))
}

fn authorization(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn strict(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

struct Actors {
    web: NetNs,
    worker: NetNs,
    batch: NetNs,
}

fn actors(cluster: &Cluster) -> Result<Actors> {
    Ok(Actors {
        web: cluster.pod_ns("shop", "web-0")?,
        worker: cluster.pod_ns("shop", "worker-0")?,
        batch: cluster.pod_ns("legacy", "batch-0")?,
    })
}

#[test]
fn strict_refuses_plaintext_by_namespace_workload_and_port() {
    on_shop("STRICT refuses plaintext", async |cluster| {
        cluster.wait_shop().await?;
        let Actors { web, batch, .. } = actors(cluster)?;
        let cart = cluster.pod_addr("shop", "cart-0", 9000)?;
        let cart_http = cluster.pod_addr("shop", "cart-0", 8080)?;
        let catalog = cluster.pod_addr("shop", "catalog-0", 9000)?;
        for to in [cart, catalog] {
            echoes(&batch, to).await.context("PERMISSIVE at first")?;
        }
        // One workload.
        let one = "{selector: {matchLabels: {app: cart}}, mtls: {mode: STRICT}}";
        cluster.apply(&strict("shop", "cart", one))?;
        wait_refused("cart is STRICT", &batch, cart).await?;
        let why = cluster
            .wait_refusal("node-2", &[("dst.workload", "cart-0")], STATIC_STRICT)
            .await?;
        ensure!(
            why["src.workload"] == "batch-0" && !why.contains_key("src.identity"),
            "{why:?}"
        );
        echoes(&batch, catalog)
            .await
            .context("catalog isn't meant")?;
        echoes(&web, cart).await.context("web is in the mesh")?;
        ensure!(
            denied(cluster, "node-2", "destination", "cart-0").await? >= 1.0,
            "not counted"
        );

        // All of it but one port.
        let but = "{selector: {matchLabels: {app: cart}}, mtls: {mode: STRICT}, portLevelMtls: {'9000': {mode: PERMISSIVE}}}";
        cluster.apply(&strict("shop", "cart", but))?;
        wait_echo("port 9000 of cart is excepted", &batch, cart).await?;
        ensure!(
            client::get(&batch, cart_http, "/").await.is_err(),
            "port 8080 isn't"
        );
        cluster
            .wait_refusal(
                "node-2",
                &[("dst.addr", &cart_http.to_string())],
                "shop/converted_peer_authentication_cart",
            )
            .await?;
        cluster.delete("PeerAuthentication", "shop", "cart")?;
        eventually("cart is PERMISSIVE again", async || {
            client::get(&batch, cart_http, "/").await.map(drop)
        })
        .await?;

        // One port only.
        let only =
            "{selector: {matchLabels: {app: cart}}, portLevelMtls: {'9000': {mode: STRICT}}}";
        cluster.apply(&strict("shop", "cart", only))?;
        wait_refused("port 9000 alone is STRICT", &batch, cart).await?;
        client::get(&batch, cart_http, "/")
            .await
            .context("port 8080 is PERMISSIVE")?;
        cluster.delete("PeerAuthentication", "shop", "cart")?;
        wait_echo("cart is PERMISSIVE again", &batch, cart).await?;

        // The namespace.
        cluster.apply(&strict("shop", "default", "{mtls: {mode: STRICT}}"))?;
        for to in [cart, catalog] {
            wait_refused("the namespace is STRICT", &batch, to).await?;
            echoes(&web, to).await.context("web is in the mesh")?;
        }
        // The mesh, and a namespace that is excepted.
        cluster.apply(&strict("istio-system", "default", "{mtls: {mode: STRICT}}"))?;
        cluster.apply(&strict("shop", "default", "{mtls: {mode: PERMISSIVE}}"))?;
        for to in [cart, catalog] {
            wait_echo("the namespace is excepted", &batch, to).await?;
        }
        Ok(())
    });
}

#[test]
fn allow_admits_only_what_it_names() {
    on_shop("ALLOW admits only what it names", async |cluster| {
        cluster.wait_shop().await?;
        let Actors { web, worker, batch } = actors(cluster)?;
        let catalog = cluster.service_addr("shop", "catalog", 9000)?;
        let catalog_pod = cluster.pod_addr("shop", "catalog-0", 9000)?;
        let http = cluster.service_addr("shop", "catalog", 80)?;
        // By principal and port.
        cluster.apply(&authorization(
            "catalog",
            "{selector: {matchLabels: {app: catalog}}, action: ALLOW, rules: [{\
             from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}],\
             to: [{operation: {ports: ['9000']}}]}]}",
        ))?;
        wait_refused("worker isn't named", &worker, catalog).await?;
        wait_refused("nor is plaintext", &batch, catalog_pod).await?;
        echoes(&web, catalog).await.context("web is named")?;
        ensure!(
            client::get(&web, http, "/").await.is_err(),
            "port 8080 isn't named"
        );
        let none = "allow policies exist, but none allowed";
        let why = cluster
            .wait_refusal(
                "node-2",
                &[("direction", "inbound"), ("src.workload", "worker-0")],
                none,
            )
            .await?;
        ensure!(
            why["src.identity"] == "spiffe://cluster.local/ns/shop/sa/worker",
            "{why:?}"
        );
        cluster
            .wait_refusal("node-2", &[("src.workload", "batch-0")], none)
            .await?;
        // The proxy of the source says what it was told: 401.
        cluster
            .wait_refusal(
                "node-2",
                &[("direction", "outbound"), ("src.workload", "worker-0")],
                "401",
            )
            .await?;
        // The refused flows of destination and source have their flags.
        ensure!(
            denied(cluster, "node-2", "destination", "catalog-0").await? >= 3.0,
            "not counted"
        );
        let at_source = [
            ("reporter", "source"),
            ("response_flags", "CONNECT"),
            ("source_workload", "worker-0"),
        ];
        let connect = cluster
            .metrics("node-2")
            .await?
            .sum("istio_tcp_connections_failed_total", &at_source);
        ensure!(connect >= 1.0, "a 401 is CONNECT at the source: {connect}");
        cluster.delete("AuthorizationPolicy", "shop", "catalog")?;
        wait_echo("without a policy all are allowed", &worker, catalog).await
    });
}

#[test]
fn allow_names_namespaces_and_addresses() {
    on_shop("ALLOW names namespaces and addresses", async |cluster| {
        cluster.wait_shop().await?;
        let Actors { web, worker, batch } = actors(cluster)?;
        let catalog = cluster.service_addr("shop", "catalog", 9000)?;
        let catalog_pod = cluster.pod_addr("shop", "catalog-0", 9000)?;
        // By namespace.
        cluster.apply(&authorization(
            "catalog",
            "{selector: {matchLabels: {app: catalog}}, action: ALLOW, rules: [{\
             from: [{source: {namespaces: [shop]}}]}]}",
        ))?;
        wait_refused("legacy isn't named", &batch, catalog_pod).await?;
        echoes(&worker, catalog).await.context("shop is named")?;

        // By address block.
        let from = cluster.pod_addr("legacy", "batch-0", 0)?.ip();
        cluster.apply(&authorization(
            "catalog",
            &format!(
                "{{selector: {{matchLabels: {{app: catalog}}}}, action: ALLOW, rules: [{{\
             from: [{{source: {{ipBlocks: ['{from}/32']}}}}]}}]}}"
            ),
        ))?;
        wait_echo("batch's address is named", &batch, catalog_pod).await?;
        ensure!(
            echoes(&web, catalog).await.is_err(),
            "web's address isn't named"
        );

        cluster.delete("AuthorizationPolicy", "shop", "catalog")?;
        wait_echo("without a policy all are allowed", &worker, catalog).await
    });
}

#[test]
fn deny_refuses_what_it_names_and_wins() {
    on_shop("DENY refuses what it names and wins", async |cluster| {
        cluster.wait_shop().await?;
        let Actors { web, worker, batch } = actors(cluster)?;
        let catalog = cluster.pod_addr("shop", "catalog-0", 9000)?;
        let http = cluster.pod_addr("shop", "catalog-0", 8080)?;
        let whole = |rule: &str| {
            format!(
                "{{selector: {{matchLabels: {{app: catalog}}}}, action: DENY, rules: [{rule}]}}"
            )
        };
        let web_ip = cluster.pod_addr("shop", "web-0", 0)?.ip();
        // What it names, who is refused by it, who isn't.
        let rows: [(&str, String, &[&NetNs], &[&NetNs]); 5] = [
            (
                "a principal",
                "{from: [{source: {principals: [cluster.local/ns/shop/sa/worker]}}]}".into(),
                &[&worker],
                &[&web, &batch],
            ),
            (
                "a namespace",
                "{from: [{source: {namespaces: [shop]}}]}".into(),
                &[&worker, &web],
                &[&batch],
            ),
            (
                "an address",
                format!("{{from: [{{source: {{ipBlocks: [{web_ip}]}}}}]}}"),
                &[&web],
                &[&worker, &batch],
            ),
            (
                "a port",
                "{to: [{operation: {ports: ['9000']}}]}".into(),
                &[&web, &worker, &batch],
                &[],
            ),
            (
                "everybody else",
                "{from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/web]}}]}".into(),
                &[&worker, &batch],
                &[&web],
            ),
        ];
        // An ALLOW of everything changes nothing of it.
        cluster.apply(&authorization("all", "{action: ALLOW, rules: [{}]}"))?;
        for (index, (what, rule, refused, allowed)) in rows.iter().enumerate() {
            let name = format!("no-{index}");
            cluster.apply(&authorization(&name, &whole(rule)))?;
            for ns in *refused {
                wait_refused(what, ns, catalog).await?;
            }
            for ns in *allowed {
                echoes(ns, catalog).await.context(*what)?;
            }
            client::get(if *what == "a port" { &web } else { allowed[0] }, http, "/")
                .await
                .context("another port")?;
            let text = format!("explicitly denied by shop/{name}");
            cluster
                .wait_refusal("node-2", &[("dst.workload", "catalog-0")], &text)
                .await?;
            cluster.delete("AuthorizationPolicy", "shop", &name)?;
            for ns in *refused {
                wait_echo("it is removed", ns, catalog).await?;
            }
        }
        ensure!(
            denied(cluster, "node-2", "destination", "catalog-0").await? >= 5.0,
            "not counted"
        );
        Ok(())
    });
}

#[test]
fn policies_reach_as_far_as_they_say() {
    on_shop("policies reach as far as they say", async |cluster| {
        cluster.wait_shop().await?;
        let Actors { web, batch, .. } = actors(cluster)?;
        let cart = cluster.pod_addr("shop", "cart-0", 9000)?;
        let payments = cluster.pod_addr("shop", "payments-0", 9000)?;
        // A namespace's.
        cluster.apply(&authorization(
            "all",
            "{action: DENY, rules: [{from: [{source: {namespaces: [shop]}}]}]}",
        ))?;
        for to in [cart, payments] {
            wait_refused("the namespace is closed to its own", &web, to).await?;
            echoes(&batch, to).await.context("but not to others")?;
        }
        cluster.delete("AuthorizationPolicy", "shop", "all")?;
        wait_echo("it is open", &web, cart).await?;
        // The mesh's: in the root namespace, without a selector.
        cluster.apply(
            &authorization(
                "all",
                "{action: DENY, rules: [{to: [{operation: {ports: ['9000']}}]}]}",
            )
            .replace("namespace: shop", "namespace: istio-system"),
        )?;
        for to in [cart, payments] {
            for from in [&web, &batch] {
                wait_refused("the mesh is closed", from, to).await?;
            }
        }
        cluster
            .wait_refusal(
                "node-2",
                &[("dst.workload", "cart-0")],
                "explicitly denied by istio-system/all",
            )
            .await?;
        // A pod outside of the mesh isn't held to anything.
        echoes(&batch, cluster.pod_addr("billing", "invoices-0", 9000)?).await?;
        client::get(&web, cluster.service_addr("shop", "cart", 80)?, "/")
            .await
            .context("another port")?;
        Ok(())
    });
}

#[test]
fn an_edit_closes_live_connections_and_only_those_it_means() {
    on_shop("an edit closes live connections", async |cluster| {
        cluster.wait_shop().await?;
        let Actors { web, worker, batch } = actors(cluster)?;
        let cart = cluster.service_addr("shop", "cart", 9000)?;
        let cart_pod = cluster.pod_addr("shop", "cart-0", 9000)?;
        let mut hbone = client::connect(&worker, cart).await?;
        let mut across = client::connect(&web, cart).await?;
        let mut plain = client::connect(&batch, cart_pod).await?;
        let mut http = client::connect(&web, cluster.service_addr("shop", "cart", 80)?).await?;
        for live in [&mut hbone, &mut across, &mut plain] {
            still_echoes(live).await?;
        }
        // Edits that don't concern them: another pod, another source, another port.
        cluster.apply(&authorization(
            "not-cart",
            "{selector: {matchLabels: {app: catalog}}, action: DENY, rules: [{}]}",
        ))?;
        cluster.apply(&authorization("not-them", "{selector: {matchLabels: {app: cart}}, action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/payments]}}]}, {to: [{operation: {ports: ['81']}}]}]}"))?;
        cluster.wait_policy("node-2", "not-cart", true).await?;
        cluster.wait_policy("node-2", "not-them", true).await?;
        for live in [&mut hbone, &mut across, &mut plain] {
            still_echoes(live).await.context("an irrelevant edit")?;
        }
        // One source is meant, on HBONE.
        cluster.apply(&authorization("not-worker", "{selector: {matchLabels: {app: cart}}, action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/worker]}}]}]}"))?;
        wait_cut(&mut hbone).await.context("worker is denied")?;
        cluster
            .wait_refusal(
                "node-2",
                &[("src.workload", "worker-0"), ("direction", "inbound")],
                "closed due to policy change",
            )
            .await?;
        still_echoes(&mut across).await.context("web isn't meant")?;
        still_echoes(&mut plain).await.context("nor is batch")?;
        // Plaintext is meant.
        cluster.apply(&strict("shop", "default", "{mtls: {mode: STRICT}}"))?;
        wait_cut(&mut plain).await.context("plaintext is denied")?;
        cluster
            .wait_refusal(
                "node-2",
                &[("src.workload", "batch-0"), ("direction", "inbound")],
                "closed due to policy change",
            )
            .await?;
        still_echoes(&mut across)
            .await
            .context("web speaks mutual TLS")?;
        // A port is meant: the connection to it goes, the one to the other port stays.
        cluster.apply(&authorization("not-9000", "{selector: {matchLabels: {app: cart}}, action: DENY, rules: [{to: [{operation: {ports: ['9000']}}]}]}"))?;
        wait_cut(&mut across).await.context("port 9000 is denied")?;
        ask(&mut http)
            .await
            .context("the connection to port 80 is older than all of it")?;
        ensure!(
            denied(cluster, "node-2", "destination", "cart-0").await? >= 3.0,
            "not counted"
        );
        Ok(())
    });
}

/// One HTTP request on a connection that was opened long ago.
async fn ask(stream: &mut tokio::net::TcpStream) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

/// The address that the next pod of node-2 gets.
fn next_address(cluster: &Cluster) -> Result<IpAddr> {
    let mut highest = 0;
    for (namespace, name) in [
        ("shop", "cart-0"),
        ("shop", "catalog-0"),
        ("shop", "worker-0"),
        ("billing", "invoices-0"),
    ] {
        match cluster.pod_addr(namespace, name, 0)?.ip() {
            IpAddr::V4(ip) => highest = highest.max(u32::from(ip)),
            IpAddr::V6(_) => {}
        }
    }
    Ok(std::net::Ipv4Addr::from(highest + 1).into())
}

#[test]
fn a_new_pod_is_never_reachable_before_its_policy() {
    on_shop(
        "a new pod is never reachable before its policy",
        async |cluster| {
            cluster.wait_shop().await?;
            let Actors { web, worker, batch } = actors(cluster)?;
            let vault = SocketAddr::new(next_address(cluster)?, 9000);
            // The policy is known to the control plane only a moment before the pod.
            cluster.apply(&authorization(
                "vault",
                "{selector: {matchLabels: {app: vault}}, action: DENY, rules: [{}]}",
            ))?;
            let over = Cell::new(false);
            let attempts = Cell::new(0);
            let knock = async |ns: &NetNs| {
                // An attempt may hang for a while: the next doesn't wait for it.
                let mut pending = FuturesUnordered::new();
                let mut pace = tokio::time::interval(Duration::from_millis(10));
                while !over.get() {
                    tokio::select! {
                        _ = pace.tick() => {
                            attempts.set(attempts.get() + 1);
                            pending.push(echoes(ns, vault));
                        }
                        Some(answer) = pending.next() => {
                            ensure!(answer.is_err(), "the vault answered");
                        }
                    }
                }
                Ok(())
            };
            let open = async {
                cluster
                    .run_pod(pod("shop", "vault-0", "node-2", &[]))
                    .await?;
                for node in ["node-1", "node-2"] {
                    cluster
                        .wait_protocol(node, "shop", "vault-0", "HBONE")
                        .await?;
                }
                // What comes up in milliseconds is knocked at for a while longer.
                tokio::time::sleep(Duration::from_millis(500)).await;
                over.set(true);
                Ok::<_, anyhow::Error>(())
            };
            tokio::try_join!(open, knock(&web), knock(&worker), knock(&batch))?;
            ensure!(attempts.get() > 60, "only {} attempts", attempts.get());
            ensure!(
                cluster.pod_addr("shop", "vault-0", 9000)? == vault,
                "another address"
            );
            cluster
                .wait_refusal(
                    "node-2",
                    &[("dst.workload", "vault-0")],
                    "explicitly denied by shop/vault",
                )
                .await?;
            // It was the policy that kept them out.
            cluster.delete("AuthorizationPolicy", "shop", "vault")?;
            wait_echo("the vault is open without its policy", &web, vault).await
        },
    );
}
