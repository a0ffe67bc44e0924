//! The copy between two byte streams: both directions in one task.
//!
//! Idle, a relay holds the two ends and no buffer. Each direction waits for its
//! source first, then for room at its sink, then moves one chunk. An end of
//! stream goes through as a half-close; there is no idle timeout. What can't be
//! ended cleanly is aborted on both sides, so that no application mistakes a
//! cut stream for a complete one.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll, ready};

use ambit_types::FlowReason;

use crate::chunk::Chunk;
use crate::duplex::{Duplex, is_benign};
use crate::meter::{Meter, Transfer};

/// Chunks that one direction moves before other tasks of the thread get a turn.
const TURN: usize = 8;

/// Which end of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The end that was accepted.
    Downstream,
    /// The end that was dialled.
    Upstream,
}

/// Why a copy failed. A peer that merely went away is no failure: see
/// [`is_benign`].
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Reading from an end failed.
    #[error("read from {side:?}")]
    Read {
        /// The end.
        side: Side,
        /// Its error.
        source: io::Error,
    },
    /// Writing to an end failed.
    #[error("write to {side:?}")]
    Write {
        /// The end.
        side: Side,
        /// Its error.
        source: io::Error,
    },
}

impl RelayError {
    /// The reason that the flow's record carries.
    pub fn reason(&self) -> FlowReason {
        match self {
            Self::Read { .. } | Self::Write { .. } => FlowReason::CopyFailed,
        }
    }
}

/// Copies both ways until both directions have ended.
///
/// The future is a plain one, not an `async fn`, which would hold its arguments
/// twice: it is what an idle flow costs.
///
/// # Errors
/// An end failed in a way that isn't a peer going away. Either way both ends
/// are closed when the future is done; the meter has the bytes.
///
/// # Cancel safety
/// Dropping the future drops both ends: a socket is closed, a tunnel is reset.
pub fn relay<'m, A, B>(
    downstream: A,
    upstream: B,
    meter: &'m Meter,
) -> impl Future<Output = Result<Transfer, RelayError>> + Send + use<'m, A, B>
where
    A: Duplex,
    B: Duplex,
{
    let mut ends = Some((downstream, upstream));
    let mut request = Pump::new();
    let mut response = Pump::new();
    poll_fn(move |cx| {
        let Some((downstream, upstream)) = &mut ends else {
            return Poll::Pending;
        };
        let towards = request.poll(cx, downstream, upstream, |n| meter.add_received(n));
        let back = response.poll(cx, upstream, downstream, |n| meter.add_sent(n));
        let end = match (towards, back) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Ok(()),
            (Poll::Ready(Err(cut)), _) => Err(cut.into_error(Side::Downstream, Side::Upstream)),
            (_, Poll::Ready(Err(cut))) => Err(cut.into_error(Side::Upstream, Side::Downstream)),
            _ => return Poll::Pending,
        };
        if end.is_err() {
            downstream.abort();
            upstream.abort();
        }
        ends = None;
        Poll::Ready(match end {
            Err(RelayError::Read { source, .. } | RelayError::Write { source, .. })
                if is_benign(&source) =>
            {
                Ok(meter.transfer())
            }
            Err(error) => Err(error),
            Ok(()) => Ok(meter.transfer()),
        })
    })
}

/// One direction.
struct Pump {
    pending: Option<Chunk>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Bytes may come.
    Open,
    /// The source has ended; the sink is being told.
    Ending,
    /// Both know.
    Ended,
    /// The sink takes no more. What it still sends is delivered before the
    /// streams are cut: a server may answer and close without reading on.
    Refused,
}

/// Which half of a direction failed.
enum Cut {
    Source(io::Error),
    Sink(io::Error),
}

impl Cut {
    fn into_error(self, source_side: Side, sink_side: Side) -> RelayError {
        match self {
            Self::Source(source) => RelayError::Read {
                side: source_side,
                source,
            },
            Self::Sink(source) => RelayError::Write {
                side: sink_side,
                source,
            },
        }
    }
}

impl Pump {
    fn new() -> Self {
        Self {
            pending: None,
            phase: Phase::Open,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Duplex,
        sink: &mut impl Duplex,
        count: impl Fn(usize),
    ) -> Poll<Result<(), Cut>> {
        for _ in 0..TURN {
            match self.phase {
                Phase::Ended | Phase::Refused => return Poll::Ready(Ok(())),
                Phase::Ending => {
                    // A sink that can't be told any more is gone: nothing is lost.
                    let _ = ready!(sink.poll_shutdown(cx));
                    self.phase = Phase::Ended;
                }
                Phase::Open => {
                    let step = ready!(self.poll_chunk(cx, source, sink, &count));
                    match step {
                        Ok(()) => {}
                        Err(Cut::Sink(error)) if is_benign(&error) => {
                            self.pending = None;
                            self.phase = Phase::Refused;
                        }
                        Err(cut) => return Poll::Ready(Err(cut)),
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands on what is pending, or else reads the next chunk.
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Duplex,
        sink: &mut impl Duplex,
        count: &impl Fn(usize),
    ) -> Poll<Result<(), Cut>> {
        if let Some(mut chunk) = self.pending.take() {
            return match sink.poll_write(cx, &mut chunk) {
                Poll::Ready(Ok(n)) => {
                    count(n);
                    source.on_consumed(n);
                    self.pending = (!chunk.is_empty()).then_some(chunk);
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(Cut::Sink(error))),
                Poll::Pending => {
                    self.pending = Some(chunk.compact());
                    Poll::Pending
                }
            };
        }
        match source.poll_readable(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Cut::Source(error))),
            Poll::Pending => {
                sink.release_room();
                let error = ready!(sink.poll_abandoned(cx));
                return Poll::Ready(Err(Cut::Sink(error)));
            }
        }
        let room = ready!(sink.poll_room(cx)).map_err(Cut::Sink)?;
        match source.poll_read(cx, room) {
            Poll::Ready(Ok(Some(chunk))) => self.pending = Some(chunk),
            Poll::Ready(Ok(None)) => {
                sink.release_room();
                self.phase = Phase::Ending;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Cut::Source(error))),
            Poll::Pending => {
                sink.release_room();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
