//! Bodies of gRPC-Web in base64: however they are cut, the same comes out or
//! the same is refused; what was encoded is read.
#![no_main]

use ambit_route::grpc_web::{Decoder, NotBase64};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (step, text) = input;
    let cut = decode(text.chunks(usize::from(step) + 1));
    assert_eq!(decode(std::iter::once(text)), cut);
    // Two encoded parts, each with its own padding.
    let (first, second) = text.split_at(usize::from(step).min(text.len()));
    let encoded = STANDARD.encode(first) + &STANDARD.encode(second);
    let read = decode(encoded.as_bytes().chunks(usize::from(step) + 1));
    assert_eq!(read.as_deref(), Ok(text));
});

fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, NotBase64> {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&decoder.pass(chunk)?);
    }
    decoder.end()?;
    Ok(out)
}
