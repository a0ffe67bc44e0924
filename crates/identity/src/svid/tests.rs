use rcgen::ExtendedKeyUsagePurpose;
use rustls::ProtocolVersion;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::csr::csr;
use crate::dump::to_pem;
use crate::fault::{TlsFault, classify_io};
use crate::provider::{KeyExchange, TlsVersions};
use crate::testing::{Authority, DAY, Leaf, authority, id};
use crate::verify::peer_identity;

/// What both ends saw of one handshake.
#[derive(Debug)]
struct Seen {
    version: ProtocolVersion,
    alpn: Option<Vec<u8>>,
    sni: Option<String>,
    client: Option<SpiffeId>,
    server: Option<SpiffeId>,
    sent_chain: usize,
}

/// A whole handshake in memory with a byte each way, so that a refusal of the
/// client's certificate (which TLS 1.3 sends last) is seen by both ends.
async fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Seen, (Option<TlsFault>, Option<TlsFault>)> {
    let (near, far) = duplex(64 * 1024);
    let dial = async move {
        let name = ServerName::try_from("ignored.example").unwrap();
        let mut tls = TlsConnector::from(client).connect(name, near).await?;
        tls.write_all(b"x").await?;
        tls.flush().await?;
        let mut byte = [0];
        tls.read_exact(&mut byte).await?;
        Ok::<_, std::io::Error>(tls)
    };
    let accept = async move {
        let mut tls = TlsAcceptor::from(server).accept(far).await?;
        let mut byte = [0];
        tls.read_exact(&mut byte).await?;
        tls.write_all(b"y").await?;
        tls.flush().await?;
        Ok::<_, std::io::Error>(tls)
    };
    let (dialed, accepted) = tokio::join!(dial, accept);
    match (dialed, accepted) {
        (Ok(dialed), Ok(accepted)) => {
            let (_, near) = dialed.get_ref();
            let (_, far) = accepted.get_ref();
            let server_chain = near.peer_certificates().unwrap();
            Ok(Seen {
                version: far.protocol_version().unwrap(),
                alpn: far.alpn_protocol().map(<[u8]>::to_vec),
                sni: far.server_name().map(str::to_owned),
                client: peer_identity(far.peer_certificates().unwrap()),
                server: peer_identity(server_chain),
                sent_chain: server_chain.len(),
            })
        }
        (dialed, accepted) => Err((
            dialed.err().as_ref().map(classify_io),
            accepted.err().as_ref().map(classify_io),
        )),
    }
}

async fn client_fault(client: &Svid, expected: &[SpiffeId], server: &Svid) -> TlsFault {
    let result = handshake(client.client_config(expected), server.server_config()).await;
    result.unwrap_err().0.unwrap()
}

async fn server_fault(client: &Svid, server: &Svid) -> TlsFault {
    let expected = [server.id().clone()];
    let result = handshake(client.client_config(&expected), server.server_config()).await;
    result.unwrap_err().1.unwrap()
}

#[tokio::test]
async fn mutual_tls_between_two_workloads() {
    let ca = authority();
    let (web, cart) = (ca.svid(&id("web")), ca.svid(&id("cart")));
    let seen = handshake(
        web.client_config(&[id("other"), id("cart")]),
        cart.server_config(),
    )
    .await
    .unwrap();
    assert_eq!(seen.version, ProtocolVersion::TLSv1_3);
    assert_eq!(seen.alpn.as_deref(), Some(&b"h2"[..]));
    assert_eq!(seen.sni, None);
    assert_eq!(seen.client, Some(id("web")));
    assert_eq!(seen.server, Some(id("cart")));
    assert_eq!(seen.sent_chain, 2, "the root is not sent");
}

#[tokio::test]
async fn a_client_takes_nobody_but_the_expected() {
    let ca = authority();
    let (web, cart) = (ca.svid(&id("web")), ca.svid(&id("cart")));
    let cases: [&[SpiffeId]; 3] = [
        &[],
        &[id("other")],
        // Not a prefix, not another case.
        &[id("car"), id("carts"), id("Cart")],
    ];
    for expected in cases {
        assert_eq!(
            client_fault(&web, expected, &cart).await,
            TlsFault::WrongIdentity,
            "{expected:?}"
        );
    }
}

