//! One copy of each text that many resources repeat: namespaces, nodes,
//! accounts, and the identities made of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ambit_types::SpiffeId;

/// Keeps one copy of each text while something else holds it.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    texts: HashSet<Arc<str>>,
    identities: HashMap<SpiffeId, Arc<[SpiffeId]>>,
    /// Size at which unused entries are looked for.
    limit: usize,
}

impl Interner {
    /// The shared copy of a text.
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        self.make_room();
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    /// The shared list of this one identity.
    pub(crate) fn identity(&mut self, id: SpiffeId) -> Arc<[SpiffeId]> {
        if let Some(known) = self.identities.get(&id) {
            return Arc::clone(known);
        }
        self.make_room();
        let list: Arc<[SpiffeId]> = Arc::from([id.clone()]);
        self.identities.insert(id, Arc::clone(&list));
        list
    }

    /// Forgets what nothing holds any more, each time the size has doubled:
    /// names that come and go must not pile up.
    fn make_room(&mut self) {
        if self.texts.len() + self.identities.len() < self.limit.max(SMALLEST_LIMIT) {
            return;
        }
        self.identities
            .retain(|_, list| Arc::strong_count(list) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.limit = 2 * (self.texts.len() + self.identities.len());
    }
}

const SMALLEST_LIMIT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_one_copy() {
        let mut interner = Interner::default();
        let (a, b) = (interner.text("shop"), interner.text("shop"));
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn texts_that_nobody_holds_are_forgotten() {
        let mut interner = Interner::default();
        let kept = interner.text("kept");
        for n in 0..10_000 {
            interner.text(&format!("pod-{n}"));
        }
        assert!(interner.texts.len() <= SMALLEST_LIMIT);
        assert!(Arc::ptr_eq(&kept, &interner.text("kept")));
    }
}
