//! Entry point of `ztunnel`.

fn main() {}
