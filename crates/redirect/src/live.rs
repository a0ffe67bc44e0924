//! Which connections of a pod the proxy still carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ambit_netns::{NetNs, Netlink};

use crate::pod::{RedirectError, answered};
use crate::rules::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT};

/// Connections of the pod's applications that go through the proxy: captured
/// ones, either way, and those that the proxy opened to an application with
/// the client's address.
///
/// Tunnels between proxies don't count: they outlive what they carry.
///
/// # Errors
/// If the namespace can't be read.
pub async fn live_connections(ns: &NetNs) -> Result<usize, RedirectError> {
    let own = answered(async { Ok(Netlink::in_ns(ns)?.addrs().await?) }).await?;
    let tables = ns
        .run(read_tables)
        .map_err(ambit_netns::NetlinkError::Open)?;
    let lines = tables.iter().flat_map(|table| table.lines());
    Ok(lines
        .filter_map(Socket::parse)
        .filter(|s| s.is_carried(&own))
        .count())
}

fn read_tables() -> Vec<String> {
    // A kernel without IPv6 has no second file.
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect()
}

/// One line of `/proc/net/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    local: IpAddr,
    port: u16,
    state: u8,
}

impl Socket {
    fn parse(line: &str) -> Option<Self> {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (address, port) = columns.next()?.split_once(':')?;
        let state = columns.nth(1)?;
        Some(Self {
            local: parse_address(address)?,
            port: u16::from_str_radix(port, 16).ok()?,
            state: u8::from_str_radix(state, 16).ok()?,
        })
    }

    fn is_carried(&self, own: &[IpAddr]) -> bool {
        if [TIME_WAIT, CLOSED, LISTEN].contains(&self.state) {
            return false;
        }
        let captured = [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT].contains(&self.port);
        let spoofed = !self.local.is_loopback() && !own.contains(&self.local);
        captured || spoofed
    }
}

/// Each group of four bytes is a number in the machine's own order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let group = |at: usize| {
        let digits = hex.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => group(0).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes))),
        32 => {
            let mut bytes = [0; 16];
            for (at, slot) in bytes.chunks_exact_mut(4).enumerate() {
                slot.copy_from_slice(&group(at)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

const TIME_WAIT: u8 = 0x06;
const CLOSED: u8 = 0x07;
const LISTEN: u8 = 0x0a;

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:3A99 02004D0A:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 02004D0A:3A9E 0100010A:9C41 08 00000000:00000000 00:00000000 00000000     0        0 3 1
   3: 0200004D:1F90 0100010A:9C42 01 00000000:00000000 00:00000000 00000000     0        0 4 1
   4: 0200004D:1F90 0100010A:9C43 06 00000000:00000000 00:00000000 00000000     0        0 5 1
   5: 0200FFFF
   6: 0000000000000000FFFF00000200004D:1F90 0000000000000000FFFF00000100010A:9C44 01 0
   7: 0000000000000000FFFF00000600004D:C350 0000000000000000FFFF00000200004D:1F90 01 0
";

    /// The texts are of a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn counts_what_the_proxy_carries() {
        let own = ["77.0.0.2".parse().unwrap(), "10.77.0.2".parse().unwrap()];
        let sockets: Vec<_> = TABLES.lines().filter_map(Socket::parse).collect();
        assert_eq!(sockets.len(), 7);
        assert_eq!(sockets[5].local, own[0], "a mapped address is an IPv4 one");
        let carried: Vec<_> = sockets.iter().map(|s| s.is_carried(&own)).collect();
        // Listening; captured out; captured in; direct; over; direct; the proxy's, spoofed.
        assert_eq!(carried, [false, true, true, false, false, false, true]);
    }
}
