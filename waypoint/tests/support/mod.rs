//! A waypoint process on addresses of its own in 127/8, and around it: a
//! certificate service and a discovery service that follow the contracts,
//! applications, endpoints that answer HBONE, and a client that speaks it.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "test support, which clippy.toml does not recognise as tests"
)]

pub(crate) mod app;
pub(crate) mod control;
pub(crate) mod mesh;
pub(crate) mod raw;
pub(crate) mod resources;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ambit_ca::CertificateAuthority;
use ambit_hbone::{ConnectRequest, HboneConfig, OpenError, Pool, PoolKey, Tunnel};
use ambit_identity::{Svid, csr};
use ambit_net::{DuplexIo, PodSockets};
use ambit_runtime::Scope;
use ambit_testkit::eventually;
use ambit_types::SpiffeId;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

pub(crate) use control::Control;

/// Everything of one test. Dropping it ends the waypoint.
pub(crate) struct World {
    pub(crate) scope: Scope,
    pub(crate) control: Control,
    pub(crate) authority: Arc<CertificateAuthority>,
    pub(crate) waypoint: Waypoint,
    pub(crate) client: Client,
    pub(crate) dir: tempfile::TempDir,
    block: [u8; 2],
    next: AtomicU8,
}

/// The process.
pub(crate) struct Waypoint {
    child: Child,
    pub(crate) ip: IpAddr,
    log: std::path::PathBuf,
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- waypoint\n{}", self.log());
        }
    }
}

impl Waypoint {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("the waypoint is gone") * 1024
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) async fn ended(&mut self) -> Result<()> {
        eventually("the waypoint has ended", async || {
            let status = self.child.try_wait()?;
            ensure!(status.is_some(), "it runs");
            Ok(())
        })
        .await
    }

    pub(crate) async fn get(&self, port: u16, path: &str) -> Result<(u16, String)> {
        let uri = format!("http://{}:{port}{path}", self.ip);
        plain(Request::get(uri).body(Full::default())?).await
    }

    pub(crate) async fn post(&self, port: u16, path: &str, body: String) -> Result<(u16, String)> {
        let uri = format!("http://{}:{port}{path}", self.ip);
        plain(Request::post(uri).body(Full::new(body.into()))?).await
    }
}

