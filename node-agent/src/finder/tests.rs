use std::fs;

use ambit_netns::{NamedNetNs, require_privilege};
use ambit_redirect::Capture;
use ambit_redirect::zds::WorkloadInfo;

use super::*;
use crate::inventory::PodName;
use crate::tests::world::pod_namespace;

const UID: &str = "0e7a4d39-1f2b-4c5d-8e9f-a0b1c2d3e4f5";

#[test]
fn the_uid_is_found_under_every_driver_and_version() {
    let paths = [
        // cgroup v1, cgroupfs driver.
        "5:memory:/kubepods/burstable/pod0e7a4d39-1f2b-4c5d-8e9f-a0b1c2d3e4f5/0123abcd\n\
         1:name=systemd:/kubepods/burstable/pod0e7a4d39-1f2b-4c5d-8e9f-a0b1c2d3e4f5/0123abcd\n",
        // cgroup v2, systemd driver, containerd and CRI-O.
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0e7a4d39_1f2b_4c5d_8e9f_a0b1c2d3e4f5.slice/cri-containerd-0123.scope\n",
        "0::/kubepods.slice/kubepods-pod0e7a4d39_1f2b_4c5d_8e9f_a0b1c2d3e4f5.slice/crio-0123.scope\n",
        // Seen from another cgroup namespace, and below a node that is a container.
        "0::/../../besteffort/pod0e7a4d39-1f2b-4c5d-8e9f-a0b1c2d3e4f5/0123\n",
        "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod0e7a4d39_1f2b_4c5d_8e9f_a0b1c2d3e4f5.slice/a\n",
    ];
    for text in paths {
        assert_eq!(pod_uids(text), [UID.into()], "{text}");
    }
    let hash = "0::/kubepods/pod0123456789abcdef0123456789abcdef/x\n";
    assert_eq!(pod_uids(hash), ["0123456789abcdef0123456789abcdef".into()]);
}

#[test]
fn what_only_looks_like_a_pod_is_none() {
    let others = [
        "",
        "no colons",
        "0::/",
        "0::/system.slice/podman.service\n",
        "0::/user.slice/libpod-0e7a4d391f2b4c5d8e9fa0b1c2d3e4f50e7a4d39.scope\n",
        "0::/kubepods/pod\n",
        "0::/kubepods/pod0e7a4d39-1f2b-4c5d-8e9f-a0b1c2d3e4fg/x\n",
        "0::/tripod0e7a4d39-1f2b-4c5d-8e9f-a0b1c2d3e4f5/x\n",
        "0::/kubepods/pod0e7a4d39-1f2b-4c5d-8e9f-a0b1c2d3e4f5-more/x\n",
    ];
    for text in others {
        assert_eq!(pod_uids(text), [], "{text}");
    }
}

#[test]
fn a_name_full_of_parentheses_hides_no_start_time() {
    let stat = "42 (a) S (b) c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1";
    assert_eq!(start_time(stat), Some(98765));
    assert_eq!(start_time("42 (a) S 1"), None);
    assert_eq!(start_time(""), None);
}

#[test]
fn kubelet_is_found_with_its_user() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(kubelet_uid(dir.path()), None);
    for (pid, comm, uid) in [(7, "kubelet-helper", 3), (8, "kubelet", 5)] {
        let process = dir.path().join(pid.to_string());
        fs::create_dir(&process).unwrap();
        fs::write(process.join("comm"), format!("{comm}\n")).unwrap();
        let status = format!("Name:\t{comm}\nUid:\t9\t{uid}\t0\t0\nGid:\t0\t0\t0\t0\n");
        fs::write(process.join("status"), status).unwrap();
    }
    assert_eq!(kubelet_uid(dir.path()), Some(5));
}

