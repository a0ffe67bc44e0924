//! Over loopback, and in a namespace where there is privilege.

use std::net::Ipv4Addr;

use super::*;
use crate::{ListenOptions, Transparent, original_dst};

fn local(sockets: &PodSockets, options: ListenOptions) -> crate::Listener {
    let options = ListenOptions {
        ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ..options
    };
    sockets.listen(0, options).unwrap()
}

fn plain() -> PodSockets {
    PodSockets {
        transparent: Transparent::Never,
        ..PodSockets::default()
    }
}

#[tokio::test]
async fn options_of_the_contract_are_on_both_ends() {
    for keepalive in [true, false] {
        let sockets = plain();
        let options = ListenOptions {
            keepalive,
            ..ListenOptions::default()
        };
        let listener = local(&sockets, options);
        let addr = listener.local_addr().unwrap();
        let (dialled, accepted) =
            tokio::join!(sockets.connect(addr, DIAL_TIMEOUT), listener.accept());
        let (dialled, (accepted, peer)) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!(peer, dialled.local_addr().unwrap());
        for (name, stream, keepalive) in [
            ("dialled", &dialled, true),
            ("accepted", &accepted, keepalive),
        ] {
            let socket = SockRef::from(stream);
            assert!(socket.tcp_nodelay().unwrap(), "{name}");
            assert_eq!(socket.keepalive().unwrap(), keepalive, "{name}");
            if keepalive {
                assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 180);
                assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), 180);
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
            }
        }
        assert_eq!(original_dst(&accepted).unwrap(), addr, "not redirected");
    }
}

#[tokio::test]
async fn wildcards_take_both_families_and_addresses_are_canonical() {
    let sockets = plain();
    let listener = sockets.listen(0, ListenOptions::default()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let dst = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let (dialled, accepted) = tokio::join!(sockets.connect(dst, DIAL_TIMEOUT), listener.accept());
    let (_dialled, (accepted, peer)) = (dialled.unwrap(), accepted.unwrap());
    assert!(peer.is_ipv4());
    assert_eq!(original_dst(&accepted).unwrap(), dst);
}

#[tokio::test]
async fn ports_are_shared_only_if_asked() {
    for port_reuse in [true, false] {
        let sockets = PodSockets {
            port_reuse,
            ..plain()
        };
        let first = sockets.bind(0, ListenOptions::default()).unwrap();
        let port = first.local_addr().unwrap().port();
        let second = sockets.bind(port, ListenOptions::default());
        assert_eq!(second.is_ok(), port_reuse);
        first.try_clone().unwrap().register().unwrap();
    }
}

#[tokio::test]
async fn refusals_and_silence_have_their_reasons() {
    let sockets = plain();
    let listener = local(&sockets, ListenOptions::default());
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let refused = sockets.connect(addr, DIAL_TIMEOUT).await.unwrap_err();
    assert_eq!(refused.reason(), FlowReason::PeerUnreachable);

    // A listener that never accepts: once its backlog is full, SYNs get lost.
    let full = ListenOptions {
        backlog: 0,
        ..ListenOptions::default()
    };
    let listener = local(&sockets, full);
    let addr = listener.local_addr().unwrap();
    let mut held = Vec::new();
    let timeout = loop {
        assert!(held.len() < 100, "the backlog never fills");
        match sockets.connect(addr, Duration::from_millis(200)).await {
            Ok(stream) => held.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(timeout.reason(), FlowReason::DialTimeout);
    assert_eq!(timeout.to_string(), "io error: deadline has elapsed");
}

#[tokio::test]
async fn a_source_that_cannot_be_kept_does_not_stop_the_dial() {
    let sockets = plain();
    let listener = local(&sockets, ListenOptions::default());
    let addr = listener.local_addr().unwrap();
    // Itself, another family, and (without privilege) a foreign address.
    for src in ["127.0.0.1", "::1"] {
        let src = src.parse().unwrap();
        let (dialled, accepted) = tokio::join!(
            sockets.connect_from(src, addr, DIAL_TIMEOUT),
            listener.accept()
        );
        dialled.unwrap();
        assert_eq!(accepted.unwrap().1.ip(), addr.ip());
    }
}

#[tokio::test]
async fn a_clients_address_is_kept() {
    if !ambit_netns::require_privilege("source preservation") {
        return;
    }
    let sockets = PodSockets {
        mark: Some(0x539),
        ..PodSockets::default()
    };
    let listener = local(&sockets, ListenOptions::default());
    assert!(listener.is_transparent());
    let addr = listener.local_addr().unwrap();
    // 127.0.0.9 is local here, so the answer comes back without routing rules.
    let src = "::ffff:127.0.0.9".parse().unwrap();
    let (dialled, accepted) = tokio::join!(
        sockets.connect_from(src, addr, DIAL_TIMEOUT),
        listener.accept()
    );
    let (dialled, (accepted, peer)) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!(peer.ip().to_string(), "127.0.0.9");
    assert_eq!(SockRef::from(&dialled).mark().unwrap(), 0x539);
    assert_eq!(SockRef::from(&accepted).mark().unwrap(), 0x539, "inherited");
}
