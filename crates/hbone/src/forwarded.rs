//! `forwarded` on CONNECT (`ztunnel-contract` 2.3, RFC 7239).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use ambit_types::canonical_socket;

/// Who the source says its client is. Never trusted for policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's address at the source.
    pub client: SocketAddr,
    /// Host name of the service that the client meant, if it is known.
    pub host: Option<String>,
}

/// A `forwarded` value without a client address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("forwarded has no element with for=\"IP:PORT\"")]
pub struct InvalidForwarded;

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "for=\"{}\"", self.client)?;
        match &self.host {
            Some(host) if is_host(host) => write!(f, ";host={host}"),
            Some(_) | None => Ok(()),
        }
    }
}

impl FromStr for Forwarded {
    type Err = InvalidForwarded;

    /// Reads the first element; parameters that aren't ours are ignored.
    fn from_str(value: &str) -> Result<Self, InvalidForwarded> {
        let first = value.split(',').next().unwrap_or_default();
        let mut client = None;
        let mut host = None;
        for parameter in first.split(';') {
            let Some((name, value)) = parameter.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match name.trim() {
                name if name.eq_ignore_ascii_case("for") => client = value.parse().ok(),
                name if name.eq_ignore_ascii_case("host") && is_host(value) => {
                    host = Some(value.to_owned());
                }
                _ => {}
            }
        }
        let client = canonical_socket(client.ok_or(InvalidForwarded)?);
        Ok(Self { client, host })
    }
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'*'))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn looks_as_the_contract_says() {
        let mut forwarded = Forwarded {
            client: "10.0.0.7:40000".parse().unwrap(),
            host: None,
        };
        assert_eq!(forwarded.to_string(), "for=\"10.0.0.7:40000\"");
        forwarded.host = Some("cart.shop.svc.cluster.local".into());
        assert_eq!(
            forwarded.to_string(),
            "for=\"10.0.0.7:40000\";host=cart.shop.svc.cluster.local"
        );
        forwarded.client = "[fd00::7]:1".parse().unwrap();
        forwarded.host = Some("a;for=\"1.2.3.4:1\"".into());
        assert_eq!(forwarded.to_string(), "for=\"[fd00::7]:1\"");
    }

    #[test]
    fn reads_what_others_write() {
        let cases = [
            (
                "For=\"10.0.0.7:1\";Host=\"a.b\"",
                Some(("10.0.0.7:1", Some("a.b"))),
            ),
            (
                "host=a.b; for=10.0.0.7:1 ;proto=https",
                Some(("10.0.0.7:1", Some("a.b"))),
            ),
            (
                "for=\"10.0.0.7:1\", for=\"10.0.0.8:2\"",
                Some(("10.0.0.7:1", None)),
            ),
            ("for=\"[::ffff:10.0.0.7]:1\"", Some(("10.0.0.7:1", None))),
            ("for=unknown", None),
            ("host=a.b", None),
            ("", None),
        ];
        for (value, want) in cases {
            let got = value.parse::<Forwarded>().ok();
            let want = want.map(|(client, host)| Forwarded {
                client: client.parse().unwrap(),
                host: host.map(str::to_owned),
            });
            assert_eq!(got, want, "{value}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(ip: IpAddr, port: u16, host in prop::option::of("[a-z0-9.-]{1,40}")) {
            let forwarded = Forwarded { client: canonical_socket(SocketAddr::new(ip, port)), host };
            prop_assert_eq!(forwarded.to_string().parse(), Ok(forwarded));
        }

        #[test]
        fn parsing_never_panics(value in any::<String>()) {
            let _ = value.parse::<Forwarded>();
        }
    }
}
