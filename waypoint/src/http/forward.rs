//! Sends a request: attempts, each with an endpoint, a connection and a bound
//! of time, until one's outcome stands (`waypoint-contract` 3.3, 5.1, 5.2).

use std::sync::Arc;
use std::time::Duration;

use ambit_observe::SpanId;
use ambit_policy::http::HttpPolicies;
use ambit_route::{AttemptOutcome, MatchedPath, Next, Retries, Rule, StopReason};
use ambit_upstream::{Endpoint, Outcome, Permit, Pick, PickContext, PickError, Settings};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use super::affinity::Affinity;
use super::body::{Replay, UpBody};
use super::choose::Chosen;
use super::exchange::{Exchange, GiveBack, Guards, Held, Try};
use super::failure::Failed;
use super::head::Checked;
use super::outbound::Outbound;
use super::reach::{connection_to, default_settings, hop_to, plain_endpoint, send_on};
use super::reply::{Flag, LocalReply};
use super::respond::Decor;
use super::server::Inner;
use super::subject::Subject;
use crate::config::{Config, Upstream};
use crate::dial::{ProxyHeader, Sender, Version as Spoken};

/// A request that is ready to be sent.
pub(crate) struct Call<'c> {
    pub(crate) config: &'c Arc<Config>,
    pub(crate) inner: &'c Arc<Inner>,
    pub(crate) rule: Option<&'c Rule>,
    pub(crate) chosen: &'c Chosen<'c>,
    /// What the rule matched of the path.
    pub(crate) path: MatchedPath,
    pub(crate) outbound: Outbound,
    /// Of the try that goes on, where it has one of its own.
    pub(crate) span: Option<SpanId>,
    /// The whole transaction's.
    pub(crate) deadline: Option<Instant>,
    /// `None`: there is no body.
    pub(crate) replay: Option<Replay>,
    pub(crate) head: &'c Parts,
    pub(crate) checked: &'c Checked,
    pub(crate) subject: &'c Subject<'c>,
    pub(crate) policies: &'c HttpPolicies,
}

/// A backend's response, its body still to come.
pub(crate) struct Forwarded {
    pub(crate) response: Response<Incoming>,
    pub(crate) held: Held,
    pub(crate) deadline: Option<Instant>,
    pub(crate) idle: Option<Duration>,
}

/// Sends a request until an outcome stands.
///
/// # Errors
/// The answer to give where no backend gave one.
pub(crate) async fn send(
    mut call: Call<'_>,
    exchange: &mut Exchange,
    decor: &mut Decor,
) -> Result<Forwarded, LocalReply> {
    let target = call.chosen.target.clone();
    let cluster = target.as_ref().map(|target| &target.cluster);
    let settings = cluster.map_or_else(default_settings, |cluster| cluster.settings());
    usable(&settings)?;
    let gateway = &call.config.gateway;
    let policy = call.rule.and_then(|rule| rule.retry.as_deref());
    let mut retries = Retries::new(policy.unwrap_or(&gateway.default_retry));
    let grpc = ambit_route::timeout::grpc_timeout(&call.outbound.headers);
    let whole = call.rule.and_then(|rule| rule.timeout);
    let whole = ambit_route::timeout::whole(whole, grpc);
    let deadline = whole.map(|whole| exchange.started + whole);
    let request = match cluster {
        None => None,
        Some(cluster) => {
            let permit = cluster.try_request().map_err(|_| LocalReply::overflow())?;
            cluster.on_first_request(std::time::Instant::now());
            Some(permit)
        }
    };
    call.deadline = deadline;
    call.expect_answer();
    let affinity = Affinity::find(&call, &settings, decor);
    let mut avoid: SmallVec<[Arc<str>; 4]> = SmallVec::new();
    let mut retry_permit = None;
    loop {
        let bound = retries
            .attempt_timeout(deadline.map(|at| at.saturating_duration_since(Instant::now())))
            .map(|bound| Instant::now() + bound);
        let place = place(&call, &affinity, &avoid)?;
        let uid = &place.endpoint.uid;
        call.subject
            .authorize_workload(call.policies, uid, call.head, call.checked)?;
        exchange.attempts += 1;
        exchange.endpoint = Some(Arc::clone(&place.endpoint));
        let begun = Instant::now();
        let span = call.begin_try(exchange);
        let done = attempt(&mut call, exchange, &settings, &place, bound).await;
        let latency = begun.elapsed();
        let status = done.as_ref().map(|(response, ..)| response.status());
        exchange.try_ended(span, status.map_err(|failed| failed.reason));
        let next = judge(&call, &mut retries, &place, &done, latency);
        let in_time = deadline.is_none_or(|at| Instant::now() < at);
        let next = if in_time { next } else { TOO_LATE };
        let again = another(&call, next, exchange);
        if let Some((after, permit)) = again {
            retry_permit = permit;
            if affinity.avoids {
                avoid.push(Arc::clone(&place.endpoint.uid));
            }
            drop((done, place));
            wait(after, deadline).await?;
            continue;
        }
        drop(retry_permit);
        affinity.finish(&call, &place.endpoint.uid, decor);
        let (response, sender, give_back) = done.map_err(|failed| {
            exchange.transport_failure.clone_from(&failed.transport);
            failed.reply()
        })?;
        exchange.upstream_time = Some(latency);
        let held = Held {
            sender: Some(sender),
            give_back,
            replay: call.replay.clone(),
            guards: Guards {
                pick: place.pick,
                request,
            },
        };
        let until = call.rule.and_then(|rule| rule.response_timeout);
        let until = until.map(|bound| exchange.started + bound);
        return Ok(Forwarded {
            response,
            held,
            deadline: [deadline, until].into_iter().flatten().min(),
            idle: call.rule.and_then(|rule| rule.idle_timeout),
        });
    }
}

