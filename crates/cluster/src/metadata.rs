//! Watches of metadata alone: for kinds of which only names, labels and owners matter.

use std::collections::BTreeMap;
use std::future::Future;

use kube::Client;
use serde::Deserialize;

use crate::follow::{Event, Following, Name, Resource, Told};
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

/// What is read of an object.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Another for another object of the same name.
    pub uid: String,
    /// Its labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Counts the changes of what it is to be; not of every kind.
    pub generation: Option<i64>,
    /// Another with every change.
    pub resource_version: String,
}

impl Metadata {
    /// Reads an object's text.
    pub(crate) fn read(text: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Shape {
            metadata: Metadata,
        }
        serde_json::from_slice(text).map(|Shape { metadata }| metadata)
    }
}

/// What is seen.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there like this.
    Here(Name, Metadata),
    /// It is gone.
    Gone(Name),
    /// Everything that is there has been told; after the first and every later list.
    All,
}

/// Watches for ever, in all namespaces. A kind that isn't served is asked for again, less and less often.
pub fn watch_metadata<F: FnMut(Seen) + Send>(
    client: &Client,
    what: Watched,
    mut on: F,
) -> impl Future<Output = ()> + Send + use<F> {
    let plural = resource(what.group, what.version, what.kind).plural;
    let mut all = Resource::all(what.group, what.version, &plural).metadata();
    if !what.selector.is_empty() {
        all = all.with_label(what.selector);
    }
    let mut following = Following::new(client);
    following.follow((), all, Metadata::read);
    async move {
        loop {
            match following.next().await.1 {
                Told::Events(events) => events.into_iter().for_each(|event| match event {
                    Event::Applied(name, metadata) => on(Seen::Here(name, metadata)),
                    Event::Deleted(name) => on(Seen::Gone(name)),
                }),
                Told::Listed => on(Seen::All),
                Told::Gone => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
