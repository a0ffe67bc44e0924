//! The addresses of one range: which are taken, and which is next.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// One range.
#[derive(Debug)]
pub(super) struct Pool {
    range: IpNet,
    taken: BTreeSet<u128>,
    /// Nothing below is free, since the pool was made.
    cursor: u128,
}

impl Pool {
    pub(super) fn new(range: IpNet) -> Self {
        Self {
            range,
            taken: BTreeSet::new(),
            // The network's own address is nobody's.
            cursor: number(range.network()).saturating_add(1),
        }
    }

    /// Whether an address may be one of it.
    pub(super) fn holds(&self, ip: IpAddr) -> bool {
        self.range.contains(&ip) && ip != self.range.network()
    }

    /// Whether it was free.
    pub(super) fn take(&mut self, ip: IpAddr) -> bool {
        self.taken.insert(number(ip))
    }

    /// Takes the lowest address that is free; none when the range is used up.
    pub(super) fn next_free(&mut self, excluded: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let last = number(self.range.broadcast());
        while self.cursor <= last {
            let at = self.cursor;
            self.cursor = at.checked_add(1)?;
            let ip = self.address(at);
            if !self.taken.contains(&at) && !excluded(ip) {
                self.taken.insert(at);
                return Some(ip);
            }
        }
        None
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.range {
            IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpNet::V6(_) => Ipv6Addr::from(number).into(),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}
