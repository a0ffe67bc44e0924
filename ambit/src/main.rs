//! Entry point of `ambit`.

fn main() {}
