//! Objects that are bad or big.

use std::process::Command;

use ambit_e2e::kube::Api;
use ambit_e2e::programs;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{WAYS, caller, now, object, says};
use crate::inside::{BOUND, Pod, pods};

/// What one object is doesn't touch the others.
pub(super) async fn bad_objects(api: &Api) -> Result<()> {
    let policy = |name: &str, action: &str, rules: Value| {
        let mut policy = object("security.istio.io/v1", "AuthorizationPolicy", name);
        policy["spec"] = json!({"selector": {"matchLabels": {"app": "other"}},
            "action": action, "rules": rules});
        policy
    };
    let restarts = async || -> Result<i64> {
        let mut sum = 0;
        for label in ["app=istiod", "app=ztunnel"] {
            let all = pods(api, "istio-system", label).await?;
            sum += all.iter().map(Pod::restarts).sum::<i64>();
        }
        Ok(sum)
    };
    let before = restarts().await?;
    // A megabyte, and it is in force: its last word names the caller.
    let nobody = (0..15_000).map(|n| format!("cluster.local/ns/nobody/sa/{n:040}"));
    let all: Vec<_> = nobody
        .chain(["cluster.local/ns/callers/sa/default".to_owned()])
        .collect();
    let big = policy(
        "big",
        "DENY",
        json!([{"from": [{"source": {"principals": all}}]}]),
    );
    ensure!(big.to_string().len() > 1 << 20, "{}", big.to_string().len());
    // Fits the API server's schema, not the kind.
    let broken = policy("broken", "ALLOW", json!([{"from": 7}]));
    let meshed = caller(api, "meshed").await?;
    let answers = async |other: bool| {
        let what = format!("other answers: {other}");
        eventually_within(BOUND, &what, async || {
            let answers = meshed.asks(api, &["http://app.ways/", "http://other.ways/"])?;
            ensure!(answers[0]["status"] == 200, "{}", answers[0]);
            ensure!((answers[1]["status"] == 200) == other, "{}", answers[1]);
            Ok(())
        })
        .await
    };
    for (bad, status, reason) in [(&big, "True", "Accepted"), (&broken, "False", "Invalid")] {
        answers(true).await?;
        api.apply_object(bad).await?;
        answers(false).await?;
        eventually_within(BOUND, "it is told about", async || {
            let now = now(api, bad).await?;
            says(
                &now["status"]["conditions"],
                "ZtunnelAccepted",
                status,
                reason,
            )
        })
        .await?;
        let (exit, found) = analyzed(api, &["-n", WAYS])?;
        let mut named = found.iter();
        let named = named.any(|one| one["origin"] == "AuthorizationPolicy ways/broken");
        ensure!(named == (status == "False"), "{found:?}");
        ensure!((exit == Some(79)) == named, "{exit:?}: {found:?}");
        api.delete(bad).await?;
    }
    answers(true).await?;
    // Of what nobody wrote, nothing is said.
    let (_, found) = analyzed(api, &["-A"])?;
    let strange = ["AMB0104", "AMB0106", "AMB0203"];
    let strange = found
        .iter()
        .find(|one| strange.contains(&one["code"].as_str().unwrap_or_default()));
    ensure!(strange.is_none(), "{strange:?}");
    ensure!(before == restarts().await?, "something was restarted");
    Ok(())
}

/// Exit and findings of `ambit analyze` of the cluster.
fn analyzed(api: &Api, arguments: &[&str]) -> Result<(Option<i32>, Vec<Value>)> {
    let mut ambit = Command::new(programs::bin_dir()?.join("ambit"));
    ambit.args(["analyze", "-o", "json"]).args(arguments);
    let output = ambit.arg("-c").arg(api.kubeconfig()).output()?;
    let found = serde_json::from_slice(&output.stdout);
    let found = found.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), found))
}
