//! A bound on unfinished handshakes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Bounds the handshakes under way. Beyond the bound the oldest one is cut:
/// an honest peer is done within a round trip or two, so whoever has waited
/// longest while thousands came after is the one that stalls. Refusing the
/// newest would let stalled connections keep everybody else out.
#[derive(Clone, Debug)]
pub struct HandshakeGate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    max: usize,
    cut: AtomicU64,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    next: u64,
    // In order of arrival.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A handshake's place; dropping it frees the place.
pub(crate) struct Slot {
    gate: HandshakeGate,
    id: u64,
    cut: oneshot::Receiver<()>,
}

impl HandshakeGate {
    /// At most `max` handshakes at a time; 0 counts as 1.
    pub fn new(max: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                max: max.max(1),
                cut: AtomicU64::new(0),
                slots: Mutex::default(),
            }),
        }
    }

    /// Handshakes that were cut so far.
    pub fn refused(&self) -> u64 {
        self.inner.cut.load(Ordering::Relaxed)
    }

    /// Handshakes under way.
    pub fn active(&self) -> usize {
        self.inner.slots.lock().waiting.len()
    }

    pub(crate) fn enter(&self) -> Slot {
        let (sender, cut) = oneshot::channel();
        let mut slots = self.inner.slots.lock();
        if slots.waiting.len() >= self.inner.max
            && let Some((_, oldest)) = slots.waiting.pop_first()
        {
            self.inner.cut.fetch_add(1, Ordering::Relaxed);
            let _ = oldest.send(());
        }
        let id = slots.next;
        slots.next += 1;
        slots.waiting.insert(id, sender);
        Slot {
            gate: self.clone(),
            id,
            cut,
        }
    }
}

impl Slot {
    /// Ready when this handshake has to make room.
    pub(crate) async fn cut(&mut self) {
        // An error would mean that the sender was dropped without a word,
        // which only happens with the slot itself.
        if (&mut self.cut).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gate.inner.slots.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let gate = HandshakeGate::new(2);
        let (mut first, mut second) = (gate.enter(), gate.enter());
        assert!(first.cut().now_or_never().is_none());
        let mut third = gate.enter();
        assert!(first.cut().now_or_never().is_some());
        assert!(second.cut().now_or_never().is_none());
        assert!(third.cut().now_or_never().is_none());
        assert_eq!((gate.refused(), gate.active()), (1, 2));
    }

    #[test]
    fn finished_handshakes_free_their_place() {
        let gate = HandshakeGate::new(1);
        for _ in 0..10 {
            drop(gate.enter());
        }
        assert_eq!((gate.refused(), gate.active()), (0, 0));
    }
}
