use std::sync::Mutex;

use ambit_cluster::node::{AnnotateError, Annotated};
use ambit_netns::require_privilege;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::world::{World, captured, pod_namespace, ruleset, until};
use crate::annotate::PodWriter;
use crate::inventory::PodName;

const AMBIENT: &str = "istio.io/dataplane-mode: ambient";

/// Takes what is written, and may be slow.
struct Writer {
    written: Mutex<Vec<String>>,
    answers: watch::Sender<bool>,
}

impl Writer {
    fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            written: Mutex::default(),
            answers: watch::Sender::new(true),
        })
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.written.lock().unwrap())
    }
}

impl PodWriter for Writer {
    fn annotate<'a>(
        &'a self,
        pod: &'a PodName,
        uid: &'a str,
        value: Option<&'static str>,
    ) -> BoxFuture<'a, Result<Annotated, AnnotateError>> {
        Box::pin(async move {
            let mut answers = self.answers.subscribe();
            let _ = answers.wait_for(|answers| *answers).await;
            let text = format!("{pod} {uid} {}", value.unwrap_or("-"));
            self.written.lock().unwrap().push(text);
            Ok(Annotated::Written)
        })
    }
}

async fn until_written(writer: &Writer, wanted: &str) {
    let mut last = Vec::new();
    until(wanted, async || {
        last.extend(writer.take());
        last.iter().any(|text| text == wanted)
    })
    .await;
}

#[tokio::test]
async fn pods_are_annotated_as_they_join_and_leave_without_a_control_plane_of_ours() {
    if !require_privilege("annotations") {
        return;
    }
    let mut world = World::new().await;
    let writer = Writer::new();
    world.reports = false;
    world.writer = Some(writer.clone());
    let (stays, other) = (pod_namespace().await, pod_namespace().await);
    world.namespace("");
    world.pod("web", Some(&stays), "");
    // Left from before a reboot: nothing redirects it now.
    let stale = "ambient.istio.io/redirection: enabled";
    world.pod("stale", Some(&other), stale);
    let _agent = world.agent().await;
    let _proxy = world.proxy();
    until_written(&writer, "shop/stale uid-stale -").await;
    assert_eq!(writer.take(), [""; 0]);
    world.remove("stale.yaml");
    world.namespace(AMBIENT);
    until_written(&writer, "shop/web uid-web enabled").await;
    assert!(captured(stays.ns()).await);

    // The rules stay until everybody can know.
    writer.answers.send_replace(false);
    world.namespace("");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_ne!(ruleset(stays.ns()), "");
    writer.answers.send_replace(true);
    until_written(&writer, "shop/web uid-web -").await;
    until("nothing is left", async || ruleset(stays.ns()).is_empty()).await;
}
