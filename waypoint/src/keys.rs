//! Fetches the keys that tokens are verified with. What is fetched when is
//! `jwt`'s to say; here are the bytes, and the guard against being sent to
//! addresses that only we can reach (`waypoint-contract` 4.9).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_jwt::{Fetch, FetchFailure, KeyCache, MAX_DOCUMENT, TokenCache, check_url, is_forbidden};
use ambit_runtime::Scope;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsConnector;
use tracing::{debug, warn};

use crate::spawn::OnScope;

/// Keys and the tokens that they were good for, shared by all threads.
pub(crate) struct Keys {
    pub(crate) cache: KeyCache,
    pub(crate) tokens: TokenCache,
    wake: Notify,
    changed: watch::Sender<()>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            cache: KeyCache::default(),
            tokens: TokenCache::new(TOKENS),
            wake: Notify::new(),
            changed: watch::channel(()).0,
        }
    }

    /// There may be something to fetch.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Sees fetches end.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// Fetches what is wanted, for as long as the scope lives.
pub(crate) fn start(keys: &Arc<Keys>, scope: &Scope) {
    let (keys, own) = (Arc::clone(keys), scope.clone());
    scope.spawn("keys", async move {
        loop {
            for fetch in keys.cache.wanted(Instant::now()) {
                let (keys, tasks) = (Arc::clone(&keys), own.clone());
                own.spawn("fetch keys", async move {
                    run(&keys, fetch, &tasks).await;
                    keys.changed.send_replace(());
                    keys.wake();
                });
            }
            let due = keys.cache.next_due();
            let wait = due.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
            // Late or woken: both look again.
            let _ = tokio::time::timeout(wait.min(IDLE), keys.wake.notified()).await;
        }
    });
}

async fn run(keys: &Keys, fetch: Fetch, scope: &Scope) {
    let mut next = Some(fetch);
    while let Some(fetch) = next.take() {
        let bound = fetch.source.timeout;
        let got = match tokio::time::timeout(bound, get(&fetch.url, scope)).await {
            Ok(got) => got,
            Err(_) => Err(FetchFailure::Timeout),
        };
        let result = match &got {
            Ok(document) => Ok(&document[..]),
            Err(failure) => Err(failure.clone()),
        };
        match keys.cache.done(&fetch, result, Instant::now()) {
            Ok(more) => {
                debug!(url = fetch.url, "document fetched");
                next = more;
            }
            Err(error) => warn!(url = fetch.url, %error, "no keys"),
        }
    }
}

async fn get(url: &str, scope: &Scope) -> Result<Bytes, FetchFailure> {
    let transport = |error: &dyn std::fmt::Display| FetchFailure::Transport(error.to_string());
    let uri = check_url(url)?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let found = tokio::net::lookup_host((host, port)).await;
    let addresses: Vec<SocketAddr> = found.map_err(|error| transport(&error))?.collect();
    if addresses.iter().any(|address| is_forbidden(address.ip())) {
        let why = "the host resolves to an address that keys are never fetched from";
        return Err(FetchFailure::Transport(why.to_owned()));
    }
    // Connected by address: a second resolution could give another answer.
    let stream = TcpStream::connect(&addresses[..]).await;
    let stream = stream.map_err(|error| transport(&error))?;
    if !tls {
        return exchange(stream, &uri, scope).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| transport(&error))?;
    let connector = TlsConnector::from(system_tls().map_err(|error| transport(&error))?);
    let stream = connector.connect(name, stream).await;
    exchange(stream.map_err(|error| transport(&error))?, &uri, scope).await
}

async fn exchange<IO>(io: IO, uri: &http::Uri, scope: &Scope) -> Result<Bytes, FetchFailure>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let transport = |error: &dyn std::fmt::Display| FetchFailure::Transport(error.to_string());
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| transport(&error))?;
    hyper::rt::Executor::execute(&OnScope(scope.clone()), async move {
        if let Err(error) = connection.await {
            debug!(%error, "connection of a fetch ended");
        }
    });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(http::header::HOST, host)
        .header(http::header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| transport(&error))?;
    let response = send.send_request(request).await;
    let response = response.map_err(|error| transport(&error))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(FetchFailure::Redirect);
    }
    if status != http::StatusCode::OK {
        return Err(FetchFailure::Status(status.as_u16()));
    }
    match Limited::new(response.into_body(), MAX_DOCUMENT)
        .collect()
        .await
    {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(FetchFailure::TooLarge),
        Err(error) => Err(transport(&error)),
    }
}

fn system_tls() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(ambit_identity::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Tokens that are remembered as good.
const TOKENS: usize = 1024;
/// How long the loop sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);
