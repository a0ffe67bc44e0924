use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ambit_identity::Svid;
use ambit_types::SpiffeId;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
    PKCS_ED25519, PKCS_RSA_SHA256, SanType, SignatureAlgorithm,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use webpki::EndEntityCert;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};

use super::*;
use crate::load::verify_leaf;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn cart() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "cart").unwrap()
}

fn request(key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    // Lies, which must not count.
    params.subject_alt_names = vec![
        SanType::URI(
            "spiffe://cluster.local/ns/kube-system/sa/admin"
                .try_into()
                .unwrap(),
        ),
        SanType::DnsName("admin.example".try_into().unwrap()),
    ];
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn new_authority() -> (TempDir, CertificateAuthority) {
    let dir = TempDir::new().unwrap();
    let authority = CertificateAuthority::self_signed(dir.path(), "cluster.local").unwrap();
    (dir, authority)
}

fn ders(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap()
}

/// What a peer that has `chain` from us, and `roots`, says of it.
fn verdict(chain: &[String], roots: &str, now: SystemTime) -> Result<(), webpki::Error> {
    let all: Vec<_> = chain.iter().flat_map(|pem| ders(pem)).collect();
    let own = chain.len() - 1;
    verify_leaf(&all[0], &all[1..own], &ders(roots), now)
}

#[test]
fn a_workload_certificate_has_the_contracts_contents() {
    let (_dir, authority) = new_authority();
    let key = KeyPair::generate().unwrap();
    let chain = authority.sign(&request(&key), &cart(), None).unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1], authority.roots_pem());
    let leaf = ders(&chain[0]).remove(0);
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let root = ders(&chain[1]).remove(0);
    let (_, root) = x509_parser::parse_x509_certificate(&root).unwrap();

    assert_eq!(leaf.subject().iter().count(), 0);
    assert_eq!(leaf.issuer().as_raw(), root.subject().as_raw());
    assert_eq!(
        leaf.public_key().raw,
        rcgen::PublicKeyData::subject_public_key_info(&key)
    );
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    assert_eq!(
        san.value.general_names,
        [GeneralName::URI(&cart().to_string())]
    );
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert_eq!(
        usage.value.flags, 0b101,
        "digitalSignature, keyEncipherment"
    );
    let extended = leaf.extended_key_usage().unwrap().unwrap();
    assert!(extended.value.server_auth && extended.value.client_auth);
    assert!(!extended.value.any && extended.value.other.is_empty());
    let no_own_id = leaf.get_extension_unique(&OID_X509_EXT_SUBJECT_KEY_IDENTIFIER);
    assert_eq!(no_own_id.unwrap(), None);
    let ids = leaf
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.clone(),
            _ => None,
        });
    let signers = root
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.clone()),
            _ => None,
        });
    assert!(ids.is_some());
    assert_eq!(ids, signers);
    let serial = leaf.tbs_certificate.raw_serial();
    assert!((15..=17).contains(&serial.len()), "{serial:?}");
    let life = leaf.validity();
    let seconds = life.not_after.timestamp() - life.not_before.timestamp();
    assert_eq!(seconds, 24 * 60 * 60 + 2 * 60);

    let organization = root.subject().iter_organization().next().unwrap();
    assert_eq!(organization.as_str().unwrap(), "cluster.local");
    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.value.ca && constraints.value.path_len_constraint.is_none());
    assert!(root.key_usage().unwrap().unwrap().value.key_cert_sign());
    let life = root.validity();
    let seconds = life.not_after.timestamp() - life.not_before.timestamp();
    assert_eq!(seconds, 3650 * 24 * 60 * 60 + 2 * 60);
    verdict(&chain, &authority.roots_pem(), SystemTime::now()).unwrap();
}

#[test]
fn the_identity_crates_request_becomes_an_svid() {
    let (_dir, authority) = new_authority();
    let (request, key) = ambit_identity::csr(&cart()).unwrap();
    let chain = authority.sign(&request, &cart(), None).unwrap();
    let svid = Svid::from_pem(&chain, key.as_pkcs8(), &cart()).unwrap();
    assert_eq!(svid.id(), &cart());
}

