//! A namespace joins and leaves.

use ambit_e2e::kube::Api;
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};

use super::{join, leave, meshed, plain, servers};
use crate::inside::{BOUND, Pod};

pub(super) async fn joins_and_leaves(api: &Api, key: &str) -> Result<()> {
    let before = servers(api).await?;
    let untouched = before.0.trace().await?;
    plain(api).await.context("before")?;
    join(api, key).await?;
    meshed(api).await?;
    api_server(api, &before.0)?;
    if let Some(trace) = before.0.trace().await? {
        ensure!(untouched.as_ref() != Some(&trace), "no rules");
        ensure!(trace.listening.contains(&15008), "{:?}", trace.listening);
    }
    leave(api).await?;
    plain(api).await.context("after")?;
    eventually_within(BOUND, "nothing is left in the pod", async || {
        let trace = before.0.trace().await?;
        ensure!(trace == untouched, "{trace:?} instead of {untouched:?}");
        Ok(())
    })
    .await?;
    let after = servers(api).await?;
    for (before, after) in [(&before.0, &after.0), (&before.1, &after.1)] {
        ensure!(
            before.uid() == after.uid() && before.restarts() == after.restarts(),
            "{} was restarted",
            before.name
        );
    }
    Ok(())
}

/// By its Service, whose endpoint is no pod: it says that it wants TLS.
fn api_server(api: &Api, from: &Pod) -> Result<()> {
    let answer = from.asks(api, &["http://kubernetes.default:443/"])?;
    let answer = answer.first().context("no line")?;
    let said = answer["body"].to_string();
    ensure!(
        answer["status"] == 400 && said.contains("HTTPS server"),
        "{answer}"
    );
    Ok(())
}
