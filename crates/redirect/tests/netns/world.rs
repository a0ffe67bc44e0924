//! Two namespaces on one link: a pod and a peer; an echo program that tells
//! callers who they seem to be; and a proxy of a few lines.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ambit_netns::{NamedNetNs, NetNs, Netlink};
use ambit_redirect::rules::{HBONE_PORT, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, PROXY_MARK};
use ambit_runtime::Scope;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const POD: [&str; 2] = ["10.77.0.2", "fd77::2"];
pub(crate) const PEER: [&str; 2] = ["10.77.0.1", "fd77::1"];
pub(crate) const PROBE: [&str; 2] = ["169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"];
/// Where echo programs listen.
pub(crate) const ECHO: u16 = 8080;
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct World {
    pub(crate) pod: NamedNetNs,
    pub(crate) peer: NamedNetNs,
    pub(crate) scope: Scope,
    /// What the proxy took: its port and the original destination.
    pub(crate) captured: Arc<Mutex<Vec<(u16, SocketAddr)>>>,
}

pub(crate) fn addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

impl World {
    /// The two namespaces, with echo programs in both.
    pub(crate) async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join("ambit-redirect-tests");
        remove_leftovers(&dir);
        let pod = NamedNetNs::create(&dir, &format!("pod-{id}")).unwrap();
        let peer = NamedNetNs::create(&dir, &format!("peer-{id}")).unwrap();
        let in_pod = Netlink::in_ns(pod.ns()).unwrap();
        let in_peer = Netlink::in_ns(peer.ns()).unwrap();
        in_pod.add_veth("eth0", "eth1", peer.ns()).await.unwrap();
        no_dad(pod.ns(), "eth0");
        no_dad(peer.ns(), "eth1");
        let nets = [("10.77.0.", 24), ("fd77::", 64)];
        for (net, length) in nets {
            let address = |host| format!("{net}{host}/{length}").parse().unwrap();
            in_pod.add_addr("eth0", address(2)).await.unwrap();
            in_peer.add_addr("eth1", address(1)).await.unwrap();
        }
        for (probe, length) in PROBE.iter().zip([32, 128]) {
            let host = format!("{probe}/{length}").parse().unwrap();
            in_peer.add_addr("eth1", host).await.unwrap();
        }
        for (netlink, link) in [(&in_pod, "eth0"), (&in_peer, "eth1")] {
            netlink.link_up("lo").await.unwrap();
            netlink.link_up(link).await.unwrap();
        }
        for (probe, length) in PROBE.iter().zip([32, 128]) {
            let host = format!("{probe}/{length}").parse().unwrap();
            in_pod.add_route(host, None, "eth0").await.unwrap();
        }
        let world = Self {
            pod,
            peer,
            scope: Scope::new("world"),
            captured: Arc::default(),
        };
        for ns in [world.pod.ns(), world.peer.ns()] {
            world.echo(ns, ECHO);
        }
        // Not a proxy's HBONE: what must never be redirected.
        world.echo(world.pod.ns(), HBONE_PORT);
        world
    }

    pub(crate) fn echo(&self, ns: &NetNs, port: u16) {
        let listener = listen(ns, port, None);
        let scope = self.scope.clone();
        self.scope.spawn("echo", async move {
            while let Ok((stream, from)) = listener.accept().await {
                scope.spawn("echo connection", async move {
                    let _ = echo(stream, from).await;
                });
            }
        });
    }

    /// Starts the proxy; it ends with the returned scope.
    pub(crate) fn proxy(&self) -> Scope {
        let scope = self.scope.child("proxy");
        for port in [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT] {
            let listener = listen(self.pod.ns(), port, Some(PROXY_MARK));
            let (connections, ns) = (scope.clone(), self.pod.ns().clone());
            let captured = Arc::clone(&self.captured);
            scope.spawn("proxy", async move {
                while let Ok((stream, from)) = listener.accept().await {
                    let to = original_destination(&stream);
                    captured.lock().unwrap().push((port, to));
                    let ns = ns.clone();
                    connections.spawn("proxy connection", async move {
                        let source = (port == INBOUND_PLAINTEXT_PORT).then(|| canonical(from).ip());
                        let _ = carry(stream, &ns, source, to).await;
                    });
                }
            });
        }
        scope
    }

    pub(crate) fn take_captured(&self) -> Vec<(u16, SocketAddr)> {
        std::mem::take(&mut *self.captured.lock().unwrap())
    }
}

