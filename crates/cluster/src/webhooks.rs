//! ValidatingWebhookConfigurations of ours (`control-plane-contract` 8.3): the
//! API server is told whom to trust, and to refuse what it can't ask about only
//! once the webhook has proved that it is reached.
//!
//! Runs where the replica leads. The proof is a dry run of an object that the
//! webhook always refuses: refused in our words, the way there works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::sleep_maybe;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::follow::{Event, Following, Resource, Told};

/// The annotation of an object that the webhook refuses whatever else it is.
pub const ALWAYS_REJECT: &str = "internal.istio.io/webhook-always-reject";
/// What the refusal of such an object says.
pub const ALWAYS_REJECTED: &str = "the validation webhook is reached";

/// Which configurations are ours.
#[derive(Debug, Clone)]
pub struct WebhookConfigs {
    /// Names of ValidatingWebhookConfigurations.
    pub names: Vec<String>,
    /// Our revision, as objects are labelled with it.
    pub revision: String,
    /// The namespace of the object that is tried.
    pub namespace: String,
}

impl WebhookConfigs {
    /// The usual names of a revision in a system namespace.
    pub fn of(revision: &str, namespace: &str) -> Self {
        let own = match revision {
            "" | "default" => format!("istio-validator-{namespace}"),
            revision => format!("istio-validator-{revision}-{namespace}"),
        };
        // The default validator points at whoever is the default revision.
        let default = matches!(revision, "" | "default").then(|| "istiod-default-validator".into());
        Self {
            names: [own].into_iter().chain(default).collect(),
            revision: revision.to_owned(),
            namespace: namespace.to_owned(),
        }
    }
}

/// Counts patches, by the name of the configuration.
pub trait PatchObserver: Send + Sync {
    /// A configuration is about to be patched.
    fn attempted(&self, name: &str);
    /// It was.
    fn patched(&self);
    /// It wasn't, and will be tried again.
    fn failed(&self, name: &str, reason: &'static str);
}

/// Keeps the configurations as they are to be, until it is dropped.
pub async fn keep_webhook_configs(
    client: Client,
    configs: WebhookConfigs,
    mut bundle: watch::Receiver<String>,
    observer: Arc<dyn PatchObserver>,
) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mut following = Following::new(&client);
    let all = Resource::all(GROUP, "v1", "validatingwebhookconfigurations");
    for name in &configs.names {
        following.follow((), all.clone().with_name(name), |text| {
            serde_json::from_slice::<ValidatingWebhookConfiguration>(text)
        });
    }
    let mut known = Known::new();
    let mut proven = false;
    let mut failures = 0_u32;
    let mut due: Option<Instant> = None;
    bundle.mark_changed();
    loop {
        tokio::select! {
            ((), told) = following.next() => if let Told::Events(events) = told {
                for event in events {
                    match event {
                        Event::Applied(name, config) => {
                            known.insert(name.name, config);
                            due.get_or_insert_with(Instant::now);
                        }
                        Event::Deleted(name) => {
                            known.remove(&name.name);
                        }
                    }
                }
            },
            Ok(()) = bundle.changed() => {
                due.get_or_insert_with(Instant::now);
            }
            () = sleep_maybe(due) => {
                due = None;
                let roots = bundle.borrow_and_update().clone();
                if roots.is_empty() {
                    continue;
                }
                let trusted = put_bundle(&api, &mut known, &roots, &*observer).await;
                if trusted && !proven && known.values().any(is_lenient) {
                    proven = is_reached(&client, &configs).await;
                }
                let strict = !proven || make_strict(&api, &mut known, &*observer).await;
                if trusted && proven && strict {
                    failures = 0;
                } else if !known.is_empty() {
                    failures = failures.saturating_add(1);
                    let pause = FIRST.saturating_mul(1 << failures.min(6)).min(LAST);
                    // Proven or not, a strict configuration needs no trial.
                    if !trusted || known.values().any(is_lenient) {
                        due = Some(Instant::now() + pause);
                    }
                }
            }
        }
    }
}

type Known = BTreeMap<Arc<str>, ValidatingWebhookConfiguration>;

