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

/// What a message must name; an empty value or remedy may be anything.
#[derive(Debug, Clone, Copy)]
struct Named<'t> {
    code: &'t str,
    /// `Kind namespace/name`.
    object: &'t str,
    document: u64,
    line: u64,
    field: &'t str,
    value: &'t str,
    remedy: &'t str,
}

/// One a line: `code | object | document | line | field | value | remedy`.
fn rows(text: &str) -> Vec<Named<'_>> {
    let lines = text.trim().lines();
    let rows = lines.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [code, object, document, line, field, value, remedy] = cells[..] else {
            unreachable!("seven cells: {line}");
        };
        let (document, line) = (document.parse().unwrap(), line.parse().unwrap());
        Named {
            code,
            object,
            document,
            line,
            field,
            value,
            remedy,
        }
    });
    rows.collect()
}

const FILE: &str = "50-bad.yaml";

fn write(cluster: &Cluster, text: &str) -> Result<()> {
    Ok(write_atomically(&cluster.manifests.dir().join(FILE), text)?)
}

/// True if a finding's members, taken from their places, are those.
fn is(named: &Named<'_>, object: &str, place: &str, document: &Value, finding: &Value) -> bool {
    let text = |key: &str| finding[key].as_str();
    text("code") == Some(named.code)
        && object == named.object
        && place.ends_with(&format!("{FILE}:{}", named.line))
        && *document == named.document
        && text("field").unwrap_or_default() == named.field
        && text("value").unwrap_or_default().contains(named.value)
        && text("remedy").is_some_and(|remedy| remedy.contains(named.remedy))
}

/// Each is said by `ambit analyze` on the directory and by the control plane.
async fn wait_named(cluster: &Cluster, table: &str) -> Result<()> {
    let all = rows(table);
    let (_, findings) = cluster.analyze()?;
    for named in &all {
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
        for named in &all {
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
            r#"
AMB0101 | Service shop/broken | 2 | 12 |  |  | correct the syntax
AMB0103 | ServiceEntry shop/odd | 3 | 15 | kind | ServiceEntrie | ServiceEntry
AMB0103 |  | 4 | 19 | kind | Ingres | Ingress
AMB0106 | Service shop/fourth | 5 | 29 | spec.sessionAfinity | None | sessionAffinity
AMB0102 |  | 6 | 31 |  |  | kind
"#,
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
        wait_named(
            cluster,
            "
AMB0211 | Service shop/one | 1 | 5 | spec.clusterIP | 10.96.7.9 | another address
AMB0211 | Service shop/two | 2 | 13 | spec.clusterIP | 10.96.7.9 | another address
",
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
            wait_named(cluster, r#"
AMB0221 | AuthorizationPolicy shop/cidr | 1 | 8 | spec.rules[0].from[0].source.ipBlocks[1] | 10.1.2.3/77 | 10.0.0.0/8
AMB0223 | AuthorizationPolicy shop/cidr | 1 | 1 |  |  | correct the policy
AMB0221 | AuthorizationPolicy shop/principal | 2 | 17 | spec.rules[0].from[0].source.principals[0] | "" | write a name
IST0127 | AuthorizationPolicy shop/nobody | 3 | 23 | spec.selector.matchLabels | app=nobody | labels
"#)
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

            Ok(())
        },
    );
}

#[test]
fn a_policy_whose_selector_cant_be_read_closes_its_namespace() {
    on_shop(
        "an unreadable selector closes the namespace",
        async |cluster| {
            cluster.wait_shop().await?;
            let (web, _) = clients(cluster)?;
            write(
                cluster,
                &policy("unreadable", "  selector: everything\n  action: DENY\n"),
            )?;
            wait_named(
                cluster,
                r#"
AMB0107 | AuthorizationPolicy shop/unreadable | 1 | 5 | spec.selector | everything | 
"#,
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
            let page = cluster.statusz().await?;
            let all = page["diagnostics"].as_array().context("no diagnostics")?;
            let said = |d: &Value| d["code"] == "AMB0222" && d["key"]["name"] == "gate";
            ensure!(all.iter().any(said), "no AMB0222 in {all:#?}");
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
