//! Names that a pod asks for: captured on port 53, answered by the proxy
//! (`ztunnel-contract` 7.1 rules 7 to 10, 8.4).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ambit_netns::NetNs;
use ambit_testkit::client;
use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use crate::world::World;

/// What the DNS server of the test says of every name.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// Where pods believe their DNS server to be: nobody is there.
const CLUSTER_DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53);

/// A DNS server of the node, in the pod that isn't in the mesh.
pub(crate) fn serve(world: &World) -> Result<IpAddr> {
    let ip = world.ip("outsider")?;
    let at = SocketAddr::new(ip, 53);
    let ns = world.ns("outsider")?;
    let udp = datagrams(&ns, at)?;
    let tcp = ns.run(|| std::net::TcpListener::bind(at))??;
    tcp.set_nonblocking(true)?;
    let tcp = TcpListener::from_std(tcp)?;
    world.scope.spawn("dns over udp", async move {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = udp.recv_from(&mut buffer).await {
            let _ = udp.send_to(&outside(&buffer[..n]), from).await;
        }
    });
    world.scope.spawn("dns over tcp", async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let Ok(length) = stream.read_u16().await else {
                continue;
            };
            let mut question = vec![0; length.into()];
            if stream.read_exact(&mut question).await.is_ok() {
                let _ = stream.write_all(&framed(&outside(&question))).await;
            }
        }
    });
    Ok(ip)
}

fn datagrams(ns: &NetNs, at: SocketAddr) -> Result<UdpSocket> {
    let socket = ns.run(|| std::net::UdpSocket::bind(at))??;
    socket.set_nonblocking(true)?;
    Ok(UdpSocket::from_std(socket)?)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes(), message].concat()
}

/// The authoritative answer to a question: one A record.
fn outside(question: &[u8]) -> Vec<u8> {
    let mut answer = Message::from_vec(question).unwrap().into_response();
    answer.metadata.authoritative = true;
    let name = answer.queries[0].name.clone();
    let data = RData::A(OUTSIDE.into());
    answer.add_answer(Record::from_rdata(name, 60, data));
    answer.to_vec().unwrap()
}

fn question(name: &str) -> Message {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, RecordType::A));
    message
}

/// The address of an answer with one record, and whether it is authoritative.
fn only_address(question: &Message, answer: &[u8]) -> Result<(IpAddr, bool)> {
    let answer = Message::from_vec(answer)?;
    ensure!(answer.id == question.id, "another id: {answer}");
    ensure!(answer.response_code == ResponseCode::NoError, "{answer}");
    ensure!(answer.queries == question.queries, "{answer}");
    let [record] = &answer.answers[..] else {
        anyhow::bail!("not one record: {answer}");
    };
    let ip = record.data.ip_addr().context("no address")?;
    Ok((ip, answer.authoritative))
}

async fn over_udp(ns: &NetNs, question: &[u8]) -> Result<Vec<u8>> {
    let socket = datagrams(ns, ([0, 0, 0, 0], 0).into())?;
    socket.connect(CLUSTER_DNS).await?;
    socket.send(question).await?;
    let mut answer = vec![0; 512];
    let received = timeout(Duration::from_secs(10), socket.recv(&mut answer));
    let n = received.await.context("no answer over UDP")??;
    answer.truncate(n);
    Ok(answer)
}

async fn over_tcp(ns: &NetNs, question: &[u8]) -> Result<Vec<u8>> {
    let mut stream = client::connect(ns, CLUSTER_DNS).await?;
    stream.write_all(&framed(question)).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Hosts of the mesh by the proxy, the rest by its DNS server; over both
/// transports, several questions at once.
pub(crate) async fn are_answered(world: &World) -> Result<()> {
    let ns = world.ns("client")?;
    let vip = Ipv4Addr::new(10, 96, 7, 7);
    for (name, ip, authoritative) in [
        ("server", vip, true),
        ("server.shop.svc.cluster.local", vip, true),
        ("www.example.com", OUTSIDE, false),
    ] {
        let question = question(name);
        let bytes = question.to_vec()?;
        let expected = (IpAddr::V4(ip), authoritative);
        let answer = over_udp(&ns, &bytes).await.context(name)?;
        assert_eq!(only_address(&question, &answer)?, expected, "{name}");
        let answer = over_tcp(&ns, &bytes).await.context(name)?;
        assert_eq!(only_address(&question, &answer)?, expected, "{name}");
    }
    let refused = Message::from_vec(&over_udp(&ns, &[0; 12]).await?)?;
    assert_eq!(refused.response_code, ResponseCode::FormErr);
    let metrics = world.metrics("n1").await?;
    for (name, count) in [
        ("istio_dns_requests_total", 3.0),
        ("istio_dns_upstream_requests_total", 1.0),
        ("istio_dns_upstream_request_duration_seconds_count", 1.0),
        ("istio_dns_upstream_failures_total", 0.0),
    ] {
        for protocol in ["udp", "tcp"] {
            let of = [
                ("request_query_type", "a"),
                ("request_protocol", protocol),
                ("source_canonical_service", "client"),
            ];
            let counted = metrics.sum(name, &of);
            ensure!(counted == count, "{name} of {protocol}: {counted}");
        }
    }
    Ok(())
}

/// Takes the port of names in a pod, as an application may.
pub(crate) fn take_port(world: &World, pod: &str) -> Result<UdpSocket> {
    datagrams(&world.ns(pod)?, ([127, 0, 0, 1], 15053).into())
}
