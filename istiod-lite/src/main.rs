//! Entry point of `istiod-lite`.

fn main() {}
