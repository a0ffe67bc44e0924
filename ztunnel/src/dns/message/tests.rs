use super::*;

const ID: u16 = 0xabcd;

/// A query as a resolver sends it.
fn asks(name: &str, kind: RecordType) -> Message {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(op::Query::query(name, kind));
    message
}

/// The same of a client that takes datagrams of `payload` bytes.
fn takes(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

fn read(message: &Message) -> Query {
    Query::parse(&message.to_vec().unwrap()).unwrap()
}

fn addresses(answer: &Message) -> Vec<IpAddr> {
    let ips = answer.answers.iter();
    ips.filter_map(|record| record.data.ip_addr()).collect()
}

fn records(ips: impl IntoIterator<Item = [u8; 4]>) -> Records {
    Records {
        alias: None,
        ips: ips.into_iter().map(IpAddr::from).collect(),
    }
}

#[test]
fn a_question_is_read_and_answered_authoritatively() {
    let question = asks("Web.Shop", RecordType::A);
    let asked = read(&question);
    assert_eq!(asked.name(), "web.shop");
    assert!(asked.is_for_addresses());
    let bytes = asked.answer(&records([[10, 0, 0, 1]]), 512).unwrap();
    // The question comes back with its own letters.
    let asked = question.to_vec().unwrap();
    assert_eq!(bytes[12..asked.len()], asked[12..]);
    let answer = Message::from_vec(&bytes).unwrap();
    let mut expected = Metadata::new(ID, MessageType::Response, OpCode::Query);
    expected.authoritative = true;
    expected.recursion_desired = true;
    expected.recursion_available = true;
    assert_eq!(answer.metadata, expected);
    assert_eq!(addresses(&answer), [IpAddr::from([10, 0, 0, 1])]);
    assert_eq!(answer.answers[0].name, question.queries[0].name);
    assert_eq!(answer.answers[0].ttl, 30);
    assert_eq!(answer.edns, None);
}

#[test]
fn a_name_without_an_address_of_the_type_exists() {
    let asked = read(&asks("web.shop", RecordType::AAAA));
    let answer = asked.answer(&Records::default(), 512).unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.response_code, ResponseCode::NoError);
    assert!(answer.authoritative && answer.answers.is_empty());
}

#[test]
fn an_alias_owns_the_addresses() {
    let asked = read(&asks("example.com.shop.svc.cluster.local", RecordType::A));
    let found = Records {
        alias: Some("example.com".to_owned()),
        ips: vec![IpAddr::from([10, 0, 0, 1])],
    };
    let answer = Message::from_vec(&asked.answer(&found, 512).unwrap()).unwrap();
    let shown: Vec<_> = answer.answers.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "example.com.shop.svc.cluster.local. 30 IN CNAME example.com.",
            "example.com. 30 IN A 10.0.0.1",
        ]
    );
}

#[test]
fn an_answer_that_does_not_fit_is_cut_and_says_so() {
    let many = records((0..100).map(|i| [10, 0, 0, i]));
    let question = asks("web.shop", RecordType::A);
    let asked = read(&question);
    let bytes = asked.answer(&many, asked.datagram_limit()).unwrap();
    assert!(bytes.len() <= 512, "{}", bytes.len());
    let cut = Message::from_vec(&bytes).unwrap();
    assert!(cut.truncation);
    assert_eq!(addresses(&cut).len(), 30);
    let whole = Message::from_vec(&asked.answer(&many, u16::MAX).unwrap()).unwrap();
    assert!(!whole.truncation);
    assert_eq!(addresses(&whole).len(), 100);
}

#[test]
fn what_a_client_takes_comes_back_even_in_an_answer_that_is_cut() {
    let many = records((0..100).map(|i| [10, 0, 0, i]));
    for (said, meant) in [(0, 512), (512, 512), (1232, 1232)] {
        let asked = read(&takes(asks("web.shop", RecordType::A), said));
        let bytes = asked.answer(&many, asked.datagram_limit()).unwrap();
        assert!(bytes.len() <= usize::from(meant), "{}", bytes.len());
        let cut = Message::from_vec(&bytes).unwrap();
        assert!(cut.truncation && !cut.answers.is_empty());
        let edns = cut.edns.unwrap();
        assert_eq!((edns.max_payload(), edns.version()), (meant, 0));
        assert!(edns.flags().dnssec_ok);
    }
}

