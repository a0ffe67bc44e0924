//! Watches of metadata alone: for kinds of which only names, labels and owners matter.

use std::future::Future;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tracing::debug;

use crate::resource::resource;

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    /// `apps`; empty for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
    /// `label=value,label`; empty for all.
    pub selector: &'static str,
}

/// What is seen.
#[derive(Debug)]
pub enum Seen {
    /// What was seen before doesn't count any more: everything is told again.
    Again,
    /// It is there like this.
    Here(ObjectMeta),
    /// It is gone.
    Gone(ObjectMeta),
    /// Everything has been told.
    All,
}

/// Watches for ever, in all namespaces. A kind that isn't served is asked for again, less and less often.
pub fn watch_metadata<F: FnMut(Seen) + Send>(
    client: &Client,
    what: Watched,
    mut on: F,
) -> impl Future<Output = ()> + Send + use<F> {
    let of_kind = resource(what.group, what.version, what.kind);
    let objects = Api::<PartialObjectMeta<DynamicObject>>::all_with(client.clone(), &of_kind);
    let mut config = watcher::Config::default();
    if !what.selector.is_empty() {
        config = config.labels(what.selector);
    }
    async move {
        let events = watcher(objects, config).default_backoff();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => on(Seen::Again),
                Ok(Event::InitApply(object) | Event::Apply(object)) => {
                    on(Seen::Here(object.metadata));
                }
                Ok(Event::Delete(object)) => on(Seen::Gone(object.metadata)),
                Ok(Event::InitDone) => on(Seen::All),
                Err(error) => debug!(kind = what.kind, %error, "the watch is made again"),
            }
        }
    }
}
