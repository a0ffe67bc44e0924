//! Where keys may be fetched from (4.9): an object must not make the proxy read
//! link-local or metadata services, nor itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names under which clouds serve credentials.
const METADATA_NAMES: [&str; 3] = [
    "metadata.google.internal",
    "metadata.goog",
    "instance-data.ec2.internal",
];

/// Whether keys are never fetched from an address: link-local, metadata
/// services of clouds, loopback, unspecified, multicast and broadcast, also in
/// every IPv6 form that stands for such an IPv4 address. To be asked of each
/// address that a name resolves to, at the time of the connect.
pub fn is_forbidden(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

fn forbidden_v4(ip: Ipv4Addr) -> bool {
    // Alibaba, Azure, Oracle; the others are link-local.
    const METADATA: [Ipv4Addr; 3] = [
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(192, 0, 0, 192),
    ];
    let [first, ..] = ip.octets();
    first == 0
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || METADATA.contains(&ip)
}

fn forbidden_v6(ip: Ipv6Addr) -> bool {
    // AWS and Google.
    const METADATA: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unicast_link_local()
        || METADATA.contains(&ip)
        || embedded(ip).is_some_and(forbidden_v4)
}

/// The IPv4 address inside a mapped, compatible, NAT64 or 6to4 address.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

/// Why keys aren't fetched from a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForbiddenUrl {
    /// Not `http` or `https` with a host.
    #[error("not an http or https URL")]
    Url,
    /// A user name or password in the URL.
    #[error("the URL carries credentials")]
    Credentials,
    /// An address or a name that [`is_forbidden`] refuses.
    #[error("keys are never fetched from link-local, loopback or metadata addresses")]
    Address,
}

/// Checks a URL before its host is resolved.
///
/// # Errors
/// If it isn't one that keys may be fetched from.
pub fn check_url(url: &str) -> Result<http::Uri, ForbiddenUrl> {
    let uri: http::Uri = url.parse().map_err(|_| ForbiddenUrl::Url)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(ForbiddenUrl::Url);
    }
    let authority = uri.authority().ok_or(ForbiddenUrl::Url)?;
    if authority.as_str().contains('@') {
        return Err(ForbiddenUrl::Credentials);
    }
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.is_empty() {
        return Err(ForbiddenUrl::Url);
    }
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    let by_address = bare.parse().is_ok_and(is_forbidden);
    if by_address || name == "localhost" || METADATA_NAMES.contains(&name.as_str()) {
        return Err(ForbiddenUrl::Address);
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_in_every_form() {
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "127.0.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_forbidden(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "10.0.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "fd00::1",
            "2001:db8::1",
        ] {
            assert!(!is_forbidden(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn urls() {
        let address = Err(ForbiddenUrl::Address);
        for (url, want) in [
            ("http://169.254.169.254/latest", address),
            ("http://[::ffff:169.254.169.254]/", address),
            ("http://[fe80::1]:80/", address),
            ("https://metadata.google.internal./x", address),
            ("http://LOCALHOST:15000/", address),
            ("file:///etc/passwd", Err(ForbiddenUrl::Url)),
            ("//keys.example/x", Err(ForbiddenUrl::Url)),
            (
                "https://user:pw@keys.example/",
                Err(ForbiddenUrl::Credentials),
            ),
            ("https://keys.example/jwks.json", Ok(())),
            ("http://keys.shop.svc.cluster.local:8080/jwks", Ok(())),
        ] {
            assert_eq!(check_url(url).map(drop), want, "{url}");
        }
    }
}
