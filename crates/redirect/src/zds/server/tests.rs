use super::super::client::{ZdsClient, ZdsError, ZdsFault, ZdsRequest};
use super::super::table::ProxyState;
use super::*;

fn info() -> WorkloadInfo {
    WorkloadInfo {
        name: "web".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
    }
}

fn config() -> ZdsConfig {
    ZdsConfig {
        accepts_per_second: 1000,
        ..ZdsConfig::default()
    }
}

struct Agent {
    handle: ZdsHandle,
    path: std::path::PathBuf,
    scope: Scope,
    _dir: tempfile::TempDir,
}

impl Agent {
    fn start(config: ZdsConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zds.sock");
        let server = ZdsServer::bind(&path, config).unwrap();
        let handle = server.handle();
        let scope = Scope::new("test");
        scope.spawn("zds", server.run(scope.clone()));
        Self {
            handle,
            path,
            scope,
            _dir: dir,
        }
    }

    async fn proxy(&self) -> ZdsClient {
        let mut client = ZdsClient::connect(&self.path).await.unwrap();
        client.hello().await.unwrap();
        client
    }

    async fn until(&self, uid: &str, want: ProxyState) {
        let mut changes = self.handle.changes();
        let reached = async {
            while self.handle.state(uid) != want {
                changes.changed().await.unwrap();
            }
        };
        timeout(Duration::from_secs(10), reached)
            .await
            .unwrap_or_else(|_| {
                panic!("{uid} is {:?}, wanted {want:?}", self.handle.state(uid));
            });
    }

    async fn until_connections(&self, want: usize) {
        let mut changes = self.handle.changes();
        let reached = async {
            while self.handle.connections() != want {
                changes.changed().await.unwrap();
            }
        };
        timeout(Duration::from_secs(10), reached).await.unwrap();
    }
}

async fn next(client: &mut ZdsClient) -> Result<ZdsRequest, ZdsError> {
    timeout(Duration::from_secs(10), client.next())
        .await
        .expect("no request came")
}

