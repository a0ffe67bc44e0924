//! Which Gateways and routes are this control plane's (`control-plane-contract` 8.2).
//!
//! Owns tags and what they stand for. Policies and entries follow another rule, which is the compiler's: the label
//! must be our revision, word for word.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ambit_kube::core::ObjectMeta;
use ambit_kube::{Change, Kind, Object, ObjectKey};

/// Labels and tags.
#[derive(Debug)]
pub(crate) struct Revisions {
    own: Box<str>,
    /// Of Gateways and routes that have one.
    labels: HashMap<ObjectKey, Box<str>>,
    /// Of namespaces that have one.
    namespaces: HashMap<Arc<str>, Box<str>>,
    /// What tags stand for, by the object that says so.
    tags: BTreeMap<Said, (Box<str>, Box<str>)>,
}

/// Where a tag is written; where several say different things, the first counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// A `MutatingWebhookConfiguration` with a tag.
    Webhook(String),
    /// A Service `istiod-revision-tag-*`: namespace and name.
    Service(Arc<str>, Arc<str>),
    /// The `ValidatingWebhookConfiguration` `istiod-default-validator`.
    Validator,
}

/// Whose ownership may have changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// These objects'.
    Some(Vec<ObjectKey>),
    /// Anybody's.
    All,
}

impl Revisions {
    /// Of a control plane; without a revision it is the default one.
    pub(crate) fn new(own: &str) -> Self {
        Self {
            own: if own.is_empty() { DEFAULT } else { own }.into(),
            labels: HashMap::new(),
            namespaces: HashMap::new(),
            tags: BTreeMap::new(),
        }
    }

    /// Whether an object is ours: by its label, else by its namespace's, else as the default revision's; each may be
    /// a tag.
    pub(crate) fn owns(&self, key: &ObjectKey) -> bool {
        let label = self.labels.get(key);
        let label = label.or_else(|| self.namespaces.get(&key.namespace));
        self.resolve(label.map_or(DEFAULT, |label| label)) == &*self.own
    }

    fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        let mut tags = self.tags.values();
        let tag = tags.find(|(tag, _)| **tag == *name);
        tag.map_or(name, |(_, revision)| revision)
    }

    /// Takes what changed.
    pub(crate) fn learn(&mut self, changes: &[Change]) -> Moved {
        let (mut moved, mut all) = (Vec::new(), false);
        for change in changes {
            match change {
                Change::Apply(located) => {
                    let key = located.object.key();
                    let Some(meta) = metadata(&located.object) else {
                        continue;
                    };
                    match key.kind {
                        Kind::Namespace => all |= self.namespace(&key.name, rev(meta)),
                        Kind::Service => {
                            if is_tag(&key) {
                                let said = Said::Service(key.namespace, key.name);
                                all |= self.tag(said, meta.labels.as_ref().and_then(tag));
                            }
                        }
                        _ => {
                            if self.label(&key, rev(meta)) {
                                moved.push(key);
                            }
                        }
                    }
                }
                Change::Delete(key) if key.kind == Kind::Namespace => {
                    all |= self.namespace(&key.name, None);
                }
                Change::Delete(key) if is_tag(key) => {
                    let said = Said::Service(Arc::clone(&key.namespace), Arc::clone(&key.name));
                    all |= self.tag(said, None);
                }
                Change::Delete(key) => {
                    self.labels.remove(key);
                }
                _ => {}
            }
        }
        if all { Moved::All } else { Moved::Some(moved) }
    }

    fn namespace(&mut self, name: &Arc<str>, rev: Option<&str>) -> bool {
        let before = match rev {
            Some(rev) => self.namespaces.insert(Arc::clone(name), rev.into()),
            None => self.namespaces.remove(name),
        };
        before.as_deref() != rev
    }

    fn label(&mut self, key: &ObjectKey, rev: Option<&str>) -> bool {
        let before = match rev {
            Some(rev) => self.labels.insert(key.clone(), rev.into()),
            None => self.labels.remove(key),
        };
        before.as_deref() != rev
    }

    /// A tag and its revision, or that it isn't said any more; whether that changes anything.
    pub(crate) fn tag(&mut self, said: Said, stands: Option<(&str, &str)>) -> bool {
        let stands = stands.map(|(tag, revision)| (tag.into(), revision.into()));
        let before = match &stands {
            Some(stands) => self.tags.insert(said, stands.clone()),
            None => self.tags.remove(&said),
        };
        before != stands
    }
}

/// The tag and revision that an object's labels name.
pub(crate) fn tag(labels: &BTreeMap<String, String>) -> Option<(&str, &str)> {
    let tag = labels.get("istio.io/tag").map_or(DEFAULT, String::as_str);
    Some((tag, labels.get(REV)?))
}

