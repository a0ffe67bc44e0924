//! Ciphertext on its way in and out, in blocks that are held only while they
//! are needed.

use std::io;

use ambit_net::{Block, WIRE_BLOCK};
use rustls::unbuffered::{EncryptError, WriteTraffic};

use crate::handshake::tls_error;

/// Largest plaintext of one record.
pub(super) const RECORD: usize = 16 * 1024;
/// Header, nonce, tag and type of one record, for any suite, rounded up.
const OVERHEAD: usize = 64;

/// Ciphertext that rustls hasn't consumed: in a block while there is much of
/// it, in a small tail (a part of a record) while waiting for more.
#[derive(Default)]
pub(super) struct Input {
    block: Option<Block>,
    start: usize,
    end: usize,
    tail: Vec<u8>,
}

impl Input {
    pub(super) fn new(tail: Vec<u8>) -> Self {
        Self {
            tail,
            ..Self::default()
        }
    }

    /// `n` bytes were read into the room.
    pub(super) fn filled(&mut self, n: usize) {
        self.end += n;
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        match &mut self.block {
            Some(block) => block.get_mut(self.start..self.end).unwrap_or_default(),
            None => &mut self.tail,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self.block {
            Some(_) => self.start == self.end,
            None => self.tail.is_empty(),
        }
    }

    pub(super) fn discard(&mut self, n: usize) {
        match self.block {
            Some(_) => self.start = (self.start + n).min(self.end),
            None if n > 0 => drop(self.tail.drain(..n.min(self.tail.len()))),
            None => {}
        }
    }

    /// Gives the block back, keeping what is left of it.
    pub(super) fn settle(&mut self) {
        if let Some(block) = self.block.take() {
            self.tail = block.get(self.start..self.end).unwrap_or_default().to_vec();
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room behind what is there, in a block.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start > 0
            && let Some(block) = &mut self.block
        {
            block.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let block = self.block.get_or_insert_with(|| {
            let mut block = Block::wire();
            let tail = std::mem::take(&mut self.tail);
            if let Some(front) = block.get_mut(..tail.len()) {
                front.copy_from_slice(&tail);
            }
            (self.start, self.end) = (0, tail.len());
            block
        });
        block.get_mut(self.end..).unwrap_or_default()
    }
}

/// Sealed records on their way out.
#[derive(Default)]
pub(super) struct Output {
    block: Option<Block>,
    start: usize,
    end: usize,
    /// Records that TLS itself wants to send.
    control: Vec<u8>,
}

impl Output {
    /// Where TLS puts records of its own.
    pub(super) fn control(&mut self) -> &mut Vec<u8> {
        &mut self.control
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let block = self.block.as_deref().unwrap_or_default();
        block.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn sent(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            self.block = None;
            (self.start, self.end) = (0, 0);
        }
    }

    fn room(&mut self) -> &mut [u8] {
        let block = self.block.get_or_insert_with(Block::wire);
        block.get_mut(self.end..).unwrap_or_default()
    }

    pub(super) fn seal<D>(
        &mut self,
        traffic: &mut WriteTraffic<'_, D>,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.take_control();
        let room = self.room();
        let sealed = if bytes.is_empty() {
            traffic.queue_close_notify(room)
        } else {
            traffic.encrypt(bytes, room)
        };
        match sealed {
            Ok(n) => {
                self.end += n;
                Ok(())
            }
            Err(EncryptError::InsufficientSize(_)) => Err(io::ErrorKind::WriteZero.into()),
            Err(EncryptError::EncryptExhausted) => Err(tls_error(rustls::Error::EncryptError)),
        }
    }

    /// How much plaintext certainly fits, sealed, behind what is there.
    pub(super) fn capacity_for_plain(&self) -> usize {
        let room = WIRE_BLOCK.saturating_sub(self.end + self.control.len() + OVERHEAD);
        let records = room / (RECORD + OVERHEAD);
        let rest = room % (RECORD + OVERHEAD);
        records * RECORD + rest.saturating_sub(OVERHEAD)
    }

    pub(super) fn take_control(&mut self) {
        if self.control.is_empty() {
            return;
        }
        let control = std::mem::take(&mut self.control);
        match self.room().get_mut(..control.len()) {
            Some(room) => {
                room.copy_from_slice(&control);
                self.end += control.len();
            }
            // No room now; after the next send.
            None => self.control = control,
        }
    }
}
