//! Bytes on their way from one end of a relay to the other.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::block::Block;

/// Below this size, bytes that must be kept are copied out of their block, so
/// that a slow reader of small messages doesn't hold large blocks.
const KEEP_BLOCK: usize = 16 * 1024;

/// Bytes in flight: in a recycled block, by reference count, or several of the
/// latter that are written together. Never empty while it is in flight.
#[derive(Debug)]
pub struct Chunk(Repr);

#[derive(Debug)]
enum Repr {
    Block {
        block: Block,
        start: usize,
        end: usize,
    },
    One(Bytes),
    Many(VecDeque<Bytes>),
}

impl Chunk {
    /// The first `len` bytes of a block (all of it, if it is shorter).
    pub fn from_block(block: Block, len: usize) -> Self {
        let end = len.min(block.len());
        Self(Repr::Block {
            block,
            start: 0,
            end,
        })
    }

    /// Adds bytes at the end, without copying them.
    pub fn push(&mut self, bytes: Bytes) {
        if let Repr::Many(many) = &mut self.0 {
            many.push_back(bytes);
            return;
        }
        let first = std::mem::replace(self, Self(Repr::One(Bytes::new()))).into_bytes();
        self.0 = Repr::Many(VecDeque::from([first, bytes]));
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Block { start, end, .. } => end - start,
            Repr::One(bytes) => bytes.len(),
            Repr::Many(many) => many.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first contiguous part.
    pub fn first(&self) -> &[u8] {
        match &self.0 {
            Repr::Block { block, start, end } => block.get(*start..*end).unwrap_or_default(),
            Repr::One(bytes) => bytes,
            Repr::Many(many) => many.front().map_or(&[], |bytes| bytes),
        }
    }

    /// Fills in the parts for a vectored write and says how many there are.
    pub fn slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        match &self.0 {
            Repr::Many(many) => {
                let mut count = 0;
                for (slot, bytes) in out.iter_mut().zip(many.iter()) {
                    *slot = IoSlice::new(bytes);
                    count += 1;
                }
                count
            }
            Repr::Block { .. } | Repr::One(_) => out.first_mut().map_or(0, |slot| {
                *slot = IoSlice::new(self.first());
                1
            }),
        }
    }

    /// Whether a vectored write would help.
    pub fn is_vectored(&self) -> bool {
        matches!(&self.0, Repr::Many(many) if many.len() > 1)
    }

    /// Forgets the first `n` bytes.
    pub fn advance(&mut self, mut n: usize) {
        match &mut self.0 {
            Repr::Block { start, end, .. } => *start = (*start + n).min(*end),
            Repr::One(bytes) => bytes.advance(n.min(bytes.len())),
            Repr::Many(many) => {
                while let Some(front) = many.front_mut() {
                    if front.len() > n {
                        front.advance(n);
                        return;
                    }
                    n -= front.len();
                    many.pop_front();
                }
            }
        }
    }

    /// All that is left as shared bytes. Small contents are copied and their
    /// block goes back at once; large ones travel in their block, which goes
    /// back when the last reader drops it.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Repr::Block { block, start, end } => {
                let used = block.get(start..end).unwrap_or_default();
                if used.len() < KEEP_BLOCK {
                    Bytes::copy_from_slice(used)
                } else {
                    Bytes::from_owner(Window { block, start, end })
                }
            }
            Repr::One(bytes) => bytes,
            Repr::Many(many) => {
                let mut all = bytes::BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
                for bytes in many.iter() {
                    all.extend_from_slice(bytes);
                }
                all.freeze()
            }
        }
    }

    /// Gives a block back if little of it is still needed; called before a wait.
    #[must_use]
    pub fn compact(self) -> Self {
        match self.0 {
            Repr::Block { .. } => Self(Repr::One(self.into_bytes())),
            other => Self(other),
        }
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Self(Repr::One(bytes))
    }
}

/// A part of a block, as the owner of shared bytes.
struct Window {
    block: Block,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        self.block.get(self.start..self.end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(len: usize) -> Chunk {
        let mut block = Block::relay();
        block[..len]
            .iter_mut()
            .enumerate()
            .for_each(|(i, byte)| *byte = u8::try_from(i % 251).unwrap());
        Chunk::from_block(block, len)
    }

    #[test]
    fn small_contents_free_their_block() {
        let chunk = filled(100);
        let address = chunk.first().as_ptr();
        let bytes = chunk.into_bytes();
        assert_ne!(bytes.as_ptr(), address);
        assert_eq!(Block::relay().as_ptr(), address, "the block is back");
    }

    #[test]
    fn large_contents_are_not_copied() {
        let chunk = filled(100_000);
        let address = chunk.first().as_ptr();
        assert_eq!(chunk.into_bytes().as_ptr(), address);
    }

    proptest! {
        #[test]
        fn parts_and_advances_keep_the_order(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 1..8),
            steps in prop::collection::vec(1usize..60, 0..20),
        ) {
            let mut parts = parts.into_iter().map(Bytes::from);
            let mut chunk = Chunk::from(parts.next().unwrap());
            parts.for_each(|part| chunk.push(part));
            let all = {
                let mut slices = [IoSlice::new(&[]); 16];
                let n = chunk.slices(&mut slices);
                slices[..n].iter().flat_map(|s| s.to_vec()).collect::<Vec<_>>()
            };
            prop_assert_eq!(chunk.len(), all.len());
            let mut gone = 0;
            for step in steps {
                chunk.advance(step);
                gone = (gone + step).min(all.len());
                prop_assert_eq!(chunk.len(), all.len() - gone);
                prop_assert!(all[gone..].starts_with(chunk.first()));
            }
            let rest = chunk.into_bytes();
            prop_assert_eq!(&rest[..], &all[gone..]);
        }
    }
}
