//! Injected faults (`waypoint-contract` 3.2): drawn once per request, not per
//! attempt.

use std::time::Duration;

use http::StatusCode;
use rand::{Rng, RngExt};

/// Delay and abort, each for its share of requests.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Parts of a million that are delayed.
    pub delay_share: u32,
    /// For how long.
    pub delay: Duration,
    /// Parts of a million that are aborted.
    pub abort_share: u32,
    /// With what.
    pub abort: Option<Abort>,
}

/// How a request is aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// An HTTP status.
    Status(StatusCode),
    /// A gRPC status, in a trailers-only response.
    Grpc(u16),
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultDraw {
    /// Wait so long first.
    pub delay: Option<Duration>,
    /// Then end it.
    pub abort: Option<Abort>,
}

impl Fault {
    /// Draws for one request. Delay and abort are independent of each other.
    pub fn draw<R: Rng + ?Sized>(&self, rng: &mut R) -> FaultDraw {
        FaultDraw {
            delay: in_share(self.delay_share, rng).then_some(self.delay),
            abort: self.abort.filter(|_| in_share(self.abort_share, rng)),
        }
    }
}

/// True for `share` parts of a million.
pub(crate) fn in_share<R: Rng + ?Sized>(share: u32, rng: &mut R) -> bool {
    match share {
        0 => false,
        MILLION.. => true,
        share => rng.random_range(0..MILLION) < share,
    }
}

const MILLION: u32 = 1_000_000;
