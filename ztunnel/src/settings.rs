//! From this program's configuration to the settings of the crates below it.

use ambit_hbone::HboneConfig;
use ambit_net::{Keepalive, PodSockets, Transparent};

use crate::config::Config;

/// The recipe for sockets of pods, without a namespace.
pub(crate) fn pod_sockets(config: &Config) -> PodSockets {
    let keepalive = config.pod.keepalive;
    PodSockets {
        netns: None,
        mark: Some(config.pod.mark),
        keepalive: Keepalive {
            enabled: keepalive.enabled,
            time: keepalive.time,
            interval: keepalive.interval,
            retries: keepalive.retries,
            user_timeout: keepalive.user_timeout,
        },
        port_reuse: config.pod.port_reuse,
        ipv6: config.pod.ipv6,
        transparent: match config.pod.original_source {
            Some(true) => Transparent::Required,
            Some(false) => Transparent::Never,
            None => Transparent::BestEffort,
        },
    }
}

/// HTTP/2 and pool of every pod.
pub(crate) fn hbone(config: &Config) -> HboneConfig {
    HboneConfig {
        stream_window: config.http2.stream_window,
        connection_window: config.http2.connection_window,
        frame_size: config.http2.frame_size,
        max_streams_per_connection: usize::from(config.http2.pool_max_streams),
        unused_release: config.http2.pool_unused_release,
        handshake_timeout: config.limits.handshake,
        ..HboneConfig::default()
    }
}
