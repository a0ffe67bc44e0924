//! Upgraded connections: WebSocket and whatever else both ends agree on.
//!
//! Nothing is tunnelled before the backend has said 101: until then both sides
//! speak HTTP, and a refused upgrade is an ordinary response.

use std::sync::Arc;

use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tracing::debug;

use super::forward::Forwarded;
use super::head::Checked;
use super::reply::LocalReply;
use super::server::Inner;

/// The client's half of an upgrade that it asked for.
pub(crate) fn take(head: &mut Parts) -> Option<OnUpgrade> {
    head.extensions.remove::<OnUpgrade>()
}

/// Ends the connection of an upgrade that came to nothing in order, when it is
/// over: the HTTP engine hands it out as if it were upgraded, its last answer
/// written and its end not.
pub(crate) fn let_go(inner: &Inner, client: Option<OnUpgrade>) {
    let Some(client) = client else { return };
    inner.worker.scope.spawn("refused upgrade", async move {
        // An error: other requests followed, or it was cut.
        if let Ok(io) = client.await {
            let _ = TokioIo::new(io).shutdown().await;
        }
    });
}

/// Joins the two connections once both are upgraded, in a task of their own.
///
/// # Errors
/// A backend that switches protocols without being asked.
pub(crate) fn join(
    inner: &Arc<Inner>,
    forwarded: &mut Forwarded,
    checked: &Checked,
    client: &mut Option<OnUpgrade>,
) -> Result<(), LocalReply> {
    let asked = checked.upgrade.is_some();
    let Some(client) = client.take().filter(|_| asked) else {
        return Err(LocalReply::upstream(
            super::reply::Flag::UpstreamProtocol,
            "protocol error",
            None,
        ));
    };
    let backend = hyper::upgrade::on(&mut forwarded.response);
    let guards = forwarded.held.take_guards();
    forwarded.held.give_back = None;
    let sender = forwarded.held.sender.take();
    let worker = &inner.worker;
    worker.scope.spawn("upgraded", async move {
        let _kept = (guards, sender);
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(error) => {
                debug!(%error, "upgrade came to nothing");
                return;
            }
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        let copied = copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await;
        if let Err(error) = copied {
            debug!(%error, "upgraded connection ended");
        }
    });
    Ok(())
}

/// Of each direction of an upgraded connection.
const BUFFER: usize = 16 << 10;
