//! Counts gRPC messages in the bytes of a body (`waypoint-contract` 6.1): a
//! flag, four bytes of length, then as many bytes.

/// Follows one direction. What isn't framed so counts as it falls.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Messages {
    count: u64,
    /// Bytes of a prefix that came so far, and their length as far as known.
    prefix: u8,
    length: u32,
    /// Bytes of the message that are still to come.
    left: u32,
}

/// Flag and length.
const PREFIX: u8 = 5;

impl Messages {
    /// Messages that have begun, their prefix whole.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Passes the next bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX);
                let (skipped, after) = bytes.split_at(here.min(bytes.len()));
                self.left -= u32::try_from(skipped.len()).unwrap_or(self.left);
                bytes = after;
                continue;
            }
            self.prefix += 1;
            if self.prefix > 1 {
                self.length = self.length << 8 | u32::from(*first);
            }
            if self.prefix == PREFIX {
                self.count += 1;
                self.left = self.length;
                (self.prefix, self.length) = (0, 0);
            }
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut stream = Vec::new();
        for length in [0u32, 1, 300, 0, 70_000] {
            stream.push(0);
            stream.extend(length.to_be_bytes());
            stream.resize(stream.len() + length as usize, 7);
        }
        for cut in [1, 3, 5, 1000, stream.len()] {
            let mut messages = Messages::default();
            for part in stream.chunks(cut) {
                messages.pass(part);
            }
            assert_eq!((messages.count(), messages.left), (5, 0), "{cut}");
        }
        let mut begun = Messages::default();
        begun.pass(&[0, 0, 0, 0]);
        assert_eq!(begun.count(), 0);
    }
}
