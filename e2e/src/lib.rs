//! End-to-end: the demo, the scenarios, the benchmark.
