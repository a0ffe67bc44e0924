//! One target set, shared by all threads: a backend's port, or a subset of it.
//!
//! Choosing and counting take no lock. Whatever changes who is healthy
//! (updates, ejections, sweeps) makes a new view under one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::Rng;

use crate::balance::Chooser;
use crate::breaker::{Gauges, Overflow, Permit, Resource};
use crate::budget::{Budget, BudgetRule};
use crate::host::{Host, HostState};
use crate::locality::admits;
use crate::model::{Algorithm, Endpoint, Health, Local, Resolution, Settings};
use crate::outlier::Outcome;
use crate::view::{Source, View};

/// One target set. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The cluster's clock counts from here.
    base: Instant,
    local: Arc<Local>,
    live: ArcSwap<Live>,
    view: ArcSwap<View>,
    gauges: Arc<Gauges>,
    hosts: Mutex<Hosts>,
}

/// What is replaced with the settings.
#[derive(Debug)]
struct Live {
    settings: Arc<Settings>,
    budget: Option<Arc<Budget>>,
}

/// Everything that is known, behind the lock.
#[derive(Debug, Default)]
struct Hosts {
    /// As they were last given.
    given: Vec<Arc<Endpoint>>,
    ready: Vec<Host>,
    draining: Vec<Host>,
    /// The first endpoints aren't warmed up: there are no others.
    filled: bool,
    swept_at: u64,
}

/// What a choice depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickContext<'a> {
    /// Of [`crate::HashPolicy`]; `None`: any.
    pub hash: Option<u64>,
    /// Uids of endpoints that have failed this request.
    pub avoid: &'a [Arc<str>],
    /// Prefer localities where none of those is (retryRemoteLocalities).
    pub other_locality: bool,
    /// Uid of the endpoint that the session is with.
    pub session: Option<&'a str>,
}

/// Why there is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// Flag UH.
    #[error("no healthy upstream")]
    NoHealthy,
    /// There is nothing to choose from: the address that the client dialled is
    /// the endpoint.
    #[error("the client's own destination is used")]
    Passthrough,
}

/// A chosen endpoint. Counts as an active request there until it is dropped.
#[derive(Debug)]
pub struct Pick {
    cluster: Cluster,
    host: Host,
    target: u16,
    probe: bool,
}

/// One endpoint as it stands.
#[derive(Debug, Clone)]
pub struct HostSnapshot {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// It may be chosen.
    pub healthy: bool,
    /// It is ejected.
    pub ejected: bool,
    /// How often it was ejected, decayed.
    pub ejections: u32,
    /// Requests under way.
    pub active: u32,
    /// Its place among the preferred groups; 0 is the first.
    pub group: usize,
}

/// A target set as it stands, for /explain and metrics.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// All endpoints but draining ones.
    pub hosts: Vec<HostSnapshot>,
    /// Share of requests of each group, in percent.
    pub group_percent: Vec<u32>,
    /// Too few are healthy: all are used.
    pub panic: bool,
    /// Connections, pending requests, requests, retries.
    pub gauges: [u32; 4],
    /// Refused by a breaker or a budget so far.
    pub overflows: u64,
}

impl Cluster {
    /// Without endpoints; the cluster's clock starts at `now`.
    #[must_use]
    pub fn new(settings: Settings, local: Arc<Local>, now: Instant) -> Self {
        Self(Arc::new(Shared {
            base: now,
            local,
            live: ArcSwap::from_pointee(Live::new(settings, None)),
            view: ArcSwap::default(),
            gauges: Arc::default(),
            hosts: Mutex::default(),
        }))
    }

    /// Replaces the settings; counts and ejections stay.
    pub fn configure(&self, settings: Settings, now: Instant) {
        let mut hosts = self.0.hosts.lock();
        let before = self.0.live.load();
        let live = Live::new(settings, Some(&before));
        self.0.live.store(Arc::new(live));
        if self.0.live.load().settings.policy.outlier.is_none() {
            hosts.ready.iter().for_each(|host| host.state.readmit());
        }
        let given = std::mem::take(&mut hosts.given);
        self.take(&mut hosts, given, self.millis(now));
        // Tables of other sizes aren't kept.
        self.rebuild(&hosts, &View::default());
    }

    /// Replaces the endpoints of the backend; those of the subset that serve
    /// the port are taken. What is counted survives by uid.
    pub fn update(&self, endpoints: &[Arc<Endpoint>], now: Instant) {
        let mut hosts = self.0.hosts.lock();
        self.take(&mut hosts, endpoints.to_vec(), self.millis(now));
        self.rebuild(&hosts, &self.0.view.load());
    }

