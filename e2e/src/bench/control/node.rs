//! A node as the control plane sees it: the stream of its proxy, and the report
//! of its agent.

use std::net::SocketAddr;

use ambit_netns::NetNs;
use ambit_proto::discovery::{DeltaDiscoveryRequest, Node as Identity};
use ambit_proto::enrolment::NodeReport;
use ambit_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use ambit_runtime::Scope;
use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::Request;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::mesh::SYSTEM;
use super::record::Record;
use crate::peer::{self, Credential};

/// Where the control plane is.
pub(super) struct Door {
    ns: NetNs,
    to: SocketAddr,
    /// Of the connections.
    scope: Scope,
}

impl Door {
    pub(super) fn new(ns: NetNs, to: SocketAddr) -> Self {
        let scope = Scope::new("clients");
        Self { ns, to, scope }
    }

    /// A call on a connection of its own, both ways.
    async fn call(&self, token: &str, method: &str) -> Result<(SendStream<Bytes>, RecvStream)> {
        let tls = peer::tls(&self.ns, self.to, &Credential::None).await?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(tls)
            .await
            .context("HTTP/2")?;
        // Ends with its last stream.
        self.scope.spawn("connection", async move {
            // An error is seen by the stream as well.
            let _ = connection.await;
        });
        let request = Request::post(format!("https://{HOST}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"))
            .body(())?;
        let mut sender = sender.ready().await?;
        let (response, send) = sender.send_request(request, false)?;
        let response = response.await?;
        ensure!(response.status() == 200, "{}", response.status());
        if let Some(status) = response.headers().get("grpc-status") {
            bail!("{method} is refused: {status:?}");
        }
        Ok((send, response.into_body()))
    }
}

/// An agent's report, kept by the control plane on return.
pub(super) async fn report(door: &Door, token: &str, report: NodeReport) -> Result<()> {
    let method = "ambit.enrolment.v1.Enrolment/Report";
    let (mut send, mut answers) = door.call(token, method).await?;
    let sequence = report.sequence;
    send.send_data(frame(&report), false)?;
    let ack = answers.data().await.context("no answer to a report")??;
    let body = ack.get(FRAME_HEADER..).context("a short answer")?;
    let ack = ambit_proto::enrolment::ReportAck::decode(body)?;
    ensure!(
        ack.sequence == sequence && ack.refused.is_empty(),
        "{ack:?}"
    );
    send.send_data(Bytes::new(), true)?;
    Ok(())
}

/// A node's proxy.
pub(super) struct Node {
    at: usize,
    token: String,
}

impl Node {
    pub(super) fn new(at: usize, token: String) -> Self {
        Self { at, token }
    }

    /// Follows the configuration until the stream ends.
    pub(super) async fn follow(&self, door: &Door, record: &Record) -> Result<()> {
        let method =
            "envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
        let (mut send, mut responses) = door.call(&self.token, method).await?;
        for type_url in [ADDRESS_TYPE, AUTHORIZATION_TYPE] {
            let first = DeltaDiscoveryRequest {
                node: Some(self.identity()),
                type_url: type_url.to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            send.send_data(frame(&first), false)?;
        }
        let mut reader = Reader::default();
        let mut held = 0;
        while let Some(data) = responses.data().await {
            let data = data?;
            record.received(data.len());
            responses.flow_control().release_capacity(data.len())?;
            let expecting = record.is_expecting();
            reader.pending.extend_from_slice(&data);
            while let Some(part) = reader.next()? {
                match part {
                    Part::Resource(resource) => {
                        held += 1;
                        if held == record.full() {
                            record.is_complete();
                        }
                        if expecting && let Some(name) = name(&resource)? {
                            record.seen(self.at, std::str::from_utf8(name)?);
                        }
                    }
                    Part::End { type_url, nonce } => {
                        let ack = DeltaDiscoveryRequest {
                            type_url,
                            response_nonce: nonce,
                            ..DeltaDiscoveryRequest::default()
                        };
                        send.send_data(frame(&ack), false)?;
                    }
                }
            }
        }
        let trailers = responses.trailers().await?;
        bail!("the stream was ended: {trailers:?}")
    }

    fn identity(&self) -> Identity {
        let at = self.at;
        let text = |text: String| Value {
            kind: Some(Kind::StringValue(text)),
        };
        let fields = [
            ("NAME", format!("ztunnel-n{at}")),
            ("NAMESPACE", SYSTEM.to_owned()),
            ("SERVICE_ACCOUNT", "ztunnel".to_owned()),
            ("NODE_NAME", format!("n{at}")),
            ("CLUSTER_ID", "Kubernetes".to_owned()),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), text(value)));
        Identity {
            id: format!(
                "ztunnel~192.168.0.{}~ztunnel-n{at}.{SYSTEM}~{SYSTEM}.svc.cluster.local",
                at + 1
            ),
            metadata: Some(Struct {
                fields: fields.into_iter().collect(),
            }),
            ..Identity::default()
        }
    }
}

