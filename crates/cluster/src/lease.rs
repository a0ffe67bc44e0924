//! Leader election by `Lease` (`control-plane-contract` 8.1): one writer among replicas.
//!
//! Owns who leads. Other clocks are never believed: a holder counts as gone when its record has not changed for its
//! term by *our* monotonic clock. A leader that can't renew stops being one at the renew deadline, which lies before
//! the end of its term, so that two never lead at once; work that runs under a [`Leadership`] is dropped at that
//! moment. Serving xDS, issuing certificates and readiness are not led by anybody.

use std::future::Future;
use std::time::{Duration, SystemTime};

use ambit_runtime::{CancellationToken, Scope, sleep_maybe};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

mod candidate;

use candidate::{Candidate, Step};

/// The leases of upstream, by what they guard; the names matter where both run in one cluster.
pub mod name {
    /// Guards conditions of the mesh's own kinds.
    pub const STATUS: &str = "istio-status-leader";
    /// Guards the addresses of ServiceEntries.
    pub const ALLOCATION: &str = "istio-ip-autoallocate";
    /// Guards the root ConfigMaps.
    pub const NAMESPACES: &str = "istio-namespace-controller-election";

    /// Guards statuses of Gateways and routes of one revision.
    pub fn gateway_status(revision: &str) -> String {
        format!("istio-gateway-status-leader-{}", super::revision(revision))
    }

    /// Guards what runs for the Gateways of one revision.
    pub fn gateway_deployment(revision: &str) -> String {
        format!("istio-gateway-deployment-{}", super::revision(revision))
    }
}

/// A control plane without a revision is the default one.
fn revision(revision: &str) -> &str {
    if revision.is_empty() {
        "default"
    } else {
        revision
    }
}

/// What is competed for, and by whom.
#[derive(Debug, Clone)]
pub struct Lock {
    /// Where the Lease is.
    pub namespace: String,
    /// Its name: see [`name`].
    pub name: String,
    /// Who we are, different for each replica: the pod's name.
    pub identity: String,
}

/// How long things take in an election.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Others wait this long after the last renewal.
    pub term: Duration,
    /// A leader gives up this long after the last renewal; shorter than `term`.
    pub renew_deadline: Duration,
    /// Between two looks at the Lease.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            term: Duration::from_secs(30),
            renew_deadline: Duration::from_secs(15),
            retry: Duration::from_millis(7500),
        }
    }
}

/// Whether we lead. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Led>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Led {
    /// By somebody else, or by nobody.
    No,
    /// By us, up to then unless it is renewed.
    Until(Instant),
    /// There is no election.
    Always,
}

impl Led {
    fn holds(self) -> bool {
        match self {
            Self::No => false,
            Self::Until(end) => Instant::now() < end,
            Self::Always => true,
        }
    }
}

/// Takes part in an election until `stop`, then gives the Lease back if it holds it. The scope must not be cancelled
/// with `stop`, or there is no time to give it back: [`RELEASE`] bounds that.
pub fn elect(
    client: &Client,
    lock: Lock,
    timing: Timing,
    scope: &Scope,
    stop: CancellationToken,
) -> Leadership {
    let (told, leadership) = watch::channel(Led::No);
    let election = Election {
        leases: Api::namespaced(client.clone(), &lock.namespace),
        candidate: Candidate::new(lock.identity.clone()),
        lock,
        timing,
        told,
        complaint: None,
    };
    scope.spawn("election", election.run(stop));
    Leadership(leadership)
}

impl Leadership {
    /// Leads without an election, for whoever is alone.
    pub fn always() -> Self {
        Self(watch::channel(Led::Always).1)
    }

    /// Whether we lead now. Ask before each write that can't be undone.
    pub fn holds(&self) -> bool {
        self.0.borrow().holds()
    }

    /// Does `work` whenever we lead, from its start each time we begin to; what it waits for is dropped as soon as we
    /// don't lead any more. Ends with the election.
    pub async fn lead<W, F>(mut self, mut work: W)
    where
        W: FnMut() -> F,
        F: Future<Output = ()>,
    {
        while self.gained().await.is_some() {
            let mut led = self.clone();
            tokio::select! {
                // First, so that work which is always ready can't outrun it.
                biased;
                () = led.lost() => {}
                () = work() => self.lost().await,
            }
        }
    }

    /// Waits until we lead; none when the election has ended.
    async fn gained(&mut self) -> Option<()> {
        self.0.wait_for(|led| led.holds()).await.ok().map(drop)
    }

    async fn lost(&mut self) {
        loop {
            let led = *self.0.borrow_and_update();
            let end = match led {
                Led::Until(end) if led.holds() => Some(end),
                Led::Always => None,
                Led::No | Led::Until(_) => return,
            };
            tokio::select! {
                changed = self.0.changed() => if changed.is_err() && led != Led::Always {
                    return;
                } else if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = sleep_maybe(end) => {}
            }
        }
    }
}

