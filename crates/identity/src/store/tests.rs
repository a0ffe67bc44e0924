use std::collections::VecDeque;
use std::time::SystemTime;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;
use tokio::time::{advance, sleep};

use super::book::{CONCURRENT, MAX_PREFETCH, RENEWAL_JITTER};
use super::*;
use crate::signer::SignError;
use crate::testing::{Authority, DAY, Leaf, authority, id};

/// The wall clock of a test: it follows tokio's paused clock.
#[derive(Clone, Copy)]
struct TestClock {
    wall: SystemTime,
    start: Instant,
}

impl TestClock {
    fn new() -> Self {
        Self {
            wall: SystemTime::now(),
            start: Instant::now(),
        }
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        self.wall + self.start.elapsed()
    }
}

/// A CA that does as it is told and keeps count.
struct ScriptedCa {
    authority: Arc<Authority>,
    clock: TestClock,
    script: Mutex<Script>,
    /// Each answer costs one permit.
    may_answer: Semaphore,
}

#[derive(Default)]
struct Script {
    asked: Vec<SpiffeId>,
    /// When, counted from the beginning.
    at: Vec<Duration>,
    answers: VecDeque<Reply>,
    running: usize,
    most: usize,
}

#[derive(Clone, Copy)]
enum Reply {
    Refuse,
    Hang,
    Panic,
    Expired,
    For(Duration),
}

#[async_trait]
impl SvidSource for ScriptedCa {
    async fn fetch(&self, id: &SpiffeId, ttl: Duration) -> Result<Svid, FetchError> {
        let reply = {
            let mut script = self.script.lock();
            script.asked.push(id.clone());
            script.at.push(self.clock.start.elapsed());
            script.running += 1;
            script.most = script.most.max(script.running);
            script.answers.pop_front().unwrap_or(Reply::For(ttl))
        };
        self.may_answer.acquire().await.unwrap().forget();
        self.script.lock().running -= 1;
        let now = self.clock.now();
        let life = match reply {
            Reply::Refuse => {
                return Err(FetchError::Sign(SignError::Unreachable {
                    detail: "connection refused".to_owned(),
                }));
            }
            Reply::Hang => std::future::pending().await,
            Reply::Panic => panic!("a bug in the CA client"),
            Reply::Expired => Duration::ZERO,
            Reply::For(life) => life,
        };
        let leaf = Leaf {
            from: now,
            until: now + life - Duration::from_secs(u64::from(life.is_zero()) * 10),
            ..Leaf::of(id)
        };
        Ok(self.authority.svid_of(id, &leaf, TlsOptions::default()))
    }
}

struct Setup {
    ca: Arc<ScriptedCa>,
    store: CertStore,
    _scope: Scope,
}

fn setup_with(answers: impl IntoIterator<Item = Reply>, permits: usize) -> Setup {
    let clock = TestClock::new();
    let ca = Arc::new(ScriptedCa {
        authority: authority(),
        clock,
        script: Mutex::new(Script {
            answers: answers.into_iter().collect(),
            ..Script::default()
        }),
        may_answer: Semaphore::new(permits),
    });
    let scope = Scope::new("test");
    let source = Arc::clone(&ca) as Arc<dyn SvidSource>;
    let store = CertStore::with_source(source, CertStoreConfig::default(), Arc::new(clock), &scope);
    Setup {
        ca,
        store,
        _scope: scope,
    }
}

fn setup(answers: impl IntoIterator<Item = Reply>) -> Setup {
    setup_with(answers, Semaphore::MAX_PERMITS)
}

impl Setup {
    fn asked(&self) -> usize {
        self.ca.script.lock().asked.len()
    }

    fn state(&self) -> String {
        self.store.dump()[0].state.clone()
    }
}