#[test]
fn lifetimes_are_bounded_and_not_cut_silently() {
    let (_dir, authority) = new_authority();
    let request = request(&KeyPair::generate().unwrap());
    let life = |ttl| {
        let chain = authority.sign(&request, &cart(), ttl).unwrap();
        let leaf = ders(&chain[0]).remove(0);
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let life = leaf.validity();
        life.not_after.timestamp() - life.not_before.timestamp() - 120
    };
    assert_eq!(life(Some(Duration::ZERO)), 24 * 60 * 60);
    assert_eq!(life(Some(Duration::from_secs(60))), 60);
    assert_eq!(life(Some(MAX_TTL)), 90 * 24 * 60 * 60);
    let refused = authority.sign(&request, &cart(), Some(MAX_TTL + Duration::from_secs(1)));
    assert!(matches!(refused, Err(SignCsrError::TtlTooLong { .. })));
    assert!(refused.unwrap_err().is_callers_fault());
}

#[test]
fn no_certificate_outlives_its_signer() {
    let dir = plugged(|_| {});
    let now = SystemTime::now();
    let signer = load::plugged_in(dir.path(), now).unwrap();
    let key = KeyPair::generate().unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    let leaf = signer.issue(&spki, &[], 100 * 365 * DAY, now).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let until = signer.not_after.duration_since(SystemTime::UNIX_EPOCH);
    assert_eq!(
        u64::try_from(leaf.validity().not_after.timestamp()),
        Ok(until.unwrap().as_secs())
    );
    let late = signer.issue(&spki, &[], DAY, signer.not_after);
    assert!(matches!(late, Err(SignCsrError::SignerExpired)));
    let late = load::plugged_in(dir.path(), signer.not_after + DAY);
    assert!(matches!(
        late.err().unwrap(),
        LoadError::Chain {
            source: webpki::Error::CertExpired { .. },
            ..
        }
    ));
}

#[test]
fn requests_with_good_keys_are_signed_and_others_named() {
    let (_dir, authority) = new_authority();
    let good: [&'static SignatureAlgorithm; 4] = [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_RSA_SHA256,
        &PKCS_ED25519,
    ];
    for algorithm in good {
        let request = request(&KeyPair::generate_for(algorithm).unwrap());
        let chain = authority.sign(&request, &cart(), None).unwrap();
        verdict(&chain, &authority.roots_pem(), SystemTime::now()).unwrap();
    }
    let big = request(&KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap());
    let refused = authority.sign(&big, &cart(), None).unwrap_err();
    assert!(matches!(refused, SignCsrError::UnsupportedKey));
    let refused = authority.sign(RSA_1024, &cart(), None).unwrap_err();
    assert!(matches!(refused, SignCsrError::RsaSize(1024)));
}

#[test]
fn names_that_no_certificate_can_carry_are_refused() {
    let (_dir, authority) = new_authority();
    let request = request(&KeyPair::generate().unwrap());
    for account in ["caf\u{e9}", "a b", "a\0b"] {
        let id = SpiffeId::new("cluster.local", "shop", account).unwrap();
        let refused = authority.sign(&request, &id, None);
        assert!(matches!(refused, Err(SignCsrError::Name(_))), "{account:?}");
    }
    let unnamed = authority.server_certificate(&[String::new()], &[]);
    assert!(matches!(unnamed, Err(SignCsrError::Name(_))));
}

#[test]
fn broken_requests_are_refused() {
    let (_dir, authority) = new_authority();
    let good = request(&KeyPair::generate().unwrap());
    let (_, pem) = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap();
    let mut flipped = pem.contents.clone();
    // In the lie: the signature covers it.
    let at = flipped.windows(5).position(|w| w == b"admin").unwrap();
    flipped[at] ^= 1;
    let bad = authority.sign(&encode("CERTIFICATE REQUEST", &flipped), &cart(), None);
    assert!(matches!(bad, Err(SignCsrError::BadSignature)));
    let mut longer = pem.contents.clone();
    longer.push(0);
    let malformed = [
        String::new(),
        "junk".to_owned(),
        encode("CERTIFICATE", &pem.contents),
        encode("CERTIFICATE REQUEST", &pem.contents[..40]),
        encode("CERTIFICATE REQUEST", &longer),
        "x".repeat(1 << 20),
    ];
    for text in malformed {
        let refused = authority.sign(&text, &cart(), None);
        assert!(
            matches!(refused, Err(SignCsrError::Malformed)),
            "{text:.60}"
        );
    }
}

