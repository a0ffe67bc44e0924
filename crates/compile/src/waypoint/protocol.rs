//! What a service's ports speak (`waypoint-contract` 1.8).

use ambit_kube::ServiceEntry;
use ambit_kube::core::Service;
use ambit_proto::waypoint::Protocol;
use ambit_translate::PortInfo;

/// The ports of a Service that carry TCP.
pub(crate) fn ports_of_service(service: &Service) -> Vec<PortInfo> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let ports = ports.filter_map(|port| {
        let tcp = port.protocol.as_deref().unwrap_or("TCP") == "TCP";
        let number = u16::try_from(port.port).ok().filter(|_| tcp)?;
        let name = port.name.as_deref().unwrap_or_default();
        let app = port.app_protocol.as_deref();
        Some(PortInfo {
            number,
            name: name.into(),
            app_protocol: app.map(Into::into),
            protocol: of_port(app, name, number),
        })
    });
    ports.collect()
}

/// The ports of a ServiceEntry.
pub(crate) fn ports_of_entry(entry: &ServiceEntry) -> Vec<PortInfo> {
    let ports = entry.spec.ports.iter().filter_map(|port| {
        let number = u16::try_from(port.number)
            .ok()
            .filter(|number| *number != 0)?;
        let protocol = port.protocol.to_ascii_lowercase();
        if protocol == "udp" {
            return None;
        }
        Some(PortInfo {
            number,
            name: port.name.as_str().into(),
            app_protocol: (!port.protocol.is_empty()).then(|| port.protocol.as_str().into()),
            protocol: by_name(&protocol).unwrap_or_else(|| by_number(number)),
        })
    });
    ports.collect()
}

fn of_port(app: Option<&str>, name: &str, number: u16) -> Protocol {
    let text = match app {
        Some("kubernetes.io/h2c") => return Protocol::Http2,
        Some("kubernetes.io/ws") => return Protocol::Http,
        Some("kubernetes.io/wss") => return Protocol::Tls,
        Some(text) => text,
        None => name,
    };
    let text = text.to_ascii_lowercase();
    let word = if text.starts_with("grpc-web") {
        "grpc-web"
    } else {
        text.split('-').next().unwrap_or_default()
    };
    by_name(word).unwrap_or_else(|| by_number(number))
}

/// In lower case; none where nobody knows the name.
fn by_name(name: &str) -> Option<Protocol> {
    Some(match name {
        "http" | "http_proxy" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "grpc-web" => Protocol::GrpcWeb,
        "https" | "tls" => Protocol::Tls,
        "tcp" | "udp" | "mongo" | "redis" | "mysql" => Protocol::Tcp,
        _ => return None,
    })
}

/// Protocols whose servers speak first stall a sniffer, so their ports are never sniffed.
fn by_number(number: u16) -> Protocol {
    match number {
        25 | 53 | 3306 | 27017 => Protocol::Tcp,
        _ => Protocol::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_then_named_then_well_known_then_sniffed() {
        let cases = [
            (Some("kubernetes.io/h2c"), "tcp", 80, Protocol::Http2),
            (Some("kubernetes.io/ws"), "", 80, Protocol::Http),
            (Some("kubernetes.io/wss"), "http", 80, Protocol::Tls),
            (Some("HTTP"), "tcp", 80, Protocol::Http),
            (Some("something"), "http", 80, Protocol::Auto),
            (Some("something"), "http", 3306, Protocol::Tcp),
            (None, "http-admin", 80, Protocol::Http),
            (None, "HTTP2-x", 80, Protocol::Http2),
            (None, "grpc-web-x", 80, Protocol::GrpcWeb),
            (None, "grpc-x", 80, Protocol::Grpc),
            (None, "https", 443, Protocol::Tls),
            (None, "mysql", 1, Protocol::Tcp),
            (None, "web", 27017, Protocol::Tcp),
            (None, "web", 8080, Protocol::Auto),
            (None, "", 53, Protocol::Tcp),
        ];
        for (app, name, number, want) in cases {
            assert_eq!(of_port(app, name, number), want, "{app:?} {name} {number}");
        }
    }
}
