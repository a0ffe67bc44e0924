//! The waypoint: the L7 proxy that a namespace, service or service account opts in to.

fn main() {}
