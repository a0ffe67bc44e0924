//! Sixth step of every path: bytes, until both directions have ended or
//! somebody ends the flow.

use ambit_net::{Duplex, relay};

use crate::error::FlowError;
use crate::flow::Flow;

/// Copies between the two ends; they are closed when it returns.
///
/// Not an `async fn`: that would keep a second place for both ends beside the
/// relay's own, for as long as a connection lives.
pub(crate) fn copy(
    flow: &Flow,
    downstream: impl Duplex,
    upstream: impl Duplex,
) -> impl Future<Output = Result<(), FlowError>> + Send {
    let mut relayed = Box::pin(relay(downstream, upstream, &flow.meter));
    async move {
        tokio::select! {
            biased;
            () = flow.was_cut() => Err(FlowError::PolicyClosed),
            done = &mut relayed => match done {
                Ok(_) => Ok(()),
                Err(error) => Err(FlowError::Relay(error)),
            },
        }
    }
}

/// Size of a relay between a socket and a tunnel.
#[cfg(test)]
pub(crate) fn relay_size() -> usize {
    use ambit_hbone::Tunnel;
    use ambit_net::Meter;
    use tokio::net::TcpStream;

    fn size<F>(_: impl Fn(TcpStream, Tunnel, &'static Meter) -> F) -> usize {
        size_of::<F>()
    }
    size(relay::<TcpStream, Tunnel>)
}
