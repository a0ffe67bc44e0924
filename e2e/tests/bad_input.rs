//! Configuration that makes no sense: what is said of it, by `ambit analyze`
//! and by the control plane alike, and what stays in force.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

use ambit_e2e::Cluster;
use ambit_e2e::observe::{echoes, wait_echo, wait_refused};
use ambit_e2e::scenario::on_shop;
use ambit_netns::NetNs;
use ambit_testkit::eventually;
use ambit_testkit::sandbox::write_atomically;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What a message must name. `object` is `Kind namespace/name`.
#[derive(Debug, Clone, Copy)]
struct Named {
    code: &'static str,
    object: &'static str,
    document: u64,
    line: u64,
    field: Option<&'static str>,
    value: Option<&'static str>,
    remedy: &'static str,
}

const FILE: &str = "50-bad.yaml";

fn write(cluster: &Cluster, text: &str) -> Result<()> {
    Ok(write_atomically(&cluster.manifests.dir().join(FILE), text)?)
}

/// True if a finding's members, taken from their places, are those.
fn is(named: &Named, object: &str, place: &str, document: &Value, finding: &Value) -> bool {
    let text = |key: &str| finding[key].as_str();
    text("code") == Some(named.code)
        && object == named.object
        && place.ends_with(&format!("{FILE}:{}", named.line))
        && *document == named.document
        && text("field") == named.field
        && named
            .value
            .is_none_or(|value| text("value").is_some_and(|v| v.contains(value)))
        && text("remedy").is_some_and(|remedy| remedy.contains(named.remedy))
}

/// Each is said by `ambit analyze` on the directory and by the control plane.
async fn wait_named(cluster: &Cluster, all: &[Named]) -> Result<()> {
    let (_, findings) = cluster.analyze()?;
    for named in all {
        let says = |finding: &Value| {
            let (object, place) = (finding["origin"].as_str(), finding["reference"].as_str());
            is(
                named,
                object.unwrap_or_default(),
                place.unwrap_or_default(),
                &finding["document"],
                finding,
            )
        };
        ensure!(
            findings.iter().any(says),
            "ambit doesn't say {named:?}; it says {findings:#?}"
        );
    }
    eventually("the control plane says so", async || {
        let page = cluster.statusz().await?;
        let diagnostics = page["diagnostics"].as_array().context("no diagnostics")?;
        for named in all {
            let says = |finding: &Value| {
                let (key, origin) = (&finding["key"], &finding["origin"]);
                let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let object = match key.is_null() {
                    true => String::new(),
                    false => format!(
                        "{} {}/{}",
                        part(&key["kind"]),
                        part(&key["namespace"]),
                        part(&key["name"])
                    ),
                };
                let place = format!("{}:{}", part(&origin["file"]), origin["line"]);
                is(named, &object, &place, &origin["document"], finding)
            };
            ensure!(
                diagnostics.iter().any(says),
                "not {named:?} but {diagnostics:#?}"
            );
        }
        Ok(())
    })
    .await
}

/// The condition that a policy's status has.
async fn wait_status(cluster: &Cluster, policy: &str, status: &str, message: &str) -> Result<()> {
    eventually(
        &format!("the status of {policy} is {status}: {message}"),
        async || {
            let page = cluster.statusz().await?;
            let statuses = page["statuses"].as_array().context("no statuses")?;
            let mine = statuses.iter().find(|s| {
                s["object"]["name"] == policy && s["object"]["kind"] == "AuthorizationPolicy"
            });
            let condition =
                &mine.with_context(|| format!("none in {statuses:#?}"))?["status"]["conditions"][0];
            ensure!(
                condition["type"] == "ZtunnelAccepted" && condition["status"] == status,
                "{condition}"
            );
            ensure!(
                condition["message"]
                    .as_str()
                    .is_some_and(|m| m.contains(message)),
                "{condition}"
            );
            Ok(())
        },
    )
    .await
}

fn clients(cluster: &Cluster) -> Result<(NetNs, NetNs)> {
    Ok((
        cluster.pod_ns("shop", "web-0")?,
        cluster.pod_ns("shop", "worker-0")?,
    ))
}

async fn reaches(cluster: &Cluster, from: &NetNs, services: &[&str]) -> Result<()> {
    for service in services {
        let to = cluster.service_addr("shop", service, 9000)?;
        echoes(from, to)
            .await
            .with_context(|| format!("{service} isn't reached"))?;
    }
    Ok(())
}

