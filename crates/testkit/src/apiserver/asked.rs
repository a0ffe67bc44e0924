//! A request, and which objects it is about.

use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use hyper::{Method, Request};
use serde_json::{Value, json};

/// What is asked.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) verb: String,
    pub(super) path: String,
    /// Names and values, as they are meant.
    pub(super) query: Vec<(String, String)>,
    /// A patch that merges lists by their keys.
    pub(super) strategic: bool,
    /// The metadata of objects is all that is wanted.
    pub(super) only_metadata: bool,
    pub(super) body: Value,
}

impl Asked {
    pub(super) async fn read<B: Body>(request: Request<B>) -> Self {
        let (head, body) = request.into_parts();
        let says = |name: HeaderName, what: &str| {
            let value = head.headers.get(name);
            value.is_some_and(|value| value.to_str().is_ok_and(|value| value.contains(what)))
        };
        let query = head.uri.query().unwrap_or_default();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query: Vec<_> = pairs
            .map(|(name, value)| (name.to_owned(), unescape(value)))
            .collect();
        let path = head.uri.path().to_owned();
        let verb = match head.method {
            Method::PATCH if says(CONTENT_TYPE, "apply-patch") => "APPLY".to_owned(),
            Method::GET if is_collection(&path) => {
                let watches = |(name, value): &(String, String)| {
                    name == "watch" && (value == "1" || value == "true")
                };
                let verb = if query.iter().any(watches) {
                    "WATCH"
                } else {
                    "LIST"
                };
                verb.to_owned()
            }
            ref method => method.to_string(),
        };
        let (strategic, only_metadata) = (
            says(CONTENT_TYPE, "strategic-merge"),
            says(ACCEPT, "as=PartialObjectMetadata"),
        );
        let body = body.collect().await.ok().map(|body| body.to_bytes());
        Self {
            verb,
            path,
            query,
            strategic,
            only_metadata,
            body: serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default(),
        }
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let mut query = self.query.iter();
        let (_, value) = query.find(|(of, _)| of == name)?;
        Some(value)
    }

    /// Whether an object, at its path, is of the collection and selected.
    pub(super) fn selects(&self, path: &str, object: &Value) -> bool {
        is_of(&self.path, path)
            && self.every("labelSelector", |key| {
                object.pointer("/metadata/labels")?.get(key).cloned()
            })
            && self.every("fieldSelector", |key| {
                object
                    .pointer(&format!("/{}", key.replace('.', "/")))
                    .cloned()
            })
    }

    /// Whether all conditions of a selector hold.
    fn every(&self, selector: &str, value: impl Fn(&str) -> Option<Value>) -> bool {
        let conditions = self.parameter(selector).unwrap_or_default().split(',');
        let mut conditions = conditions.filter(|condition| !condition.is_empty());
        conditions.all(|condition| {
            let is = |key: &str, wanted: &str| {
                value(key).is_some_and(|value| value.as_str() == Some(wanted))
            };
            if let Some((key, other)) = condition.split_once("!=") {
                return !is(key, other);
            }
            match condition.split_once('=') {
                Some((key, wanted)) => is(key, wanted.trim_start_matches('=')),
                None => value(condition).is_some(),
            }
        })
    }

    /// What is answered of an object.
    pub(super) fn form(&self, object: &Value) -> Value {
        match self.only_metadata {
            true => json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": object.get("metadata"),
            }),
            false => object.clone(),
        }
    }
}

/// Whether a path is one of many objects: what follows group and version are pairs of a collection and a name.
fn is_collection(path: &str) -> bool {
    let path = path.strip_suffix("/status").unwrap_or(path);
    let parts = path.split('/').filter(|part| !part.is_empty()).count();
    let before = if path.starts_with("/apis/") { 3 } else { 2 };
    parts > before && (parts - before) % 2 == 1
}

/// Whether an object's path is in a collection, of a namespace or of all.
fn is_of(collection: &str, path: &str) -> bool {
    let (of, _) = path.rsplit_once('/').unwrap_or_default();
    let of_all = || {
        let (parent, last) = collection.rsplit_once('/')?;
        let rest = of.strip_prefix(parent)?.strip_prefix("/namespaces/")?;
        let (namespace, plural) = rest.split_once('/')?;
        (!namespace.is_empty() && plural == last).then_some(())
    };
    of == collection || of_all().is_some()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
                u8::try_from(value.unwrap_or_default()).unwrap_or_default()
            }
            b'+' => b' ',
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
