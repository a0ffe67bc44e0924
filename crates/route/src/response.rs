//! Whether a response counts as a failure (ServiceProfile response classes,
//! `waypoint-contract` 8.1).

use http::StatusCode;

use crate::conditions::Condition;
use crate::model::Rule;

/// One class of responses.
#[derive(Debug, Clone)]
pub struct ResponseClass {
    /// Which.
    pub condition: Condition,
    /// What they count as.
    pub is_failure: bool,
}

/// What a response counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Good.
    Success,
    /// Bad.
    Failure,
}

impl Rule {
    /// Classifies a response: the first class that holds, else gRPC's own
    /// status, else 5xx is a failure.
    #[must_use]
    pub fn classify(&self, status: StatusCode, grpc: Option<u16>) -> Verdict {
        let class = self
            .response_classes
            .iter()
            .find(|class| class.condition.of_response(status));
        let failed = match (class, grpc) {
            (Some(class), _) if class.is_failure => true,
            (_, Some(code)) => GRPC_FAILURES.contains(&code),
            (Some(_), None) => false,
            (None, None) => status.is_server_error(),
        };
        if failed {
            Verdict::Failure
        } else {
            Verdict::Success
        }
    }
}

/// UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS: the server's
/// fault, not the caller's.
const GRPC_FAILURES: [u16; 5] = [2, 4, 13, 14, 15];