/// Reads responses as they come, a resource at a time: what a whole one holds
/// is never in memory.
#[derive(Default)]
struct Reader {
    pending: BytesMut,
    /// Of the message that is being read.
    left: usize,
    reading: bool,
    type_url: String,
    nonce: String,
}

enum Part {
    Resource(Bytes),
    /// A response is complete.
    End {
        type_url: String,
        nonce: String,
    },
}

impl Reader {
    fn next(&mut self) -> Result<Option<Part>> {
        loop {
            if !self.reading {
                let Some(header) = self.pending.first_chunk::<FRAME_HEADER>() else {
                    return Ok(None);
                };
                let [compressed, length @ ..] = *header;
                ensure!(compressed == 0, "a compressed message");
                self.left = u32::from_be_bytes(length) as usize;
                self.reading = true;
                self.pending.advance(FRAME_HEADER);
            }
            if self.left == 0 {
                self.reading = false;
                return Ok(Some(Part::End {
                    type_url: std::mem::take(&mut self.type_url),
                    nonce: std::mem::take(&mut self.nonce),
                }));
            }
            let Some((field, header, length)) = field(&self.pending)? else {
                return Ok(None);
            };
            if self.pending.len() < header + length {
                return Ok(None);
            }
            self.left -= header + length;
            self.pending.advance(header);
            let value = self.pending.split_to(length).freeze();
            let text = |value: &Bytes| String::from_utf8(value.to_vec());
            match field {
                2 => return Ok(Some(Part::Resource(value))),
                4 => self.type_url = text(&value)?,
                5 => self.nonce = text(&value)?,
                _ => {}
            }
        }
    }
}

/// Number, bytes of the header and bytes of the value of a field, all of which
/// have lengths in these messages; none while there is too little.
fn field(bytes: &[u8]) -> Result<Option<(u64, usize, usize)>> {
    let mut rest = bytes;
    let Some(key) = varint(&mut rest) else {
        return Ok(None);
    };
    ensure!(key & 7 == 2, "a field of wire type {}", key & 7);
    let Some(length) = varint(&mut rest) else {
        return Ok(None);
    };
    let header = bytes.len() - rest.len();
    Ok(Some((key >> 3, header, usize::try_from(length)?)))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The name of an encoded `Resource`.
fn name(mut resource: &[u8]) -> Result<Option<&[u8]>> {
    while let Some((number, header, length)) = field(resource)? {
        let value = resource.get(header..header + length).context("cut off")?;
        if number == 3 {
            return Ok(Some(value));
        }
        resource = resource.get(header + length..).unwrap_or_default();
    }
    Ok(None)
}

/// A gRPC message.
fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}

const HOST: &str = "istiod.istio-system.svc";
/// Compression flag and length.
const FRAME_HEADER: usize = 5;
/// As the proxies have them.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
