//! Large buffers that live: each thread recycles its own, so that bulk data
//! neither allocates nor faults pages in, and idle connections hold none.

use std::cell::RefCell;
use std::fmt;

/// Size of a buffer for reads from an application.
pub const RELAY_BLOCK: usize = 128 * 1024;
/// Size of a buffer for reads and writes of TLS records.
pub const WIRE_BLOCK: usize = 256 * 1024;

/// Blocks that a thread keeps: as many as one bulk stream has in flight. More
/// come and go with the load. What was never touched isn't resident.
const KEPT_RELAY: usize = 4;
/// One for reading, one for writing.
const KEPT_WIRE: usize = 2;

thread_local! {
    static RELAY: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static WIRE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A large buffer; dropping it gives it back to the thread that drops it.
pub struct Block {
    bytes: Box<[u8]>,
}

impl Block {
    /// A buffer of [`RELAY_BLOCK`] bytes, with whatever it held before.
    pub fn relay() -> Self {
        Self::recycled(Class::Relay)
    }

    /// A buffer of [`WIRE_BLOCK`] bytes, with whatever it held before.
    pub fn wire() -> Self {
        Self::recycled(Class::Wire)
    }

    fn recycled(class: Class) -> Self {
        let bytes = class
            .with(Vec::pop)
            .flatten()
            .unwrap_or_else(|| vec![0; class.size()].into_boxed_slice());
        Self { bytes }
    }
}

impl std::ops::Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({})", self.bytes.len())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let class = match bytes.len() {
            RELAY_BLOCK => Class::Relay,
            WIRE_BLOCK => Class::Wire,
            _ => return,
        };
        // A thread that is ending has no pool any more; the block is freed.
        let _ = class.with(|kept| {
            if kept.len() < class.kept() {
                kept.push(bytes);
            }
        });
    }
}

#[derive(Clone, Copy)]
enum Class {
    Relay,
    Wire,
}

impl Class {
    fn size(self) -> usize {
        match self {
            Self::Relay => RELAY_BLOCK,
            Self::Wire => WIRE_BLOCK,
        }
    }

    fn kept(self) -> usize {
        match self {
            Self::Relay => KEPT_RELAY,
            Self::Wire => KEPT_WIRE,
        }
    }

    fn with<T>(self, f: impl FnOnce(&mut Vec<Box<[u8]>>) -> T) -> Option<T> {
        let pool = match self {
            Self::Relay => &RELAY,
            Self::Wire => &WIRE,
        };
        pool.try_with(|kept| f(&mut kept.borrow_mut())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_block_is_used_again() {
        let first = Block::relay();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(Block::relay().as_ptr(), address);
    }

    #[test]
    fn sizes_do_not_mix() {
        drop(Block::wire());
        assert_eq!(Block::relay().len(), RELAY_BLOCK);
        assert_eq!(Block::wire().len(), WIRE_BLOCK);
    }

    #[test]
    fn a_thread_keeps_few() {
        let many: Vec<_> = (0..20).map(|_| Block::relay()).collect();
        drop(many);
        assert_eq!(Class::Relay.with(|kept| kept.len()), Some(KEPT_RELAY));
    }
}
