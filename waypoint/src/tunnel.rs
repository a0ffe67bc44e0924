//! One tunnel of a client, start to finish: destination, protocol, then HTTP
//! or opaque bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_hbone::InboundStream;
use tracing::debug;

use crate::destination::{self, Refusal};
use crate::http::{self, Inner};
use crate::node::Worker;
use crate::protocol::{Spoken, sniff};
use crate::tcp;

/// Serves a CONNECT.
pub(crate) async fn serve(worker: Arc<Worker>, stream: InboundStream, source: SocketAddr) {
    let node = Arc::clone(&worker.node);
    let chosen = if node.memory.is_full() {
        Err(Refusal::Overloaded)
    } else {
        let config = node.config.load();
        let own = |address| node.is_own(address);
        destination::choose(&config, &stream.authority, own).and_then(|(dialled, destination)| {
            let found = destination.find(&config).ok_or(Refusal::Unknown)?;
            let declared = found.declared();
            Ok((dialled, destination, declared, config.gateway.detection))
        })
    };
    let (dialled, destination, declared, patience) = match chosen {
        Ok(chosen) => chosen,
        Err(refusal) => {
            let authority = &stream.authority;
            debug!(%source, %authority, status = refusal.status(), %refusal, "CONNECT refused");
            node.observer.connect_refused();
            stream.reject(refusal.status());
            return;
        }
    };
    let peer = Arc::clone(stream.peer());
    let labels = worker.watch.peer(&peer, stream.baggage.as_ref());
    let mut tunnel = match stream.accept(None) {
        Ok(tunnel) => tunnel,
        Err(error) => {
            debug!(%source, %error, "the client is gone");
            return;
        }
    };
    let sniffed = match sniff(&mut tunnel, declared, patience).await {
        Ok(sniffed) => sniffed,
        Err(error) => {
            debug!(%source, %error, "the tunnel ended before it said anything");
            return;
        }
    };
    let inner = Inner {
        worker,
        peer,
        source,
        dialled,
        destination,
        spoken: sniffed.spoken,
        sni: sniffed.sni,
        labels,
    };
    match sniffed.spoken {
        Spoken::Http1 | Spoken::Http2 => {
            http::serve(Arc::new(inner), tunnel, sniffed.read).await;
        }
        Spoken::Opaque => tcp::serve(inner, tunnel, sniffed.read).await,
    }
}
