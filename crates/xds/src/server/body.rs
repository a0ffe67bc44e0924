//! Responses as a gRPC body, written in small pieces while the client reads.
//!
//! Not tonic's encoder: that one copies a whole response into a buffer that
//! lives as long as the stream, and a first response is many MiB times the
//! number of nodes. Here a stream costs one piece, and the resources stay the
//! one copy that every stream shares.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use ambit_proto::discovery::DeltaDiscoveryResponse;

use super::bundle::{self, PIECE, Resources};

/// One response. Encodes as `DeltaDiscoveryResponse`.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) type_url: Arc<str>,
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) resources: Resources,
    /// For clients that ask by name.
    pub(super) with_aliases: bool,
    pub(super) removed: Vec<Arc<str>>,
}

impl Outgoing {
    /// Everything but the resources: a message's fields may come in any order.
    fn envelope(&self) -> Vec<u8> {
        DeltaDiscoveryResponse {
            system_version_info: self.version.clone(),
            type_url: self.type_url.to_string(),
            nonce: self.nonce.clone(),
            removed_resources: self.removed.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        }
        .encode_to_vec()
    }

    /// Bytes of the message.
    pub(super) fn encoded_len(&self) -> usize {
        let resources: usize = match &self.resources {
            Resources::Some(some) => {
                let lens = some.iter().map(|r| bundle::len(r, self.with_aliases));
                lens.sum()
            }
            Resources::All(all) => all.pieces().iter().map(Bytes::len).sum(),
        };
        self.envelope().len() + resources
    }
}

/// What the stream's task says to its body.
pub(super) type Outbox = mpsc::Sender<Result<Outgoing, Status>>;

/// The body of one stream's response.
pub(super) struct StreamBody {
    inbox: mpsc::Receiver<Result<Outgoing, Status>>,
    writing: Option<Writing>,
    ended: bool,
}

struct Writing {
    outgoing: Outgoing,
    /// Resources, or pieces of everything, written so far.
    at: usize,
    /// Frame header and envelope, until written.
    head: Option<BytesMut>,
}

impl StreamBody {
    pub(super) fn new() -> (Outbox, Self) {
        // One response: the next is made of whatever is due by then.
        let (outbox, inbox) = mpsc::channel(1);
        let body = Self {
            inbox,
            writing: None,
            ended: false,
        };
        (outbox, body)
    }
}

impl Writing {
    fn new(outgoing: Outgoing) -> Result<Self, Status> {
        let envelope = outgoing.envelope();
        let len = u32::try_from(outgoing.encoded_len())
            .map_err(|_| Status::internal("response larger than a gRPC message"))?;
        let mut head = BytesMut::with_capacity(FRAME_HEADER + envelope.len());
        head.put_u8(0); // not compressed
        head.put_u32(len);
        head.extend_from_slice(&envelope);
        Ok(Self {
            outgoing,
            at: 0,
            head: Some(head),
        })
    }

    /// The next piece; the message is complete when there is none.
    fn piece(&mut self) -> Option<Bytes> {
        let mut piece = match (&self.outgoing.resources, self.head.take()) {
            (_, Some(head)) => head,
            (Resources::Some(_), None) => BytesMut::new(),
            (Resources::All(all), None) => {
                let piece = all.pieces().get(self.at)?.clone();
                self.at += 1;
                return Some(piece);
            }
        };
        if let Resources::Some(some) = &self.outgoing.resources {
            while piece.len() < PIECE
                && let Some(resource) = some.get(self.at)
            {
                self.at += 1;
                bundle::write(resource, self.outgoing.with_aliases, &mut piece);
            }
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(writing) = &mut self.writing {
                match writing.piece() {
                    Some(piece) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                    None => self.writing = None,
                }
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let end = match self.inbox.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(outgoing))) => match Writing::new(outgoing) {
                    Ok(writing) => {
                        self.writing = Some(writing);
                        continue;
                    }
                    Err(status) => status,
                },
                Poll::Ready(Some(Err(status))) => status,
                Poll::Ready(None) => Status::ok(""),
            };
            self.ended = true;
            let mut trailers = HeaderMap::new();
            end.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }
}

/// Compression flag and length.
const FRAME_HEADER: usize = 5;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::bundle::Bundle;
    use crate::server::publish::{Batch, Publisher, TypeDelta};
    use crate::server::resource::{Resource, Update};
    use futures::StreamExt;

    fn resources(count: usize) -> Vec<Arc<Resource>> {
        let publisher = Publisher::new(["t"]);
        let changed = (0..count).map(|i| Update {
            name: format!("r{i}").into(),
            version: "1".into(),
            body: vec![7; 1000].into(),
            aliases: vec![format!("/10.0.0.{i}").into()],
            ..Update::default()
        });
        publisher.publish(Batch {
            types: vec![TypeDelta {
                type_url: "t".into(),
                changed: changed.collect(),
                removed: Vec::new(),
            }],
        });
        let (snapshot, _) = publisher.follow().unwrap();
        let view = snapshot.view("t").unwrap();
        let named = view.all();
        named.cloned().collect()
    }

    #[tokio::test]
    async fn pieces_make_up_the_message_that_prost_would_write() {
        let cases = [
            (0, false, false),
            (1, false, false),
            (100, false, false),
            (100, true, false),
            (100, false, true),
            (0, false, true),
        ];
        for (count, with_aliases, all) in cases {
            let (outbox, body) = StreamBody::new();
            let outgoing = Outgoing {
                type_url: "t".into(),
                version: "1".into(),
                nonce: "n".into(),
                resources: match all {
                    true => Resources::All(Arc::new(Bundle::new(resources(count)))),
                    false => Resources::Some(resources(count)),
                },
                with_aliases,
                removed: vec!["gone".into()],
            };
            let declared = outgoing.encoded_len();
            outbox.try_send(Ok(outgoing)).unwrap();
            drop(outbox);
            let mut body = Box::pin(body);
            let mut frames =
                futures::stream::poll_fn(|cx| http_body::Body::poll_frame(body.as_mut(), cx));
            let mut bytes = Vec::new();
            let mut trailers = None;
            while let Some(frame) = frames.next().await {
                match frame.unwrap().into_data() {
                    Ok(data) => {
                        assert!(data.len() < PIECE + 2048);
                        bytes.extend_from_slice(&data);
                    }
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            assert_eq!(trailers.unwrap()["grpc-status"], "0");
            let (header, message) = bytes.split_at(FRAME_HEADER);
            assert_eq!(header[0], 0);
            assert_eq!(message.len(), declared);
            let decoded = DeltaDiscoveryResponse::decode(message).unwrap();
            assert_eq!(decoded.resources.len(), count);
            assert_eq!(decoded.removed_resources, ["gone"]);
            assert_eq!(
                (decoded.nonce.as_str(), decoded.type_url.as_str()),
                ("n", "t")
            );
            let aliased = decoded.resources.iter().all(|r| r.aliases.len() == 1);
            assert_eq!(aliased, with_aliases || count == 0);
        }
    }
}