#[tokio::test]
async fn a_client_accepts_another_trust_domain_if_it_is_the_expected_one() {
    let ca = authority();
    let far = id("spiffe://far.example/ns/a/sa/b");
    let web = ca.svid(&id("spiffe://far.example/ns/a/sa/web"));
    let server = ca.svid(&far);
    handshake(web.client_config(&[far]), server.server_config())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_server_takes_its_own_trust_domain_only() {
    let ca = authority();
    let stranger = ca.svid(&id("spiffe://far.example/ns/shop/sa/web"));
    let cart = ca.svid(&id("cart"));
    assert_eq!(
        server_fault(&stranger, &cart).await,
        TlsFault::WrongTrustDomain
    );
}

#[tokio::test]
async fn a_server_takes_aliases_of_its_trust_domain_where_it_is_told() {
    let ca = authority();
    let old = ca.svid(&id("spiffe://old.example/ns/shop/sa/web"));
    let stranger = ca.svid(&id("spiffe://far.example/ns/shop/sa/web"));
    let (web, cart) = (ca.svid(&id("web")), ca.svid(&id("cart")));
    let aliases: Arc<[Arc<str>]> = Arc::from([Arc::from("old.example")]);
    for client in [&old, &web] {
        handshake(
            client.client_config(&[id("cart")]),
            cart.server_config_for(&aliases),
        )
        .await
        .unwrap();
    }
    let seen = handshake(
        stranger.client_config(&[id("cart")]),
        cart.server_config_for(&aliases),
    )
    .await;
    assert_eq!(seen.unwrap_err().1, Some(TlsFault::WrongTrustDomain));
    let none = Arc::default();
    assert!(Arc::ptr_eq(
        &cart.server_config(),
        &cart.server_config_for(&none)
    ));
}

#[tokio::test]
async fn one_matching_uri_among_several_is_enough_and_the_first_names_the_peer() {
    let ca = authority();
    let cart = ca.svid(&id("cart"));
    let first = id("spiffe://far.example/ns/a/sa/b");
    let mut leaf = Leaf::of(&first);
    leaf.uris.push("https://not-spiffe.example/".to_owned());
    leaf.uris.push(id("web").to_string());
    let many = ca.svid_of(&first, &leaf, TlsOptions::default());
    let seen = handshake(many.client_config(&[id("cart")]), cart.server_config())
        .await
        .unwrap();
    assert_eq!(seen.client, Some(first));
    let seen = handshake(cart.client_config(&[id("web")]), many.server_config()).await;
    // As a server it enforces the trust domain of its own first name.
    assert_eq!(seen.unwrap_err().1, Some(TlsFault::WrongTrustDomain));
}

#[tokio::test]
async fn times_usages_issuers_and_names_are_told_apart() {
    let ca = authority();
    let (web, cart) = (id("web"), id("cart"));
    let good = ca.svid(&cart);
    let now = SystemTime::now();
    let with = |change: &dyn Fn(&mut Leaf)| {
        let mut leaf = Leaf::of(&web);
        change(&mut leaf);
        ca.svid_of(&web, &leaf, TlsOptions::default())
    };
    let expired = with(&|leaf| (leaf.from, leaf.until) = (now - DAY, now - DAY / 2));
    let early = with(&|leaf| (leaf.from, leaf.until) = (now + DAY, now + 2 * DAY));
    let server_only = with(&|leaf| leaf.usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let client_only = with(&|leaf| leaf.usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let foreign = Authority::new("cluster.local").svid(&web);
    let self_signed = ca.self_signed_svid(&web);

    let as_client = [
        (&expired, TlsFault::Expired),
        (&early, TlsFault::NotYetValid),
        (&server_only, TlsFault::WrongPurpose),
        (&self_signed, TlsFault::UnknownIssuer),
    ];
    for (client, want) in as_client {
        assert_eq!(server_fault(client, &good).await, want);
    }
    let as_server = [
        (&expired, TlsFault::Expired),
        (&early, TlsFault::NotYetValid),
        (&client_only, TlsFault::WrongPurpose),
        (&self_signed, TlsFault::UnknownIssuer),
        (&foreign, TlsFault::UnknownIssuer),
    ];
    for (server, want) in as_server {
        let fault = client_fault(&good, std::slice::from_ref(&web), server).await;
        assert_eq!(fault, want);
    }
    handshake(client_only.client_config(&[cart]), good.server_config())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_certificate_without_a_spiffe_name_is_refused_by_name() {
    let ca = authority();
    let (request, key) = csr(&id("web")).unwrap();
    let mut leaf = Leaf::of(&id("web"));
    leaf.uris = vec!["https://web.example/".to_owned()];
    let pems = ca.chain(&request, &leaf);
    let (chain, roots) = split_chain(&pems).unwrap();
    let provider = provider_with(KeyExchange::Standard);
    let certified = certify(chain, key.as_pkcs8(), &provider).unwrap();
    let rule = PeerRule::OneOf(Arc::from([id("cart").to_string()]));
    let verifier = PeerVerifier::new(anchors(&roots).unwrap(), &provider, rule);
    let client = client_config(&provider, TlsOptions::default(), verifier, certified).unwrap();
    let cart = ca.svid(&id("cart"));
    let result = handshake(Arc::new(client), cart.server_config()).await;
    assert_eq!(result.unwrap_err().1, Some(TlsFault::NotSpiffe));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = authority();
    let cart = ca.svid(&id("cart"));
    let rule = PeerRule::OneOf(Arc::from([id("cart").to_string()]));
    let provider = provider_with(KeyExchange::Standard);
    let verifier = PeerVerifier::new(Arc::clone(&cart.anchors), &provider, rule);
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(TlsOptions::default().protocol_versions())
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let result = handshake(Arc::new(client), cart.server_config()).await;
    let (near, far) = result.unwrap_err();
    assert_eq!(far, Some(TlsFault::NoCertificate));
    assert_eq!(near, Some(TlsFault::RefusedByPeer));
}

#[tokio::test]
async fn another_protocol_and_garbage_are_named() {
    let ca = authority();
    let (web, cart) = (ca.svid(&id("web")), ca.svid(&id("cart")));
    let mut client = ClientConfig::clone(&web.client_config(&[id("cart")]));
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let result = handshake(Arc::new(client), cart.server_config()).await;
    assert_eq!(result.unwrap_err().1, Some(TlsFault::Incompatible));

    for (bytes, want) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], TlsFault::Protocol),
        (&[0xff; 64][..], TlsFault::Protocol),
        (&[][..], TlsFault::Closed),
    ] {
        let (mut near, far) = duplex(1024);
        near.write_all(bytes).await.unwrap();
        drop(near);
        let error = TlsAcceptor::from(cart.server_config())
            .accept(far)
            .await
            .err()
            .unwrap();
        assert_eq!(classify_io(&error), want, "{bytes:?}");
    }
}

#[tokio::test]
async fn tls_1_2_is_opt_in_at_both_ends() {
    let ca = authority();
    let options = TlsOptions {
        versions: TlsVersions::Tls12And13,
        ..TlsOptions::default()
    };
    let both = |name: &str| ca.svid_of(&id(name), &Leaf::of(&id(name)), options);
    let (web, cart) = (both("web"), both("cart"));
    let strict = ca.svid(&id("cart"));
    // A peer that can do no better than 1.2.
    let mut old = ClientConfig::builder_with_provider(Arc::clone(&web.provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::new(
            Arc::clone(&web.anchors),
            &web.provider,
            PeerRule::OneOf(Arc::from([id("cart").to_string()])),
        )))
        .with_client_cert_resolver(Arc::clone(&web.client.client_auth_cert_resolver));
    old.alpn_protocols = vec![b"h2".to_vec()];
    let old = Arc::new(old);
    let seen = handshake(Arc::clone(&old), cart.server_config()).await;
    assert_eq!(seen.unwrap().version, ProtocolVersion::TLSv1_2);
    let refused = handshake(old, strict.server_config()).await.unwrap_err();
    assert_eq!(refused.1, Some(TlsFault::Incompatible));
    let seen = handshake(web.client_config(&[id("cart")]), strict.server_config()).await;
    assert_eq!(seen.unwrap().version, ProtocolVersion::TLSv1_3);
}

#[tokio::test]
async fn the_post_quantum_policy_still_shakes_hands() {
    let ca = authority();
    let options = TlsOptions {
        key_exchange: KeyExchange::PostQuantum,
        ..TlsOptions::default()
    };
    let web = ca.svid_of(&id("web"), &Leaf::of(&id("web")), options);
    let cart = ca.svid(&id("cart"));
    handshake(web.client_config(&[id("cart")]), cart.server_config())
        .await
        .unwrap();
}

#[test]
fn unusable_answers_are_refused() {
    let ca = authority();
    let web = id("web");
    let (request, key) = csr(&web).unwrap();
    let (_, other_key) = csr(&web).unwrap();
    let chain = ca.chain(&request, &Leaf::of(&web));
    let make = |chain: &[String], key: &[u8], id: &SpiffeId| Svid::from_pem(chain, key, id);
    let key = key.as_pkcs8();

    let svid = make(&chain, key, &web).unwrap();
    assert_eq!(svid.chain().len(), 2);
    assert_eq!(svid.roots().len(), 1);
    let shown = format!("{svid:?}");
    assert!(shown.contains("spiffe://cluster.local/ns/shop/sa/web"));
    assert!(!shown.contains("client"), "{shown}");

    assert!(matches!(make(&[], key, &web), Err(SvidError::TooShort(0))));
    assert!(matches!(
        make(&chain[..1], key, &web),
        Err(SvidError::TooShort(1))
    ));
    let broken = [chain[0].clone(), "junk".to_owned()];
    assert!(matches!(
        make(&broken, key, &web),
        Err(SvidError::Pem { index: 1 })
    ));
    assert!(matches!(
        make(&chain, key, &id("cart")),
        Err(SvidError::WrongIdentity { .. })
    ));
    assert!(matches!(
        make(&chain, other_key.as_pkcs8(), &web),
        Err(SvidError::KeyMismatch)
    ));
    assert!(matches!(
        make(&chain, b"junk", &web),
        Err(SvidError::KeyFormat(_))
    ));
}

#[test]
fn several_roots_in_the_last_element_are_all_trusted() {
    let (ours, theirs) = (authority(), Authority::new("theirs"));
    let web = id("web");
    let (request, key) = csr(&web).unwrap();
    let mut chain = ours.chain(&request, &Leaf::of(&web));
    chain.last_mut().unwrap().push_str(&theirs.root_pem());
    let svid = Svid::from_pem(&chain, key.as_pkcs8(), &web).unwrap();
    assert_eq!(svid.roots().len(), 2);
    assert_eq!(svid.anchors.len(), 2);

    // PEM with something else in it: refused alone, ignored beside good ones.
    let odd = chain_with_odd_root(&chain);
    let svid = Svid::from_pem(&odd, key.as_pkcs8(), &web).unwrap();
    assert_eq!(svid.anchors.len(), 2);
    let (last, own) = odd.split_last().unwrap();
    let only = last.rsplit_once("-----BEGIN").unwrap().1;
    let mut alone = own.to_vec();
    alone.push(format!("-----BEGIN{only}"));
    let refused = Svid::from_pem(&alone, key.as_pkcs8(), &web);
    assert!(matches!(refused, Err(SvidError::Root { index: 0, .. })));
}

fn chain_with_odd_root(chain: &[String]) -> Vec<String> {
    let mut odd = chain.to_vec();
    let junk = to_pem(&CertificateDer::from(b"junk".to_vec()));
    odd.last_mut().unwrap().push_str(&junk);
    odd
}

#[test]
fn client_configurations_are_shared_and_bounded() {
    let ca = authority();
    let web = ca.svid(&id("web"));
    let list = [id("cart"), id("pay")];
    let first = web.client_config(&list);
    assert!(Arc::ptr_eq(&first, &web.client_config(&list)));
    let reordered = web.client_config(&[id("pay"), id("cart")]);
    assert!(!Arc::ptr_eq(&first, &reordered));
    for n in 0..3 * CLIENT_CONFIGS {
        web.client_config(&[id(&format!("s{n}"))]);
        web.client_config(&list);
    }
    assert_eq!(web.clients.lock().len(), CLIENT_CONFIGS);
    assert!(
        Arc::ptr_eq(&first, &web.client_config(&list)),
        "kept in use"
    );
}