struct Election {
    leases: Api<Lease>,
    lock: Lock,
    timing: Timing,
    candidate: Candidate,
    told: watch::Sender<Led>,
    /// What went wrong last, so that it is said once.
    complaint: Option<String>,
}

impl Election {
    async fn run(mut self, stop: CancellationToken) {
        while let Some(()) = stop.run_until_cancelled(self.round()).await {}
        self.release().await;
    }

    /// One look at the Lease, and the wait after it.
    async fn round(&mut self) {
        let began = Instant::now();
        let led = *self.told.borrow();
        // A leader has no use for an answer that comes after its end.
        let patience = match led {
            Led::Until(end) if end > began => end.saturating_duration_since(began),
            _ => self.timing.renew_deadline,
        };
        let tried = timeout(patience, self.attempt()).await;
        match tried {
            Ok(Ok(true)) => {
                self.complaint = None;
                // By the time of asking: the record may have been written right then.
                self.tell(Led::Until(began + self.timing.renew_deadline));
            }
            Ok(Ok(false)) => {
                self.complaint = None;
                self.tell(Led::No);
            }
            Ok(Err(error)) => self.complain(&error.to_string()),
            Err(_) => self.complain("no answer"),
        }
        let led = *self.told.borrow();
        if !led.holds() {
            self.tell(Led::No);
        }
        // Who may lose it asks again soon.
        let failing = self.complaint.is_some() && led.holds();
        let wait = self.timing.retry / if failing { 4 } else { 1 };
        sleep_until((began + wait).max(Instant::now() + self.timing.retry / 8)).await;
    }

    /// Whether we hold the Lease.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        // Twice: the second time after finding out what is there.
        for _ in 0..2 {
            if !self.candidate.knows() {
                let found = self.leases.get_opt(&self.lock.name).await?;
                self.candidate.observe(found, Instant::now());
            }
            let written = match self.candidate.step(Instant::now(), self.timing.term) {
                Step::Wait => {
                    self.candidate.forget();
                    return Ok(false);
                }
                Step::Create(spec) => self.create(spec).await,
                Step::Write(spec, version) => self.write(spec, version).await,
            };
            match written {
                Ok(lease) => {
                    self.candidate.wrote(lease);
                    return Ok(true);
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    debug!(lease = self.lock.name, "the lease was changed by another");
                    self.candidate.forget();
                }
                Err(error) => {
                    // It may have been written all the same.
                    self.candidate.forget();
                    return Err(error);
                }
            }
        }
        Ok(false)
    }

    async fn create(&self, spec: LeaseSpec) -> Result<Lease, kube::Error> {
        let lease = self.lease(spec, None);
        self.leases.create(&PostParams::default(), &lease).await
    }

    async fn write(&self, spec: LeaseSpec, version: String) -> Result<Lease, kube::Error> {
        let lease = self.lease(spec, Some(version));
        let params = PostParams::default();
        self.leases.replace(&self.lock.name, &params, &lease).await
    }

    fn lease(&self, spec: LeaseSpec, version: Option<String>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.lock.name.clone()),
                namespace: Some(self.lock.namespace.clone()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(spec),
        }
    }

    /// So that the next leader needn't wait for the end of our term.
    async fn release(&mut self) {
        let led = self.told.send_replace(Led::No);
        if led == Led::No {
            return;
        }
        let freed = timeout(RELEASE, async {
            let found = self.leases.get_opt(&self.lock.name).await?;
            self.candidate.observe(found, Instant::now());
            match self.candidate.release() {
                Some((spec, version)) => self.write(spec, version).await.map(drop),
                None => Ok(()),
            }
        });
        match freed.await {
            Ok(Ok(())) => info!(lease = self.lock.name, "gave the lease back"),
            Ok(Err(error)) => {
                debug!(lease = self.lock.name, %error, "the lease wasn't given back; it runs out");
            }
            Err(_) => debug!(
                lease = self.lock.name,
                "the lease wasn't given back; it runs out"
            ),
        }
    }

    fn tell(&self, led: Led) {
        let before = self.told.send_replace(led);
        match (before, led) {
            (Led::No, Led::Until(_)) => info!(lease = self.lock.name, "leading"),
            (Led::Until(_), Led::No) => warn!(lease = self.lock.name, "not leading any more"),
            _ => {}
        }
    }

    fn complain(&mut self, complaint: &str) {
        if self.complaint.as_deref() != Some(complaint) {
            warn!(lease = self.lock.name, complaint, "the lease can't be kept");
            self.complaint = Some(complaint.to_owned());
        }
    }
}

fn now() -> MicroTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    MicroTime(Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX))
}

/// How long giving a Lease back may take.
pub const RELEASE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
