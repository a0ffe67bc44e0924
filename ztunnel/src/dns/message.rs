//! What is asked and answered in DNS messages (RFC 1035, RFC 6891).
//!
//! The bytes are `hickory_proto`'s; this says what an answer of this proxy has
//! in it, and what is refused. Everything read here comes from an application
//! or from the network: a message that can't be read is never guessed at.

use std::iter::empty;
use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{
    self, Edns, EmitAndCount, Header, Message, MessageType, Metadata, OpCode, ResponseCode,
    emit_message_parts,
};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

/// A question that may be answered, here or by somebody else.
#[derive(Debug)]
pub(crate) struct Query {
    metadata: Metadata,
    question: op::Query,
    edns: Option<Edns>,
    name: String,
}

/// Addresses that a name stands for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    /// The name is another one for this.
    pub(crate) alias: Option<String>,
    pub(crate) ips: Vec<IpAddr>,
}

impl Query {
    /// Reads a message of a client.
    ///
    /// # Errors
    /// What it is answered with; nothing for what is no message at all.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let Header { metadata, counts } = Header::from_bytes(message).map_err(|_| None)?;
        let refuse = |rcode| Err(encode(&reply(&metadata, rcode), u16::MAX));
        if metadata.message_type == MessageType::Response {
            return refuse(ResponseCode::FormErr);
        }
        if metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        // Before anything is reserved for as many as it says.
        if counts.queries != 1 {
            return refuse(ResponseCode::FormErr);
        }
        let Ok(Message {
            mut queries, edns, ..
        }) = Message::from_vec(message)
        else {
            return refuse(ResponseCode::FormErr);
        };
        let Some(question) = queries.pop() else {
            return refuse(ResponseCode::FormErr);
        };
        let mut name = question.name.to_lowercase().to_ascii();
        name.pop();
        Ok(Self {
            metadata,
            question,
            edns,
            name,
        })
    }

    /// The name, in lower case and without its last dot.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What of the name is asked for.
    pub(crate) fn kind(&self) -> RecordType {
        self.question.query_type
    }

    /// True if it asks for addresses, which hosts of the mesh have. Bytes that
    /// have to be escaped are in none of their names.
    pub(crate) fn is_for_addresses(&self) -> bool {
        self.question.query_class == DNSClass::IN
            && matches!(self.kind(), RecordType::A | RecordType::AAAA)
            && !self.name.is_empty()
            && !self.name.contains('\\')
    }

    /// The answer from what is known here. Without an address it says that the
    /// name exists, and has none of this type. `limit` is what the client takes,
    /// in bytes; a longer answer is cut, and says so.
    ///
    /// `None` for an alias that is no name.
    pub(crate) fn answer(&self, records: &Records, limit: u16) -> Option<Vec<u8>> {
        let mut answer = self.reply(ResponseCode::NoError);
        answer.metadata.authoritative = true;
        let mut owner = self.question.name.clone();
        if let Some(alias) = &records.alias {
            let mut alias = Name::from_ascii(alias).ok()?;
            alias.set_fqdn(true);
            let data = RData::CNAME(CNAME(alias.clone()));
            answer.add_answer(Record::from_rdata(owner, TTL, data));
            owner = alias;
        }
        for ip in &records.ips {
            let data = match *ip {
                IpAddr::V4(ip) => RData::A(ip.into()),
                IpAddr::V6(ip) => RData::AAAA(ip.into()),
            };
            answer.add_answer(Record::from_rdata(owner.clone(), TTL, data));
        }
        encode(&answer, limit)
    }

    /// Nobody answers it.
    pub(crate) fn failure(&self) -> Option<Vec<u8>> {
        encode(&self.reply(ResponseCode::ServFail), u16::MAX)
    }

    /// How long a datagram this client takes, in bytes; at least 512.
    pub(crate) fn datagram_limit(&self) -> u16 {
        let said = self.edns.as_ref().map(Edns::max_payload);
        said.unwrap_or_default().max(SMALLEST)
    }

    /// True if a message is an answer to this question, sent as `id`.
    pub(crate) fn is_answered_by(&self, id: u16, message: &[u8]) -> bool {
        let mut rest = BinDecoder::new(message);
        let Ok(Header { metadata, counts }) = Header::read(&mut rest) else {
            return false;
        };
        metadata.id == id
            && metadata.message_type == MessageType::Response
            && counts.queries == 1
            && op::Query::read(&mut rest).is_ok_and(|of| of == self.question)
    }

    /// Makes somebody else's answer one that the client may see: under its own
    /// id, and not as if it were ours.
    pub(crate) fn pass_on(&self, answer: &mut [u8]) {
        change(answer, |header| {
            header.id = self.metadata.id;
            header.authoritative = false;
            header.recursion_available = true;
        });
    }

    fn reply(&self, rcode: ResponseCode) -> Message {
        let mut reply = reply(&self.metadata, rcode);
        reply.add_query(self.question.clone());
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload())
                .set_version(asked.version())
                .set_dnssec_ok(asked.flags().dnssec_ok);
            reply.set_edns(edns);
        }
        reply
    }
}

/// Gives a message another number.
pub(crate) fn renumber(message: &mut [u8], id: u16) {
    change(message, |header| header.id = id);
}

/// Changes the header of a message, and nothing else of it.
fn change(message: &mut [u8], how: impl FnOnce(&mut Metadata)) {
    let Ok(mut header) = Header::from_bytes(message) else {
        return;
    };
    how(&mut header.metadata);
    if let Ok(bytes) = header.to_bytes()
        && let Some(start) = message.get_mut(..bytes.len())
    {
        start.copy_from_slice(&bytes);
    }
}

/// An answer that says nothing yet, not even what was asked.
fn reply(to: &Metadata, rcode: ResponseCode) -> Message {
    let mut reply = Message::response(to.id, to.op_code);
    reply.metadata = Metadata::response_from_request(to);
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = rcode;
    reply
}

/// A message of at most `limit` bytes: as many of its answers as fit.
fn encode(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let opt = message.edns.as_ref().map_or(0, |_| OPT);
    let mut bytes = Vec::new();
    emit_message_parts(
        &message.metadata,
        &mut message.queries.iter(),
        &mut Within {
            room: limit.saturating_sub(opt),
            records: &message.answers,
        },
        &mut empty::<&Record>(),
        &mut empty::<&Record>(),
        message.edns.as_ref(),
        None,
        &mut BinEncoder::new(&mut bytes),
    )
    .ok()?;
    Some(bytes)
}

/// Records that leave room for the OPT record, which isn't to be cut.
struct Within<'a> {
    room: u16,
    records: &'a [Record],
}

impl EmitAndCount for Within<'_> {
    fn emit(&mut self, encoder: &mut BinEncoder<'_>) -> Result<usize, ProtoError> {
        encoder.set_max_size(self.room);
        let count = encoder.emit_all(self.records.iter());
        encoder.set_max_size(u16::MAX);
        count
    }
}

/// What every client takes, in bytes (RFC 1035, 4.2.1).
const SMALLEST: u16 = 512;
/// An OPT record without options, in bytes.
const OPT: u16 = 11;
/// How long an answer may be kept, in seconds (`ztunnel-contract` 8.4).
const TTL: u32 = 30;

#[cfg(test)]
mod tests;
