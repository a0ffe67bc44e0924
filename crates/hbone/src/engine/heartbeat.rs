//! Noticing that a peer is gone: a namespace that vanished sends no FIN.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use crate::config::HboneConfig;

/// Pings at an interval; not suppressed by data (`ztunnel-contract` 2.6).
pub(super) struct Heartbeat {
    ping: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    interval: Duration,
    timeout: Duration,
}

impl Heartbeat {
    pub(super) fn new(ping: Option<PingPong>, config: &HboneConfig) -> Self {
        Self {
            ping,
            timer: Box::pin(tokio::time::sleep(config.ping_interval)),
            waiting: false,
            interval: config.ping_interval,
            timeout: config.ping_timeout,
        }
    }

    /// Ready when a ping wasn't answered in time.
    pub(super) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ping) = &mut self.ping else {
            return Poll::Pending;
        };
        loop {
            if self.waiting {
                match ping.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.waiting = false;
                        self.timer.as_mut().reset(Instant::now() + self.interval);
                    }
                    // The connection ends by itself.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.waiting {
                return Poll::Ready(());
            }
            if ping.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.timeout);
        }
    }
}
