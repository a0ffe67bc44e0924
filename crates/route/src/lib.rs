//! Which route a request takes and what becomes of it: matching, filters,
//! retries; pure.
//!
//! Owns the meaning of `ambit.waypoint.v1.Route` (`waypoint-contract` 1.12, 2,
//! 3, 5 and 8): [`Routes`] holds the routes of one frontend and finds a
//! request's rule; the rule's parts say what becomes of the request. Time and
//! randomness are arguments; nothing waits, nothing is logged.
//!
//! Left out on purpose: which endpoint of a backend is used and whether a
//! budget lets a retry pass (`upstream`), who may send the request at all
//! (`policy`), and every byte of I/O (`waypoint`).

mod backend;
mod conditions;
mod cors;
mod decode;
mod fault;
pub mod grpc_web;
mod headers;
mod index;
mod matching;
mod model;
pub mod path;
mod rank;
mod redirect;
mod response;
mod retry;
mod rewrite;
mod routes;
mod session;
mod sni;
mod table;
mod text;
pub mod timeout;
mod trace;

pub use backend::{BackendRef, Choice, Mirror};
pub use conditions::Condition;
pub use cors::{Cors, CorsActual, CorsDecision, Listed, OriginPattern};
pub use decode::{InvalidRoute, Wrong, decode_retry, decode_session, decode_text};
pub use fault::{Abort, Fault, FaultDraw};
pub use headers::HeaderOps;
pub use matching::{
    ClaimMatch, Head, HeaderMatch, Match, MatchedPath, Miss, PathPattern, QueryMatch,
};
pub use model::{
    Answer, DirectResponse, Invalid, Origin, Parent, Route, RouteKind, Rule, Semantics,
};
pub use path::{BadPath, Normalization};
pub use redirect::{Redirect, RedirectInput, RedirectPort};
pub use response::{ResponseClass, Verdict};
pub use retry::{AttemptOutcome, Failure, Next, Retries, Retry, RetryOn, StopReason, grpc_status};
pub use rewrite::{PathChange, RegexChange, Rewrite};
pub use routes::{Edit, Found, FoundTcp, Matched, MatchedTcp, Routes};
pub use session::{Carrier, SessionPersistence, Token, cookie};
pub use sni::SniPattern;
pub use text::{InvalidPattern, Pattern};
pub use trace::{Considered, Log, Step, Tracer, Why};