#[test]
fn broken_yaml_unknown_kinds_and_unknown_fields_take_nothing_with_them() {
    on_shop("broken YAML, unknown kinds and fields", async |cluster| {
        cluster.wait_shop().await?;
        let service = |name: &str, ip: &str, more: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
                 spec:\n  clusterIP: {ip}\n  selector: {{app: cart}}\n  ports: [{{name: tcp, port: 9000}}]\n{more}"
            )
        };
        let documents = [
            service("first", "10.96.7.1", ""),
            "apiVersion: v1\nkind: Service\nmetadata: {name: broken, namespace: shop}\nspec: {ports: [\n".to_owned(),
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntrie\nmetadata: {name: odd, namespace: shop}\n".to_owned(),
            "apiVersion: networking.k8s.io/v1\nkind: Ingres\nmetadata: {name: strange, namespace: shop}\n".to_owned(),
            service("fourth", "10.96.7.4", "  sessionAfinity: None\n"),
            "- just\n- a list\n".to_owned(),
            service("last", "10.96.7.6", ""),
        ];
        write(cluster, &documents.join("---\n"))?;
        wait_named(
            cluster,
            &[
                Named {
                    code: "AMB0101",
                    object: "Service shop/broken",
                    document: 2,
                    line: 12,
                    field: None,
                    value: None,
                    remedy: "correct the syntax",
                },
                Named {
                    code: "AMB0103",
                    object: "ServiceEntry shop/odd",
                    document: 3,
                    line: 15,
                    field: Some("kind"),
                    value: Some("ServiceEntrie"),
                    remedy: "ServiceEntry",
                },
                // Of a kind that isn't known: its name is in the message.
                Named {
                    code: "AMB0103",
                    object: "",
                    document: 4,
                    line: 19,
                    field: Some("kind"),
                    value: Some("Ingres"),
                    remedy: "Ingress",
                },
                Named {
                    code: "AMB0106",
                    object: "Service shop/fourth",
                    document: 5,
                    line: 29,
                    field: Some("spec.sessionAfinity"),
                    value: Some("None"),
                    remedy: "sessionAffinity",
                },
                Named {
                    code: "AMB0102",
                    object: "",
                    document: 6,
                    line: 31,
                    field: None,
                    value: None,
                    remedy: "kind",
                },
            ],
        )
        .await?;
        let (_, findings) = cluster.analyze()?;
        let named = |f: &Value| {
            f["message"]
                .as_str()
                .is_some_and(|m| m.contains("strange.shop"))
        };
        ensure!(findings.iter().any(named), "strange isn't named");
        // What is good in that file is in force, and so is everything else.
        let (web, _) = clients(cluster)?;
        for ip in ["10.96.7.1", "10.96.7.4", "10.96.7.6"] {
            wait_echo(ip, &web, format!("{ip}:9000").parse()?).await?;
        }
        reaches(cluster, &web, &["cart", "catalog", "payments"]).await
    });
}

#[test]
fn two_services_with_one_address_are_both_named() {
    on_shop("two services with one address", async |cluster| {
        cluster.wait_shop().await?;
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: shop}\nspec:\n  clusterIP: 10.96.7.9\n  selector: {app: cart}\n  ports: [{name: tcp, port: 9000}]\n";
        write(
            cluster,
            &format!(
                "{}---\n{}",
                service.replace("NAME", "one"),
                service.replace("NAME", "two")
            ),
        )?;
        let named = |object, document, line| Named {
            code: "AMB0211",
            object,
            document,
            line,
            field: Some("spec.clusterIP"),
            value: Some("10.96.7.9"),
            remedy: "another address",
        };
        wait_named(
            cluster,
            &[
                named("Service shop/one", 1, 5),
                named("Service shop/two", 2, 13),
            ],
        )
        .await?;
        let (web, _) = clients(cluster)?;
        reaches(cluster, &web, &["cart", "catalog", "payments"]).await?;
        wait_echo(
            "the address is answered by one of them",
            &web,
            "10.96.7.9:9000".parse()?,
        )
        .await?;
        // Corrected while it runs.
        write(cluster, &service.replace("NAME", "one"))?;
        eventually("the diagnostic goes", async || {
            let text = cluster.statusz().await?.to_string();
            ensure!(!text.contains("AMB0211"), "still there");
            Ok(())
        })
        .await?;
        wait_echo("the address is one's", &web, "10.96.7.9:9000".parse()?).await
    });
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}"
    )
}

