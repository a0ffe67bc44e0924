//! Server names of TLSRoutes (`waypoint-contract` 2.7).

use super::codes;
use super::redirect::{is_dns, is_precise};
use super::report::{Fault, Report};

/// The names that can be matched; others are left out and reported.
pub(super) fn read(report: &mut Report, hostnames: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(hostnames.len());
    for (index, written) in hostnames.iter().enumerate() {
        let name = written.to_ascii_lowercase();
        let fits = match name.strip_prefix("*.") {
            Some(rest) => is_dns(rest),
            None => is_precise(&name),
        };
        if !fits {
            report.dropped(
                codes::BAD_SNI,
                Fault {
                    field: &format!("spec.hostnames[{index}]"),
                    value: written,
                    message: "this can't be a server name and is left out",
                    remedy: "write a DNS name, with *. as its first label at most",
                },
            );
        } else if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
