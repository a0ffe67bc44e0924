//! The TLS handshake, with small buffers that grow only as far as it needs.
//!
//! rustls' unbuffered interface: the caller owns the bytes, so that after the
//! handshake records can be decrypted straight out of large reads (see `wire`).

use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::net::TcpStream;

use crate::wire::Wire;

/// One end of a TLS connection: the two differ in type only.
pub(crate) trait Side: Send + Unpin + 'static {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &CommonState;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// Connects as a client. The server name is a formality: peers are told apart
/// by identity, and no SNI is sent.
pub(crate) async fn connect(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
) -> io::Result<Wire<UnbufferedClientConnection>> {
    let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
    let tls = UnbufferedClientConnection::new(config, name).map_err(tls_error)?;
    finish(tcp, tls).await
}

/// Accepts as a server.
pub(crate) async fn accept(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<Wire<UnbufferedServerConnection>> {
    // A peer that never says anything costs a socket and this future only.
    tcp.readable().await?;
    let tls = UnbufferedServerConnection::new(config).map_err(tls_error)?;
    finish(tcp, tls).await
}

/// An error of rustls in the form that [`ambit_identity::classify_io`] knows.
pub(crate) fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What to do next.
enum Step {
    Again,
    Read,
    Done,
}

/// Bytes of a handshake that are under way.
#[derive(Default)]
struct Flight {
    input: Vec<u8>,
    output: Vec<u8>,
    /// Application data that came along with the end of the handshake.
    early: Vec<u8>,
}

async fn finish<S: Side>(tcp: TcpStream, mut tls: S) -> io::Result<Wire<S>> {
    let mut flight = Flight::default();
    loop {
        match step(&mut tls, &mut flight) {
            Ok(Step::Again) => {}
            Ok(Step::Read) => {
                send(&tcp, &mut flight.output).await?;
                receive(&tcp, &mut flight.input).await?;
            }
            Ok(Step::Done) => {
                send(&tcp, &mut flight.output).await?;
                return Ok(Wire::new(tcp, tls, flight.input, flight.early));
            }
            Err(error) => {
                // Tell the peer why, if that needs no wait; our own error counts.
                let _ = step(&mut tls, &mut flight);
                let _ = tcp.try_write(&flight.output);
                return Err(tls_error(error));
            }
        }
    }
}

fn step<S: Side>(tls: &mut S, flight: &mut Flight) -> Result<Step, rustls::Error> {
    let UnbufferedStatus { discard, state } = tls.process(&mut flight.input);
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(mut record)) => {
            encode(&mut record, &mut flight.output);
            Ok(Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            // The bytes are ours now; they go out before the next read.
            sent.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            while let Some(record) = traffic.next_record() {
                flight.early.extend_from_slice(record?.payload);
            }
            Ok(Step::Again)
        }
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Read),
        // Early data is never offered; a peer that closes now is no peer.
        Ok(_) => Err(rustls::Error::HandshakeNotComplete),
        Err(error) => Err(error),
    };
    flight.input.drain(..discard.min(flight.input.len()));
    step
}

/// Appends a handshake record.
pub(crate) fn encode<Data>(record: &mut EncodeTlsData<'_, Data>, output: &mut Vec<u8>) {
    let start = output.len();
    let mut room = 0;
    loop {
        output.resize(start + room, 0);
        match record.encode(output.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                output.truncate(start + written);
                return;
            }
            Err(EncodeError::InsufficientSize(need)) if need.required_size > room => {
                room = need.required_size;
            }
            Err(_) => {
                output.truncate(start);
                return;
            }
        }
    }
}

async fn send(tcp: &TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
    while !output.is_empty() {
        match tcp.try_write(output) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => drop(output.drain(..n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn receive(tcp: &TcpStream, input: &mut Vec<u8>) -> io::Result<()> {
    if input.len() > MAX_UNFINISHED {
        return Err(tls_error(rustls::Error::PeerSentOversizedRecord));
    }
    input.reserve(READ);
    loop {
        match tcp.try_read_buf(input) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

/// One read of a handshake: a hello and a short chain fit.
const READ: usize = 4 * 1024;
/// The largest handshake message that rustls takes is 64 KiB.
const MAX_UNFINISHED: usize = 80 * 1024;
