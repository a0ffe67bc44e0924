//! The text form of gRPC-Web's bodies (`waypoint-contract` 1.8).

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

/// Base64 as it comes, cut anywhere, in parts that are padded or not.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Less than a group of four.
    rest: Vec<u8>,
}

/// Not base64.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a body in gRPC-Web's text isn't base64")]
pub struct NotBase64;

impl Decoder {
    /// The next bytes.
    ///
    /// # Errors
    /// [`NotBase64`].
    pub fn pass(&mut self, data: &[u8]) -> Result<Bytes, NotBase64> {
        self.rest.extend_from_slice(data);
        let whole = self.rest.len() - self.rest.len() % GROUP;
        let groups = self.rest.drain(..whole).collect::<Vec<u8>>();
        let mut out = Vec::with_capacity(whole / GROUP * 3);
        // Padding ends a part, and another may follow.
        let mut part = &*groups;
        while !part.is_empty() {
            let ends = part.chunks(GROUP).position(|group| group.ends_with(b"="));
            let length = ends.map_or(part.len(), |group| (group + 1) * GROUP);
            let (now, later) = part.split_at_checked(length).ok_or(NotBase64)?;
            LENIENT.decode_vec(now, &mut out).map_err(|_| NotBase64)?;
            part = later;
        }
        Ok(out.into())
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// [`NotBase64`] if a group isn't whole.
    pub fn end(&self) -> Result<(), NotBase64> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(NotBase64)
        }
    }
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const GROUP: usize = 4;

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    #[test]
    fn base64_is_read_however_it_is_cut_and_padded() {
        let parts: [&[u8]; 4] = [b"hello", b"", b"wide world", b"xyz"];
        let text: String = parts.iter().map(|part| BASE64.encode(part)).collect();
        let all = parts.concat();
        for cut in 1..=text.len() {
            let mut decoder = Decoder::default();
            let mut out = Vec::new();
            for chunk in text.as_bytes().chunks(cut) {
                out.extend(decoder.pass(chunk).unwrap());
            }
            assert_eq!(out, all, "{cut}");
            assert_eq!(decoder.end(), Ok(()));
        }
        assert_eq!(Decoder::default().pass(b"a*bc"), Err(NotBase64));
        let mut cut = Decoder::default();
        cut.pass(b"aGVsbG8").unwrap();
        assert_eq!(cut.end(), Err(NotBase64));
    }
}
