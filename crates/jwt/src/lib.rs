//! Who a request's token says it is for: RequestAuthentication, keys and their
//! cache; pure (`waypoint-contract` 4.9).
//!
//! Owns the rules of `RequestAuthentication` objects ([`Authentication`]), where
//! tokens are found and what is taken out of a request ([`Authenticator`]), key
//! documents ([`KeySet`]) and when they are fetched again ([`KeyCache`]). It
//! fetches nothing itself: the cache says what to fetch, and is told how it
//! went. Time is an argument.
//!
//! Left out on purpose: who may do what with a verified token (`policy`), and
//! sockets.
//!
//! A request, for whoever serves it:
//! 1. [`Authenticator::authenticate`]; on [`Outcome::Pending`] wait for the
//!    cache to change, then call it again.
//! 2. On [`Outcome::Passed`]: [`Authenticator::apply`] **for every request**,
//!    also without a token, because it removes what clients forge.
//! 3. On [`Outcome::Rejected`]: answer with what [`Rejection`] says.

mod authenticate;
mod cache;
mod guard;
mod json;
mod keys;
mod location;
mod model;
mod reject;
mod token;
mod verify;

pub use authenticate::{Authenticator, Context, JwtRequest, Outcome, Passed, Pending, Wait};
pub use cache::{Fetch, FetchFailure, FetchStep, KeyCache, KeysError, MAX_DOCUMENT, SourceStatus};
pub use guard::{ForbiddenUrl, check_url, is_forbidden};
pub use keys::{InvalidKeys, Key, KeySet};
pub use location::Location;
pub use model::{
    Attachment, Authentication, ClaimHeader, JwtRule, KeySource, RemoteKeys, UnreadableJwt,
};
pub use reject::{Reason, Rejection};
pub use token::{MAX_TOKEN, Now};
pub use verify::{TokenCache, Verified};
