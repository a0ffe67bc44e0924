//! Who is enrolled by its own label, and who never is.

use ambit_e2e::kube::Api;
use ambit_testkit::eventually_within;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{ENROL, KEY, echo, gone, join, leave};
use crate::inside::{BOUND, Pod};

/// Labels of pods win over their namespace's; some are never enrolled.
pub(super) async fn never_enrolled(api: &Api) -> Result<()> {
    join(api, KEY).await?;
    let ambient = json!({"metadata": {"labels": {KEY: "ambient", "test": "enrol"}}});
    let label = |value: &str| json!({"metadata": {"labels": {KEY: value, "test": "enrol"}}});
    let sidecar = json!({"metadata": {"labels": {"test": "enrol"}, "annotations": {"sidecar.istio.io/status": "{}"}}});
    let host = json!({"metadata": {"labels": {"test": "enrol"}}, "spec": {"hostNetwork": true,
        "containers": [{"name": "app", "image": "ambit/echo:dev", "imagePullPolicy": "IfNotPresent",
            "args": ["serve", "--tcp=29000"]}]}});
    let own_will = [
        echo(ENROL, "opted-out", &[], &label("none")),
        echo(ENROL, "sidecar", &[], &sidecar),
        echo(ENROL, "host", &[], &host),
        echo("kube-system", "excluded", &[], &ambient),
        echo("outside", "joined-alone", &[], &ambient),
        // Last: whoever is before it has been looked at.
        echo(ENROL, "enrolled", &[], &json!({})),
    ];
    for pod in &own_will {
        api.delete(pod).await?;
        gone(api, pod).await?;
        api.apply_object(pod).await?;
    }
    let now = async |pod: &Value| {
        let path = api.path_of(pod).await?;
        Pod::of(api.get(&path).await?)
    };
    for pod in &own_will {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let wanted = matches!(name, "enrolled" | "joined-alone").then_some("enabled");
        eventually_within(BOUND, &format!("{name} is what it should be"), async || {
            let pod = now(pod).await?;
            ensure!(pod.is_ready(), "{}", pod.object["status"]);
            ensure!(pod.redirection() == wanted, "{:?}", pod.redirection());
            Ok(())
        })
        .await?;
    }
    for pod in &own_will {
        let pod = now(pod).await?;
        let Some(trace) = pod.trace().await? else {
            continue;
        };
        let enrolled = matches!(pod.name.as_str(), "enrolled" | "joined-alone");
        if pod.name != "host" {
            let rules = trace.ruleset.contains("15001");
            ensure!(rules == enrolled, "{}: {}", pod.name, trace.ruleset);
        }
    }
    // A label of its own takes a running pod out, and in again.
    for (label, wanted) in [(Some("none"), None), (None, Some("enabled"))] {
        let pod = &own_will[5];
        api.label(pod, KEY, label).await?;
        eventually_within(
            BOUND,
            &format!("with {label:?} it is {wanted:?}"),
            async || {
                let pod = now(pod).await?;
                ensure!(pod.redirection() == wanted, "{:?}", pod.redirection());
                Ok(())
            },
        )
        .await?;
    }
    for pod in &own_will {
        api.delete(pod).await?;
    }
    leave(api).await
}
