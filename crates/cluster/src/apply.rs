//! Whole objects by server-side apply (`control-plane-contract` 5.4), and their end.
//!
//! Owns the guard: what exists without the mark of ours was made by somebody else, and stays as it is. What was seen
//! is what is written: a change in between is a conflict, after which it is looked at again.

use std::future::Future;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::resource::{api, resource};

/// How whole objects are written.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// The label that says whose an object is.
    pub label: &'static str,
    /// Who applies.
    pub manager: &'static str,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is there as wanted.
    Done,
    /// It was there before us, and isn't ours: nothing was written.
    NotOurs,
}

/// A write that didn't succeed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It isn't an object: no kind, no version or no name.
    #[error("not an object: it has no {0}")]
    Shape(&'static str),
    /// The API server refuses it.
    #[error("the API server refuses it: {0}")]
    Refused(#[source] Box<kube::core::Status>),
    /// It can't be asked.
    #[error("the API server can't be asked: {0}")]
    Unreachable(#[source] kube::Error),
    /// It doesn't answer.
    #[error("no answer within {} s", REQUEST.as_secs())]
    Late,
    /// Others change the object again and again.
    #[error("others change it all the time")]
    Contested,
}

impl WriteError {
    /// Whether trying again without a change can help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Shape(_) => false,
            Self::Refused(status) => status.code >= 500 || matches!(status.code, 409 | 429),
            Self::Unreachable(_) | Self::Late | Self::Contested => true,
        }
    }

    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Shape(_) => "shape",
            Self::Refused(status) => match status.code {
                403 => "forbidden",
                404 => "not_found",
                409 => "conflict",
                422 => "invalid",
                429 => "throttled",
                _ => "refused",
            },
            Self::Unreachable(_) => "unreachable",
            Self::Late => "late",
            Self::Contested => "conflict",
        }
    }

    pub(crate) fn is_status(&self, code: u16) -> bool {
        matches!(self, Self::Refused(status) if status.code == code)
    }
}

/// A request that is bounded in time.
pub(crate) async fn asked<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, WriteError> {
    match timeout(REQUEST, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(WriteError::Refused(status)),
        Ok(Err(error)) => Err(WriteError::Unreachable(error)),
        Err(_) => Err(WriteError::Late),
    }
}

/// Applies one object, unless one of its name exists that isn't ours.
///
/// # Errors
/// What the API server says, or that it says nothing.
pub async fn apply(client: &Client, object: &Value, mark: Mark) -> Result<Applied, WriteError> {
    let (objects, name) = place(client, object)?;
    for _ in 0..CONFLICTS {
        let found = asked(objects.get_opt(&name)).await?;
        if found.as_ref().is_some_and(|found| !is_marked(found, mark)) {
            return Ok(Applied::NotOurs);
        }
        let mut body = object.clone();
        let version = found.and_then(|found| found.metadata.resource_version);
        if let (Some(version), Some(meta)) = (version, body.get_mut("metadata")) {
            set(meta, "resourceVersion", version.into());
        }
        let params = PatchParams::apply(mark.manager).force();
        match asked(objects.patch(&name, &params, &Patch::Apply(&body))).await {
            Ok(_) => return Ok(Applied::Done),
            Err(error) if error.is_status(409) => {}
            Err(error) => return Err(error),
        }
    }
    Err(WriteError::Contested)
}

/// Creates an object where there is none of its name; whether it did.
///
/// # Errors
/// What the API server says, or that it says nothing.
pub async fn create_missing(
    client: &Client,
    object: &Value,
    manager: &str,
) -> Result<bool, WriteError> {
    let (objects, name) = place(client, object)?;
    if asked(objects.get_opt(&name)).await?.is_some() {
        return Ok(false);
    }
    let typed: DynamicObject =
        serde_json::from_value(object.clone()).map_err(|_| WriteError::Shape("metadata"))?;
    let params = kube::api::PostParams {
        field_manager: Some(manager.to_owned()),
        ..kube::api::PostParams::default()
    };
    match asked(objects.create(&params, &typed)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_status(409) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is looked for among the objects of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Leftovers<'a> {
    /// `apps`; empty for the core group.
    pub group: &'a str,
    /// `v1`.
    pub version: &'a str,
    /// `Deployment`.
    pub kind: &'a str,
    /// Where.
    pub namespace: &'a str,
    /// `label=value,label=value`.
    pub selector: &'a str,
    /// The uid of their owner.
    pub owner: &'a str,
    /// Those that stay.
    pub keep: &'a [&'a str],
}

/// Deletes what one owner has of a kind and doesn't want any more: only what is marked, and only what is owned by
/// this very owner. How many.
///
/// # Errors
/// What the API server says, or that it says nothing. A kind that isn't served has no objects.
pub async fn delete_leftovers(
    client: &Client,
    what: Leftovers<'_>,
    mark: Mark,
) -> Result<usize, WriteError> {
    let of_kind = resource(what.group, what.version, what.kind);
    let objects = api(client, &of_kind, what.namespace);
    let params = ListParams::default().labels(what.selector).limit(PAGE);
    let found = match asked(objects.list_metadata(&params)).await {
        Ok(found) => found,
        Err(error) if error.is_status(404) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut gone = 0;
    for object in found.items {
        let meta = object.metadata;
        let (Some(name), Some(uid)) = (meta.name, meta.uid) else {
            continue;
        };
        let labelled = meta
            .labels
            .is_some_and(|labels| labels.contains_key(mark.label));
        let mut owners = meta.owner_references.iter().flatten();
        let owned = owners.any(|of| of.uid == what.owner);
        if !labelled || !owned || what.keep.contains(&&*name) {
            continue;
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match asked(objects.delete(&name, &params)).await {
            Ok(_) => gone += 1,
            // Gone, or made anew by somebody else.
            Err(error) if error.is_status(404) || error.is_status(409) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

fn is_marked(object: &DynamicObject, mark: Mark) -> bool {
    let labels = object.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.contains_key(mark.label))
}

fn place(client: &Client, object: &Value) -> Result<(Api<DynamicObject>, String), WriteError> {
    let text = |pointer: &str, what| {
        let value = object.pointer(pointer).and_then(Value::as_str);
        value.ok_or(WriteError::Shape(what))
    };
    let version = text("/apiVersion", "apiVersion")?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let of_kind = resource(group, version, text("/kind", "kind")?);
    let namespace = text("/metadata/namespace", "namespace").unwrap_or_default();
    let name = text("/metadata/name", "name")?.to_owned();
    Ok((api(client, &of_kind, namespace), name))
}

/// A body that applies nothing but what names the object.
pub(crate) fn empty_body(api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    let mut meta = json!({"name": name});
    if !namespace.is_empty() {
        set(&mut meta, "namespace", namespace.into());
    }
    json!({"apiVersion": api_version, "kind": kind, "metadata": meta})
}

/// Sets a member of a map.
pub(crate) fn set(object: &mut Value, member: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(member.to_owned(), value);
    }
}

/// One request; a server that is slower than this is away.
pub(crate) const REQUEST: Duration = Duration::from_secs(10);
const CONFLICTS: usize = 5;
/// More than one owner has of a kind.
const PAGE: u32 = 100;

#[cfg(test)]
mod tests;
