//! Candidates by path: a request asks only those whose path can match.
//!
//! Every path of the configuration is hashed. A request's path is hashed once,
//! byte by byte, and at each length that some prefix of the configuration has,
//! the hash so far is looked up. What can't be hashed (expressions, paths whose
//! case doesn't count) is asked one by one, in order, until something earlier
//! was found.
//!
//! The shards are shared between versions: changing a route copies the shards
//! that it is in, and nothing else.

use std::sync::Arc;

use crate::matching::{Head, MatchedPath, PathPattern};
use crate::model::Route;
use crate::rank::Candidate;

/// Candidates of one precedence order.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    /// A power of two of them, or none.
    shards: Vec<Arc<Shard>>,
    /// Those without a hash.
    rest: Option<Arc<Shard>>,
    /// Lengths of prefixes, ascending.
    lengths: Vec<Length>,
    exact: usize,
    len: usize,
}

#[derive(Debug, Clone, Default)]
struct Shard {
    entries: Vec<Entry>,
    /// Entries were added since it was sorted.
    unsorted: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    hash: u64,
    candidate: Arc<Candidate>,
}

/// How many prefixes have a length.
#[derive(Debug, Clone, Copy)]
struct Length {
    bytes: usize,
    by_element: usize,
    by_text: usize,
}

/// Where a candidate is kept.
enum Place {
    Exact(u64),
    Element(u64, usize),
    Text(u64, usize),
    Rest,
}

/// What was found, and what of the path it covers.
pub(crate) type Best<'a> = Option<(&'a Arc<Candidate>, MatchedPath)>;

impl Index {
    pub(crate) const fn new() -> Self {
        Self {
            shards: Vec::new(),
            rest: None,
            lengths: Vec::new(),
            exact: 0,
            len: 0,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a candidate; [`Index::settle`] must follow before the next lookup.
    pub(crate) fn insert(&mut self, candidate: Arc<Candidate>) {
        let place = place(&candidate);
        self.count(&place, 1);
        match place.hash() {
            None => Arc::make_mut(self.rest.get_or_insert_default()).push(0, candidate),
            Some(hash) => {
                if self.len > self.shards.len() * ENTRIES_PER_SHARD {
                    self.grow();
                }
                if let Some(shard) = self.shard_mut(hash) {
                    shard.push(hash, candidate);
                }
            }
        }
    }

    /// Removes what a route added for this candidate.
    pub(crate) fn remove(&mut self, like: &Candidate) {
        let place = place(like);
        let shard = match place.hash() {
            None => self.rest.as_mut().map(Arc::make_mut),
            Some(hash) => self.shard_mut(hash),
        };
        let removed = shard.is_some_and(|shard| shard.remove(&like.route, like));
        if removed {
            self.count(&place, -1);
        }
    }

    /// Puts everything in order after changes.
    pub(crate) fn settle(&mut self) {
        for shard in self.shards.iter_mut().chain(&mut self.rest) {
            if shard.unsorted {
                Arc::make_mut(shard).sort();
            }
        }
    }

    /// The first candidate in order that matches, if it is before `best`.
    pub(crate) fn first<'a>(&'a self, head: &Head<'_>, mut best: Best<'a>) -> Best<'a> {
        let path = head.path.as_bytes();
        let mut hash = HASH_START;
        let mut hashed = 0;
        for length in &self.lengths {
            let Some(more) = path.get(hashed..length.bytes) else {
                break;
            };
            hash = extend(hash, more);
            hashed = length.bytes;
            let ends_element = match path.get(hashed) {
                Some(next) => *next == b'/',
                None => true,
            };
            if length.by_text > 0 || (ends_element && length.by_element > 0) {
                best = self.probe(finish(hash), head, best);
            }
        }
        if self.exact > 0 {
            hash = extend(hash, path.get(hashed..).unwrap_or_default());
            best = self.probe(finish(hash), head, best);
        }
        match &self.rest {
            Some(rest) => rest.first(0, head, best),
            None => best,
        }
    }