#[test]
fn the_root_is_made_once_and_kept_closed() {
    let (dir, first) = new_authority();
    let mode = |path: &str| {
        let path = dir.path().join(path);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("ca"), 0o700);
    assert_eq!(mode("ca/ca-key.pem"), 0o600);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing unfinished is left behind");
    // A volume that opened the key up is closed again.
    let key = dir.path().join("ca/ca-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let again = CertificateAuthority::self_signed(dir.path(), "cluster.local").unwrap();
    assert_eq!(again.roots_pem(), first.roots_pem());
    assert_eq!(mode("ca/ca-key.pem"), 0o600);
}

#[test]
fn replicas_that_start_together_agree_on_one_root() {
    let dir = TempDir::new().unwrap();
    let roots: Vec<String> = std::thread::scope(|scope| {
        let start = || {
            let authority = CertificateAuthority::self_signed(dir.path(), "cluster.local");
            authority.unwrap().roots_pem()
        };
        let racing: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        racing.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(roots.iter().all(|root| *root == roots[0]));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_state_stops_the_start_and_is_left_alone() {
    type Damage = (&'static str, fn(&Path), fn(&LoadError) -> bool);
    let cases: [Damage; 6] = [
        (
            "no key",
            |ca| fs::remove_file(ca.join("ca-key.pem")).unwrap(),
            |e| matches!(e, LoadError::Missing { path, .. } if path.ends_with("ca-key.pem")),
        ),
        (
            "no certificate",
            |ca| fs::remove_file(ca.join("ca-cert.pem")).unwrap(),
            |e| matches!(e, LoadError::Missing { path, .. } if path.ends_with("ca-cert.pem")),
        ),
        (
            "truncated key",
            |ca| fs::write(ca.join("ca-key.pem"), "-----BEGIN PRIVATE KEY-----\nMIGH").unwrap(),
            |e| matches!(e, LoadError::Key { .. }),
        ),
        (
            "empty certificate",
            |ca| fs::write(ca.join("ca-cert.pem"), "").unwrap(),
            |e| matches!(e, LoadError::Certificate { .. }),
        ),
        (
            "key of another root",
            |ca| {
                let other = KeyPair::generate().unwrap().serialize_pem();
                fs::write(ca.join("ca-key.pem"), other).unwrap();
            },
            |e| matches!(e, LoadError::KeyMismatch { .. }),
        ),
        (
            "an empty directory",
            |ca| {
                fs::remove_dir_all(ca).unwrap();
                fs::create_dir(ca).unwrap();
            },
            |e| matches!(e, LoadError::Missing { .. }),
        ),
    ];
    for (name, damage, expected) in cases {
        let (dir, _) = new_authority();
        let ca = dir.path().join("ca");
        damage(&ca);
        let before = contents(&ca);
        let error = CertificateAuthority::self_signed(dir.path(), "cluster.local").err();
        let error = error.unwrap_or_else(|| panic!("{name}: started"));
        assert!(expected(&error), "{name}: {error}");
        assert_eq!(contents(&ca), before, "{name}");
    }
}

fn contents(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_root_of_another_trust_domain_is_refused() {
    let (dir, _) = new_authority();
    let error = CertificateAuthority::self_signed(dir.path(), "other.example").err();
    let error = error.unwrap().to_string();
    assert!(
        error.contains("cluster.local") && error.contains("other.example"),
        "{error}"
    );
}

#[test]
fn a_root_is_renewed_in_its_last_fifth_with_the_same_key() {
    let (dir, authority) = new_authority();
    let old_root = authority.roots_pem();
    let request = request(&KeyPair::generate().unwrap());
    let old_leaf = authority.sign(&request, &cart(), None).unwrap();
    let now = SystemTime::now();
    assert!(!authority.rotate_if_due(now).unwrap());
    assert!(!authority.rotate_if_due(now + 2900 * DAY).unwrap());
    assert!(authority.rotate_if_due(now + 2950 * DAY).unwrap());
    assert!(!authority.rotate_if_due(now + 2950 * DAY).unwrap());
    let new_root = authority.roots_pem();
    assert_ne!(new_root, old_root);
    assert!(authority.not_after() > now + 6000 * DAY);
    verdict(&old_leaf, &old_root, now).unwrap();

    // In the overlap both roots verify what either signed: the key is the same.
    let (_, parsed) = x509_parser::pem::parse_x509_pem(new_root.as_bytes()).unwrap();
    let parsed = parsed.parse_x509().unwrap();
    let (_, old) = x509_parser::pem::parse_x509_pem(old_root.as_bytes()).unwrap();
    let old = old.parse_x509().unwrap();
    assert_eq!(parsed.public_key().raw, old.public_key().raw);
    assert_eq!(parsed.subject().as_raw(), old.subject().as_raw());
    assert_ne!(parsed.raw_serial(), old.raw_serial());
    let kept = fs::read_to_string(dir.path().join("ca/ca-cert.pem")).unwrap();
    assert_eq!(kept, new_root);
}

#[test]
fn a_plugged_in_root_is_never_renewed_by_us() {
    let dir = plugged(|_| {});
    let authority = CertificateAuthority::plugged_in(dir.path()).unwrap();
    let late = authority.not_after();
    assert!(!authority.rotate_if_due(late).unwrap());
}

/// A CA: key and certificate.
type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    params
}

fn root_ca(algorithm: &'static SignatureAlgorithm) -> Ca {
    let key = KeyPair::generate_for(algorithm).unwrap();
    Ca::self_signed(ca_params("root"), key).unwrap()
}

fn below(parent: &Ca, name: &str, algorithm: &'static SignatureAlgorithm) -> Ca {
    let key = KeyPair::generate_for(algorithm).unwrap();
    Ca::signed_by(ca_params(name), key, parent).unwrap()
}

/// A plugged-in directory of an EC intermediate below an EC root, then changed.
fn plugged(change: impl FnOnce(&Path)) -> TempDir {
    let root = root_ca(&PKCS_ECDSA_P256_SHA256);
    let signs = below(&root, "signs", &PKCS_ECDSA_P256_SHA256);
    let dir = TempDir::new().unwrap();
    write_four(
        dir.path(),
        &signs,
        &signs.key().serialize_pem(),
        &[&signs, &root],
        &root,
    );
    change(dir.path());
    dir
}

fn write_four(dir: &Path, signs: &Ca, key: &str, chain: &[&Ca], root: &Ca) {
    fs::write(dir.join("ca-cert.pem"), signs.pem()).unwrap();
    fs::write(dir.join("ca-key.pem"), key).unwrap();
    let chain: String = chain.iter().map(|ca| ca.pem()).collect();
    fs::write(dir.join("cert-chain.pem"), chain).unwrap();
    fs::write(dir.join("root-cert.pem"), root.pem()).unwrap();
}

fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// The key inside a PKCS#8 envelope: PKCS#1 for RSA.
fn inner_key(key: &KeyPair) -> Vec<u8> {
    let der = key.serialize_der();
    let (_, envelope) = x509_parser::der_parser::parse_der(&der).unwrap();
    envelope.as_sequence().unwrap()[2]
        .as_slice()
        .unwrap()
        .to_vec()
}

/// SEC1 as `openssl ecparam -genkey` writes it: with the curve.
fn sec1(key: &KeyPair) -> Vec<u8> {
    let inner = inner_key(key);
    let (_, inner) = x509_parser::der_parser::parse_der(&inner).unwrap();
    let secret = inner.as_sequence().unwrap()[1].as_slice().unwrap();
    let mut octets = vec![0x04, u8::try_from(secret.len()).unwrap()];
    octets.extend_from_slice(secret);
    let p256 = der::oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]);
    der::sequence(&[&der::unsigned(&[1]), &octets, &der::explicit(0, &p256)])
}

#[test]
fn a_plugged_in_set_signs_with_its_whole_chain() {
    let root = root_ca(&PKCS_RSA_SHA256);
    let middle = below(&root, "middle", &PKCS_ECDSA_P384_SHA384);
    let rsa = below(&middle, "signs", &PKCS_RSA_SHA256);
    let ec = below(&middle, "signs", &PKCS_ECDSA_P256_SHA256);
    let cases = [
        ("PKCS#8 RSA", &rsa, rsa.key().serialize_pem()),
        (
            "PKCS#1 RSA",
            &rsa,
            encode("RSA PRIVATE KEY", &inner_key(rsa.key())),
        ),
        ("PKCS#8 EC", &ec, ec.key().serialize_pem()),
        (
            "SEC1 EC with parameters before it",
            &ec,
            format!(
                "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{}",
                encode("EC PRIVATE KEY", &sec1(ec.key()))
            ),
        ),
    ];
    for (name, signs, key) in cases {
        let dir = TempDir::new().unwrap();
        write_four(dir.path(), signs, &key, &[signs, &middle, &root], &root);
        let authority =
            CertificateAuthority::plugged_in(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let request = request(&KeyPair::generate().unwrap());
        let chain = authority.sign(&request, &cart(), None).unwrap();
        let pems = [signs.pem(), middle.pem(), root.pem()];
        assert_eq!(chain.len(), 4, "{name}: leaf, two intermediates, the roots");
        for (got, want) in chain[1..].iter().zip(&pems) {
            assert_eq!(ders(got), ders(want), "{name}");
        }
        verdict(&chain, &root.pem(), SystemTime::now()).unwrap();
    }
}

#[test]
fn a_plugged_in_root_signs_without_intermediates_and_with_several_roots() {
    let root = root_ca(&PKCS_ECDSA_P256_SHA256);
    let other = root_ca(&PKCS_ECDSA_P256_SHA256);
    let dir = TempDir::new().unwrap();
    write_four(dir.path(), &root, &root.key().serialize_pem(), &[], &root);
    let both = format!("{}{}", root.pem(), other.pem());
    fs::write(dir.path().join("root-cert.pem"), &both).unwrap();
    let authority = CertificateAuthority::plugged_in(dir.path()).unwrap();
    let request = request(&KeyPair::generate().unwrap());
    let chain = authority.sign(&request, &cart(), None).unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(ders(&chain[1]), ders(&both));
}

#[test]
fn an_incomplete_or_inconsistent_set_stops_the_start() {
    for name in [
        "ca-cert.pem",
        "ca-key.pem",
        "cert-chain.pem",
        "root-cert.pem",
    ] {
        let dir = plugged(|dir| fs::remove_file(dir.join(name)).unwrap());
        let error = CertificateAuthority::plugged_in(dir.path()).err().unwrap();
        assert!(error.to_string().contains(name), "{error}");
        assert!(matches!(error, LoadError::Missing { path, .. } if path.ends_with(name)));
    }
    let other_key = plugged(|dir| {
        let key = KeyPair::generate().unwrap().serialize_pem();
        fs::write(dir.join("ca-key.pem"), key).unwrap();
    });
    let error = CertificateAuthority::plugged_in(other_key.path()).err();
    assert!(matches!(error, Some(LoadError::KeyMismatch { .. })));
    let other_root = plugged(|dir| {
        let root = root_ca(&PKCS_ECDSA_P256_SHA256);
        fs::write(dir.join("root-cert.pem"), root.pem()).unwrap();
    });
    let error = CertificateAuthority::plugged_in(other_root.path()).err();
    assert!(matches!(error, Some(LoadError::Chain { .. })));
    let junk = plugged(|dir| fs::write(dir.join("root-cert.pem"), "junk").unwrap());
    let error = CertificateAuthority::plugged_in(junk.path()).err();
    assert!(
        matches!(error, Some(LoadError::Certificate { path }) if path.ends_with("root-cert.pem"))
    );
}

#[test]
fn the_bounds_of_lifetimes_can_be_set() {
    let (_dir, authority) = new_authority();
    let hour = Duration::from_secs(60 * 60);
    let bounds = Lifetimes {
        default: hour,
        max: 2 * hour,
    };
    let authority = authority.with_lifetimes(bounds);
    let request = request(&KeyPair::generate().unwrap());
    let ends_in = |ttl| {
        let issued = authority.issue(&request, &cart(), ttl).unwrap();
        issued.not_after.duration_since(SystemTime::now()).unwrap()
    };
    assert!(ends_in(None) <= hour && ends_in(None) > hour / 2);
    assert!(ends_in(Some(2 * hour)) > hour);
    let refused = authority.issue(&request, &cart(), Some(3 * hour));
    assert!(matches!(refused, Err(SignCsrError::TtlTooLong { max, .. }) if max == 2 * hour));
    let (_dir, authority) = new_authority();
    let odd = Lifetimes {
        default: 3 * hour,
        max: hour,
    };
    let issued = authority.with_lifetimes(odd);
    let issued = issued.issue(&request, &cart(), None).unwrap();
    assert!(issued.not_after < SystemTime::now() + 2 * hour);
}

#[test]
fn an_issued_certificate_is_known_by_its_serial_and_its_end() {
    let (_dir, authority) = new_authority();
    let request = request(&KeyPair::generate().unwrap());
    let issued = authority.issue(&request, &cart(), None).unwrap();
    let leaf = ders(&issued.chain[0]).remove(0);
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let serial: String = leaf
        .raw_serial()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // DER writes a zero before a first bit that is set, and none otherwise.
    let plain = |text: &str| text.trim_start_matches('0').to_owned();
    assert_eq!(plain(&issued.serial), plain(&serial));
    let end = issued.not_after.duration_since(SystemTime::UNIX_EPOCH);
    let written = u64::try_from(leaf.validity().not_after.timestamp());
    assert_eq!(written, Ok(end.unwrap().as_secs()));
}

#[test]
fn a_plugged_in_set_may_be_written_as_cert_manager_does() {
    let root = root_ca(&PKCS_ECDSA_P256_SHA256);
    let signs = below(&root, "signs", &PKCS_ECDSA_P256_SHA256);
    let dir = TempDir::new().unwrap();
    assert!(!CertificateAuthority::is_plugged_in(dir.path()));
    fs::write(dir.path().join("tls.crt"), signs.pem()).unwrap();
    assert!(CertificateAuthority::is_plugged_in(dir.path()));
    let missing = CertificateAuthority::plugged_in(dir.path()).err();
    assert!(matches!(missing, Some(LoadError::Missing { path, .. }) if path.ends_with("tls.key")));
    fs::write(dir.path().join("tls.key"), signs.key().serialize_pem()).unwrap();
    fs::write(dir.path().join("ca.crt"), root.pem()).unwrap();
    let authority = CertificateAuthority::plugged_in(dir.path()).unwrap();
    let request = request(&KeyPair::generate().unwrap());
    let chain = authority.sign(&request, &cart(), None).unwrap();
    assert_eq!(chain.len(), 3);
    verdict(&chain, &root.pem(), SystemTime::now()).unwrap();
}

#[test]
fn a_plugged_in_set_is_read_again_and_roots_are_never_exchanged() {
    let root = root_ca(&PKCS_ECDSA_P256_SHA256);
    let other = root_ca(&PKCS_ECDSA_P256_SHA256);
    let (first, second) = (
        below(&root, "first", &PKCS_ECDSA_P256_SHA256),
        below(&root, "second", &PKCS_ECDSA_P256_SHA256),
    );
    let foreign = below(&other, "foreign", &PKCS_ECDSA_P256_SHA256);
    let dir = TempDir::new().unwrap();
    let write = |signs: &Ca, roots: &[&Ca]| {
        let key = signs.key().serialize_pem();
        write_four(dir.path(), signs, &key, &[signs], roots[0]);
        let roots: String = roots.iter().map(|root| root.pem()).collect();
        fs::write(dir.path().join("root-cert.pem"), roots).unwrap();
    };
    write(&first, &[&root]);
    let before = Fingerprint::of(dir.path());
    let authority = CertificateAuthority::plugged_in(dir.path()).unwrap();
    let now = SystemTime::now();
    let signs_with = |signs: &Ca| {
        let request = request(&KeyPair::generate().unwrap());
        let chain = authority.sign(&request, &cart(), None).unwrap();
        assert_eq!(ders(&chain[1]), ders(&signs.pem()));
        chain
    };
    assert_eq!(authority.reload(now).unwrap(), Reloaded::Same);

    write(&second, &[&root]);
    assert_ne!(Fingerprint::of(dir.path()), before);
    assert_eq!(authority.reload(now).unwrap(), Reloaded::Signer);
    let chain = signs_with(&second);
    verdict(&chain, &root.pem(), now).unwrap();

    // Another root at once would cut everybody off.
    write(&foreign, &[&other]);
    let refused = authority.reload(now);
    assert!(matches!(refused, Err(LoadError::RootsExchanged { .. })));
    signs_with(&second);

    // Both, then the signer of the other, then the other alone.
    write(&second, &[&root, &other]);
    assert_eq!(authority.reload(now).unwrap(), Reloaded::Roots);
    assert_eq!(
        ders(&authority.roots_pem()),
        ders(&format!("{}{}", root.pem(), other.pem()))
    );
    write(&foreign, &[&root, &other]);
    assert_eq!(authority.reload(now).unwrap(), Reloaded::Signer);
    write(&foreign, &[&other]);
    assert_eq!(authority.reload(now).unwrap(), Reloaded::Roots);
    verdict(&signs_with(&foreign), &other.pem(), now).unwrap();

    // Half a change is no change.
    fs::remove_file(dir.path().join("ca-key.pem")).unwrap();
    assert!(authority.reload(now).is_err());
    fs::write(dir.path().join("ca-key.pem"), second.key().serialize_pem()).unwrap();
    let refused = authority.reload(now);
    assert!(matches!(refused, Err(LoadError::KeyMismatch { .. })));
    signs_with(&foreign);
}

#[test]
fn the_list_of_revoked_certificates_is_that_of_the_plugged_in_set() {
    let dir = plugged(|dir| fs::write(dir.join("ca-crl.pem"), "CRL").unwrap());
    let authority = CertificateAuthority::plugged_in(dir.path()).unwrap();
    assert_eq!(authority.revoked_pem(), "CRL");
    let (_dir, own) = new_authority();
    assert_eq!(own.revoked_pem(), "");
}

#[test]
fn what_is_kept_of_a_root_says_no_key() {
    let root = RootPem::make("cluster.local", SystemTime::now()).unwrap();
    assert!(!format!("{root:?}").contains("PRIVATE KEY"));
}

#[test]
fn a_leaf_can_not_serve_as_a_ca() {
    let root = root_ca(&PKCS_ECDSA_P256_SHA256);
    let mut params = ca_params("leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    let leaf = Ca::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let dir = TempDir::new().unwrap();
    write_four(
        dir.path(),
        &leaf,
        &leaf.key().serialize_pem(),
        &[&leaf],
        &root,
    );
    let error = CertificateAuthority::plugged_in(dir.path()).err();
    assert!(matches!(error, Some(LoadError::NotCa { .. })));
}

#[test]
fn the_control_planes_certificate_is_for_its_names() {
    let (_dir, authority) = new_authority();
    let names = ["istiod.istio-system.svc".to_owned()];
    let (chain, key) = authority
        .server_certificate(&names, &["127.0.0.1".parse().unwrap()])
        .unwrap();
    assert!(KeyPair::try_from(&key).is_ok());
    let leaf = EndEntityCert::try_from(&chain[0]).unwrap();
    for name in ["istiod.istio-system.svc", "127.0.0.1"] {
        let name = ServerName::try_from(name).unwrap();
        leaf.verify_is_valid_for_subject_name(&name).unwrap();
    }
    let other = ServerName::try_from("other.istio-system.svc").unwrap();
    assert!(leaf.verify_is_valid_for_subject_name(&other).is_err());
    let roots = ders(&authority.roots_pem());
    verify_leaf(&chain[0], &chain[1..], &roots, SystemTime::now()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    for oid in [
        OID_X509_EXT_SUBJECT_ALT_NAME,
        OID_X509_EXT_BASIC_CONSTRAINTS,
    ] {
        assert!(parsed.get_extension_unique(&oid).unwrap().unwrap().critical);
    }
}

/// Made with OpenSSL; the libraries here don't make such keys any more.
const RSA_1024: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIIBPzCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCxrd63ZxOv
joYNxuoiE0eecvkBetOyL53XKAk2y3ZyrlL+csDg2q/KU+yyVxhYFDL7jF5BWQaY
N74hGIyHJlnvBr2bgPcn0rk6oAXbziEKdPmCa+j4V0cHM0JQO+XAlDbX43Qhi9lj
ln2uAK/xQ/eilSisJ+C9ThiiHBPv5CQauQIDAQABoAAwDQYJKoZIhvcNAQELBQAD
gYEAHt3l8TJYcUpGdl/xnk6iojCoHtG0MHnDvcp7PZZRJiOWdLqmI0TDAIGLvAhu
riOhN4Of5L+LRThLpTvkCrW2T/WXLb0avjyKbvuy9h28JgpFa+JuPKNwLuZsr1Jm
zII457g9tNcX0rBghMgPLQ2bqmrQfARC4BOrmTVlu/mGMbU=
-----END CERTIFICATE REQUEST-----
";