#[test]
fn what_is_no_query_is_refused() {
    let refused = |message: &[u8]| Query::parse(message).unwrap_err();
    assert_eq!(refused(&[0; 11]), None);
    let rcode = |message: &[u8]| {
        let refusal = Message::from_vec(&refused(message).unwrap()).unwrap();
        assert_eq!(refusal.message_type, MessageType::Response);
        assert_eq!(refusal.id, u16::from_be_bytes([message[0], message[1]]));
        refusal.response_code
    };
    let good = asks("web.shop", RecordType::A);
    let response = good.clone().into_response();
    assert_eq!(rcode(&response.to_vec().unwrap()), ResponseCode::FormErr);
    for other in [OpCode::Status, OpCode::Notify, OpCode::Unknown(9)] {
        let mut message = good.clone();
        message.metadata.op_code = other;
        assert_eq!(rcode(&message.to_vec().unwrap()), ResponseCode::NotImp);
    }
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    assert_eq!(rcode(&two.to_vec().unwrap()), ResponseCode::FormErr);
    let bytes = takes(good, 4096).to_vec().unwrap();
    for short in 12..bytes.len() {
        assert_eq!(rcode(&bytes[..short]), ResponseCode::FormErr, "{short}");
    }
}

/// Whatever an application sends: each byte of a message as each other byte.
#[test]
fn no_message_is_too_bad() {
    let good = takes(asks("web.shop", RecordType::A), 4096);
    let mut good = good.to_vec().unwrap();
    let asked = Query::parse(&good).unwrap();
    for at in 0..good.len() {
        let byte = good[at];
        for other in 0..=u8::MAX {
            good[at] = other;
            if let Ok(query) = Query::parse(&good) {
                let limit = query.datagram_limit();
                let answer = query.answer(&records([[10, 0, 0, 1]]), limit);
                Message::from_vec(&answer.unwrap()).unwrap();
            }
            asked.is_answered_by(ID, &good);
            asked.pass_on(&mut good.clone());
        }
        good[at] = byte;
    }
}

#[test]
fn names_that_no_host_has_are_not_looked_up() {
    for (name, kind, looked_up) in [
        ("web.shop", RecordType::A, true),
        ("web.shop", RecordType::AAAA, true),
        ("web.shop", RecordType::TXT, false),
        ("web.shop", RecordType::Unknown(65_280), false),
        (".", RecordType::A, false),
    ] {
        let asked = read(&asks(name, kind));
        assert_eq!(asked.is_for_addresses(), looked_up, "{name} {kind}");
    }
    // A dot, and what is no letter, within a label.
    for label in [&b"a.b"[..], b"\0", b"\xff", b"a b", b"a\\b"] {
        let mut message = asks("web.shop", RecordType::A);
        message.queries[0].name = Name::from_labels([label, b"shop"]).unwrap();
        assert!(!read(&message).is_for_addresses(), "{label:?}");
    }
}

#[test]
fn only_the_answer_to_the_same_question_counts() {
    let asked = read(&asks("web.shop", RecordType::A));
    let answer = |name: &str, kind| {
        let mut answer = asks(name, kind).into_response();
        answer.metadata.id = 7;
        answer
    };
    let counts = |id, answer: &Message| asked.is_answered_by(id, &answer.to_vec().unwrap());
    assert!(counts(7, &answer("web.shop", RecordType::A)));
    assert!(counts(7, &answer("WEB.shop", RecordType::A)));
    assert!(!counts(8, &answer("web.shop", RecordType::A)));
    assert!(!counts(7, &answer("webs.hop", RecordType::A)));
    assert!(!counts(7, &answer("web.shop", RecordType::AAAA)));
    let mut none = answer("web.shop", RecordType::A);
    none.queries.clear();
    assert!(!counts(7, &none));
    let mut question = asks("web.shop", RecordType::A);
    question.metadata.id = 7;
    assert!(!counts(7, &question));
    let whole = answer("web.shop", RecordType::A).to_vec().unwrap();
    for short in 0..whole.len() {
        assert!(!asked.is_answered_by(7, &whole[..short]), "{short}");
    }
}

#[test]
fn an_answer_is_passed_on_as_it_came_but_for_whose_it_is() {
    let asked = read(&asks("web.shop", RecordType::A));
    let mut theirs = asks("web.shop", RecordType::A).into_response();
    theirs.metadata.authoritative = true;
    theirs.metadata.authentic_data = true;
    theirs.metadata.response_code = ResponseCode::NXDomain;
    let mut bytes = theirs.to_vec().unwrap();
    renumber(&mut bytes, 7);
    // What this proxy couldn't even read.
    bytes.extend([0xff; 9]);
    let mut ours = bytes.clone();
    asked.pass_on(&mut ours);
    assert_eq!(ours[12..], bytes[12..]);
    theirs.metadata.authoritative = false;
    theirs.metadata.recursion_available = true;
    let header = Header::from_bytes(&ours).unwrap();
    assert_eq!(header.metadata, theirs.metadata);
}
