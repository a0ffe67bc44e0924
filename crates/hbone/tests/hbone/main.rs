//! HBONE between two identities over loopback: our own ends against each other,
//! and each against a foreign one made of `tokio-rustls` and plain `h2`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may fail by panicking, also in its helpers"
)]

mod faults;
mod foreign;
mod pki;
mod pool;
mod server;
mod tunnel;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{ConnectRequest, HboneConfig, OpenError, Pool, PoolKey, Tunnel};
use ambit_identity::Svid;
use ambit_net::{Meter, PodSockets, Transparent, relay};
use ambit_runtime::Scope;
use ambit_types::SpiffeId;
use tokio::net::{TcpListener, TcpStream};

use crate::pki::{Authority, id};
use crate::server::Server;

/// A client pod, a server pod, and the authority of both.
struct Mesh {
    authority: Authority,
    scope: Scope,
    client: Arc<Svid>,
    server: Server,
    pool: Pool,
}

impl Mesh {
    async fn new() -> Self {
        Self::with(HboneConfig::default(), HboneConfig::default()).await
    }

    async fn with(client: HboneConfig, server: HboneConfig) -> Self {
        let authority = Authority::new("mesh");
        let scope = Scope::new("test");
        let svid = Arc::new(authority.svid(&id("cart")));
        let server = Server::start(Arc::new(authority.svid(&id("db"))), server, &scope).await;
        let pool = Pool::new(client, sockets(), &scope);
        Self {
            authority,
            scope,
            client: svid,
            server,
            pool,
        }
    }

    fn key(&self) -> PoolKey {
        key_to(self.server.addr)
    }

    async fn open(&self, authority: &str) -> Result<Tunnel, OpenError> {
        self.open_key(&self.key(), authority).await
    }

    async fn open_key(&self, key: &PoolKey, authority: &str) -> Result<Tunnel, OpenError> {
        open(&self.pool, &self.client, key, authority).await
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

async fn open(
    pool: &Pool,
    svid: &Arc<Svid>,
    key: &PoolKey,
    authority: &str,
) -> Result<Tunnel, OpenError> {
    let svid = Arc::clone(svid);
    let request = ConnectRequest {
        authority: authority.into(),
        ..ConnectRequest::default()
    };
    let opening = pool.open(key, || async move { Ok(svid) }, &request);
    within(opening).await
}

fn sockets() -> PodSockets {
    PodSockets {
        transparent: Transparent::Never,
        ..PodSockets::default()
    }
}

fn key_to(peer: SocketAddr) -> PoolKey {
    PoolKey {
        source: id("cart"),
        expected: Arc::from([id("other"), id("db")]),
        peer,
        source_ip: [127, 0, 0, 1].into(),
    }
}

/// An application whose socket goes through a tunnel.
async fn app(scope: &Scope, tunnel: Tunnel) -> (TcpStream, Arc<Meter>) {
    let (app, proxy) = pair().await;
    let meter = Arc::new(Meter::default());
    let counted = Arc::clone(&meter);
    let flow = async move { drop(relay(proxy, tunnel, &counted).await) };
    scope.spawn("relay", Box::pin(flow));
    (app, meter)
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), work)
        .await
        .expect("done in time")
}

/// Polls until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn other_domain(name: &str) -> SpiffeId {
    SpiffeId::new("elsewhere.example", "shop", name).unwrap()
}
