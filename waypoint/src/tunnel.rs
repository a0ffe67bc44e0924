//! One tunnel of a client, start to finish: destination, protocol, then HTTP
//! or opaque bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_hbone::{Authority, InboundStream};
use tracing::debug;

use crate::config::Config;
use crate::destination::{self, Destination, Refusal};
use crate::http::{self, Inner};
use crate::node::{Node, Worker};
use crate::protocol::{Declared, Spoken, sniff};
use crate::tcp;

/// What a tunnel is for, what is spoken on it, and how long one waits to see.
type Chosen = (SocketAddr, Destination, Declared, Duration);

async fn chosen(node: &Node, authority: &Authority) -> Result<Chosen, Refusal> {
    let mut chosen = chosen_now(node, authority);
    // The client's proxy may have heard a moment earlier than we that a service
    // goes by this waypoint.
    let until = Instant::now() + NEWS;
    while matches!(chosen, Err(Refusal::Unknown)) && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        chosen = chosen_now(node, authority);
    }
    chosen
}

fn chosen_now(node: &Node, authority: &Authority) -> Result<Chosen, Refusal> {
    if node.memory.is_full() {
        return Err(Refusal::Overloaded);
    }
    let config = node.config.load();
    choose(node, &config, authority).or_else(|refusal| {
        // Or it hasn't heard yet that one goes round it.
        let mut before = config.before.at(Instant::now());
        let chosen = before.find_map(|last| choose(node, last, authority).ok());
        chosen.ok_or(refusal)
    })
}

fn choose(node: &Node, config: &Config, authority: &Authority) -> Result<Chosen, Refusal> {
    let own = |address| node.is_own(address);
    let (dialled, destination) = destination::choose(config, authority, own)?;
    let found = destination.find(config).ok_or(Refusal::Unknown)?;
    let declared = found.declared();
    Ok((dialled, destination, declared, config.gateway.detection))
}

/// Serves a CONNECT.
pub(crate) async fn serve(worker: Arc<Worker>, stream: InboundStream, source: SocketAddr) {
    let node = Arc::clone(&worker.node);
    let (dialled, destination, declared, patience) = match chosen(&node, &stream.authority).await {
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

/// How long an address may be unknown before its CONNECT is refused.
const NEWS: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
