//! Ports without protocol detection: `config.linkerd.io/opaque-ports` and a
//! ServiceProfile's `opaquePorts` (8.1, 8.3).

use crate::linkerd::annotations::annotation;
use crate::linkerd::profile_of;
use crate::{ServiceInfo, World};

/// The service ports that are opaque TCP by one of them. A port with an
/// `appProtocol` never is: that wins.
pub fn opaque(service: &ServiceInfo, world: &dyn World) -> Vec<u16> {
    let mut ranges = Vec::new();
    if let Some(list) = annotation(service, "config.linkerd.io/opaque-ports") {
        ranges.extend(list.split(',').filter_map(range));
    }
    if let Some(profile) = profile_of(service, world) {
        ranges.extend(
            profile
                .spec
                .opaque_ports
                .iter()
                .filter_map(|text| range(text)),
        );
    }
    let listed = |port: u16| {
        ranges
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&port))
    };
    service
        .ports
        .iter()
        .filter(|port| port.app_protocol.is_none() && listed(port.number))
        .map(|port| port.number)
        .collect()
}

/// `25` or `1000-2000`.
fn range(text: &str) -> Option<(u16, u16)> {
    let text = text.trim();
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
}
