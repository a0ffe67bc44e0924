//! Why an attempt ended without a response, in the words of each of those who
//! want to know: retries, outlier detection, the answer, the log.

use ambit_route::Failure;
use ambit_upstream::{LocalFailure, Outcome};

use super::reply::{Flag, LocalReply};
use crate::dial::DialFailure;

/// Why an attempt has no response.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) flag: Flag,
    pub(super) reason: &'static str,
    pub(super) transport: Option<String>,
}

impl Failed {
    pub(super) fn dial(error: &DialFailure) -> Self {
        let failure = match error {
            DialFailure::Overflow => Failure::Overflow,
            _ => Failure::Connect,
        };
        let flag = match error {
            DialFailure::Overflow => Flag::Overflow,
            _ => Flag::ConnectFailure,
        };
        Self {
            failure,
            flag,
            reason: error.reason(),
            transport: Some(error.to_string()),
        }
    }

    /// What was configured can't be used.
    pub(super) fn unusable(why: String) -> Self {
        Self {
            failure: Failure::Connect,
            flag: Flag::ConnectFailure,
            reason: "remote connection failure",
            transport: Some(why),
        }
    }

    /// The request can't be formed (any more).
    pub(super) fn unsendable() -> Self {
        Self {
            failure: Failure::Overflow,
            flag: Flag::UpstreamProtocol,
            reason: "protocol error",
            transport: None,
        }
    }

    pub(super) fn late() -> Self {
        Self {
            failure: Failure::PerTryTimeout,
            flag: Flag::Timeout,
            reason: "timeout",
            transport: None,
        }
    }

    /// The client's body broke off or can't be translated. The endpoint has no
    /// part in it, or any client could have it ejected; and it isn't tried
    /// again, as the body is what it is.
    pub(super) fn of_client() -> Self {
        Self {
            failure: Failure::Overflow,
            flag: Flag::DownstreamProtocol,
            reason: "request body",
            transport: None,
        }
    }

    pub(super) fn http(error: &hyper::Error) -> Self {
        let (failure, flag, reason) = if is_refused(error) {
            (
                Failure::RefusedStream,
                Flag::UpstreamReset,
                "remote refused stream reset",
            )
        } else if error.is_canceled() {
            (
                Failure::ResetBeforeRequest,
                Flag::UpstreamClosed,
                "connection termination",
            )
        } else if error.is_parse() {
            (Failure::Reset, Flag::UpstreamProtocol, "protocol error")
        } else if error.is_incomplete_message() || error.is_closed() {
            (
                Failure::Reset,
                Flag::UpstreamClosed,
                "connection termination",
            )
        } else if is_reset(error) {
            (Failure::Reset, Flag::UpstreamReset, "remote reset")
        } else {
            (
                Failure::Reset,
                Flag::UpstreamClosed,
                "connection termination",
            )
        };
        Self {
            failure,
            flag,
            reason,
            transport: None,
        }
    }

    /// What the endpoint is to blame for.
    pub(super) fn outcome(&self) -> Outcome {
        if matches!(self.failure, Failure::Overflow) {
            return Outcome::Unknown;
        }
        Outcome::Local(match self.failure {
            Failure::PerTryTimeout => LocalFailure::Timeout,
            Failure::Connect => LocalFailure::Connect,
            _ => LocalFailure::Reset,
        })
    }

    pub(super) fn reply(self) -> LocalReply {
        match self.flag {
            Flag::Timeout => LocalReply::timeout(),
            Flag::DownstreamProtocol => LocalReply::bad_request("request_body"),
            flag => LocalReply::upstream(flag, self.reason, self.transport.as_deref()),
        }
    }
}

fn h2_reason(error: &hyper::Error) -> Option<h2::Reason> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            return h2.reason();
        }
        cause = inner.source();
    }
    None
}

fn is_refused(error: &hyper::Error) -> bool {
    h2_reason(error) == Some(h2::Reason::REFUSED_STREAM)
}

fn is_reset(error: &hyper::Error) -> bool {
    h2_reason(error).is_some()
}
