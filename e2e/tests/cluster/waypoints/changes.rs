//! From the API server's commit of a route to the first request that it
//! routes. Printed: how long something took is no reason to fail.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ambit_e2e::kube::Api;
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{USE_WAYPOINT, bound, caller, gateway, object, programmed, service};

pub(super) async fn measured(api: &Api) -> Result<()> {
    let gate = gateway("gate", "istio-waypoint", &json!({}));
    api.apply_object(&gate).await?;
    programmed(api, &gate).await?;
    api.label(&service("app"), USE_WAYPOINT, Some("gate"))
        .await?;
    bound(api, "app", Some(("True", "WaypointAccepted"))).await?;
    api.apply_object(&route(0)).await?;
    let outcome = changes(api).await;
    api.delete(&route(0)).await?;
    api.label(&service("app"), USE_WAYPOINT, None).await?;
    api.delete(&gate).await?;
    outcome
}

/// A route that writes its number into requests.
fn route(number: usize) -> Value {
    let mut route = object("gateway.networking.k8s.io/v1", "HTTPRoute", "changes");
    route["spec"] = json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "app", "port": 80}],
        "rules": [{
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier":
                {"set": [{"name": "x-number", "value": number.to_string()}]}}],
            "backendRefs": [{"name": "app", "port": 80}]}]});
    route
}

async fn changes(api: &Api) -> Result<()> {
    let meshed = caller(api, "meshed").await?;
    // Requests one after the other over a kept connection; the pod's clock is
    // ours where it runs on this machine.
    let mut asks = api.kubectl()?;
    asks.args(["exec", "-n", &meshed.namespace, &meshed.name, "--"])
        .args([
            "ambit-echo",
            "ask",
            "--keep",
            "--pause=1ms",
            "--count=1000000",
            // Each line costs the API server and the kubelet more than the mesh
            // has to do for the request.
            "--news=x-number",
        ])
        .arg("http://app.ways/")
        .stdout(Stdio::piped());
    let mut asks = asks.spawn().context("start kubectl")?;
    let output = asks.stdout.take().context("its output is piped")?;
    let (sender, seen) = mpsc::channel();
    let reader = std::thread::Builder::new().spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let answer: Value = serde_json::from_str(&line).unwrap_or_default();
            if sender.send(answer).is_err() {
                return;
            }
        }
    })?;
    let outcome = rounds(api, &seen).await;
    let _ = asks.kill();
    let _ = asks.wait();
    drop(seen);
    let _ = reader.join();
    let taken = outcome?;
    let millis = |quantile: f64| {
        Duration::from_micros(taken.value_at_quantile(quantile)).as_secs_f64() * 1e3
    };
    eprintln!(
        "  from the commit of a route to the first request by it: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms ({} changes)",
        millis(0.5),
        millis(0.99),
        millis(1.0),
        taken.len()
    );
    Ok(())
}

async fn rounds(api: &Api, seen: &mpsc::Receiver<Value>) -> Result<Histogram<u64>> {
    let mut taken = Histogram::<u64>::new(3)?;
    wait_for(seen, 0)?;
    for number in 1..=CHANGES {
        // Each on its own: what a change after another waits for is a bench's.
        tokio::time::sleep(REST).await;
        api.apply_object(&route(number)).await?;
        // It was committed a moment before the answer came.
        let committed = micros();
        let end = wait_for(seen, number)?;
        taken.record(end.saturating_sub(committed).max(1))?;
    }
    Ok(taken)
}

/// When the first request with a number was answered.
fn wait_for(seen: &mpsc::Receiver<Value>, number: usize) -> Result<u64> {
    let number = number.to_string();
    loop {
        let answer = seen
            .recv_timeout(Duration::from_secs(60))
            .context("requests go on")?;
        // Before the first, the waypoint may not have the service yet.
        ensure!(answer["status"] == 200 || number == "0", "{answer}");
        if answer["body"]["headers"]["x-number"][0] == number.as_str() {
            return answer["end"].as_u64().context("a time");
        }
    }
}

fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or_default()
}

const CHANGES: usize = 300;
const REST: Duration = Duration::from_millis(100);