/// A table of processes: each is a pod's, started at a time, in a namespace.
fn table(dir: &Path, processes: &[(u32, &str, u64, &Path)]) {
    for (pid, uid, started, ns) in processes {
        let process = dir.join(pid.to_string());
        fs::create_dir_all(process.join("ns")).unwrap();
        fs::write(process.join("cgroup"), format!("0::/kubepods/pod{uid}/x\n")).unwrap();
        let stat = format!("{pid} (sh) S 1 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 {started} 1 1");
        fs::write(process.join("stat"), stat).unwrap();
        std::os::unix::fs::symlink(ns, process.join("ns/net")).unwrap();
    }
}

fn spec(netns: Option<&Path>, ips: &[&str]) -> PodSpec {
    PodSpec {
        pod: PodName {
            namespace: "shop".into(),
            name: "web".into(),
        },
        uid: UID.into(),
        cgroup_uid: UID.into(),
        info: WorkloadInfo {
            name: "web".into(),
            namespace: "shop".into(),
            service_account: "web".into(),
        },
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        netns: netns.map(Path::to_owned),
        capture: Capture::default(),
    }
}

async fn with_address(ip: &str) -> NamedNetNs {
    let ns = pod_namespace().await;
    let netlink = Netlink::in_ns(ns.ns()).unwrap();
    netlink.add_addr("lo", ip.parse().unwrap()).await.unwrap();
    ns
}

#[tokio::test]
async fn the_oldest_process_in_a_namespace_with_the_pods_address_tells() {
    if !require_privilege("namespaces of processes") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (own, nested) = (
        with_address("10.9.0.5/32").await,
        with_address("10.9.0.6/32").await,
    );
    let node = NetNs::current().unwrap();
    let of_node = Path::new("/proc/self/ns/net");
    let processes = [
        (30, UID, 300, own.path()),
        (20, UID, 200, of_node),
        (10, UID, 400, nested.path()),
        (40, "ffffffff-1f2b-4c5d-8e9f-a0b1c2d3e4f5", 1, nested.path()),
    ];
    table(dir.path(), &processes);
    let finder = || Finder::new(node.id(), Some(dir.path().to_owned()), None);
    let place = finder().find(&spec(None, &["10.9.0.5"])).await.unwrap();
    let place = place.unwrap();
    assert_eq!(place.ns.id(), own.ns().id());
    assert_eq!(place.path, dir.path().join("30/ns/net"));
    // The address decides, not the age alone.
    let place = finder().find(&spec(None, &["10.9.0.6"])).await.unwrap();
    assert_eq!(place.unwrap().ns.id(), nested.ns().id());
    for ips in [&["10.9.0.7"][..], &[]] {
        let unnamed = finder().find(&spec(None, ips)).await;
        assert!(matches!(unnamed, Err(FindError::Unnamed)), "{unnamed:?}");
    }
}

#[tokio::test]
async fn a_named_path_comes_first_and_is_looked_up_where_it_is_mounted() {
    if !require_privilege("named namespaces") {
        return;
    }
    let (named, other) = (with_address("10.9.1.5/32").await, pod_namespace().await);
    let node = NetNs::current().unwrap();
    let directory = named.path().parent().unwrap().to_owned();
    let on_node = Path::new("/no/such/directory").join(named.path().file_name().unwrap());
    let finder = Finder::new(node.id(), None, Some(directory.clone()));
    let place = finder.find(&spec(Some(&on_node), &[])).await.unwrap();
    assert_eq!(place.unwrap().ns.id(), named.ns().id());

    // What was named is gone: a process still tells, and without one nobody does.
    let dir = tempfile::tempdir().unwrap();
    table(dir.path(), &[(5, UID, 1, named.path())]);
    let gone = spec(Some(Path::new("/no/such/directory/x")), &["10.9.1.5"]);
    let finder = Finder::new(node.id(), Some(dir.path().to_owned()), Some(directory));
    assert!(finder.find(&gone).await.unwrap().is_some());
    let finder = Finder::new(node.id(), None, None);
    assert!(finder.find(&gone).await.unwrap().is_none());
    let of_node = spec(Some(Path::new("/proc/self/ns/net")), &[]);
    let refused = finder.find(&of_node).await;
    assert!(matches!(refused, Err(FindError::HostNamespace)));
    drop(other);
}
