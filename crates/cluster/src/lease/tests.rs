use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_testkit::apiserver::{ApiServer, Trouble};
use serde_json::json;

use super::*;
use crate::scripted::{self, until};

const AT: &str = "/apis/coordination.k8s.io/v1/namespaces/istio-system/leases/istio-status-leader";

/// As in production, thirty times as fast.
const FAST: Timing = Timing {
    term: Duration::from_secs(1),
    renew_deadline: Duration::from_millis(500),
    retry: Duration::from_millis(100),
};

struct Replica {
    leadership: Leadership,
    scope: Scope,
    stop: CancellationToken,
}

impl Replica {
    fn new(api: &ApiServer, identity: &str) -> Self {
        let client = scripted::connect(api);
        let lock = Lock {
            namespace: "istio-system".to_owned(),
            name: name::STATUS.to_owned(),
            identity: identity.to_owned(),
        };
        let (scope, stop) = (Scope::new("replica"), CancellationToken::new());
        let leadership = elect(&client, lock, FAST, &scope, stop.clone());
        Self {
            leadership,
            scope,
            stop,
        }
    }

    async fn leads(&self) {
        until("it leads", || self.leadership.holds()).await;
    }

    async fn follows(&self) {
        until("it doesn't lead", || !self.leadership.holds()).await;
    }
}

fn holder(api: &ApiServer) -> Option<String> {
    let lease = api.get(AT)?;
    let holder = lease.pointer("/spec/holderIdentity")?;
    holder.as_str().map(ToOwned::to_owned)
}

#[tokio::test]
async fn one_leads_and_hands_over_when_it_goes() {
    let api = ApiServer::start().await.unwrap();
    let one = Replica::new(&api, "one");
    one.leads().await;
    let two = Replica::new(&api, "two");
    assert!(!two.leadership.holds());
    one.stop.cancel();
    one.scope.finish(Duration::from_secs(5)).await;
    assert!(!one.leadership.holds());
    two.leads().await;
    assert_eq!(holder(&api).as_deref(), Some("two"));
}

#[tokio::test]
async fn a_leader_that_died_is_followed_after_its_term() {
    let api = ApiServer::start().await.unwrap();
    let one = Replica::new(&api, "one");
    one.leads().await;
    let before = api.get(AT).unwrap();
    one.scope.cancel();
    let two = Replica::new(&api, "two");
    two.leads().await;
    let after = api.get(AT).unwrap();
    assert_eq!(before["spec"]["leaseTransitions"], json!(0));
    assert_eq!(after["spec"]["leaseTransitions"], json!(1));
    // Somebody has watched it unchanged for a whole term before taking it.
    let looks = api.served().into_iter();
    let looks = looks.filter(|served| served.verb == "GET").count();
    assert!(looks > 5, "{looks}");
}

#[tokio::test]
async fn a_stolen_lease_ends_the_work_and_is_not_fought_over() {
    let api = ApiServer::start().await.unwrap();
    let one = Replica::new(&api, "one");
    let (begun, running) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (Arc::clone(&begun), Arc::clone(&running));
    one.scope.spawn(
        "work",
        one.leadership.clone().lead(move || {
            let (begun, running) = counted.clone();
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                let _here = Running::new(running);
                std::future::pending::<()>().await;
            }
        }),
    );
    until("it works", || running.load(Ordering::SeqCst) == 1).await;
    let mut lease = api.get(AT).unwrap();
    lease["spec"]["holderIdentity"] = json!("thief");
    api.put(AT, lease);
    one.follows().await;
    until("its work is dropped", || {
        running.load(Ordering::SeqCst) == 0
    })
    .await;
    assert_eq!(holder(&api).as_deref(), Some("thief"));
    // The thief never renews.
    one.leads().await;
    until("it works again", || running.load(Ordering::SeqCst) == 1).await;
    assert_eq!(begun.load(Ordering::SeqCst), 2);
}

struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn who_cannot_renew_stops_before_another_may_start() {
    let api = ApiServer::start().await.unwrap();
    let one = Replica::new(&api, "one");
    one.leads().await;
    // Silence, not refusals: the deadline has to be its own.
    api.trouble(|_, _| Some(Trouble::Delay(Duration::from_secs(60))));
    one.follows().await;
    api.calm();
    one.leads().await;
    assert_eq!(holder(&api).as_deref(), Some("one"));
}

#[tokio::test]
async fn answers_that_are_lost_and_conflicts_do_no_harm() {
    let api = ApiServer::start().await.unwrap();
    let mut count = 0;
    api.trouble(move |verb, _| {
        count += 1;
        let trouble = match count % 3 {
            0 => Trouble::Refuse(409),
            1 => Trouble::LoseAnswer(500),
            _ => return None,
        };
        (verb != "GET").then_some(trouble)
    });
    let one = Replica::new(&api, "one");
    one.leads().await;
    let led = api.served().len();
    until("it goes on", || api.served().len() > led + 12).await;
    assert_eq!(holder(&api).as_deref(), Some("one"));
}

#[tokio::test]
async fn work_that_ends_by_itself_waits_for_the_next_term() {
    let leadership = Leadership::always();
    assert!(leadership.holds());
    let mut count = 0;
    let done = leadership.lead(|| {
        count += 1;
        async {}
    });
    assert!(timeout(Duration::from_millis(50), done).await.is_err());
    assert_eq!(count, 1);
}

/// Whoever's clock is wrong: only whether the record changes counts.
#[test]
fn wall_clocks_are_not_believed() {
    let base = Instant::now();
    let term = Duration::from_secs(30);
    let lease = |renewed: &str| Lease {
        spec: Some(
            serde_json::from_value(json!({
                "holderIdentity": "other", "leaseDurationSeconds": 30, "renewTime": renewed,
            }))
            .unwrap(),
        ),
        ..Lease::default()
    };
    let long_ago = lease("2001-01-01T00:00:00.000000Z");
    let mut candidate = Candidate::new("me".to_owned());
    candidate.observe(Some(long_ago.clone()), base);
    assert_eq!(candidate.step(base, term), Step::Wait);
    candidate.observe(Some(long_ago.clone()), base + term / 2);
    assert_eq!(candidate.step(base + term * 9 / 10, term), Step::Wait);
    // A renewal from the future is one renewal.
    let future = lease("2099-01-01T00:00:00.000000Z");
    candidate.observe(Some(future.clone()), base + term * 9 / 10);
    assert_eq!(candidate.step(base + term, term), Step::Wait);
    candidate.observe(Some(future), base + term * 2);
    let Step::Write(spec, _) = candidate.step(base + term * 2, term) else {
        panic!("it is taken");
    };
    assert_eq!(spec.holder_identity.as_deref(), Some("me"));
    assert_eq!(spec.lease_transitions, Some(1));
    candidate.observe(None, base + term * 2);
    assert!(matches!(candidate.step(base, term), Step::Create(_)));
}

#[test]
fn names_are_those_of_upstream() {
    assert_eq!(
        name::gateway_status(""),
        "istio-gateway-status-leader-default"
    );
    assert_eq!(
        name::gateway_deployment("canary"),
        "istio-gateway-deployment-canary"
    );
}
