//! The target of a CONNECT.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use ambit_types::canonical_socket;

/// `:authority` of a CONNECT: an address if the whole text is one, else a host
/// name and a port. Ports are never 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// `10.0.0.7:80`, `[fd00::7]:80`; canonical.
    Addr(SocketAddr),
    /// `cart.shop.svc.cluster.local:80`; lower-cased.
    Host {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Authority {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Addr(addr) => addr.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

/// A text that is no authority of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authority is not of the form HOST:PORT")]
pub struct InvalidAuthority;

impl FromStr for Authority {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return match addr.port() {
                0 => Err(InvalidAuthority),
                _ => Ok(Self::Addr(canonical_socket(addr))),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAuthority)?;
        let plain = !host.is_empty()
            && host.len() <= MAX_HOST
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'*'));
        if !plain || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidAuthority);
        }
        match port.parse() {
            Ok(0) | Err(_) => Err(InvalidAuthority),
            Ok(port) => Ok(Self::Host {
                host: host.to_ascii_lowercase(),
                port,
            }),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => write!(f, "{addr}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Longest DNS name in text form.
const MAX_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_addresses_and_hosts_with_ports() {
        let host = |host: &str, port| Authority::Host {
            host: host.into(),
            port,
        };
        let cases = [
            (
                "10.0.0.7:80",
                Some(Authority::Addr("10.0.0.7:80".parse().unwrap())),
            ),
            (
                "[fd00::7]:80",
                Some(Authority::Addr("[fd00::7]:80".parse().unwrap())),
            ),
            (
                "[::ffff:10.0.0.7]:80",
                Some(Authority::Addr("10.0.0.7:80".parse().unwrap())),
            ),
            ("Cart.shop:8080", Some(host("cart.shop", 8080))),
            ("cart:65535", Some(host("cart", 65535))),
            ("cart:65536", None),
            ("cart:0", None),
            ("10.0.0.7:0", None),
            ("cart:+80", None),
            ("cart", None),
            ("cart:", None),
            (":80", None),
            ("10.0.0.7", None),
            ("fd00::7:80", None),
            ("user@cart:80", None),
            ("cart:80/path", None),
            ("ca rt:80", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse().ok(), want, "{text}");
        }
    }

    #[test]
    fn display_round_trips() {
        for text in ["10.0.0.7:80", "[fd00::7]:80", "cart.shop:8080"] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
        }
    }
}
