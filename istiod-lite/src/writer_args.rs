//! The part of the command line that is about writing to a cluster.

use clap::ArgAction;
use ipnet::{Ipv4Net, Ipv6Net};

/// What is written to a cluster, and how; without one nothing is.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Writing to a cluster")]
pub struct WriterArgs {
    /// Image of waypoints.
    #[arg(
        long,
        value_name = "IMAGE",
        env = "WAYPOINT_IMAGE",
        default_value = "ambit/waypoint:dev"
    )]
    pub waypoint_image: String,
    /// Who this is among replicas [default: the name of the host].
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub identity: Option<String>,
    /// Whether replicas agree on one that writes.
    #[arg(long, value_name = "BOOL", env = "ENABLE_LEADER_ELECTION", default_value_t = true, action = ArgAction::Set)]
    pub leader_election: bool,
    /// Whether statuses are written.
    #[arg(long, value_name = "BOOL", env = "AMBIENT_ENABLE_STATUS", default_value_t = true, action = ArgAction::Set)]
    pub write_statuses: bool,
    /// Whether hosts of ServiceEntries without an address are given some.
    #[arg(long, value_name = "BOOL", env = "PILOT_ENABLE_IP_AUTOALLOCATE", default_value_t = true, action = ArgAction::Set)]
    pub allocate_addresses: bool,
    /// IPv4 addresses for them.
    #[arg(
        long,
        value_name = "NET",
        env = "PILOT_IP_AUTOALLOCATE_IPV4_PREFIX",
        default_value = "240.240.0.0/16"
    )]
    pub ipv4_range: Ipv4Net,
    /// IPv6 addresses for them.
    #[arg(
        long,
        value_name = "NET",
        env = "PILOT_IP_AUTOALLOCATE_IPV6_PREFIX",
        default_value = "2001:2::/48"
    )]
    pub ipv6_range: Ipv6Net,
}

impl WriterArgs {
    /// Who this is among replicas: different for each, and the same for as long as this process lives.
    pub(crate) fn identity(&self) -> String {
        let named = self.identity.clone().filter(|name| !name.is_empty());
        named.unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            // Several on one host are told apart.
            format!("{}_{}", host.trim(), std::process::id())
        })
    }

    /// Ranges of addresses for hosts without.
    pub(crate) fn ranges(&self) -> Option<(Ipv4Net, Ipv6Net)> {
        self.allocate_addresses
            .then_some((self.ipv4_range, self.ipv6_range))
    }
}
