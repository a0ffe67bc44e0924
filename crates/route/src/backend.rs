//! Which of a rule's weighted destinations a request gets, and what is copied
//! (`waypoint-contract` 2.4, 2.5, 3.2).

use http::StatusCode;
use rand::{Rng, RngExt};

use crate::fault::in_share;
use crate::headers::HeaderOps;
use crate::model::{Invalid, Rule};
use crate::redirect::Redirect;
use crate::rewrite::Rewrite;

/// One destination of a rule.
#[derive(Debug)]
pub struct BackendRef {
    /// `namespace/hostname` of a backend.
    pub service: Box<str>,
    /// Its port; 0: the service port that the request came to.
    pub port: u16,
    /// Empty: all of the backend.
    pub subset: Box<str>,
    /// Its part of the sum of weights.
    pub weight: u32,
    /// Changes to requests that go here.
    pub request_headers: HeaderOps,
    /// Changes to responses from here.
    pub response_headers: HeaderOps,
    /// Beats the rule's.
    pub rewrite: Option<Box<Rewrite>>,
    /// Requests that would go here are sent elsewhere.
    pub redirect: Option<Box<Redirect>>,
    /// Its share is answered so.
    pub invalid: Option<Invalid>,
}

/// A copy of requests.
#[derive(Debug)]
pub struct Mirror {
    /// Where to.
    pub backend: BackendRef,
    /// Parts of a million of the requests.
    pub share: u32,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub enum Choice<'a> {
    /// To this destination.
    Backend(&'a BackendRef),
    /// To the frontend's own service.
    Frontend,
    /// Nowhere.
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// For logs, never for a body.
        reason: &'a str,
    },
}

impl Rule {
    /// Draws a destination by weight, once per request: its retries stay there.
    /// An invalid one keeps its share (2.4).
    pub fn choose<R: Rng + ?Sized>(&self, rng: &mut R) -> Choice<'_> {
        let chosen = match self.backends.as_slice() {
            [] if self.to_frontend => return Choice::Frontend,
            [] => return self.refused("no destination"),
            [only] if only.weight > 0 => only,
            several => {
                if self.total_weight == 0 {
                    return self.refused("the weights of all destinations are 0");
                }
                let at = rng.random_range(0..self.total_weight);
                let Some(chosen) = at_weight(several, at) else {
                    return self.refused("no destination");
                };
                chosen
            }
        };
        match &chosen.invalid {
            Some(invalid) => Choice::Refused {
                status: invalid.status,
                reason: &invalid.reason,
            },
            None => Choice::Backend(chosen),
        }
    }

    /// The copies of one request, each drawn by its share.
    pub fn mirrors<'a, R: Rng + ?Sized>(
        &'a self,
        rng: &'a mut R,
    ) -> impl Iterator<Item = &'a BackendRef> {
        self.mirrors
            .iter()
            .filter(move |mirror| mirror.backend.invalid.is_none() && in_share(mirror.share, rng))
            .map(|mirror| &mirror.backend)
    }

    fn refused<'a>(&self, reason: &'a str) -> Choice<'a> {
        Choice::Refused {
            status: self.semantics.missing_backend(),
            reason,
        }
    }
}

/// The destination that holds place `at` of the sum of weights.
fn at_weight(backends: &[BackendRef], at: u64) -> Option<&BackendRef> {
    let mut passed = 0;
    backends.iter().find(|backend| {
        passed += u64::from(backend.weight);
        at < passed
    })
}
