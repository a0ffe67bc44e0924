//! Random identifiers.

use http::HeaderValue;
use rand::RngExt;

/// A UUID of version 4, as `x-request-id` carries it.
pub(crate) fn request_id() -> HeaderValue {
    let mut bytes: [u8; 16] = rand::rng().random();
    let [.., seventh, _, ninth, _, _, _, _, _, _, _] = &mut bytes;
    *seventh = (*seventh & 0x0f) | 0x40;
    *ninth = (*ninth & 0x3f) | 0x80;
    let mut text = [0u8; 36];
    let mut at = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            put(&mut text, &mut at, b'-');
        }
        put(&mut text, &mut at, hex(byte >> 4));
        put(&mut text, &mut at, hex(byte & 0x0f));
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

fn put(text: &mut [u8; 36], at: &mut usize, byte: u8) {
    if let Some(place) = text.get_mut(*at) {
        *place = byte;
    }
    *at += 1;
}

fn hex(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        other => b'a' + other - 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_like_a_uuid_and_never_repeats() {
        let one = request_id();
        let text = one.to_str().unwrap();
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'4');
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_ne!(one, request_id());
    }
}