/// A request over plain TCP, without the mesh.
pub(crate) async fn plain(request: Request<Full<Bytes>>) -> Result<(u16, String)> {
    let authority = request.uri().authority().context("authority")?.to_string();
    let stream = tokio::net::TcpStream::connect(&authority).await?;
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = request;
    let host = authority.parse()?;
    request.headers_mut().insert("host", host);
    let path = request.uri().path_and_query().unwrap().to_string();
    *request.uri_mut() = path.parse()?;
    let response = send.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Identity of the waypoint under test.
pub(crate) const WAYPOINT: &str = "spiffe://cluster.local/ns/shop/sa/wp";
/// Identity of the client.
pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/web";

static BLOCKS: AtomicU8 = AtomicU8::new(0);

impl World {
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// A running waypoint that has no configuration but a gateway.
    pub(crate) async fn start_with(env: &[(&str, &str)]) -> Result<Self> {
        let _ = ambit_identity::install();
        let pid = std::process::id();
        let second = u8::try_from(10 + (pid / 16) % 200)?;
        let third = u8::try_from((pid % 16) * 16)? + BLOCKS.fetch_add(1, Ordering::Relaxed) % 16;
        let block = [second, third];
        let ip = |last| IpAddr::V4(Ipv4Addr::new(127, second, third, last));
        let scope = Scope::new("test");
        let dir = tempfile::tempdir()?;
        let state = dir.path().join("ca");
        std::fs::create_dir_all(&state)?;
        let authority = Arc::new(CertificateAuthority::self_signed(&state, "cluster.local")?);
        let root = dir.path().join("root.pem");
        std::fs::write(&root, authority.roots_pem())?;
        let control = Control::start(&scope, SocketAddr::new(ip(1), 15012), &authority)?;
        control.publish(resources::GATEWAY, &[("shop/wp", resources::gateway())]);
        let log = dir.path().join("waypoint.log");
        let output = File::create(&log)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypoint"));
        command
            .env_clear()
            .envs([
                ("POD_NAME", "wp-1"),
                ("POD_NAMESPACE", "shop"),
                ("SERVICE_ACCOUNT", "wp"),
                ("AUTH_TOKEN", "token-of-the-test"),
                ("RUST_LOG", "info,waypoint=debug"),
                ("AMBIT_WAYPOINT_THREADS", "1"),
            ])
            .env("INSTANCE_IP", ip(2).to_string())
            .env("AMBIT_LISTEN_IP", ip(2).to_string())
            .env("XDS_ADDRESS", format!("https://{}:15012", ip(1)))
            .env("CA_ADDRESS", format!("https://{}:15012", ip(1)))
            .env("XDS_ROOT_CA", &root)
            .env("CA_ROOT_CA", &root)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let waypoint = Waypoint {
            child: command.spawn()?,
            ip: ip(2),
            log,
        };
        let client = Client::new(&authority, CLIENT, ip(2), &scope)?;
        let world = Self {
            scope,
            control,
            authority,
            waypoint,
            client,
            dir,
            block,
            next: AtomicU8::new(10),
        };
        world.ready().await?;
        Ok(world)
    }

    async fn ready(&self) -> Result<()> {
        eventually("ready", async || {
            let (status, body) = self.waypoint.get(15021, "/healthz/ready").await?;
            ensure!(status == 200, "{body}");
            Ok(())
        })
        .await
        .with_context(|| self.waypoint.log())
    }

    /// An address that nobody uses yet.
    pub(crate) fn address(&self) -> IpAddr {
        let [second, third] = self.block;
        let last = self.next.fetch_add(1, Ordering::Relaxed);
        IpAddr::V4(Ipv4Addr::new(127, second, third, last))
    }
}

/// A certificate of the test's authority.
pub(crate) fn svid(authority: &CertificateAuthority, id: &str) -> Result<Arc<Svid>> {
    let id: SpiffeId = id.parse()?;
    let (request, key) = csr(&id)?;
    let chain = authority.sign(&request, &id, Some(Duration::from_secs(3600)))?;
    Ok(Arc::new(Svid::from_pem(&chain, key.as_pkcs8(), &id)?))
}

/// What a client's ztunnel does: tunnels to the waypoint.
pub(crate) struct Client {
    pool: Pool,
    key: PoolKey,
    svid: Arc<Svid>,
}

impl Client {
    pub(crate) fn new(
        authority: &CertificateAuthority,
        id: &str,
        waypoint: IpAddr,
        scope: &Scope,
    ) -> Result<Self> {
        Ok(Self {
            pool: Pool::new(HboneConfig::default(), PodSockets::default(), scope),
            key: PoolKey {
                source: id.parse()?,
                expected: Arc::from([WAYPOINT.parse()?]),
                peer: SocketAddr::new(waypoint, 15008),
                source_ip: Ipv4Addr::LOCALHOST.into(),
            },
            svid: svid(authority, id)?,
        })
    }

    /// Connections to the waypoint.
    pub(crate) fn connections(&self) -> usize {
        self.pool.connections()
    }

    /// A tunnel to an address behind the waypoint.
    pub(crate) async fn tunnel(&self, authority: &str) -> Result<Tunnel, OpenError> {
        let svid = Arc::clone(&self.svid);
        let request = ConnectRequest {
            authority: authority.to_owned(),
            ..ConnectRequest::default()
        };
        self.pool
            .open(&self.key, move || async move { Ok(svid) }, &request)
            .await
    }

    /// An HTTP/1.1 connection through the waypoint.
    pub(crate) async fn http1(&self, authority: SocketAddr) -> Result<Http1> {
        let tunnel = self.tunnel(&authority.to_string()).await?;
        let io = TokioIo::new(DuplexIo::new(tunnel));
        let (send, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(Http1 { send })
    }

    /// An HTTP/2 connection through the waypoint.
    pub(crate) async fn http2(&self, authority: SocketAddr) -> Result<Http2> {
        let tunnel = self.tunnel(&authority.to_string()).await?;
        let io = TokioIo::new(DuplexIo::new(tunnel));
        let executor = hyper_util::rt::TokioExecutor::new();
        let (send, connection) = hyper::client::conn::http2::handshake(executor, io).await?;
        tokio::spawn(connection);
        Ok(Http2 { send })
    }

    /// One request over a new HTTP/1.1 connection.
    pub(crate) async fn get(&self, to: SocketAddr, path: &str) -> Result<Answer> {
        let request = Request::get(path).header("host", "cart.shop");
        self.http1(to)
            .await?
            .send(request.body(Full::default())?)
            .await
    }
}

/// The test's body type.
pub(crate) type Sent = Full<Bytes>;

pub(crate) struct Http1 {
    pub(crate) send: hyper::client::conn::http1::SendRequest<Sent>,
}

pub(crate) struct Http2 {
    pub(crate) send: hyper::client::conn::http2::SendRequest<Sent>,
}

impl Http1 {
    pub(crate) async fn send(&mut self, request: Request<Sent>) -> Result<Answer> {
        self.send.ready().await?;
        Answer::read(self.send.send_request(request).await?).await
    }
}

impl Http2 {
    pub(crate) async fn send(&mut self, request: Request<Sent>) -> Result<Answer> {
        self.send.ready().await?;
        Answer::read(self.send.send_request(request).await?).await
    }
}

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: http::response::Parts,
    pub(crate) body: String,
    pub(crate) trailers: Option<http::HeaderMap>,
}

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        let body = collected.to_bytes();
        Ok(Self {
            head,
            body: String::from_utf8_lossy(&body).into_owned(),
            trailers,
        })
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// What the echo application said it got.
    pub(crate) fn echo(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
