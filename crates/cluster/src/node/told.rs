//! What has been told of one kind, so that a list that is begun again tells
//! what vanished while nobody watched.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_kube::{Change, Located, Object, ObjectKey, Origin};
use kube::runtime::watcher::Event;

/// The keys that are out, and those of a list that is under way.
#[derive(Debug, Default)]
pub(super) struct Told {
    out: BTreeSet<ObjectKey>,
    listing: Option<Listing>,
    complete: bool,
}

#[derive(Debug, Default)]
struct Listing {
    seen: BTreeSet<ObjectKey>,
    changes: Vec<Change>,
}

impl Told {
    /// The changes of an event, if there is anything to tell; true with the
    /// ones that make the first list whole.
    pub(super) fn take<K>(
        &mut self,
        event: Event<K>,
        convert: impl Fn(K) -> Object,
    ) -> Option<(Vec<Change>, bool)> {
        match event {
            Event::Init => {
                self.listing = Some(Listing::default());
                None
            }
            Event::InitApply(object) => {
                let object = convert(object);
                let listing = self.listing.get_or_insert_default();
                listing.seen.insert(object.key());
                listing.changes.push(applied(object));
                None
            }
            Event::InitDone => {
                let listing = self.listing.take().unwrap_or_default();
                let mut changes = listing.changes;
                let gone = self.out.difference(&listing.seen).cloned();
                changes.extend(gone.map(Change::Delete));
                self.out = listing.seen;
                let first = !std::mem::replace(&mut self.complete, true);
                Some((changes, first))
            }
            Event::Apply(object) => {
                let object = convert(object);
                self.out.insert(object.key());
                Some((vec![applied(object)], false))
            }
            Event::Delete(object) => {
                let key = convert(object).key();
                self.out.remove(&key);
                Some((vec![Change::Delete(key)], false))
            }
        }
    }
}

fn applied(object: Object) -> Change {
    let origin = Origin {
        file: Arc::from("the cluster"),
        document: 0,
        line: 0,
    };
    Change::Apply(Located::new(object, origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_kube::core::Namespace;

    fn namespace(name: &str) -> Object {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.into());
        Object::Namespace(Arc::new(namespace))
    }

    fn names(changes: &[Change]) -> Vec<String> {
        let name = |change: &Change| match change {
            Change::Apply(located) => format!("+{}", located.object.key().name),
            Change::Delete(key) => format!("-{}", key.name),
            other => format!("{other:?}"),
        };
        changes.iter().map(name).collect()
    }

    #[test]
    fn a_list_is_told_when_it_is_whole_and_a_second_one_tells_what_vanished() {
        let mut told = Told::default();
        let mut take = |event: Event<&str>| {
            told.take(event, namespace)
                .map(|(changes, first)| (names(&changes), first))
        };
        assert_eq!(take(Event::Init), None);
        assert_eq!(take(Event::InitApply("a")), None);
        assert_eq!(take(Event::InitApply("b")), None);
        let whole = (vec!["+a".to_owned(), "+b".to_owned()], true);
        assert_eq!(take(Event::InitDone), Some(whole));
        assert_eq!(take(Event::Apply("c")), Some((vec!["+c".into()], false)));
        assert_eq!(take(Event::Delete("a")), Some((vec!["-a".into()], false)));
        // The watch broke; b is gone, and d is new.
        assert_eq!(take(Event::Init), None);
        assert_eq!(take(Event::InitApply("c")), None);
        // It broke again, in the middle: nothing is lost of what was told.
        assert_eq!(take(Event::Init), None);
        assert_eq!(take(Event::InitApply("c")), None);
        assert_eq!(take(Event::InitApply("d")), None);
        let news = vec!["+c".to_owned(), "+d".to_owned(), "-b".to_owned()];
        assert_eq!(take(Event::InitDone), Some((news, false)));
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let mut told = Told::default();
        assert_eq!(told.take(Event::<&str>::Init, namespace), None);
        assert_eq!(
            told.take(Event::<&str>::InitDone, namespace),
            Some((vec![], true))
        );
    }
}
