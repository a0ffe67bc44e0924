use ambit_ca::{DEFAULT_TTL, LoadError};
use ambit_identity::{Svid, csr};
use ambit_testkit::apiserver::{ApiServer, Trouble};
use ambit_types::SpiffeId;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;

const SECRET: &str = "/api/v1/namespaces/istio-system/secrets/istio-ca-secret";
const DAY: Duration = Duration::from_secs(86_400);

async fn secret(server: &ApiServer) -> RootSecret {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: '{}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{token: t}}}}]\n",
        server.url()
    );
    std::fs::write(&path, config).unwrap();
    let connection = ambit_cluster::connect(Some(&path)).await.unwrap();
    RootSecret::new(connection.client, "istio-system", "istio-ca-secret")
}

/// A replica: its authority, its keeper, and what it has seen.
struct Replica {
    authority: Arc<CertificateAuthority>,
    keeper: SecretKeeper,
    seen: RootPem,
}

impl Replica {
    async fn start(server: &ApiServer) -> anyhow::Result<Self> {
        let state = tempfile::tempdir().unwrap();
        let choice = Choice {
            ca_dir: None,
            state_dir: state.path(),
            secret: Some(secret(server).await),
            trust_domain: "cluster.local",
            lifetimes: Lifetimes::default(),
        };
        let Chosen { authority, keeping } = choice.open().await?;
        let Keeping::Secret(keeper, seen) = keeping else {
            panic!("not in a Secret");
        };
        Ok(Self {
            authority,
            keeper: *keeper,
            seen,
        })
    }

    async fn look(&mut self, now: SystemTime) -> anyhow::Result<Look> {
        self.keeper.look(&self.authority, &mut self.seen, now).await
    }

    fn issue(&self) -> Svid {
        let id = SpiffeId::new("cluster.local", "shop", "cart").unwrap();
        let (request, key) = csr(&id).unwrap();
        let chain = self
            .authority
            .sign(&request, &id, Some(DEFAULT_TTL))
            .unwrap();
        Svid::from_pem(&chain, key.as_pkcs8(), &id).unwrap()
    }
}

fn data(server: &ApiServer, key: &str) -> String {
    let secret = server.get(SECRET).unwrap();
    let value = secret["data"][key].as_str().unwrap_or_default();
    String::from_utf8(STANDARD.decode(value).unwrap()).unwrap()
}

fn set(server: &ApiServer, changes: &[(&str, &str)]) {
    let mut secret = server.get(SECRET).unwrap();
    for (key, text) in changes {
        secret["data"][*key] = Value::from(STANDARD.encode(text));
    }
    server.put(SECRET, secret);
}

#[tokio::test]
async fn replicas_that_start_together_have_one_root() {
    let server = ApiServer::start().await.unwrap();
    let all = futures::future::join_all((0..4).map(|_| Replica::start(&server))).await;
    let roots: Vec<String> = all
        .iter()
        .map(|r| r.as_ref().unwrap().authority.roots_pem())
        .collect();
    assert!(roots.iter().all(|root| *root == roots[0]));
    assert_eq!(data(&server, "ca-cert.pem"), roots[0]);
    assert_eq!(server.get(SECRET).unwrap()["type"], "istio.io/ca-root");
    for empty in ["cert-chain.pem", "key.pem", "root-cert.pem"] {
        assert_eq!(data(&server, empty), "");
    }
}

#[tokio::test]
async fn a_root_is_rotated_by_one_replica_and_taken_over_by_the_others_without_an_outage() {
    let server = ApiServer::start().await.unwrap();
    let (mut a, mut b) = (
        Replica::start(&server).await.unwrap(),
        Replica::start(&server).await.unwrap(),
    );
    let before = a.authority.roots_pem();
    let old = a.issue();
    let now = SystemTime::now();
    assert_eq!(a.look(now).await.unwrap(), Look::Same);
    let late = now + 2950 * DAY;
    assert_eq!(a.look(late).await.unwrap(), Look::Changed);
    let renewed = a.authority.roots_pem();
    assert_ne!(renewed, before);
    assert_eq!(data(&server, "ca-cert.pem"), renewed);
    // Before b has looked: what a and b sign verifies up to either root, the key being one.
    let (of_a, of_b) = (a.issue(), b.issue());
    assert_eq!(b.look(late).await.unwrap(), Look::Changed);
    assert_eq!(b.authority.roots_pem(), renewed);
    assert_eq!(b.look(late).await.unwrap(), Look::Same);
    for (of, roots) in [
        (&old, &renewed),
        (&of_a, &before),
        (&of_b, &renewed),
        (&b.issue(), &before),
    ] {
        verify(of, roots);
    }
}

/// As a peer that trusts these roots does.
fn verify(svid: &Svid, roots: &str) {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let mut store = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root.unwrap()).unwrap();
    }
    let provider = ambit_identity::provider();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .unwrap();
    let chain = svid.chain();
    let now = rustls_pki_types::UnixTime::now();
    verifier
        .verify_client_cert(&chain[0], &chain[1..], now)
        .unwrap();
}