    fn take(&self, hosts: &mut Hosts, given: Vec<Arc<Endpoint>>, now: u64) {
        let settings = self.settings();
        let mut known: HashMap<Arc<str>, Arc<HostState>> = hosts
            .ready
            .drain(..)
            .chain(hosts.draining.drain(..))
            .map(|host| (Arc::clone(&host.endpoint.uid), host.state))
            .collect();
        let added = if hosts.filled { now.max(1) } else { 0 };
        for endpoint in given.iter().filter(|e| self.is_member(&settings, e)) {
            let list = match endpoint.health {
                Health::Draining if settings.persistent_sessions => &mut hosts.draining,
                Health::NotReady if settings.publish_not_ready => &mut hosts.ready,
                Health::Ready => &mut hosts.ready,
                Health::Draining | Health::NotReady => continue,
            };
            let state = known
                .remove(&endpoint.uid)
                .unwrap_or_else(|| Arc::new(HostState::added(added)));
            list.push(Host {
                endpoint: Arc::clone(endpoint),
                state,
            });
        }
        hosts.filled |= !hosts.ready.is_empty();
        hosts.given = given;
    }

    fn is_member(&self, settings: &Settings, endpoint: &Endpoint) -> bool {
        endpoint.target(settings.port).is_some()
            && settings
                .subset
                .iter()
                .all(|(key, value)| endpoint.label(key) == Some(value))
            && admits(settings.topology.as_ref(), &self.0.local, endpoint)
    }

    fn rebuild(&self, hosts: &Hosts, before: &View) {
        let settings = self.settings();
        let view = View::new(&Source {
            settings: &settings,
            local: &self.0.local,
            hosts: &hosts.ready,
            draining: &hosts.draining,
            before,
        });
        self.0.view.store(Arc::new(view));
    }

    /// The sweep (5.5): readmits whose time is over, forgets old ejections.
    /// Call it about once a second; it does something once per interval.
    pub fn tick(&self, now: Instant) {
        let now = self.millis(now);
        let settings = self.settings();
        let Some(outlier) = settings.policy.outlier else {
            return;
        };
        let mut hosts = self.0.hosts.lock();
        if now < hosts.swept_at.saturating_add(to_millis(outlier.interval)) {
            return;
        }
        hosts.swept_at = now;
        let mut changed = false;
        for host in &hosts.ready {
            let state = &host.state;
            if !state.is_ejected() {
                state.decay();
                continue;
            }
            let lasts = to_millis(outlier.duration(state.ejections()));
            if now >= state.ejected_at().saturating_add(lasts) {
                state.readmit();
                changed = true;
            }
        }
        if changed {
            self.rebuild(&hosts, &self.0.view.load());
        }
    }

