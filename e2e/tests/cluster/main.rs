//! Scenarios on a real Kubernetes: the box of `ambit_e2e::kube`, or with
//! `KUBECONFIG` any other cluster. `docs/cluster.md` says what each needs.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::too_many_lines,
    reason = "only tests are here, and each is a story"
)]

mod certificates;
mod control;
mod enrol;
mod faults;
mod inside;
mod nodes;
mod replicas;
mod rolls;
mod shop;
mod traces;
mod watches;
mod waypoints;
mod world;
