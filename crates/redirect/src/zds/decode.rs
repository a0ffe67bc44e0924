//! Datagrams to messages and back.

use std::os::fd::OwnedFd;

use ambit_proto::workload::zds as proto;
use prost::Message;

use super::socket::Datagram;
use super::{MAX_DATAGRAM, WireError, WorkloadInfo, truncated};

/// A request as it came, its descriptor not looked at yet.
#[derive(Debug)]
pub(super) enum Request {
    Add {
        uid: String,
        info: Option<WorkloadInfo>,
        netns: OwnedFd,
    },
    Keep(String),
    Del(String),
    SnapshotSent,
}

impl TryFrom<Datagram> for Request {
    type Error = WireError;

    fn try_from(datagram: Datagram) -> Result<Self, WireError> {
        use proto::workload_request::Payload;
        let message = proto::WorkloadRequest::decode(datagram.bytes.as_slice())
            .map_err(WireError::Protobuf)?;
        let fds = datagram.fds;
        let count = fds.len();
        let without = |message| match count {
            0 => Ok(()),
            count => Err(WireError::Descriptors { message, count }),
        };
        match message.payload.ok_or(WireError::UnknownPayload)? {
            Payload::Add(add) => {
                let message = "AddWorkload";
                let [netns] = <[OwnedFd; 1]>::try_from(fds)
                    .map_err(|_| WireError::Descriptors { message, count })?;
                Ok(Self::Add {
                    uid: add.uid,
                    info: add.workload_info.map(WorkloadInfo::from),
                    netns,
                })
            }
            Payload::Keep(keep) => without("KeepWorkload").map(|()| Self::Keep(keep.uid)),
            Payload::Del(del) => without("DelWorkload").map(|()| Self::Del(del.uid)),
            Payload::SnapshotSent(_) => without("SnapshotSent").map(|()| Self::SnapshotSent),
        }
    }
}

impl From<proto::WorkloadInfo> for WorkloadInfo {
    fn from(info: proto::WorkloadInfo) -> Self {
        Self {
            name: info.name,
            namespace: info.namespace,
            service_account: info.service_account,
        }
    }
}

/// The request that adds a pod; its descriptor travels beside it.
pub(super) fn add(uid: &str, info: &WorkloadInfo) -> Vec<u8> {
    request(proto::workload_request::Payload::Add(proto::AddWorkload {
        uid: uid.to_owned(),
        workload_info: Some(proto::WorkloadInfo {
            name: info.name.clone(),
            namespace: info.namespace.clone(),
            service_account: info.service_account.clone(),
        }),
    }))
}

pub(super) fn keep(uid: &str) -> Vec<u8> {
    let uid = uid.to_owned();
    request(proto::workload_request::Payload::Keep(
        proto::KeepWorkload { uid },
    ))
}

pub(super) fn del(uid: &str) -> Vec<u8> {
    let uid = uid.to_owned();
    request(proto::workload_request::Payload::Del(proto::DelWorkload {
        uid,
    }))
}

pub(super) fn snapshot_sent() -> Vec<u8> {
    request(proto::workload_request::Payload::SnapshotSent(
        proto::SnapshotSent {},
    ))
}

fn request(payload: proto::workload_request::Payload) -> Vec<u8> {
    let payload = Some(payload);
    proto::WorkloadRequest { payload }.encode_to_vec()
}

/// An acknowledgement; the text of a refusal is cut to what the peer can read.
pub(super) fn ack(error: Option<&str>) -> Vec<u8> {
    let error = truncated(error.unwrap_or_default(), MAX_DATAGRAM - ACK_OVERHEAD).to_owned();
    let payload = Some(proto::workload_response::Payload::Ack(proto::Ack { error }));
    proto::WorkloadResponse { payload }.encode_to_vec()
}

/// `Ok(())` is an acceptance, `Err(text)` a refusal.
pub(super) fn decode_ack(datagram: &Datagram) -> Result<Result<(), String>, WireError> {
    let count = datagram.fds.len();
    if count != 0 {
        let message = "Ack";
        return Err(WireError::Descriptors { message, count });
    }
    let message =
        proto::WorkloadResponse::decode(datagram.bytes.as_slice()).map_err(WireError::Protobuf)?;
    let proto::workload_response::Payload::Ack(ack) =
        message.payload.ok_or(WireError::UnknownPayload)?;
    Ok(if ack.error.is_empty() {
        Ok(())
    } else {
        Err(ack.error)
    })
}

pub(super) fn hello() -> Vec<u8> {
    let version = proto::Version::V1.into();
    proto::ZdsHello { version }.encode_to_vec()
}

pub(super) fn decode_hello(datagram: &Datagram) -> Result<(), WireError> {
    let count = datagram.fds.len();
    if count != 0 {
        let message = "ZdsHello";
        return Err(WireError::Descriptors { message, count });
    }
    let hello = proto::ZdsHello::decode(datagram.bytes.as_slice()).map_err(WireError::Protobuf)?;
    if hello.version == i32::from(proto::Version::V1) {
        Ok(())
    } else {
        Err(WireError::Version(hello.version))
    }
}

