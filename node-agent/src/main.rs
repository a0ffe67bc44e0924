//! Entry point of `node-agent`.

fn main() {}
