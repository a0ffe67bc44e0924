//! Names that aren't the mesh's: asked of the node proxy's own DNS servers,
//! from the pod's namespace, with the proxy's mark (`ztunnel-contract` 8.4).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ambit_net::{ConnectError, PodSockets};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

use super::message::{Query, renumber};

/// The DNS servers of this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Servers(Vec<SocketAddr>);

/// How a question came, and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("no DNS server is known")]
    NoServer,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("exchange with the DNS server")]
    Exchange(#[from] io::Error),
    #[error("an answer to another question")]
    Another,
    #[error("no answer in {0:?}")]
    Silent(Duration),
}

impl Servers {
    /// The `nameserver` lines of a resolver's configuration.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        std::fs::read_to_string(path).map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let server = |line: &str| {
            let mut words = line.split_whitespace();
            let (Some("nameserver"), Some(ip)) = (words.next(), words.next()) else {
                return None;
            };
            ip.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53))
        };
        Self(text.lines().filter_map(server).take(MOST).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A server's answer, as it came. Servers are asked one after the other,
    /// twice.
    ///
    /// # Errors
    /// Why the last of them gave none.
    pub(super) async fn ask(
        &self,
        sockets: &PodSockets,
        query: &Query,
        message: &[u8],
        via: Transport,
    ) -> Result<Vec<u8>, ForwardError> {
        let rounds = async {
            let mut last = ForwardError::NoServer;
            for server in self.0.iter().chain(&self.0) {
                let asked = ask_one(sockets, *server, query, message, via);
                last = match timeout(EACH, asked).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) => error,
                    Err(_) => ForwardError::Silent(EACH),
                };
                debug!(%server, error = %last, "a DNS server gave no answer");
            }
            Err(last)
        };
        let all = timeout(ALL, rounds).await;
        all.unwrap_or(Err(ForwardError::Silent(ALL)))
    }
}

async fn ask_one(
    sockets: &PodSockets,
    server: SocketAddr,
    query: &Query,
    message: &[u8],
    via: Transport,
) -> Result<Vec<u8>, ForwardError> {
    // The client's number could be guessed by whoever sees the client.
    let id = rand::random();
    let mut message = message.to_vec();
    renumber(&mut message, id);
    if via == Transport::Tcp {
        let mut stream = sockets.connect(server, EACH).await?;
        write_framed(&mut stream, &message).await?;
        let answer = read_framed(&mut stream).await?;
        let answer = answer.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        return match query.is_answered_by(id, &answer) {
            true => Ok(answer),
            false => Err(ForwardError::Another),
        };
    }
    let socket = sockets.connect_datagram(server).await?;
    socket.send(&message).await?;
    loop {
        socket.readable().await?;
        // Memory is only taken now: many questions may wait. The question has
        // told the server how long an answer may be.
        let mut answer = Vec::with_capacity(query.datagram_limit().into());
        match socket.try_recv_buf(&mut answer) {
            Ok(_) if query.is_answered_by(id, &answer) => return Ok(answer),
            // Forged, or late.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A message of a TCP stream; `None` at its end.
pub(super) async fn read_framed(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

pub(super) async fn write_framed(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(message.len());
    let length = length.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

/// As resolvers have it: further lines don't count.
const MOST: usize = 3;
/// One server's time for one question.
const EACH: Duration = Duration::from_secs(2);
/// All of them together: clients ask again after as much.
const ALL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use hickory_proto::op::{self, Message, MessageType, OpCode};
    use hickory_proto::rr::{Name, RecordType};
    use tokio::net::{TcpListener, UdpSocket};

    use super::*;

    const LOCAL: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn question() -> (Query, Vec<u8>) {
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii("www.example.com.").unwrap();
        message.add_query(op::Query::query(name, RecordType::TXT));
        let bytes = message.to_vec().unwrap();
        (Query::parse(&bytes).unwrap(), bytes)
    }

    fn answer(question: &[u8]) -> Message {
        Message::from_vec(question).unwrap().into_response()
    }

    #[test]
    fn the_servers_of_a_resolver() {
        let text = "search a.b\nnameserver 10.96.0.10\n# nameserver 1.1.1.1\n  nameserver\tfd00::10 # x\n\
                    nameserver nonsense\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n";
        let found = Servers::parse(text).0;
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.96.0.10:53", "[fd00::10]:53", "10.0.0.1:53"]);
        assert!(Servers::parse("options ndots:5").is_empty());
    }

    #[tokio::test]
    async fn the_next_server_is_asked_and_forged_answers_are_dropped() {
        let nobody = UdpSocket::bind(LOCAL).await.unwrap();
        let server = UdpSocket::bind(LOCAL).await.unwrap();
        let servers = Servers(vec![
            nobody.local_addr().unwrap(),
            server.local_addr().unwrap(),
        ]);
        drop(nobody);
        let (query, message) = question();
        let sockets = PodSockets::default();
        let serve = async {
            let mut buffer = [0; 512];
            let (n, from) = server.recv_from(&mut buffer).await.unwrap();
            let mut good = answer(&buffer[..n]);
            good.metadata.authentic_data = true;
            let mut forged = good.clone();
            forged.metadata.id = !good.id;
            for message in [&forged, &good] {
                let bytes = message.to_vec().unwrap();
                server.send_to(&bytes, from).await.unwrap();
            }
            good
        };
        let ask = servers.ask(&sockets, &query, &message, Transport::Udp);
        let (got, good) = tokio::join!(ask, serve);
        assert_eq!(got.unwrap(), good.to_vec().unwrap());
    }

    #[tokio::test]
    async fn what_came_over_tcp_is_asked_over_tcp() {
        let server = TcpListener::bind(LOCAL).await.unwrap();
        let servers = Servers(vec![server.local_addr().unwrap()]);
        let (query, message) = question();
        let sockets = PodSockets::default();
        let serve = async {
            // Gone without a word: it is asked again.
            let (stream, _) = server.accept().await.unwrap();
            drop(stream);
            let (mut stream, _) = server.accept().await.unwrap();
            let question = read_framed(&mut stream).await.unwrap().unwrap();
            let answer = answer(&question).to_vec().unwrap();
            write_framed(&mut stream, &answer).await.unwrap();
            answer
        };
        let ask = servers.ask(&sockets, &query, &message, Transport::Tcp);
        let (got, answer) = tokio::join!(ask, serve);
        assert_eq!(got.unwrap(), answer);
    }

    #[tokio::test]
    async fn without_a_server_nobody_answers() {
        let (query, message) = question();
        let sockets = PodSockets::default();
        let asked = Servers::default();
        let asked = asked.ask(&sockets, &query, &message, Transport::Udp);
        assert!(matches!(asked.await, Err(ForwardError::NoServer)));
    }
}