#[test]
fn a_policy_that_was_never_good_closes_what_it_selects() {
    on_shop(
        "a policy that was never good closes what it selects",
        async |cluster| {
            cluster.wait_shop().await?;
            let (web, worker) = clients(cluster)?;
            let documents = [
                policy(
                    "cidr",
                    "  selector: {matchLabels: {app: catalog}}\n  action: DENY\n  rules:\n    - from: [{source: {ipBlocks: [10.0.0.0/8, 10.1.2.3/77]}}]\n",
                ),
                policy(
                    "principal",
                    "  selector: {matchLabels: {app: payments}}\n  action: ALLOW\n  rules:\n    - from: [{source: {principals: ['']}}]\n",
                ),
                policy(
                    "nobody",
                    "  selector: {matchLabels: {app: nobody}}\n  action: DENY\n  rules: [{}]\n",
                ),
            ];
            write(cluster, &documents.join("---\n"))?;
            wait_named(
                cluster,
                &[
                    Named {
                        code: "AMB0221",
                        object: "AuthorizationPolicy shop/cidr",
                        document: 1,
                        line: 8,
                        field: Some("spec.rules[0].from[0].source.ipBlocks[1]"),
                        value: Some("10.1.2.3/77"),
                        remedy: "10.0.0.0/8",
                    },
                    Named {
                        code: "AMB0223",
                        object: "AuthorizationPolicy shop/cidr",
                        document: 1,
                        line: 1,
                        field: None,
                        value: None,
                        remedy: "correct the policy",
                    },
                    Named {
                        code: "AMB0221",
                        object: "AuthorizationPolicy shop/principal",
                        document: 2,
                        line: 17,
                        field: Some("spec.rules[0].from[0].source.principals[0]"),
                        value: Some("\"\""),
                        remedy: "write a name",
                    },
                    Named {
                        code: "IST0127",
                        object: "AuthorizationPolicy shop/nobody",
                        document: 3,
                        line: 23,
                        field: Some("spec.selector.matchLabels"),
                        value: Some("app=nobody"),
                        remedy: "labels",
                    },
                ],
            )
            .await?;
            // The sources that the good half of the policy doesn't mean are refused too.
            let catalog = cluster.service_addr("shop", "catalog", 9000)?;
            let payments = cluster.service_addr("shop", "payments", 9000)?;
            for to in [catalog, payments] {
                for from in [&web, &worker] {
                    wait_refused("it is closed", from, to).await?;
                }
            }
            cluster
                .wait_refusal("node-2", &[("dst.workload", "catalog-0")], "shop/cidr")
                .await?;
            wait_status(cluster, "cidr", "False", "").await?;
            reaches(cluster, &web, &["cart"])
                .await
                .context("nobody selects cart")?;

            // Not even the selector can be read: the namespace is closed.
            write(
                cluster,
                &policy("unreadable", "  selector: everything\n  action: DENY\n"),
            )?;
            wait_named(
                cluster,
                &[Named {
                    code: "AMB0107",
                    object: "AuthorizationPolicy shop/unreadable",
                    document: 1,
                    line: 5,
                    field: Some("spec.selector"),
                    value: Some("everything"),
                    remedy: "",
                }],
            )
            .await?;
            for service in ["cart", "catalog", "payments"] {
                let to = cluster.service_addr("shop", service, 9000)?;
                wait_refused("the namespace is closed", &web, to).await?;
            }
            // Corrected, or gone: open.
            std::fs::remove_file(cluster.manifests.dir().join(FILE))?;
            for service in ["cart", "catalog", "payments"] {
                let to = cluster.service_addr("shop", service, 9000)?;
                wait_echo("without it, it is open", &web, to).await?;
            }
            Ok(())
        },
    );
}

#[test]
fn a_policy_that_was_good_keeps_its_last_good_form() {
    on_shop("a policy keeps its last good form", async |cluster| {
        cluster.wait_shop().await?;
        let (web, worker) = clients(cluster)?;
        let catalog = cluster.service_addr("shop", "catalog", 9000)?;
        let deny = |principal: &str| {
            policy(
                "gate",
                &format!(
                    "  selector: {{matchLabels: {{app: catalog}}}}\n  action: DENY\n  rules:\n    - from: [{{source: {{principals: [{principal}]}}}}]\n"
                ),
            )
        };
        write(cluster, &deny("cluster.local/ns/shop/sa/worker"))?;
        wait_refused("worker is denied", &worker, catalog).await?;
        wait_status(cluster, "gate", "True", "").await?;
        // Every way to break it: a value, a field, the syntax.
        let broken = [
            deny("'*bad*value*'"),
            deny("x").replace("action", "acton"),
            format!("{}  rules: [\n", deny("x")),
        ];
        for (round, text) in broken.iter().enumerate() {
            write(cluster, text)?;
            wait_status(cluster, "gate", "False", "last good")
                .await
                .with_context(|| text.clone())?;
            let last_good = Named {
                code: "AMB0222",
                object: "AuthorizationPolicy shop/gate",
                document: 1,
                line: 1,
                field: None,
                value: None,
                remedy: "correct the policy",
            };
            let page = cluster.statusz().await?.to_string();
            ensure!(page.contains(last_good.code), "no {last_good:?} in {page}");
            cluster.wait_config(&format!("broken-{round}")).await?;
            ensure!(
                echoes(&worker, catalog).await.is_err(),
                "worker is let in by {text}"
            );
            echoes(&web, catalog)
                .await
                .with_context(|| format!("web isn't let in by {text}"))?;
        }
        reaches(cluster, &web, &["cart", "payments"]).await?;
        // Corrected: its new form counts.
        write(cluster, &deny("cluster.local/ns/shop/sa/web"))?;
        wait_refused("web is denied", &web, catalog).await?;
        wait_echo("worker isn't any more", &worker, catalog).await?;
        wait_status(cluster, "gate", "True", "").await
    });
}
