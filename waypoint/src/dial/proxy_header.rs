//! The PROXY protocol's header, as a client sends it (versions 1 and 2).

use std::net::{IpAddr, SocketAddr};

/// What is said first on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProxyHeader {
    /// 1 or 2.
    pub(crate) version: u8,
    /// The client.
    pub(crate) source: SocketAddr,
    /// Where it meant to go.
    pub(crate) destination: SocketAddr,
}

impl ProxyHeader {
    /// The bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        if self.version == 1 {
            self.text()
        } else {
            self.binary()
        }
    }

    fn text(&self) -> Vec<u8> {
        let (from, to) = (self.source, self.destination);
        let family = match (from.ip(), to.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
            (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
            _ => return b"PROXY UNKNOWN\r\n".to_vec(),
        };
        let (fp, tp) = (from.port(), to.port());
        format!("PROXY {family} {} {} {fp} {tp}\r\n", from.ip(), to.ip()).into_bytes()
    }

    fn binary(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(52);
        out.extend_from_slice(SIGNATURE);
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.extend_from_slice(&[PROXY, TCP4, 0, 12]);
                out.extend_from_slice(&from.octets());
                out.extend_from_slice(&to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                out.extend_from_slice(&[PROXY, TCP6, 0, 36]);
                out.extend_from_slice(&from.octets());
                out.extend_from_slice(&to.octets());
            }
            _ => {
                out.extend_from_slice(&[PROXY, 0, 0, 0]);
                return out;
            }
        }
        out.extend_from_slice(&self.source.port().to_be_bytes());
        out.extend_from_slice(&self.destination.port().to_be_bytes());
        out
    }
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u8, source: &str, destination: &str) -> Vec<u8> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let header = ProxyHeader {
            version,
            source,
            destination,
        };
        header.encode()
    }

    #[test]
    fn both_versions() {
        let text = header(1, "10.0.0.1:1000", "10.0.0.2:80");
        assert_eq!(text, b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 80\r\n");
        let mixed = header(1, "[fd00::1]:1000", "10.0.0.2:80");
        assert_eq!(mixed, b"PROXY UNKNOWN\r\n");
        let binary = header(2, "10.0.0.1:1000", "10.0.0.2:80");
        assert_eq!(&binary[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(&binary[16..], [10, 0, 0, 1, 10, 0, 0, 2, 3, 232, 0, 80]);
        assert_eq!(header(2, "[fd00::1]:1", "[fd00::2]:2").len(), 52);
    }
}
