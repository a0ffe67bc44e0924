//! Scenarios on a real Kubernetes: the box of `ambit_e2e::kube`, or with
//! `KUBECONFIG` any other cluster. `docs/cluster.md` says what each needs.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "only tests are here"
)]

mod certificates;
mod control;
mod nodes;
mod shop;
mod traces;
mod world;
