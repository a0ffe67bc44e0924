//! Published resources, whose bodies every stream shares, and the snapshots
//! that hold them.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use rpds::{HashTrieMapSync, HashTrieSetSync};

use super::bundle::{Bundle, Shared};

/// One resource as its publisher gives it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// Unique within its type.
    pub name: Arc<str>,
    /// Changes exactly when the body does; what a client holds at the same
    /// version isn't sent again.
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
    /// Further names that clients may ask for, `network/ip` for instance.
    pub aliases: Vec<Arc<str>>,
    /// Names of resources that bring this one along when they are asked for:
    /// the services of a workload.
    pub groups: Vec<Arc<str>>,
    /// The node whose proxy gets this one without asking.
    pub home: Option<Arc<str>>,
    /// The audiences for which it exists; `None` for everybody, and an empty
    /// list for nobody. A change of this alone is no change for those who are
    /// in it before and after.
    pub audience: Option<Arc<[Arc<str>]>>,
}

/// A resource in a snapshot. There may be many: nothing is kept twice, and what
/// stands around the body on the wire is written for each stream.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) name: Arc<str>,
    pub(crate) version: Box<str>,
    type_url: Arc<str>,
    body: Bytes,
    pub(crate) aliases: Box<[Arc<str>]>,
    pub(crate) groups: Box<[Arc<str>]>,
    pub(crate) home: Option<Arc<str>>,
    /// Sorted.
    audience: Option<Box<[Arc<str>]>>,
}

impl Resource {
    fn new(type_url: &Arc<str>, update: Update) -> Self {
        Self {
            name: update.name,
            version: update.version.into(),
            type_url: Arc::clone(type_url),
            body: update.body,
            aliases: update.aliases.into(),
            groups: update.groups.into(),
            home: update.home,
            audience: update.audience.as_deref().map(sorted),
        }
    }

    /// Whether it exists for a stream of this audience.
    pub(crate) fn is_for(&self, audience: Option<&str>) -> bool {
        let Some(listed) = &self.audience else {
            return true;
        };
        let search = |key: &str| listed.binary_search_by(|each| (**each).cmp(key));
        audience.is_some_and(|key| search(key).is_ok())
    }

    /// Whether only the audience differs.
    fn is_readdressed(&self, update: &Update) -> bool {
        let to = update.audience.as_deref().map(sorted);
        to != self.audience
            && update.body == self.body
            && times(&self.version, &update.version).is_some()
    }

    /// Bytes that [`Self::write`] writes.
    pub(crate) fn wire_len(&self, with_aliases: bool) -> usize {
        let aliases = self.aliases.iter().filter(|_| with_aliases);
        field_len(VERSION, self.version.len())
            + field_len(RESOURCE, self.any_len())
            + field_len(NAME, self.name.len())
            + aliases
                .map(|alias| field_len(ALIASES, alias.len()))
                .sum::<usize>()
    }

    /// Writes it as an `envoy.service.discovery.v3.Resource`; with its aliases
    /// for those who ask by name.
    pub(crate) fn write(&self, with_aliases: bool, to: &mut BytesMut) {
        field(VERSION, self.version.as_bytes(), to);
        header(RESOURCE, self.any_len(), to);
        field(TYPE_URL, self.type_url.as_bytes(), to);
        field(VALUE, &self.body, to);
        field(NAME, self.name.as_bytes(), to);
        for alias in self.aliases.iter().filter(|_| with_aliases) {
            field(ALIASES, alias.as_bytes(), to);
        }
    }

    /// Bytes of the `google.protobuf.Any` around the body.
    fn any_len(&self) -> usize {
        field_len(TYPE_URL, self.type_url.len()) + field_len(VALUE, self.body.len())
    }
}

/// Bytes of a field with that many bytes in it.
pub(super) const fn field_len(number: u32, len: usize) -> usize {
    key_len(number) + encoded_len_varint(len as u64) + len
}

/// Begins a field with that many bytes in it.
pub(super) fn header(number: u32, len: usize, to: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(len as u64, to);
}

fn field(number: u32, bytes: &[u8], to: &mut BytesMut) {
    header(number, bytes.len(), to);
    to.put_slice(bytes);
}

// Field numbers of `envoy.service.discovery.v3.Resource`,
const VERSION: u32 = 1;
const RESOURCE: u32 = 2;
const NAME: u32 = 3;
const ALIASES: u32 = 4;
// and of `google.protobuf.Any`.
const TYPE_URL: u32 = 1;
const VALUE: u32 = 2;

