//! Documents of users: read and compiled without a panic, and gone again when
//! they are deleted.
#![no_main]

use ambit_compile::{Compiler, Settings};
use ambit_kube::{Change, read_manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let loaded = read_manifest("f.yaml", text);
    let keys: Vec<_> = loaded.objects.iter().map(|o| o.object.key()).collect();
    let mut compiler = Compiler::new(Settings::default());
    compiler.apply(loaded.objects.into_iter().map(Change::Apply));
    compiler.apply(keys.into_iter().map(Change::Delete));
    let left = compiler.snapshot();
    assert!(left.addresses.is_empty(), "{left:?}");
});
