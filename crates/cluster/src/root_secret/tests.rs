use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::scripted::{self, failure};

fn root(certificate: &str) -> KeptRoot {
    KeptRoot {
        certificate: certificate.to_owned(),
        key: Zeroizing::new("KEY".to_owned()),
        beside: String::new(),
        version: "7".to_owned(),
    }
}

fn secret(data: &[(&str, &[u8])]) -> Value {
    let data: serde_json::Map<String, Value> = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value).into()))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE, "data": data,
        "metadata": {"name": "istio-ca-secret", "namespace": "istio-system", "resourceVersion": "7"},
    })
}

async fn read(answer: (u16, Value)) -> Result<Option<KeptRoot>, SecretError> {
    let (client, _) = scripted::client(move |_| {
        let answer = answer.clone();
        async move { answer }
    });
    RootSecret::new(client, "istio-system", "istio-ca-secret")
        .read()
        .await
}

#[tokio::test]
async fn it_is_made_with_upstreams_type_and_keys_and_never_over_another() {
    let (client, log) = scripted::client(|asked| async move {
        match asked.method.as_str() {
            "POST" => failure(409, "AlreadyExists"),
            _ => failure(409, "Conflict"),
        }
    });
    let secrets = RootSecret::new(client, "istio-system", "istio-ca-secret");
    let refused = secrets.create(&root("CERT")).await;
    assert!(matches!(refused, Err(SecretError::Conflict)));
    let refused = secrets.replace(&root("CERT")).await;
    assert!(matches!(refused, Err(SecretError::Conflict)));
    let asked = log.lock().clone();
    assert_eq!(asked[0].path, "/api/v1/namespaces/istio-system/secrets");
    assert_eq!(asked[0].body["type"], "istio.io/ca-root");
    assert_eq!(asked[0].body["metadata"].get("resourceVersion"), None);
    let keys: Vec<&String> = asked[0].body["data"].as_object().unwrap().keys().collect();
    let want = [
        "ca-cert.pem",
        "ca-key.pem",
        "cert-chain.pem",
        "key.pem",
        "root-cert.pem",
    ];
    assert_eq!(keys, want);
    assert_eq!(asked[1].method, "PUT");
    assert_eq!(asked[1].body["metadata"]["resourceVersion"], "7");
}

#[tokio::test]
async fn what_is_kept_is_read_back() {
    let kept = secret(&[
        ("ca-cert.pem", b"CERT"),
        ("ca-key.pem", b"KEY"),
        ("root-cert.pem", b"MORE"),
    ]);
    let kept = read((200, kept)).await.unwrap().unwrap();
    assert_eq!(kept.certificate, "CERT");
    assert_eq!(kept.key.as_str(), "KEY");
    assert_eq!(kept.beside, "MORE");
    assert_eq!(kept.version, "7");
    assert!(read(failure(404, "NotFound")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_secret_without_a_root_says_what_is_missing_and_not_what_is_there() {
    for (data, missing) in [
        (vec![("ca-cert.pem", b"CERT".as_slice())], KEY),
        (vec![("ca-key.pem", b"SESAME".as_slice())], CERTIFICATE),
        (
            vec![("ca-cert.pem", b"".as_slice()), ("ca-key.pem", b"SESAME")],
            CERTIFICATE,
        ),
        (
            vec![
                ("ca-cert.pem", b"\xff\xfe".as_slice()),
                ("ca-key.pem", b"SESAME"),
            ],
            CERTIFICATE,
        ),
    ] {
        let error = read((200, secret(&data))).await.err().unwrap();
        assert!(matches!(error, SecretError::Incomplete(key) if key == missing));
        assert!(!format!("{error} {error:?}").contains("SESAME"));
    }
}

#[tokio::test]
async fn an_api_server_that_is_away_or_says_no_is_an_error_and_not_an_absent_root() {
    for answer in [
        (0, json!({})),
        failure(403, "Forbidden"),
        failure(500, "InternalError"),
    ] {
        assert!(matches!(read(answer).await, Err(SecretError::Api(_))));
    }
}
