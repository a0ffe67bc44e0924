use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;

/// Proxies that only remember what was asked of them.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    events: Vec<String>,
    failing: HashSet<String>,
    uncertified: bool,
}

impl Proxies for Recorded {
    type Ns = u64;
    type Running = u64;

    fn ns_id(ns: &u64) -> NsId {
        NsId { dev: 1, ino: *ns }
    }

    async fn start(
        &mut self,
        pod: &Pod<u64>,
        wait: CertificateWait,
    ) -> Result<Started<u64>, StartError> {
        let mut log = self.0.lock();
        if log.failing.contains(&pod.uid) {
            return Err(StartError::Thread(0));
        }
        let wait = if wait == CertificateWait::No {
            " unwaited"
        } else {
            ""
        };
        log.events
            .push(format!("start {}@{}{wait}", pod.uid, pod.ns));
        Ok(Started {
            running: pod.ns,
            certified: !log.uncertified,
        })
    }

    fn stop(&mut self, pod: &Pod<u64>, running: u64) {
        self.0
            .lock()
            .events
            .push(format!("stop {}@{running}", pod.uid));
    }
}

impl Recorded {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().events)
    }
}

fn pod(uid: &str, ns: u64) -> Pod<u64> {
    let info = WorkloadInfo {
        name: uid.to_owned(),
        namespace: "shop".to_owned(),
        service_account: "sa".to_owned(),
    };
    Pod {
        uid: uid.to_owned(),
        info,
        ns,
    }
}

fn enrolment() -> (Enrolment<Recorded>, Recorded) {
    let proxies = Recorded::default();
    (Enrolment::new(proxies.clone(), Board::default()), proxies)
}

#[tokio::test]
async fn the_same_pod_in_the_same_namespace_changes_nothing() {
    let (mut e, log) = enrolment();
    e.on_connected();
    e.on_add(pod("a", 1)).await.unwrap();
    assert_eq!(log.take(), ["start a@1"]);
    let mut renamed = pod("a", 1);
    renamed.info.name = "other".to_owned();
    e.on_add(renamed).await.unwrap();
    assert!(log.take().is_empty());
}

#[tokio::test]
async fn another_namespace_replaces_the_proxy() {
    let (mut e, log) = enrolment();
    e.on_connected();
    e.on_add(pod("a", 1)).await.unwrap();
    e.on_snapshot_sent();
    e.on_add(pod("a", 2)).await.unwrap();
    assert_eq!(log.take(), ["start a@1", "stop a@1", "start a@2"]);
}

#[tokio::test]
async fn a_failed_start_is_refused_kept_and_retried() {
    let (mut e, log) = enrolment();
    e.on_connected();
    log.0.lock().failing.insert("a".to_owned());
    assert!(e.on_add(pod("a", 1)).await.is_err());
    e.on_snapshot_sent();
    assert!(!e.is_ready());
    e.retry_pending().await;
    assert!(!e.is_ready());
    log.0.lock().failing.clear();
    e.retry_pending().await;
    assert!(e.is_ready());
    assert_eq!(log.take(), ["start a@1"]);
}

#[tokio::test]
async fn a_pending_pod_that_is_deleted_is_not_retried() {
    for before_snapshot_ends in [true, false] {
        let (mut e, log) = enrolment();
        e.on_connected();
        log.0.lock().failing.insert("a".to_owned());
        assert!(e.on_add(pod("a", 1)).await.is_err());
        if !before_snapshot_ends {
            e.on_snapshot_sent();
        }
        e.on_del("a");
        if before_snapshot_ends {
            e.on_snapshot_sent();
        }
        assert!(e.is_ready());
        log.0.lock().failing.clear();
        e.retry_pending().await;
        assert!(log.take().is_empty());
    }
}

#[tokio::test]
async fn a_delete_before_the_snapshot_ends_takes_effect_with_it() {
    let (mut e, log) = enrolment();
    e.on_connected();
    e.on_add(pod("a", 1)).await.unwrap();
    e.on_del("a");
    assert_eq!(log.take(), ["start a@1"]);
    e.on_snapshot_sent();
    assert_eq!(log.take(), ["stop a@1"]);
}

#[tokio::test]
async fn add_delete_add_starts_twice() {
    let (mut e, log) = enrolment();
    e.on_connected();
    e.on_snapshot_sent();
    e.on_add(pod("a", 1)).await.unwrap();
    e.on_del("a");
    e.on_add(pod("a", 1)).await.unwrap();
    assert_eq!(log.take(), ["start a@1", "stop a@1", "start a@1"]);
}

#[tokio::test]
async fn a_lost_agent_keeps_proxies_and_its_next_snapshot_reconciles_them() {
    let (mut e, log) = enrolment();
    e.on_connected();
    for (uid, ns) in [("a", 1), ("b", 2), ("c", 3)] {
        e.on_add(pod(uid, ns)).await.unwrap();
    }
    e.on_snapshot_sent();
    assert!(e.is_ready());
    log.take();
    e.on_disconnected();
    assert!(!e.is_ready());
    assert!(log.take().is_empty());
    e.on_connected();
    e.on_keep("a".to_owned());
    e.on_add(pod("b", 2)).await.unwrap();
    assert!(!e.is_ready());
    e.on_snapshot_sent();
    assert_eq!(log.take(), ["stop c@3"]);
    assert!(e.is_ready());
}

#[tokio::test]
async fn keeping_an_unknown_pod_is_harmless() {
    let (mut e, log) = enrolment();
    e.on_connected();
    e.on_keep("ghost".to_owned());
    e.on_snapshot_sent();
    assert!(e.is_ready());
    e.on_del("ghost");
    assert!(log.take().is_empty());
}

#[tokio::test]
async fn a_ca_that_is_away_delays_a_snapshot_once() {
    let (mut e, log) = enrolment();
    e.on_connected();
    log.0.lock().uncertified = true;
    e.on_add(pod("a", 1)).await.unwrap();
    e.on_add(pod("b", 2)).await.unwrap();
    e.on_snapshot_sent();
    e.on_add(pod("c", 3)).await.unwrap();
    assert_eq!(log.take(), ["start a@1", "start b@2 unwaited", "start c@3"]);
}

#[tokio::test]
async fn the_board_follows() {
    let proxies = Recorded::default();
    let board = Board::default();
    let mut e = Enrolment::new(proxies.clone(), board.clone());
    e.on_connected();
    proxies.0.lock().failing.insert("b".to_owned());
    e.on_add(pod("a", 1)).await.unwrap();
    assert!(e.on_add(pod("b", 2)).await.is_err());
    assert_eq!(
        board.counts(),
        board::Counts {
            active: 1,
            pending: 1,
            started: 1,
            stopped: 0
        }
    );
    e.on_snapshot_sent();
    e.on_del("a");
    e.on_del("b");
    assert_eq!(
        board.counts(),
        board::Counts {
            active: 0,
            pending: 0,
            started: 1,
            stopped: 1
        }
    );
}
