//! Sixth step of every path: bytes, until both directions have ended or
//! somebody ends the flow.

use ambit_net::{Duplex, relay};

use crate::error::FlowError;
use crate::flow::Flow;

/// Copies between the two ends; they are closed when it returns.
pub(crate) async fn copy(
    flow: &Flow,
    downstream: impl Duplex,
    upstream: impl Duplex,
) -> Result<(), FlowError> {
    tokio::select! {
        biased;
        () = flow.was_cut() => Err(FlowError::PolicyClosed),
        done = relay(downstream, upstream, &flow.meter) => match done {
            Ok(_) => Ok(()),
            Err(error) => Err(FlowError::Relay(error)),
        },
    }
}