#[tokio::test]
async fn replicas_that_rotate_together_end_with_one_root() {
    let server = ApiServer::start().await.unwrap();
    let (mut a, mut b) = (
        Replica::start(&server).await.unwrap(),
        Replica::start(&server).await.unwrap(),
    );
    let late = SystemTime::now() + 2950 * DAY;
    let looked = futures::future::join(a.look(late), b.look(late)).await;
    let looked = [looked.0.unwrap(), looked.1.unwrap()];
    assert!(looked.contains(&Look::Changed), "{looked:?}");
    for replica in [&mut a, &mut b] {
        replica.look(late).await.unwrap();
        replica.look(late).await.unwrap();
    }
    assert_eq!(a.authority.roots_pem(), b.authority.roots_pem());
    assert_eq!(data(&server, "ca-cert.pem"), a.authority.roots_pem());
}

#[tokio::test]
async fn a_deleted_secret_is_put_back_with_the_same_root() {
    let server = ApiServer::start().await.unwrap();
    let mut a = Replica::start(&server).await.unwrap();
    let root = data(&server, "ca-cert.pem");
    server.delete(SECRET);
    assert_eq!(a.look(SystemTime::now()).await.unwrap(), Look::Same);
    assert_eq!(data(&server, "ca-cert.pem"), root);
    assert_eq!(
        Replica::start(&server).await.unwrap().authority.roots_pem(),
        root
    );
}

#[tokio::test]
async fn a_corrupted_secret_changes_nothing_and_stops_a_start() {
    let server = ApiServer::start().await.unwrap();
    let mut a = Replica::start(&server).await.unwrap();
    let root = a.authority.roots_pem();
    let good = data(&server, "ca-key.pem");
    for (key, text) in [
        ("ca-cert.pem", "junk"),
        ("ca-key.pem", "junk"),
        ("ca-cert.pem", ""),
        ("ca-key.pem", ""),
    ] {
        set(&server, &[("ca-cert.pem", &root), ("ca-key.pem", &good)]);
        set(&server, &[(key, text)]);
        assert!(a.look(SystemTime::now()).await.is_err(), "{key} {text:?}");
        assert_eq!(a.authority.roots_pem(), root);
        a.issue();
        let refused = Replica::start(&server).await.err().unwrap();
        let said = format!("{refused:#}");
        assert!(said.contains(key) && !said.contains("PRIVATE"), "{said}");
        assert_eq!(data(&server, key), text, "never replaced");
    }
    let other = RootPem::make("other.example", SystemTime::now()).unwrap();
    set(
        &server,
        &[
            ("ca-cert.pem", other.certificate()),
            ("ca-key.pem", other.key()),
        ],
    );
    let refused = Replica::start(&server).await.err().unwrap();
    let refused = refused.downcast_ref::<LoadError>();
    assert!(matches!(refused, Some(LoadError::TrustDomain { .. })));
}

#[tokio::test]
async fn another_key_is_trusted_at_once_and_signed_with_only_when_it_was_announced() {
    let server = ApiServer::start().await.unwrap();
    let mut a = Replica::start(&server).await.unwrap();
    let (own, own_key) = (data(&server, "ca-cert.pem"), data(&server, "ca-key.pem"));
    let new = RootPem::make("cluster.local", SystemTime::now()).unwrap();
    let now = SystemTime::now();
    // Unannounced.
    set(
        &server,
        &[
            ("ca-cert.pem", new.certificate()),
            ("ca-key.pem", new.key()),
        ],
    );
    assert_eq!(a.look(now).await.unwrap(), Look::Changed);
    let both = format!("{own}{}", new.certificate());
    assert_eq!(a.authority.roots_pem(), both);
    verify(&a.issue(), &own);
    assert_eq!(
        a.look(now).await.unwrap(),
        Look::Same,
        "not signed with the next time either"
    );
    verify(&a.issue(), &own);
    // Announced first, as an operator does who wants no outage.
    set(
        &server,
        &[
            ("ca-cert.pem", &own),
            ("ca-key.pem", &own_key),
            ("root-cert.pem", new.certificate()),
        ],
    );
    assert_eq!(a.look(now).await.unwrap(), Look::Changed);
    assert_eq!(a.authority.roots_pem(), both);
    verify(&a.issue(), &own);
    set(
        &server,
        &[
            ("ca-cert.pem", new.certificate()),
            ("ca-key.pem", new.key()),
            ("root-cert.pem", &own),
        ],
    );
    assert_eq!(a.look(now).await.unwrap(), Look::Changed);
    verify(&a.issue(), new.certificate());
    let restarted = Replica::start(&server).await.unwrap();
    assert_eq!(
        restarted.authority.roots_pem(),
        format!("{}{own}", new.certificate())
    );
}

#[tokio::test]
async fn an_api_server_that_is_away_delays_a_start_and_a_lost_answer_makes_no_second_root() {
    let server = ApiServer::start().await.unwrap();
    let mut left = 3;
    server.trouble(move |verb, path| {
        if !path.contains("/secrets") || left == 0 {
            return None;
        }
        left -= 1;
        Some(if verb == "POST" {
            Trouble::LoseAnswer(500)
        } else {
            Trouble::Refuse(503)
        })
    });
    let a = Replica::start(&server).await.unwrap();
    server.calm();
    let b = Replica::start(&server).await.unwrap();
    assert_eq!(a.authority.roots_pem(), b.authority.roots_pem());
    let mut left = 1;
    server.trouble(move |verb, _| {
        let first = verb == "POST" && std::mem::take(&mut left) == 1;
        first.then_some(Trouble::LoseAnswer(500))
    });
    server.delete(SECRET);
    let c = Replica::start(&server).await.unwrap();
    assert_eq!(data(&server, "ca-cert.pem"), c.authority.roots_pem());
}