    /// Every candidate, in order.
    pub(crate) fn all(&self) -> Vec<&Arc<Candidate>> {
        let mut all: Vec<_> = self
            .shards
            .iter()
            .chain(&self.rest)
            .flat_map(|shard| shard.entries.iter().map(|entry| &entry.candidate))
            .collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    fn probe<'a>(&'a self, hash: u64, head: &Head<'_>, best: Best<'a>) -> Best<'a> {
        match self.shards.get(shard_of(hash, self.shards.len())) {
            Some(shard) => shard.first(hash, head, best),
            None => best,
        }
    }

    fn shard_mut(&mut self, hash: u64) -> Option<&mut Shard> {
        let at = shard_of(hash, self.shards.len());
        self.shards.get_mut(at).map(Arc::make_mut)
    }

    fn grow(&mut self) {
        let count = (self.shards.len() * 4).max(1);
        let mut shards = vec![Shard::default(); count];
        for entry in self.shards.iter().flat_map(|shard| &shard.entries) {
            if let Some(shard) = shards.get_mut(shard_of(entry.hash, count)) {
                shard.push(entry.hash, Arc::clone(&entry.candidate));
            }
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }

    fn count(&mut self, place: &Place, by: isize) {
        self.len = self.len.saturating_add_signed(by);
        let (bytes, by_text) = match *place {
            Place::Rest => return,
            Place::Exact(_) => {
                self.exact = self.exact.saturating_add_signed(by);
                return;
            }
            Place::Element(_, bytes) => (bytes, false),
            Place::Text(_, bytes) => (bytes, true),
        };
        let at = match self.lengths.binary_search_by_key(&bytes, |l| l.bytes) {
            Ok(at) => at,
            Err(at) => {
                let none = Length {
                    bytes,
                    by_element: 0,
                    by_text: 0,
                };
                self.lengths.insert(at, none);
                at
            }
        };
        if let Some(length) = self.lengths.get_mut(at) {
            let counted = if by_text {
                &mut length.by_text
            } else {
                &mut length.by_element
            };
            *counted = counted.saturating_add_signed(by);
            if length.by_text == 0 && length.by_element == 0 {
                self.lengths.remove(at);
            }
        }
    }
}

impl Shard {
    fn push(&mut self, hash: u64, candidate: Arc<Candidate>) {
        self.entries.push(Entry { hash, candidate });
        self.unsorted = true;
    }

    fn sort(&mut self) {
        self.entries
            .sort_by(|a, b| a.candidate.key.cmp(&b.candidate.key));
        self.unsorted = false;
    }

    fn remove(&mut self, route: &Arc<Route>, like: &Candidate) -> bool {
        let at = self.entries.iter().position(|entry| {
            Arc::ptr_eq(&entry.candidate.route, route) && entry.candidate.key == like.key
        });
        if let Some(at) = at {
            self.entries.remove(at);
        }
        at.is_some()
    }

    /// The first with this hash that matches, unless `best` is before it.
    fn first<'a>(&'a self, hash: u64, head: &Head<'_>, best: Best<'a>) -> Best<'a> {
        for entry in self.entries.iter().filter(|entry| entry.hash == hash) {
            let candidate = &entry.candidate;
            if best.is_some_and(|(found, _)| found.key <= candidate.key) {
                return best;
            }
            if let Some(matched) = holds(candidate, head) {
                return Some((candidate, matched));
            }
        }
        best
    }
}

impl Place {
    const fn hash(&self) -> Option<u64> {
        match *self {
            Self::Exact(hash) | Self::Element(hash, _) | Self::Text(hash, _) => Some(hash),
            Self::Rest => None,
        }
    }
}

/// The whole comparison of a candidate, cheapest part first.
fn holds(candidate: &Candidate, head: &Head<'_>) -> Option<MatchedPath> {
    let Some(matching) = candidate.matching() else {
        return Some(MatchedPath::Text(usize::from(head.path.starts_with('/'))));
    };
    matching.check_quietly(head)
}

/// A candidate without a path is one with the empty text prefix.
fn place(candidate: &Candidate) -> Place {
    let of = |text: &str| finish(extend(HASH_START, text.as_bytes()));
    match candidate.matching().and_then(|m| m.path.as_ref()) {
        None => Place::Text(of(""), 0),
        Some(PathPattern::Exact { text, fold: false }) => Place::Exact(of(text)),
        Some(PathPattern::Element { text, fold: false }) => Place::Element(of(text), text.len()),
        Some(PathPattern::Text { text, fold: false }) => Place::Text(of(text), text.len()),
        Some(_) => Place::Rest,
    }
}

/// FNV-1a: can be extended byte by byte. Only the configuration chooses what
/// is in the table, so nobody gains by collisions.
fn extend(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Spreads it over all bits.
const fn finish(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

const fn shard_of(hash: u64, shards: usize) -> usize {
    // The low bits of a power of two; with no shards any place is outside.
    (hash & 0xffff_ffff) as usize & shards.wrapping_sub(1)
}

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
/// Few enough that copying a shard is nothing, enough that there are few.
const ENTRIES_PER_SHARD: usize = 24;
