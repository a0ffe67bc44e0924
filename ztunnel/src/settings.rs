//! From this program's configuration to the settings of the crates below it.

use ambit_hbone::HboneConfig;
use ambit_net::{Keepalive, PodSockets, Transparent};
use ambit_redirect::zds::WorkloadInfo;
use ambit_types::SpiffeId;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

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

/// This process as a workload, if it is told who it is.
pub(crate) fn own_workload(config: &Config) -> Option<WorkloadInfo> {
    let node = &config.node;
    Some(WorkloadInfo {
        name: node.pod_name.clone()?,
        namespace: node.pod_namespace.clone()?,
        service_account: node.service_account.clone()?,
    })
}

/// The identity under which [`own_workload`] is served.
pub(crate) fn own_identity(config: &Config) -> Option<SpiffeId> {
    let own = own_workload(config)?;
    let (namespace, account) = (own.namespace, own.service_account);
    SpiffeId::new(config.node.trust_domain.as_str(), namespace, account).ok()
}

/// False where IPv6 is compiled out or switched off at boot: then no socket of
/// that family can be made.
pub(crate) fn kernel_has_ipv6() -> bool {
    let made = socket(
        AddressFamily::Inet6,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    made.err() != Some(Errno::EAFNOSUPPORT)
}