    /// Chooses an endpoint.
    ///
    /// # Errors
    /// There is none.
    pub fn pick<R: Rng + ?Sized>(
        &self,
        context: &PickContext<'_>,
        rng: &mut R,
        now: Instant,
    ) -> Result<Pick, PickError> {
        let live = self.0.live.load();
        let settings = &live.settings;
        let balancer = &settings.policy.balancer;
        if balancer.algorithm == Algorithm::Passthrough
            || settings.resolution == Resolution::Passthrough
        {
            return Err(PickError::Passthrough);
        }
        let now = self.millis(now);
        let view = self.0.view.load();
        let session = context
            .session
            .and_then(|uid| view.by_uid.get(uid))
            .filter(|host| !host.state.is_ejected() && host.state.is_open(now));
        for _ in 0..PROBE_RACES {
            let mut chooser = Chooser {
                balancer,
                context,
                now,
                warming: now < view.warm_until,
                rng,
            };
            let Some(host) = session.or_else(|| chooser.choose(&view)) else {
                break;
            };
            // Another thread may just have taken the probe's place.
            if let Some(target) = host.endpoint.target(settings.port)
                && let Some(probe) = host.state.admit(now)
            {
                host.state.enter();
                return Ok(Pick {
                    cluster: self.clone(),
                    host: host.clone(),
                    target,
                    probe,
                });
            }
        }
        Err(PickError::NoHealthy)
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.0.live.load().settings)
    }

    /// A place for a connection.
    ///
    /// # Errors
    /// There is none: wait as pending.
    pub fn try_connection(&self) -> Result<Permit, Overflow> {
        let most = self.0.live.load().settings.policy.pool.max_connections;
        self.0.gauges.acquire(Resource::Connection, most)
    }

    /// A place for a request that waits for a connection.
    ///
    /// # Errors
    /// There is none: 503, flag UO.
    pub fn try_pending(&self) -> Result<Permit, Overflow> {
        let most = self.0.live.load().settings.policy.pool.max_pending_requests;
        self.0.gauges.acquire(Resource::Pending, most)
    }

    /// A place for a request.
    ///
    /// # Errors
    /// There is none: 503, flag UO.
    pub fn try_request(&self) -> Result<Permit, Overflow> {
        let most = self.0.live.load().settings.policy.pool.max_requests;
        self.0.gauges.acquire(Resource::Request, most)
    }

    /// Tells the budget of a request's first attempt.
    pub fn on_first_request(&self, now: Instant) {
        if let Some(budget) = &self.0.live.load().budget {
            budget.request(self.millis(now));
        }
    }

    /// A place for a retry: the budget where there is one, else the breaker.
    ///
    /// # Errors
    /// There is none: the failure stands.
    pub fn try_retry(&self, now: Instant) -> Result<Permit, Overflow> {
        let live = self.0.live.load();
        let gauges = &self.0.gauges;
        let Some(budget) = &live.budget else {
            let most = live.settings.policy.pool.max_retries;
            return gauges.acquire(Resource::Retry, most);
        };
        let open = gauges.count(Resource::Request) + gauges.count(Resource::Pending);
        let retrying = gauges.count(Resource::Retry);
        if budget.retry(self.millis(now), open, retrying) {
            gauges.acquire(Resource::Retry, None)
        } else {
            Err(gauges.refuse(Resource::Retry))
        }
    }

    /// The set as it stands.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let now = self.millis(now);
        let view = self.0.view.load();
        let members = |(group, members): (usize, &Arc<[Host]>)| {
            members
                .iter()
                .map(|host| HostSnapshot {
                    endpoint: Arc::clone(&host.endpoint),
                    healthy: host.state.is_open(now) && (view.panic || !host.state.is_ejected()),
                    ejected: host.state.is_ejected(),
                    ejections: host.state.ejections(),
                    active: host.state.active(),
                    group,
                })
                .collect::<Vec<_>>()
        };
        let percent = |load: u64| {
            let share = (load * 100).checked_div(view.load).unwrap_or_default();
            u32::try_from(share).unwrap_or_default()
        };
        let gauges = &self.0.gauges;
        Snapshot {
            hosts: view
                .groups
                .iter()
                .map(|group| &group.members)
                .enumerate()
                .flat_map(members)
                .collect(),
            group_percent: view.groups.iter().map(|g| percent(g.load)).collect(),
            panic: view.panic,
            gauges: [
                gauges.count(Resource::Connection),
                gauges.count(Resource::Pending),
                gauges.count(Resource::Request),
                gauges.count(Resource::Retry),
            ],
            overflows: gauges.overflows(),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        to_millis(now.saturating_duration_since(self.0.base))
    }

    fn judge<R: Rng + ?Sized>(&self, host: &Host, outcome: Outcome, now: u64, rng: &mut R) {
        let live = self.0.live.load();
        let policy = &live.settings.policy;
        let state = &host.state;
        if let Some(accrual) = policy.accrual.filter(|_| outcome != Outcome::Unknown) {
            if !outcome.is_failure() {
                state.succeeded();
            } else if state.failed() >= accrual.consecutive_failures {
                let penalty = accrual.penalty(state.penalties(), rng);
                state.penalize(now.saturating_add(to_millis(penalty)));
            }
        }
        let Some(outlier) = policy.outlier else {
            return;
        };
        let [errors, gateway, local] = state.count(outlier.effect(outcome));
        let over = |count: u32, limit: u32| limit > 0 && count >= limit;
        let failed = over(errors, outlier.consecutive_5xx)
            || over(gateway, outlier.consecutive_gateway_errors)
            || over(local, outlier.consecutive_local_failures);
        if !failed || state.is_ejected() {
            return;
        }
        let hosts = self.0.hosts.lock();
        let ejected = hosts.ready.iter().filter(|h| h.state.is_ejected()).count();
        if outlier.may_eject(ejected, hosts.ready.len()) && state.eject(now) {
            self.rebuild(&hosts, &self.0.view.load());
        }
    }
}

impl Live {
    /// A budget whose rule stays keeps its counts.
    fn new(settings: Settings, before: Option<&Self>) -> Self {
        let rule: Option<BudgetRule> = settings.policy.retry_budget;
        let same = before.is_some_and(|before| before.budget.as_ref().map(|b| b.rule) == rule);
        let budget = match before.and_then(|before| before.budget.as_ref()) {
            Some(budget) if same => Some(Arc::clone(budget)),
            _ => rule.map(Budget::new).map(Arc::new),
        };
        Self {
            settings: Arc::new(settings),
            budget,
        }
    }
}

impl Pick {
    /// The chosen endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.host.endpoint
    }

    /// The port there.
    #[must_use]
    pub const fn target_port(&self) -> u16 {
        self.target
    }

    /// For [`PickContext::avoid`].
    #[must_use]
    pub fn uid(&self) -> &Arc<str> {
        &self.host.endpoint.uid
    }

    /// Says how it ended; `latency` is the time to response headers. Without a
    /// report nothing is learnt.
    pub fn report<R: Rng + ?Sized>(
        &self,
        outcome: Outcome,
        latency: Option<Duration>,
        now: Instant,
        rng: &mut R,
    ) {
        let at = self.cluster.millis(now);
        if let Some(latency) = latency {
            self.host.state.observe(latency, at);
        }
        self.cluster.judge(&self.host, outcome, at, rng);
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.host.state.leave();
        if self.probe {
            self.host.state.end_probe();
        }
    }
}

fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const PROBE_RACES: usize = 3;
