//! `make bench`: measures the mesh. `QUICK=1` is short; `BENCH_PEER=PROGRAM`
//! also measures another ztunnel in the same run, `BENCH_ENVOY=PROGRAM` an Envoy
//! as a waypoint; `BENCH_ONLY=tunnel|waypoint|routes|control` leaves out the other
//! parts, `kubernetes` is `make bench-control`; `BENCH_LOADS=1,32` the other numbers of a waypoint's kept connections.

use std::path::PathBuf;

use ambit_e2e::bench::{self, Length, Part, Plan};
use ambit_e2e::privilege;
use anyhow::{Result, bail};

fn main() -> Result<()> {
    privilege::acquire()?;
    #[allow(clippy::disallowed_methods, reason = "a benchmark's own switches")]
    let variable = |name: &str| std::env::var(name).ok();
    let length = if variable("QUICK").is_some_and(|v| v == "1") {
        Length::Quick
    } else {
        Length::Whole
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let only = match variable("BENCH_ONLY").as_deref() {
        None | Some("") => None,
        Some("tunnel") => Some(Part::Tunnel),
        Some("waypoint") => Some(Part::Waypoint),
        Some("routes") => Some(Part::Routes),
        Some("control") => Some(Part::Control),
        Some("kubernetes") => Some(Part::Kubernetes),
        Some(other) => bail!("BENCH_ONLY={other}: tunnel, waypoint, routes, control or kubernetes"),
    };
    let loads = variable("BENCH_LOADS").filter(|loads| !loads.is_empty());
    let loads = loads.map(|loads| loads.split(',').map(str::parse).collect());
    runtime.block_on(bench::run(Plan {
        length,
        peer: variable("BENCH_PEER").map(PathBuf::from),
        envoy: variable("BENCH_ENVOY").map(PathBuf::from),
        only,
        loads: loads.transpose()?,
    }))
}