/// Whether every configuration trusts the bundle now.
async fn put_bundle(
    api: &Api<ValidatingWebhookConfiguration>,
    known: &mut Known,
    roots: &str,
    observer: &dyn PatchObserver,
) -> bool {
    let mut all = true;
    for config in known.values_mut() {
        let wanted = ByteString(roots.as_bytes().to_vec());
        let differs = config
            .webhooks
            .iter()
            .flatten()
            .any(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&wanted));
        if differs {
            let change = json!({"clientConfig": {"caBundle": wanted}});
            all &= patch(api, config, &change, observer).await;
        }
    }
    all
}

/// Whether every configuration refuses what it can't ask about now.
async fn make_strict(
    api: &Api<ValidatingWebhookConfiguration>,
    known: &mut Known,
    observer: &dyn PatchObserver,
) -> bool {
    let mut all = true;
    for config in known.values_mut() {
        if is_lenient(config) {
            let change = json!({"failurePolicy": "Fail"});
            all &= patch(api, config, &change, observer).await;
        }
    }
    all
}

fn is_lenient(config: &ValidatingWebhookConfiguration) -> bool {
    let mut webhooks = config.webhooks.iter().flatten();
    webhooks.any(|webhook| webhook.failure_policy.as_deref() != Some("Fail"))
}

/// Changes every webhook of a configuration that is still as it was read.
async fn patch(
    api: &Api<ValidatingWebhookConfiguration>,
    config: &mut ValidatingWebhookConfiguration,
    change: &Value,
    observer: &dyn PatchObserver,
) -> bool {
    let name = config.metadata.name.clone().unwrap_or_default();
    let webhooks: Vec<Value> = config
        .webhooks
        .iter()
        .flatten()
        .map(|webhook| {
            let mut of = change.clone();
            if let Some(fields) = of.as_object_mut() {
                // Merged by it.
                fields.insert("name".to_owned(), webhook.name.as_str().into());
            }
            of
        })
        .collect();
    let patch = json!({
        "metadata": {"resourceVersion": config.metadata.resource_version},
        "webhooks": webhooks,
    });
    observer.attempted(&name);
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Strategic(&patch);
    let asked = api.patch(&name, &params, &patch);
    let reason = match timeout(DEADLINE, asked).await {
        Ok(Ok(new)) => {
            info!(name, "webhook configuration patched");
            observer.patched();
            *config = new;
            return true;
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => "conflict",
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => "not_found",
        Ok(Err(error)) => {
            warn!(name, %error, "webhook configuration not patched");
            "error"
        }
        Err(_) => "timeout",
    };
    observer.failed(&name, reason);
    false
}

/// Whether the API server reaches the webhook.
async fn is_reached(client: &Client, configs: &WebhookConfigs) -> bool {
    for (group, kind, spec) in trials() {
        let kind = GroupVersionKind::gvk(group, "v1", kind);
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &configs.namespace, &resource);
        let object = json!({
            "apiVersion": format!("{group}/v1"),
            "kind": kind.kind,
            "metadata": {
                "name": "ambit-validation-trial",
                "annotations": {ALWAYS_REJECT: "true"},
                "labels": {"istio.io/rev": configs.revision},
            },
            "spec": spec,
        });
        let Ok(object) = serde_json::from_value::<DynamicObject>(object) else {
            return false;
        };
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        match timeout(DEADLINE, api.create(&params, &object)).await {
            Ok(Err(kube::Error::Api(status))) if status.message.contains(ALWAYS_REJECTED) => {
                return true;
            }
            // No such kind here: try with another.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => continue,
            outcome => {
                debug!(?outcome, "the validation webhook isn't reached yet");
                return false;
            }
        }
    }
    false
}

/// Objects that are good in every respect but the annotation.
fn trials() -> [(&'static str, &'static str, Value); 2] {
    let entry = json!({
        "hosts": ["trial.invalid"],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "resolution": "DNS",
    });
    let peer = json!({"mtls": {"mode": "STRICT"}});
    [
        ("networking.istio.io", "ServiceEntry", entry),
        ("security.istio.io", "PeerAuthentication", peer),
    ]
}

const GROUP: &str = "admissionregistration.k8s.io";
const MANAGER: &str = "istiod-lite";
const DEADLINE: Duration = Duration::from_secs(10);
const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