/// The wait before another attempt, and its place in the budget.
fn another(
    call: &Call<'_>,
    next: Next,
    exchange: &mut Exchange,
) -> Option<(Duration, Option<Permit>)> {
    match next {
        Next::Again { after } if call.can_repeat() => {
            let cluster = call.chosen.target.as_ref().map(|target| &target.cluster);
            let permit = cluster.map(|cluster| cluster.try_retry(std::time::Instant::now()));
            match permit.transpose() {
                Ok(permit) => Some((after, permit)),
                Err(_) => {
                    exchange.flag(Flag::Overflow);
                    None
                }
            }
        }
        Next::Stop(StopReason::Exhausted) if exchange.attempts > 1 => {
            exchange.flag(Flag::RetriesExhausted);
            None
        }
        Next::Again { .. } | Next::Stop(_) => None,
    }
}

/// What was asked for and can't be had is answered.
fn usable(settings: &Settings) -> Result<(), LocalReply> {
    let Some(refusal) = &settings.policy.invalid else {
        return Ok(());
    };
    let status = StatusCode::from_u16(refusal.status);
    let status = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    Err(LocalReply::no_cluster(status))
}

/// Reports an attempt's outcome and says what follows.
fn judge(
    call: &Call<'_>,
    retries: &mut Retries<'_>,
    place: &Place,
    done: &Result<Answered, Failed>,
    latency: Duration,
) -> Next {
    let now = std::time::Instant::now();
    let outcome = match done {
        Ok((response, ..)) => {
            let status = response.status();
            place.report(Outcome::Status(status.as_u16()), latency, now);
            AttemptOutcome::Response {
                status,
                headers: response.headers(),
                trailer: None,
            }
        }
        Err(failed) => {
            place.report(failed.outcome(), latency, now);
            AttemptOutcome::Failed(failed.failure)
        }
    };
    retries.after(&outcome, call.rule, &mut rand::rng())
}

async fn wait(after: Duration, deadline: Option<Instant>) -> Result<(), LocalReply> {
    let until = Instant::now() + after;
    if deadline.is_some_and(|at| until >= at) {
        return Err(LocalReply::timeout());
    }
    if !after.is_zero() {
        tokio::time::sleep_until(until).await;
    }
    Ok(())
}

/// The endpoint of one attempt.
struct Place {
    endpoint: Arc<Endpoint>,
    port: u16,
    /// `None`: the client dialled it itself, nothing was chosen.
    pick: Option<Pick>,
}

impl Place {
    fn report(&self, outcome: Outcome, latency: Duration, now: std::time::Instant) {
        if let Some(pick) = &self.pick {
            pick.report(outcome, Some(latency), now, &mut rand::rng());
        }
    }
}

fn place(call: &Call<'_>, affinity: &Affinity, avoid: &[Arc<str>]) -> Result<Place, LocalReply> {
    if let Some((endpoint, port)) = &call.chosen.direct {
        return Ok(Place {
            endpoint: Arc::clone(endpoint),
            port: *port,
            pick: None,
        });
    }
    let Some(target) = &call.chosen.target else {
        return Err(LocalReply::no_healthy_upstream());
    };
    let context = PickContext {
        hash: affinity.hash,
        avoid,
        other_locality: affinity.other_locality,
        session: affinity.session.as_deref(),
    };
    let now = std::time::Instant::now();
    let pick = match target.cluster.pick(&context, &mut rand::rng(), now) {
        Ok(pick) => pick,
        Err(PickError::NoHealthy) => return Err(LocalReply::no_healthy_upstream()),
        Err(PickError::Passthrough) => {
            let dialled = call.inner.dialled;
            return Ok(Place {
                endpoint: Arc::new(plain_endpoint(dialled.ip())),
                port: dialled.port(),
                pick: None,
            });
        }
    };
    Ok(Place {
        endpoint: Arc::clone(pick.endpoint()),
        port: pick.target_port(),
        pick: Some(pick),
    })
}