/// Lets everything run that can run without time going on.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_one_fetch_and_one_certificate() {
    let setup = setup([]);
    let web = id("web");
    let (a, b, c) = tokio::join!(
        setup.store.svid(&web),
        setup.store.svid(&web),
        setup.store.svid(&web)
    );
    let a = a.unwrap();
    assert!(Arc::ptr_eq(&a, &b.unwrap()) && Arc::ptr_eq(&a, &c.unwrap()));
    assert!(Arc::ptr_eq(&a, &setup.store.svid(&web).await.unwrap()));
    assert_eq!(setup.asked(), 1);
    setup.store.svid(&id("cart")).await.unwrap();
    assert_eq!(setup.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_prefetched_certificate_is_there_when_asked_for() {
    let setup = setup([]);
    setup.store.prefetch(&id("web"));
    setup.store.prefetch(&id("web"));
    settle().await;
    assert_eq!(setup.asked(), 1);
    setup.store.svid(&id("web")).await.unwrap();
    assert_eq!(setup.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn few_fetches_run_at_a_time_and_connections_go_first() {
    let setup = setup_with([], 0);
    for n in 0..CONCURRENT + 3 {
        setup.store.prefetch(&id(&format!("warm{n}")));
    }
    settle().await;
    assert_eq!(setup.asked(), CONCURRENT);
    let urgent = [id("urgent"), id(&format!("warm{}", CONCURRENT + 2))];
    let waiting = urgent.clone().map(|id| {
        let store = setup.store.clone();
        async move { store.svid(&id).await }
    });
    let [first, second] = waiting;
    let release = async {
        settle().await;
        assert_eq!(setup.asked(), CONCURRENT, "no more than allowed");
        setup.ca.may_answer.add_permits(1);
        settle().await;
        setup.ca.may_answer.add_permits(1);
        settle().await;
        let next = setup.ca.script.lock().asked[CONCURRENT..].to_vec();
        // Ties go by age: the prefetch had waited longer, and a caller lifts it.
        assert_eq!(next, [urgent[1].clone(), urgent[0].clone()]);
        setup.ca.may_answer.add_permits(100);
    };
    let (first, second, ()) = tokio::join!(first, second, release);
    first.unwrap();
    second.unwrap();
    settle().await;
    assert_eq!(setup.asked(), CONCURRENT + 4);
    assert_eq!(setup.ca.script.lock().most, CONCURRENT);
}

#[tokio::test(start_paused = true)]
async fn prefetches_that_wait_are_bounded() {
    let setup = setup_with([], 0);
    for n in 0..2 * MAX_PREFETCH {
        setup.store.prefetch(&id(&format!("w{n}")));
    }
    assert_eq!(setup.store.dump().len(), MAX_PREFETCH);
    // What was dropped is fetched when somebody asks.
    setup.ca.may_answer.add_permits(Semaphore::MAX_PERMITS / 2);
    let last = id(&format!("w{}", 2 * MAX_PREFETCH - 1));
    setup.store.svid(&last).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn renewal_is_at_half_life_give_or_take_the_jitter() {
    let mut moments = Vec::new();
    for _ in 0..8 {
        let setup = setup([]);
        let first = setup.store.svid(&id("web")).await.unwrap();
        sleep(DAY.mul_f64(0.5 + RENEWAL_JITTER) + Duration::from_secs(1)).await;
        settle().await;
        assert_eq!(setup.asked(), 2);
        let at = setup.ca.script.lock().at[1];
        // Certificates count in whole seconds.
        let earliest = DAY.mul_f64(0.5 - RENEWAL_JITTER) - Duration::from_secs(1);
        assert!(at >= earliest, "{at:?}");
        moments.push(at);
        let second = setup.store.svid(&id("web")).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(second.not_after() > first.not_after());
    }
    moments.sort();
    moments.dedup();
    assert!(moments.len() > 1, "certificates would stay in step");
}

#[tokio::test(start_paused = true)]
async fn a_short_certificate_is_not_renewed_without_end() {
    let setup = setup(std::iter::repeat_n(
        Reply::For(Duration::from_secs(1)),
        1000,
    ));
    setup.store.svid(&id("web")).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    assert!(setup.asked() <= 22, "{}", setup.asked());
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_a_success_forgets_them() {
    let mut answers = vec![Reply::Refuse; 10];
    answers.push(Reply::For(Duration::from_secs(2000)));
    answers.extend([Reply::Refuse; 2]);
    let setup = setup(answers);
    setup.store.prefetch(&id("web"));
    sleep(Duration::from_secs(900)).await;
    let at = setup.ca.script.lock().at.clone();
    let waits: Vec<f64> = at.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
    let mut base = 1.0;
    for wait in &waits[..10] {
        // A millisecond for the granularity of the timer.
        assert!(*wait >= base * 0.8 - 0.002, "{waits:?}");
        assert!(*wait <= f64::min(base * 1.2, 150.0) + 0.002, "{waits:?}");
        base = f64::min(base * 2.0, 150.0);
    }
    assert_eq!(at.len(), 11);
    // Renewal fails twice: the waits begin small again.
    sleep(Duration::from_secs(1200)).await;
    let at = setup.ca.script.lock().at.clone();
    let again = (at[12] - at[11]).as_secs_f64();
    assert!((0.79..=1.21).contains(&again), "{again}");
}

#[tokio::test(start_paused = true)]
async fn without_a_ca_a_certificate_is_used_to_its_end_and_then_refused_by_name() {
    let mut answers = vec![Reply::For(DAY)];
    answers.extend([Reply::Refuse; 2000]);
    let setup = setup(answers);
    let web = id("web");
    let first = setup.store.svid(&web).await.unwrap();
    sleep(DAY - Duration::from_secs(2)).await;
    assert!(setup.asked() > 100, "renewal was tried all along");
    let last = setup.store.svid(&web).await.unwrap();
    assert!(Arc::ptr_eq(&first, &last));
    assert_eq!(setup.state(), "Available");

    sleep(Duration::from_secs(10)).await;
    let before = Instant::now();
    let refused = setup.store.svid(&web).await.unwrap_err();
    assert_eq!(before.elapsed(), Duration::ZERO, "refused at once");
    assert_eq!(refused.reason(), FlowReason::CertificateUnavailable);
    let text = refused.to_string();
    assert!(
        text.contains(&web.to_string()) && text.contains("connection refused"),
        "{text}"
    );
    assert!(
        setup.state().starts_with("Unavailable: "),
        "{}",
        setup.state()
    );

    // The CA is back: the next retry succeeds without anybody asking.
    setup.ca.script.lock().answers.clear();
    sleep(Duration::from_secs(200)).await;
    assert_eq!(setup.state(), "Available");
    setup.store.svid(&web).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_certificate_is_tried_to_be_met() {
    let mut answers = vec![Reply::For(Duration::from_secs(100))];
    // Fails from half-life on, until the last moment.
    answers.extend([Reply::Refuse; 6]);
    let setup = setup(answers);
    setup.store.svid(&id("web")).await.unwrap();
    sleep(Duration::from_secs(105)).await;
    let at = setup.ca.script.lock().at.clone();
    let near_end = at.iter().filter(|at| at.as_secs_f64() >= 99.0).count();
    assert!(near_end >= 1, "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_for_a_retry_that_is_near() {
    let setup = setup([Reply::Refuse]);
    let web = id("web");
    let error = setup.store.svid(&web).await.unwrap_err();
    assert_eq!(error.reason(), FlowReason::CertificateUnavailable);
    // The CA didn't know the pod yet: a second later it does.
    setup.store.svid(&web).await.unwrap();
    assert_eq!(setup.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_never_waits_longer_than_the_bound() {
    let setup = setup_with([], 0);
    let before = Instant::now();
    let error = setup.store.svid(&id("web")).await.unwrap_err();
    assert!(matches!(error, CertError::Timeout { .. }), "{error}");
    assert_eq!(error.reason(), FlowReason::CertificateTimeout);
    assert_eq!(before.elapsed(), CertStoreConfig::default().wait);
    assert_eq!(setup.state(), "Initializing");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_or_panics_is_a_failure() {
    let setup = setup([Reply::Hang, Reply::Panic, Reply::Expired]);
    setup.store.prefetch(&id("web"));
    sleep(Duration::from_millis(30_100)).await;
    assert_eq!(setup.state(), "Unavailable: no certificate within 30s");
    advance(Duration::from_millis(1300)).await;
    settle().await;
    assert_eq!(
        setup.state(),
        "Unavailable: the source of certificates panicked"
    );
    advance(Duration::from_millis(2500)).await;
    settle().await;
    assert_eq!(
        setup.state(),
        "Unavailable: the certificate that came has expired already"
    );
    advance(Duration::from_secs(5)).await;
    settle().await;
    assert_eq!(setup.state(), "Available");
}

#[tokio::test(start_paused = true)]
async fn forgetting_tells_who_waits_and_drops_what_comes_late() {
    let setup = setup_with([], 0);
    let web = id("web");
    let forget = async {
        settle().await;
        setup.store.forget(&web);
    };
    let (waited, ()) = tokio::join!(setup.store.svid(&web), forget);
    assert!(matches!(waited, Err(CertError::Forgotten { .. })));
    assert!(setup.store.dump().is_empty());
    // The same identity comes back while the old fetch is still on its way.
    setup.store.prefetch(&web);
    settle().await;
    assert_eq!(setup.asked(), 2);
    setup.ca.may_answer.add_permits(1);
    settle().await;
    assert_eq!(setup.state(), "Initializing");
    setup.ca.may_answer.add_permits(1);
    settle().await;
    assert_eq!(setup.state(), "Available");
    // Nothing renews what is forgotten.
    setup.store.forget(&web);
    sleep(2 * DAY).await;
    assert_eq!(setup.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_signer_is_asked_with_a_request_and_its_answer_becomes_an_svid() {
    let scope = Scope::new("test");
    let store = CertStore::new(authority(), DAY, &scope);
    let svid = store.svid(&id("web")).await.unwrap();
    assert_eq!(svid.id(), &id("web"));
}

#[tokio::test(start_paused = true)]
async fn the_dump_has_the_contracts_shape() {
    let setup = setup([]);
    setup.store.svid(&id("web")).await.unwrap();
    setup.store.svid(&id("cart")).await.unwrap();
    let dump = serde_json::to_value(setup.store.dump()).unwrap();
    assert_eq!(
        dump[0]["identity"],
        "spiffe://cluster.local/ns/shop/sa/cart"
    );
    assert_eq!(dump[1]["identity"], "spiffe://cluster.local/ns/shop/sa/web");
    let web = dump[1].as_object().unwrap();
    let keys: Vec<_> = web.keys().map(String::as_str).collect();
    assert_eq!(keys, ["certChain", "identity", "rootCerts", "state"]);
    assert_eq!(web["state"], "Available");
    assert_eq!(web["certChain"].as_array().unwrap().len(), 2);
    assert_eq!(web["rootCerts"].as_array().unwrap().len(), 1);
    let leaf = web["certChain"][0].as_object().unwrap();
    let keys: Vec<_> = leaf.keys().map(String::as_str).collect();
    assert_eq!(keys, ["expirationTime", "pem", "serialNumber", "validFrom"]);
    let text = |key: &str| leaf[key].as_str().unwrap();
    let pem = STANDARD.decode(text("pem")).unwrap();
    assert!(pem.starts_with(b"-----BEGIN CERTIFICATE-----\n"));
    assert!(pem.ends_with(b"-----END CERTIFICATE-----\n"));
    let (_, parsed) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let parsed = parsed.parse_x509().unwrap();
    assert_eq!(text("serialNumber"), parsed.serial.to_string());
    assert!(text("serialNumber").bytes().all(|b| b.is_ascii_digit()));
    for key in ["validFrom", "expirationTime"] {
        assert!(
            text(key).ends_with('Z') && text(key).len() == 20,
            "{leaf:?}"
        );
        assert!(humantime::parse_rfc3339(text(key)).is_ok());
    }
}
