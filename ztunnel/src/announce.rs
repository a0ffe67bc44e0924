//! What an application behind a PROXY tunnel is told of a connection before
//! its first byte: PROXY protocol, version 2 (`ztunnel-contract` 2.9).

use std::net::{IpAddr, SocketAddr};

use ambit_types::SpiffeId;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use ambit_net::DIAL_TIMEOUT;

/// Who came, and where to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announcement<'a> {
    /// The client as TCP shows it.
    pub(crate) source: SocketAddr,
    /// Where it meant to go.
    pub(crate) destination: SocketAddr,
    /// Who it proved to be.
    pub(crate) identity: Option<&'a SpiffeId>,
}

impl Announcement<'_> {
    /// Writes the header; the application must take it within the time that it
    /// has to accept a connection.
    pub(crate) async fn write(&self, to: &mut TcpStream) -> std::io::Result<()> {
        let header = self.encode();
        match timeout(DIAL_TIMEOUT, to.write_all(&header)).await {
            Ok(written) => written,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }

    /// Addresses of two families are both written as IPv6, the IPv4 one mapped:
    /// the header has one family.
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let family = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                body.extend_from_slice(&from.octets());
                body.extend_from_slice(&to.octets());
                TCP4
            }
            (from, to) => {
                for ip in [from, to] {
                    body.extend_from_slice(&as_v6(ip));
                }
                TCP6
            }
        };
        body.extend_from_slice(&self.source.port().to_be_bytes());
        body.extend_from_slice(&self.destination.port().to_be_bytes());
        if let Some(identity) = self.identity {
            let text = identity.to_string();
            // A SPIFFE id has at most 2048 bytes.
            if let Ok(length) = u16::try_from(text.len()) {
                body.push(TLV_IDENTITY);
                body.extend_from_slice(&length.to_be_bytes());
                body.extend_from_slice(text.as_bytes());
            }
        }
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        let mut header = Vec::with_capacity(SIGNATURE.len() + 4 + body.len());
        header.extend_from_slice(SIGNATURE);
        header.extend_from_slice(&[VERSION_2_PROXY, family]);
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&body);
        header
    }
}

fn as_v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// The source's SPIFFE id.
const TLV_IDENTITY: u8 = 0xd0;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(source: &str, destination: &str, identity: Option<&str>) -> Vec<u8> {
        let identity: Option<SpiffeId> = identity.map(|id| id.parse().unwrap());
        Announcement {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            identity: identity.as_ref(),
        }
        .encode()
    }

    #[test]
    fn the_header_is_as_the_protocol_has_it() {
        let id = "spiffe://td/ns/a/sa/b";
        let v4 = header("10.0.0.1:258", "10.96.0.1:80", Some(id));
        let mut want = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x24".to_vec();
        want.extend_from_slice(&[10, 0, 0, 1, 10, 96, 0, 1, 1, 2, 0, 80]);
        want.extend_from_slice(&[0xd0, 0, 21]);
        want.extend_from_slice(id.as_bytes());
        assert_eq!(v4, want);

        let v6 = header("[fd00::1]:1", "[fd96::1]:80", None);
        assert_eq!((&v6[12..16], v6.len()), (&[0x21, 0x21, 0, 36][..], 52));

        let mixed = header("10.0.0.1:1", "[fd96::1]:80", None);
        assert_eq!((mixed[13], mixed.len()), (TCP6, 52));
        assert_eq!(&mixed[26..32], &[0xff, 0xff, 10, 0, 0, 1]);
    }
}