/// Every resource of one type at one moment. A clone costs nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct TypeView {
    by_name: HashTrieMapSync<Arc<str>, Arc<Resource>>,
    by_alias: Index,
    by_group: Index,
    by_home: Index,
    bytes: usize,
    /// How many aren't for everybody.
    restricted: usize,
    everything: Shared,
}

type Index = HashTrieMapSync<Arc<str>, Names>;

/// Names of resources; most often there is one.
#[derive(Debug, Clone)]
enum Names {
    One(Arc<str>),
    Many(HashTrieSetSync<Arc<str>>),
}

impl Names {
    fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn with(&self, name: &Arc<str>) -> Self {
        Self::Many(match self {
            Self::One(one) => [one, name].into_iter().cloned().collect(),
            Self::Many(many) => many.insert(Arc::clone(name)),
        })
    }

    fn without(&self, name: &str) -> Option<Self> {
        match self {
            Self::One(one) => (**one != *name).then(|| self.clone()),
            Self::Many(many) => {
                let rest = many.remove(name);
                (!rest.is_empty()).then_some(Self::Many(rest))
            }
        }
    }
}

impl TypeView {
    pub(crate) fn len(&self) -> usize {
        self.by_name.size()
    }

    /// Bytes of all bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(name)
    }

    /// Everything, where it is the same for everybody.
    pub(crate) fn everything(&self) -> Option<Arc<Bundle>> {
        let make = || self.all().cloned().collect();
        (self.restricted == 0).then(|| self.everything.get(make))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_name.values()
    }

    /// What a key asks for: the resource of that name or those with that
    /// alias, and everything that they bring along.
    pub(crate) fn asked(&self, key: &str) -> Vec<Arc<Resource>> {
        let mut found: Vec<Arc<Resource>> = match self.by_name.get(key) {
            Some(resource) => vec![Arc::clone(resource)],
            None => self.indexed(&self.by_alias, key).cloned().collect(),
        };
        for at in 0..found.len() {
            let Some(group) = found.get(at).map(|r| Arc::clone(&r.name)) else {
                break;
            };
            let members = self.indexed(&self.by_group, &group).cloned();
            found.extend(members.collect::<Vec<_>>());
        }
        found
    }

    /// What belongs to a node.
    pub(crate) fn at_home(&self, node: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.indexed(&self.by_home, node)
    }

    fn indexed<'a>(
        &'a self,
        index: &'a Index,
        key: &str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        let names = index.get(key).into_iter().flat_map(|names| names.iter());
        names.filter_map(|name| self.by_name.get(name))
    }

    /// Returns the name. Whatever is put is sent: a publisher may have reasons
    /// to send a resource again that are not in it. So that clients which are
    /// away now get it too, its version changes even then; only a new audience
    /// for the same resource leaves it, which is then sent to those who gain it.
    pub(crate) fn put(&mut self, type_url: &Arc<str>, mut update: Update) -> Arc<str> {
        if let Some(old) = self.remove(&update.name) {
            update.version = if old.is_readdressed(&update) {
                old.version.to_string()
            } else {
                version_after(&old.version, update.version)
            };
        }
        let resource = Arc::new(Resource::new(type_url, update));
        let name = Arc::clone(&resource.name);
        for alias in &resource.aliases {
            insert(&mut self.by_alias, alias, &name);
        }
        for group in &resource.groups {
            insert(&mut self.by_group, group, &name);
        }
        if let Some(home) = &resource.home {
            insert(&mut self.by_home, home, &name);
        }
        self.bytes += resource.body.len();
        self.restricted += usize::from(resource.audience.is_some());
        self.everything.forget();
        self.by_name.insert_mut(Arc::clone(&name), resource);
        name
    }

    /// Returns what was removed, if there was such a resource.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<Resource>> {
        let old = Arc::clone(self.by_name.get(name)?);
        self.by_name.remove_mut(name);
        self.bytes -= old.body.len();
        self.restricted -= usize::from(old.audience.is_some());
        self.everything.forget();
        for alias in &old.aliases {
            delete(&mut self.by_alias, alias, name);
        }
        for group in &old.groups {
            delete(&mut self.by_group, group, name);
        }
        if let Some(home) = &old.home {
            delete(&mut self.by_home, home, name);
        }
        Some(old)
    }
}

/// `new`, or the next of `new.2`, `new.3` and so on if `old` was that already.
fn version_after(old: &str, new: String) -> String {
    match times(old, &new) {
        Some(times) if !new.is_empty() => format!("{new}.{}", times + 1),
        _ => new,
    }
}

/// How often `version` has been put, the last time as `current`; `None` if
/// that is another version.
fn times(current: &str, version: &str) -> Option<u64> {
    match current.strip_prefix(version)? {
        "" => Some(1),
        rest => rest.strip_prefix('.')?.parse().ok(),
    }
}

