//! Conditions of a ServiceProfile (`waypoint-contract` 8.1).

use http::StatusCode;
use regex::Regex;

use crate::matching::Head;

/// A condition on a request, or on a response's status.
#[derive(Debug, Clone)]
pub enum Condition {
    /// The whole path.
    Path(Regex),
    /// The method.
    Method(Box<str>),
    /// The response's status, both ends included.
    Status {
        /// From.
        min: u16,
        /// To.
        max: u16,
    },
    /// Every one.
    All(Vec<Self>),
    /// At least one.
    Any(Vec<Self>),
    /// The opposite.
    Not(Box<Self>),
}

impl Condition {
    /// Whether it holds for a request; a status never does.
    #[must_use]
    pub fn of_request(&self, head: &Head<'_>) -> bool {
        match self {
            Self::Path(regex) => regex.is_match(head.path),
            Self::Method(method) => **method == *head.method,
            Self::Status { .. } => false,
            Self::All(all) => all.iter().all(|c| c.of_request(head)),
            Self::Any(any) => any.iter().any(|c| c.of_request(head)),
            Self::Not(not) => !not.of_request(head),
        }
    }

    /// Whether it holds for a response; path and method never do.
    #[must_use]
    pub fn of_response(&self, status: StatusCode) -> bool {
        match self {
            Self::Path(_) | Self::Method(_) => false,
            Self::Status { min, max } => (*min..=*max).contains(&status.as_u16()),
            Self::All(all) => all.iter().all(|c| c.of_response(status)),
            Self::Any(any) => any.iter().any(|c| c.of_response(status)),
            Self::Not(not) => !not.of_response(status),
        }
    }
}