fn rev(meta: &ObjectMeta) -> Option<&str> {
    let labels = meta.labels.as_ref()?;
    labels.get(REV).map(String::as_str)
}

fn is_tag(key: &ObjectKey) -> bool {
    key.kind == Kind::Service && key.name.starts_with("istiod-revision-tag-")
}

/// Of the kinds that are looked at.
fn metadata(object: &Object) -> Option<&ObjectMeta> {
    Some(match object {
        Object::Namespace(object) => &object.metadata,
        Object::Service(object) => &object.metadata,
        Object::Gateway(object) => &object.metadata,
        Object::HttpRoute(object) => &object.metadata,
        Object::GrpcRoute(object) => &object.metadata,
        Object::TcpRoute(object) => &object.metadata,
        Object::TlsRoute(object) => &object.metadata,
        Object::BackendTlsPolicy(object) => &object.metadata,
        Object::XBackendTrafficPolicy(object) => &object.metadata,
        _ => return None,
    })
}

const REV: &str = "istio.io/rev";
const DEFAULT: &str = "default";

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(text: &str) -> Vec<Change> {
        let loaded = ambit_kube::read_manifest("r.yaml", text);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        loaded.objects.into_iter().map(Change::Apply).collect()
    }

    fn gateway(name: &str) -> ObjectKey {
        ObjectKey::new(Kind::Gateway, "shop", name)
    }

    const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/rev: stable}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: plain, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: own, namespace: shop, labels: {istio.io/rev: canary}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";

    #[test]
    fn a_gateways_label_wins_over_its_namespaces_over_the_default() {
        let (mut one, mut other) = (Revisions::new(""), Revisions::new("canary"));
        for revisions in [&mut one, &mut other] {
            assert_eq!(revisions.learn(&changes(OBJECTS)), Moved::All);
        }
        // Nobody is called `stable`, and it is no tag.
        let both = |name: &str, one: &Revisions, other: &Revisions| {
            (one.owns(&gateway(name)), other.owns(&gateway(name)))
        };
        assert_eq!(both("plain", &one, &other), (false, false));
        assert_eq!(both("own", &one, &other), (false, true));
        let elsewhere = ObjectKey::new(Kind::Gateway, "elsewhere", "g");
        assert!(one.owns(&elsewhere) && !other.owns(&elsewhere));
    }

    #[test]
    fn tags_are_resolved_wherever_they_are_written() {
        let mut canary = Revisions::new("canary");
        canary.learn(&changes(OBJECTS));
        let said = Said::Webhook("istio-revision-tag-stable".to_owned());
        assert!(canary.tag(said.clone(), Some(("stable", "canary"))));
        assert!(!canary.tag(said.clone(), Some(("stable", "canary"))));
        assert!(canary.owns(&gateway("plain")));
        assert!(canary.tag(said, None));
        assert!(!canary.owns(&gateway("plain")));
        let service = "
apiVersion: v1
kind: Service
metadata: {name: istiod-revision-tag-stable, namespace: istio-system, labels: {istio.io/tag: stable, istio.io/rev: canary}}
spec: {ports: [{port: 15012}]}
";
        assert_eq!(canary.learn(&changes(service)), Moved::All);
        assert!(canary.owns(&gateway("plain")));
        let gone = ObjectKey::new(Kind::Service, "istio-system", "istiod-revision-tag-stable");
        assert_eq!(canary.learn(&[Change::Delete(gone)]), Moved::All);
        assert!(!canary.owns(&gateway("plain")));
    }

    #[test]
    fn an_upstream_control_plane_that_is_the_default_keeps_what_is_unlabelled() {
        let mut ours = Revisions::new("ambit");
        assert!(!ours.owns(&gateway("g")));
        let mut default = Revisions::new("default");
        assert!(default.owns(&gateway("g")));
        // Once somebody else is tagged as the default, we are asked for by name only.
        for revisions in [&mut ours, &mut default] {
            revisions.tag(Said::Validator, Some(("default", "1-32")));
            assert!(!revisions.owns(&gateway("g")));
        }
        ours.tag(Said::Webhook("a".to_owned()), Some(("default", "ambit")));
        assert!(ours.owns(&gateway("g")));
    }

    #[test]
    fn only_labels_that_change_move_anything() {
        let mut revisions = Revisions::new("");
        revisions.learn(&changes(OBJECTS));
        assert_eq!(revisions.learn(&changes(OBJECTS)), Moved::Some(Vec::new()));
        let moved = OBJECTS.replace("canary", "other");
        assert_eq!(
            revisions.learn(&changes(&moved)),
            Moved::Some(vec![gateway("own")])
        );
    }
}