impl Call<'_> {
    fn can_repeat(&self) -> bool {
        self.replay.as_ref().is_none_or(Replay::can_repeat)
    }

    /// What is spoken to the endpoint (1.8).
    fn version(&self, settings: &Settings) -> Spoken {
        let pool = &settings.policy.pool;
        let same = if self.head.version == Version::HTTP_2 {
            Spoken::Http2
        } else {
            Spoken::Http1
        };
        if pool.use_client_protocol {
            return same;
        }
        match self.chosen.upstream {
            Upstream::Http2 => Spoken::Http2,
            _ if pool.upgrade_h2 => Spoken::Http2,
            Upstream::Http1 => Spoken::Http1,
            Upstream::SameAsClient => same,
        }
    }
}

type Answered = (Response<Incoming>, Sender, Option<GiveBack>);

async fn attempt(
    call: &mut Call<'_>,
    exchange: &mut Exchange,
    settings: &Settings,
    place: &Place,
    bound: Option<Instant>,
) -> Result<Answered, Failed> {
    let sending = send_once(call, exchange, settings, place);
    match bound {
        None => sending.await,
        Some(at) => match timeout_at(at, sending).await {
            Ok(done) => done,
            Err(_) => Err(Failed::late()),
        },
    }
}

async fn send_once(
    call: &mut Call<'_>,
    exchange: &mut Exchange,
    settings: &Settings,
    place: &Place,
) -> Result<Answered, Failed> {
    let version = call.version(settings);
    let target = call.chosen.target.as_deref();
    let hop = hop_to(target, settings, (&place.endpoint, place.port), version);
    let mut hop = hop.map_err(Failed::unusable)?;
    let pool = &settings.policy.pool;
    hop.connect_timeout = pool
        .connect_timeout
        .unwrap_or(call.config.gateway.connect_timeout);
    hop.proxy = (settings.policy.proxy_protocol > 0).then(|| ProxyHeader {
        version: settings.policy.proxy_protocol,
        source: call.inner.source,
        destination: call.inner.dialled,
    });
    exchange.upstream = Some(hop.address);
    let worker = &call.inner.worker;
    loop {
        let opened = connection_to(worker, target, settings, &hop, version).await;
        let (sender, key, limits, fresh) = opened.map_err(|error| Failed::dial(&error))?;
        let body = call.body().ok_or_else(Failed::unsendable)?;
        call.renew(exchange);
        let request = call.outbound.request(version, hop.tls.is_some(), body);
        let request = request.ok_or_else(Failed::unsendable)?;
        match send_on(sender, request).await {
            Ok((response, sender)) => {
                let back = matches!(sender, Sender::Http1(_));
                let give_back = back.then_some(GiveBack { key, limits });
                return Ok((response, sender, give_back));
            }
            Err(_) if call.replay.as_ref().is_some_and(Replay::is_broken) => {
                return Err(Failed::of_client());
            }
            // A kept connection that died before it took anything: another one,
            // without an attempt being counted.
            Err(error) if !fresh && error.is_canceled() && call.can_repeat() => {}
            Err(error) => return Err(Failed::http(&error)),
        }
    }
}

impl Call<'_> {
    fn body(&self) -> Option<UpBody> {
        match &self.replay {
            None => Some(UpBody::Empty),
            Some(replay) => replay.attempt(),
        }
    }

    fn begin_try(&mut self, exchange: &Exchange) -> Option<Try> {
        self.renew(exchange);
        let one = exchange.try_begins(&mut self.outbound.headers);
        self.span = one.as_ref().map(|one| one.span);
        one
    }

    /// A request takes the headers with it. Another one gets the same ones,
    /// made anew: most need none, and would have had a copy for nothing.
    fn renew(&mut self, exchange: &Exchange) {
        if !self.outbound.is_spent() {
            return;
        }
        self.outbound = Outbound::make(self.head, self.checked, self.rule, self.chosen, self.path);
        exchange.outgoing(&mut self.outbound.headers, self.span);
        self.expect_answer();
    }

    /// Says how long the backend has, where it has a bound (1.6).
    fn expect_answer(&mut self) {
        let Some(at) = self.deadline else { return };
        let left = at.saturating_duration_since(Instant::now()).as_millis();
        let left = HeaderValue::from(u64::try_from(left).unwrap_or(u64::MAX));
        self.outbound.headers.insert(EXPECTED_TIMEOUT, left);
    }
}

/// The whole transaction's time is over.
const TOO_LATE: Next = Next::Stop(StopReason::NotRetriable);
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