#[tokio::test]
async fn snapshot_add_and_del_over_a_socket() {
    let agent = Agent::start(config());
    let ns = NetNs::current().unwrap();
    agent.handle.insert("u1", info(), Some(ns.clone()));
    agent.handle.insert("u2", info(), None);
    let mut proxy = agent.proxy().await;
    match next(&mut proxy).await.unwrap() {
        ZdsRequest::Add {
            uid,
            info: got,
            netns,
        } => {
            assert_eq!((uid.as_str(), got), ("u1", info()));
            assert_eq!(netns.id(), ns.id());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        agent.handle.state("u1"),
        ProxyState::Unreachable,
        "not before the ack"
    );
    proxy.ack(None).await.unwrap();
    agent.until("u1", ProxyState::Listening).await;
    let keep = next(&mut proxy).await.unwrap();
    assert!(matches!(keep, ZdsRequest::Keep { uid } if uid == "u2"));
    proxy.ack(None).await.unwrap();
    assert!(matches!(
        next(&mut proxy).await.unwrap(),
        ZdsRequest::SnapshotSent
    ));
    proxy.ack(None).await.unwrap();

    agent.handle.insert("u3", info(), Some(ns));
    assert!(matches!(next(&mut proxy).await.unwrap(), ZdsRequest::Add { uid, .. } if uid == "u3"));
    proxy.ack(Some("bind 15001: in use")).await.unwrap();
    agent
        .until("u3", ProxyState::Refused("bind 15001: in use".into()))
        .await;
    assert!(
        matches!(next(&mut proxy).await.unwrap(), ZdsRequest::Add { uid, .. } if uid == "u3"),
        "told again"
    );
    proxy.ack(None).await.unwrap();
    agent.until("u3", ProxyState::Listening).await;

    agent.handle.remove("u1");
    assert!(matches!(next(&mut proxy).await.unwrap(), ZdsRequest::Del { uid } if uid == "u1"));
    proxy.ack(None).await.unwrap();
    drop(proxy);
    agent.until("u3", ProxyState::Unreachable).await;
    agent.scope.finish(Duration::ZERO).await;
}

#[tokio::test]
async fn an_unsolicited_message_ends_the_connection() {
    let agent = Agent::start(config());
    let mut proxy = agent.proxy().await;
    assert!(matches!(
        next(&mut proxy).await.unwrap(),
        ZdsRequest::SnapshotSent
    ));
    proxy.ack(None).await.unwrap();
    agent.until_connections(1).await;
    proxy.ack(None).await.unwrap();
    agent.until_connections(0).await;
    let error = next(&mut proxy).await.unwrap_err();
    assert_eq!(error.fault(), ZdsFault::Reconnect);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_without_a_hello_or_without_answers_is_dropped() {
    let agent = Agent::start(config());
    let mut silent = ZdsClient::connect(&agent.path).await.unwrap();
    assert!(next(&mut silent).await.is_err(), "no hello within 5 s");
    let mut mute = agent.proxy().await;
    assert!(matches!(
        next(&mut mute).await.unwrap(),
        ZdsRequest::SnapshotSent
    ));
    agent.until_connections(1).await;
    agent.until_connections(0).await;
}

#[tokio::test]
async fn an_upgrade_overlaps_and_falls_back() {
    let agent = Agent::start(config());
    let ns = NetNs::current().unwrap();
    agent.handle.insert("u1", info(), Some(ns.clone()));
    let mut old = agent.proxy().await;
    for _ in 0..2 {
        next(&mut old).await.unwrap();
        old.ack(None).await.unwrap();
    }
    agent.until("u1", ProxyState::Listening).await;
    let mut new = agent.proxy().await;
    for _ in 0..2 {
        next(&mut new).await.unwrap();
        new.ack(None).await.unwrap();
    }
    agent.handle.insert("u2", info(), Some(ns));
    assert!(matches!(next(&mut new).await.unwrap(), ZdsRequest::Add { uid, .. } if uid == "u2"));
    drop(new);
    assert!(matches!(next(&mut old).await.unwrap(), ZdsRequest::Add { uid, .. } if uid == "u2"));
    old.ack(None).await.unwrap();
    agent.until("u2", ProxyState::Listening).await;
}

#[tokio::test]
async fn a_descriptor_that_is_no_namespace_is_refused_and_the_connection_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zds.sock");
    let listener = SeqListener::bind(&path).unwrap();
    let mut client = ZdsClient::connect(&path).await.unwrap();
    client.hello().await.unwrap();
    let agent = listener.accept().await.unwrap();
    decode::decode_hello(&agent.recv().await.unwrap()).unwrap();
    let file = tempfile::tempfile().unwrap();
    agent
        .send(&decode::add("u1", &info()), Some(file.as_fd()))
        .await
        .unwrap();
    agent.send(&decode::snapshot_sent(), None).await.unwrap();
    assert!(matches!(
        next(&mut client).await.unwrap(),
        ZdsRequest::SnapshotSent
    ));
    let refusal = decode::decode_ack(&agent.recv().await.unwrap())
        .unwrap()
        .unwrap_err();
    assert!(refusal.contains("no network namespace"), "{refusal}");

    agent.send(&decode::keep("u1"), None).await.unwrap();
    assert_eq!(
        next(&mut client).await.unwrap_err().fault(),
        ZdsFault::RefuseAndExit
    );
    agent.send(&decode::snapshot_sent(), None).await.unwrap();
    assert_eq!(
        next(&mut client).await.unwrap_err().fault(),
        ZdsFault::RefuseAndExit
    );
    agent.send(b"\xff\xff", None).await.unwrap();
    assert_eq!(
        next(&mut client).await.unwrap_err().fault(),
        ZdsFault::RefuseAndReconnect
    );
}

#[tokio::test(start_paused = true)]
async fn accepts_are_paced() {
    let agent = Agent::start(ZdsConfig::default());
    let start = Instant::now();
    let mut proxies = Vec::new();
    for want in 1..=6 {
        proxies.push(agent.proxy().await);
        agent.until_connections(want).await;
    }
    assert!(start.elapsed() >= Duration::from_millis(1000));
}

#[tokio::test]
async fn a_restarted_agent_replaces_the_socket_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zds.sock");
    drop(ZdsServer::bind(&path, config()).unwrap());
    assert!(path.exists());
    ZdsServer::bind(&path, config()).unwrap();
}
