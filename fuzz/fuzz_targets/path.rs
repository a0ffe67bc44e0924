//! Paths of requests: whatever is let through reads the same a second time, and
//! no dot segment or fragment is left in it (waypoint-contract 4.7).
#![no_main]

use ambit_route::path::{Normalization, normalize};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((mode, path)) = data.split_first() else {
        return;
    };
    let Ok(path) = std::str::from_utf8(path) else {
        return;
    };
    let mode = match mode % 4 {
        0 => Normalization::None,
        1 => Normalization::Base,
        2 => Normalization::MergeSlashes,
        _ => Normalization::DecodeAndMergeSlashes,
    };
    let Ok(once) = normalize(path, mode) else {
        return;
    };
    assert!(!once.contains('#'), "{path:?} kept its fragment");
    if mode == Normalization::None {
        return;
    }
    let twice = normalize(&once, mode);
    assert_eq!(twice.as_deref(), Ok(&*once), "{path:?} isn't stable");
    let dots = once.split('/').any(|part| part == "." || part == "..");
    assert!(!dots, "{path:?} became {once:?}");
});