/// A connection to an echo program.
pub(crate) struct Call {
    stream: BufReader<TcpStream>,
    /// The caller's address as the program sees it.
    pub(crate) seen_as: IpAddr,
}

impl Call {
    pub(crate) async fn dial(ns: &NetNs, to: SocketAddr) -> io::Result<Self> {
        Self::dial_with(ns, to, None, None).await
    }

    pub(crate) async fn dial_with(
        ns: &NetNs,
        to: SocketAddr,
        from: Option<IpAddr>,
        mark: Option<u32>,
    ) -> io::Result<Self> {
        let stream = tokio::time::timeout(DEADLINE, connect(ns, from, to, mark)).await??;
        let mut stream = BufReader::new(stream);
        let seen_as = line(&mut stream).await?.parse().map_err(io::Error::other)?;
        Ok(Self { stream, seen_as })
    }

    /// True if a line comes back.
    pub(crate) async fn works(&mut self) -> bool {
        self.stream.write_all(b"hello\n").await.is_ok()
            && line(&mut self.stream).await.is_ok_and(|l| l == "hello")
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    tokio::time::timeout(DEADLINE, stream.read_line(&mut line)).await??;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

async fn echo(stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let who = format!("{}\n", canonical(from).ip());
    stream.write_all(who.as_bytes()).await?;
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).await? > 0 {
        stream.write_all(&line).await?;
        line.clear();
    }
    Ok(())
}

async fn carry(
    mut inbound: TcpStream,
    ns: &NetNs,
    source: Option<IpAddr>,
    to: SocketAddr,
) -> io::Result<()> {
    let mut outbound = connect(ns, source, to, Some(PROXY_MARK)).await?;
    tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await?;
    Ok(())
}

async fn connect(
    ns: &NetNs,
    from: Option<IpAddr>,
    to: SocketAddr,
    mark: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = ns.run(|| Socket::new(Domain::for_address(to), Type::STREAM, None))??;
    socket.set_nonblocking(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
        // One flag of the socket, whichever family.
        socket.set_ip_transparent_v4(true)?;
    }
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Err(e) if e.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => return Err(e),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

fn listen(ns: &NetNs, port: u16, mark: Option<u32>) -> TcpListener {
    let socket = ns
        .run(|| Socket::new(Domain::IPV6, Type::STREAM, None))
        .unwrap()
        .unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_only_v6(false).unwrap();
    if let Some(mark) = mark {
        socket.set_mark(mark).unwrap();
        socket.set_ip_transparent_v4(true).unwrap();
    }
    socket
        .bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port).into())
        .unwrap();
    socket.listen(128).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

fn original_destination(stream: &TcpStream) -> SocketAddr {
    let socket = socket2::SockRef::from(stream);
    let found = socket
        .original_dst_v4()
        .or_else(|_| socket.original_dst_v6());
    canonical(
        found
            .ok()
            .and_then(|a| a.as_socket())
            .unwrap_or(stream.local_addr().unwrap()),
    )
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Namespaces of runs that were killed.
fn remove_leftovers(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let pid = name.split('-').nth(1).unwrap_or_default();
        if !Path::new("/proc").join(pid).exists() {
            NamedNetNs::remove_stale(dir, &name);
        }
    }
}

/// An IPv6 address is usable at once.
fn no_dad(ns: &NetNs, link: &str) {
    ns.run(|| std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_dad"), "0"))
        .unwrap()
        .unwrap();
}

pub(crate) const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
