//! Sockets live in the namespace that they were made in.

use std::time::Duration;

use ambit_netns::{NamedNetNs, Netlink};

use super::*;
use crate::{DIAL_TIMEOUT, original_dst};

#[tokio::test]
async fn a_pods_sockets_are_in_its_namespace() {
    if !ambit_netns::require_privilege("sockets in a pod's namespace") {
        return;
    }
    let dir = std::env::temp_dir().join(format!("ambit-net-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let pod = NamedNetNs::create(&dir, "pod").unwrap();
    let netlink = Netlink::in_ns(pod.ns()).unwrap();
    netlink.link_up("lo").await.unwrap();
    let inside = PodSockets {
        netns: Some(pod.ns().clone()),
        mark: Some(0x539),
        transparent: Transparent::Required,
        ..PodSockets::default()
    };
    // The same port twice: once here, once there.
    let outside = PodSockets {
        port_reuse: false,
        transparent: Transparent::Never,
        ..PodSockets::default()
    };
    let here = outside.listen(0, ListenOptions::default()).unwrap();
    let port = here.local_addr().unwrap().port();
    let there = inside.listen(port, ListenOptions::default()).unwrap();
    assert!(there.is_transparent());
    let addr = SocketAddr::new([127, 0, 0, 1].into(), port);
    let (dialled, accepted) = tokio::join!(inside.connect(addr, DIAL_TIMEOUT), there.accept());
    let (dialled, (accepted, _)) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!(original_dst(&accepted).unwrap(), addr);
    for stream in [&dialled, &accepted] {
        assert_eq!(SockRef::from(stream).mark().unwrap(), 0x539);
    }
    // Nobody else came: not here, and this thread is back outside.
    let other = tokio::time::timeout(Duration::from_millis(50), here.accept()).await;
    assert!(other.is_err());
    let (dialled, accepted) = tokio::join!(outside.connect(addr, DIAL_TIMEOUT), here.accept());
    dialled.unwrap();
    accepted.unwrap();
    drop(pod);
    let _ = std::fs::remove_dir_all(&dir);
}