fn sorted(audience: &[Arc<str>]) -> Box<[Arc<str>]> {
    let mut sorted = audience.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted.into()
}

fn insert(index: &mut Index, key: &Arc<str>, name: &Arc<str>) {
    let names = match index.get(key) {
        Some(names) => names.with(name),
        None => Names::One(Arc::clone(name)),
    };
    index.insert_mut(Arc::clone(key), names);
}

fn delete(index: &mut Index, key: &Arc<str>, name: &str) {
    let Some(names) = index.get(key) else {
        return;
    };
    match names.without(name) {
        Some(rest) => index.insert_mut(Arc::clone(key), rest),
        None => {
            index.remove_mut(key);
        }
    }
}

/// Every type at one moment. Immutable; a stream sends from one until its turn
/// is over.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Grows by one with each publication.
    pub(crate) version: u64,
    /// In the order of delivery, as the publisher was told.
    pub(crate) types: Vec<(Arc<str>, TypeView)>,
}

impl Snapshot {
    pub(crate) fn view(&self, type_url: &str) -> Option<&TypeView> {
        let mut types = self.types.iter();
        types
            .find(|(url, _)| url.as_ref() == type_url)
            .map(|(_, v)| v)
    }
}

#[cfg(test)]
mod tests {
    use ambit_proto::discovery::Resource as WireResource;
    use prost::Message as _;

    use super::*;

    fn update(name: &str, body: &str) -> Update {
        Update {
            name: name.into(),
            version: body.into(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            ..Update::default()
        }
    }

    fn names(found: &[Arc<Resource>]) -> Vec<&str> {
        let mut names: Vec<&str> = found.iter().map(|r| r.name.as_ref()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_is_written_decodes_with_and_without_aliases() {
        let mut given = update("w", "body");
        given.aliases = vec!["/10.0.0.1".into(), "/10.0.0.2".into()];
        let resource = Resource::new(&"t".into(), given);
        let written = |with_aliases| {
            let mut bytes = BytesMut::new();
            resource.write(with_aliases, &mut bytes);
            assert_eq!(bytes.len(), resource.wire_len(with_aliases));
            WireResource::decode(bytes.freeze()).unwrap()
        };
        let plain = written(false);
        assert_eq!((plain.name.as_str(), plain.aliases.len()), ("w", 0));
        assert_eq!(plain.version, "body");
        let any = plain.resource.unwrap();
        assert_eq!((any.type_url.as_str(), &*any.value), ("t", &b"body"[..]));
        assert_eq!(written(true).aliases, ["/10.0.0.1", "/10.0.0.2"]);
    }

    #[test]
    fn what_is_put_again_has_another_version() {
        let mut view = TypeView::default();
        let mut seen = Vec::new();
        for body in ["a", "a", "a", "b", "a"] {
            view.put(&"t".into(), update("x", body));
            seen.push(view.named("x").unwrap().version.to_string());
        }
        assert_eq!(seen, ["a", "a.2", "a.3", "b", "a"]);
    }

    #[test]
    fn a_key_brings_what_belongs_to_it() {
        let mut view = TypeView::default();
        let mut service = update("shop/cart", "s");
        service.aliases = vec!["/10.96.0.1".into()];
        let mut pod = update("pod-a", "a");
        pod.groups = vec!["shop/cart".into()];
        pod.aliases = vec!["/10.0.0.1".into()];
        let mut other = update("pod-b", "b");
        other.home = Some("n1".into());
        for each in [service, pod.clone(), other] {
            view.put(&"t".into(), each);
        }
        let cases: [(&str, &[&str]); 5] = [
            ("shop/cart", &["pod-a", "shop/cart"]),
            ("/10.96.0.1", &["pod-a", "shop/cart"]),
            ("/10.0.0.1", &["pod-a"]),
            ("pod-b", &["pod-b"]),
            ("/10.9.9.9", &[]),
        ];
        for (key, want) in cases {
            assert_eq!(names(&view.asked(key)), want, "{key}");
        }
        assert_eq!(view.at_home("n1").count(), 1);

        pod.groups.clear();
        pod.aliases = vec!["/10.0.0.7".into()];
        view.put(&"t".into(), pod);
        assert_eq!(names(&view.asked("shop/cart")), ["shop/cart"]);
        assert!(view.asked("/10.0.0.1").is_empty());
        view.remove("pod-a").unwrap();
        assert!(view.asked("/10.0.0.7").is_empty());
        assert_eq!(view.len(), 2);
    }
}