/// Two nested length-delimited fields of up to 1024 bytes.
const ACK_OVERHEAD: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(bytes: &[u8], fds: usize) -> Datagram {
        let fd = || OwnedFd::from(tempfile::tempfile().unwrap());
        Datagram {
            bytes: bytes.to_vec(),
            fds: (0..fds).map(|_| fd()).collect(),
        }
    }

    /// Written by hand from the contract's field numbers.
    #[test]
    fn reads_bytes_written_from_the_field_table() {
        // add(1){ uid(1)="u", workload_info(2){ name(1)="n", namespace(2)="s", service_account(3)="a" } }
        let add = b"\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01a";
        match Request::try_from(datagram(add, 1)).unwrap() {
            Request::Add { uid, info, .. } => {
                let info = info.unwrap();
                assert_eq!(uid, "u");
                assert_eq!(
                    (info.name, info.namespace, info.service_account),
                    ("n".into(), "s".into(), "a".into())
                );
            }
            other => panic!("{other:?}"),
        }
        // del(2){ uid(2)="u" }
        let del = Request::try_from(datagram(b"\x12\x03\x12\x01u", 0)).unwrap();
        assert!(matches!(del, Request::Del(uid) if uid == "u"));
        // snapshot_sent(3){}
        let sent = Request::try_from(datagram(b"\x1a\x00", 0)).unwrap();
        assert!(matches!(sent, Request::SnapshotSent));
        // keep(5){ uid(1)="u" }
        let keep = Request::try_from(datagram(b"\x2a\x03\x0a\x01u", 0)).unwrap();
        assert!(matches!(keep, Request::Keep(uid) if uid == "u"));
        // hello{ version(1)=1 }
        decode_hello(&datagram(b"\x08\x01", 0)).unwrap();
        // ack(1){} and ack(1){ error(1)="no" }
        assert_eq!(decode_ack(&datagram(b"\x0a\x00", 0)).unwrap(), Ok(()));
        assert_eq!(
            decode_ack(&datagram(b"\x0a\x04\x0a\x02no", 0)).unwrap(),
            Err("no".into())
        );
    }

    #[test]
    fn writes_the_same_bytes() {
        let info = WorkloadInfo {
            name: "n".into(),
            namespace: "s".into(),
            service_account: "a".into(),
        };
        let want = b"\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01a";
        assert_eq!(add("u", &info), want);
        assert_eq!(del("u"), b"\x12\x03\x12\x01u");
        assert_eq!(keep("u"), b"\x2a\x03\x0a\x01u");
        assert_eq!(snapshot_sent(), b"\x1a\x00");
        assert_eq!(hello(), b"\x08\x01");
        assert_eq!(ack(None), b"\x0a\x00");
        assert_eq!(ack(Some("no")), b"\x0a\x04\x0a\x02no");
    }

    #[test]
    fn descriptors_belong_to_adds_only_and_there_exactly_one() {
        let cases: [(&[u8], usize, &str); 5] = [
            (
                b"\x0a\x03\x0a\x01u",
                0,
                "0 descriptors came with AddWorkload",
            ),
            (
                b"\x0a\x03\x0a\x01u",
                2,
                "2 descriptors came with AddWorkload",
            ),
            (
                b"\x12\x03\x12\x01u",
                1,
                "1 descriptors came with DelWorkload",
            ),
            (b"\x1a\x00", 1, "1 descriptors came with SnapshotSent"),
            (b"\xff\xff", 0, "undecodable message"),
        ];
        for (bytes, fds, want) in cases {
            let error = Request::try_from(datagram(bytes, fds)).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
        let version = decode_hello(&datagram(b"\x08\x02", 0)).unwrap_err();
        assert!(matches!(version, WireError::Version(2)));
    }

    #[test]
    fn a_long_refusal_fits_one_datagram() {
        for text in ["é".repeat(2000), "x".repeat(1018)] {
            let bytes = ack(Some(&text));
            assert!(bytes.len() <= MAX_DATAGRAM, "{}", bytes.len());
            assert!(decode_ack(&datagram(&bytes, 0)).unwrap().is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_a_message_or_an_error(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..MAX_DATAGRAM),
            fds in 0usize..3,
        ) {
            let _ = Request::try_from(datagram(&bytes, fds));
            let _ = decode_ack(&datagram(&bytes, fds));
            let _ = decode_hello(&datagram(&bytes, fds));
        }

        #[test]
        fn what_is_written_is_read(uid in ".{0,60}", name in ".{0,60}", text in ".{0,1200}") {
            let info = WorkloadInfo {
                name: name.clone(),
                namespace: name.clone(),
                service_account: name,
            };
            match Request::try_from(datagram(&add(&uid, &info), 1)) {
                Ok(Request::Add { uid: got, info: who, .. }) => {
                    proptest::prop_assert_eq!((got, who), (uid.clone(), Some(info)));
                }
                other => proptest::prop_assert!(false, "{:?}", other),
            }
            let answer = decode_ack(&datagram(&ack(Some(&text)), 0));
            match answer {
                Ok(Err(got)) => proptest::prop_assert!(text.starts_with(&got)),
                Ok(Ok(())) => proptest::prop_assert!(text.is_empty()),
                Err(error) => proptest::prop_assert!(false, "{}", error),
            }
        }
    }
}
