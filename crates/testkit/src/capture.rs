//! What really goes over a link: a packet socket, and a small TCP reader.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ambit_netns::NetNs;
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Captures one link of a namespace until it is stopped.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Traffic>>,
}

/// What was seen: TCP payload, by flow.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Payload of each direction of each connection, in order of arrival.
    pub flows: BTreeMap<(SocketAddr, SocketAddr), Vec<u8>>,
    /// Frames read.
    pub frames: u64,
}

impl Capture {
    /// Starts to capture.
    ///
    /// # Errors
    /// If the caller may not open packet sockets there.
    pub fn start(ns: &NetNs, link_index: u32) -> Result<Self> {
        let socket = ns.run(|| {
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
        })??;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
        // Best effort: a larger buffer only matters under bulk load.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20));
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || read_all(&socket, link_index, &seen))?;
        Ok(Self { stop, thread })
    }

    /// Stops, and returns what was seen.
    ///
    /// # Errors
    /// If the capture failed.
    pub fn stop(self) -> Result<Traffic> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread
            .join()
            .map_err(|_| anyhow!("the capture panicked"))?
    }
}

fn read_all(socket: &OwnedFd, link_index: u32, stop: &AtomicBool) -> Result<Traffic> {
    let mut traffic = Traffic::default();
    let mut frame = vec![0; 1 << 16];
    loop {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
            Ok((length, Some(from))) => {
                if from.ifindex() == link_index as usize {
                    traffic.frames += 1;
                    traffic.add(frame.get(..length).unwrap_or_default());
                }
            }
            Ok((_, None)) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if stop.load(Ordering::SeqCst) => return Ok(traffic),
            Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("read the packet socket"),
        }
    }
}

impl Traffic {
    fn add(&mut self, frame: &[u8]) {
        if let Some((from, to, payload)) = tcp_payload(frame) {
            let flow = self.flows.entry((from, to)).or_default();
            flow.extend_from_slice(payload);
        }
    }

    /// Flows that don't begin with a TLS record (type 20 to 23, version 3.x),
    /// or that aren't a sequence of records.
    pub fn not_tls(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let bad = |payload: &[u8]| {
            let kind = payload.first().copied().unwrap_or(0);
            !payload.is_empty() && (!(20..=23).contains(&kind) || payload.get(1) != Some(&3))
        };
        self.flows
            .iter()
            .filter(|(_, payload)| bad(payload))
            .map(|(flow, _)| *flow)
            .collect()
    }

    /// Payload bytes of flows to or from a port.
    pub fn bytes_with_port(&self, port: u16) -> usize {
        let with = |(a, b): &(SocketAddr, SocketAddr)| a.port() == port || b.port() == port;
        self.flows
            .iter()
            .filter(|(flow, _)| with(flow))
            .map(|(_, payload)| payload.len())
            .sum()
    }

    /// True if the text went over the link in the clear.
    pub fn contains(&self, text: &[u8]) -> bool {
        self.flows
            .values()
            .any(|payload| payload.windows(text.len()).any(|w| w == text))
    }
}

/// Ends and payload of an IPv4 TCP segment in an Ethernet frame.
fn tcp_payload(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    if frame.get(12..14)? != [0x08, 0x00] {
        return None;
    }
    let ip = frame.get(14..)?;
    let ip_header = usize::from(ip.first()? & 0x0f) * 4;
    if *ip.get(9)? != 6 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    };
    // GSO frames of a veth may say 0 or less than they carry.
    let end = if total == 0 {
        ip.len()
    } else {
        total.min(ip.len())
    };
    let tcp = ip.get(ip_header..end)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let tcp_header = usize::from(tcp.get(12)? >> 4) * 4;
    let from = SocketAddr::new(address(12)?, port(0)?);
    let to = SocketAddr::new(address(16)?, port(2)?);
    Some((from, to, tcp.get(tcp_header..)?))
}
