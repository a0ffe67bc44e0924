use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::scripted::{self, Asked, failure};

/// An unsigned token with an end.
fn token(name: &str, lives: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({"sub": name, "exp": now.as_secs() + lives});
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("h.{claims}.s")
}

fn status(of: Value) -> (u16, Value) {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "metadata": {}, "spec": {}, "status": of,
    });
    (201, review)
}

fn good() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["istio-ca"],
        "user": {
            "username": "system:serviceaccount:istio-system:ztunnel",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "extra": {
                "authentication.kubernetes.io/pod-name": ["ztunnel-x"],
                "authentication.kubernetes.io/pod-uid": ["u1"],
                "authentication.kubernetes.io/node-name": ["n1"],
            },
        },
    })
}

fn audiences() -> Vec<String> {
    vec!["istio-ca".to_owned()]
}

fn limits() -> ReviewLimits {
    ReviewLimits::default()
}

#[tokio::test]
async fn the_api_server_is_asked_for_our_audience_and_its_pod_facts_are_taken() {
    let (client, log) = scripted::client(|_| async { status(good()) });
    let reviewer = TokenReviewer::new(client, audiences(), limits());
    let bearer = token("a", 600);
    let got = reviewer.review(&bearer).await.unwrap();
    assert_eq!(
        (&*got.namespace, &*got.account),
        ("istio-system", "ztunnel")
    );
    let pod = got.pod.clone().unwrap();
    assert_eq!((&*pod.name, &*pod.uid), ("ztunnel-x", "u1"));
    assert_eq!(pod.node.as_deref(), Some("n1"));
    let asked = log.lock().clone();
    assert_eq!(asked[0].path, "/apis/authentication.k8s.io/v1/tokenreviews");
    assert_eq!(asked[0].body["spec"]["audiences"], json!(["istio-ca"]));
    assert_eq!(asked[0].body["spec"]["token"], json!(bearer));
}

#[tokio::test]
async fn every_answer_that_is_not_a_service_account_for_us_is_refused() {
    use ReviewError as E;
    let changed = |at: &str, to: Value| {
        let mut status = good();
        *status.pointer_mut(at).unwrap() = to;
        status
    };
    let user = "/user/username";
    let cases = [
        (json!({}), E::Unauthenticated),
        (
            json!({"authenticated": false, "error": "expired"}),
            E::Unauthenticated,
        ),
        (changed("/authenticated", json!(false)), E::Unauthenticated),
        (changed("/audiences", json!(["api"])), E::WrongAudience),
        (changed("/audiences", json!([])), E::WrongAudience),
        (
            changed("/user/groups", json!(["system:authenticated"])),
            E::NotServiceAccount,
        ),
        (changed(user, json!("admin")), E::NotServiceAccount),
        (
            changed(user, json!("system:serviceaccount:a")),
            E::NotServiceAccount,
        ),
        (
            changed(user, json!("system:serviceaccount:a:b:c")),
            E::NotServiceAccount,
        ),
        (
            changed(user, json!("system:serviceaccount::b")),
            E::NotServiceAccount,
        ),
    ];
    for (at, (answer, want)) in cases.into_iter().enumerate() {
        let (client, _) = scripted::client(move |_| {
            let answer = answer.clone();
            async move { status(answer) }
        });
        let reviewer = TokenReviewer::new(client, audiences(), limits());
        let got = reviewer.review(&token("a", 600)).await;
        assert_eq!(got.unwrap_err(), want, "case {at}");
    }
}

#[tokio::test]
async fn a_pod_is_known_by_one_name_and_one_uid() {
    for broken in ["pod-name", "pod-uid"] {
        for value in [json!(["a", "b"]), json!([""]), json!([])] {
            let mut answer = good();
            answer["user"]["extra"][format!("authentication.kubernetes.io/{broken}")] = value;
            let (client, _) = scripted::client(move |_| {
                let answer = answer.clone();
                async move { status(answer) }
            });
            let reviewer = TokenReviewer::new(client, audiences(), limits());
            let got = reviewer.review(&token("a", 600)).await.unwrap();
            assert_eq!(got.pod, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_remembered_for_a_while_and_never_beyond_the_tokens_end() {
    let (client, log) = scripted::client(|_| async { status(good()) });
    let reviewer = TokenReviewer::new(client, audiences(), limits());
    let (long, short) = (token("long", 600), token("short", 5));
    for _ in 0..3 {
        reviewer.review(&long).await.unwrap();
        reviewer.review(&short).await.unwrap();
    }
    assert_eq!(log.lock().len(), 2, "one question a token");
    tokio::time::advance(Duration::from_secs(6)).await;
    reviewer.review(&long).await.unwrap();
    assert_eq!(log.lock().len(), 2);
    reviewer.review(&short).await.unwrap();
    assert_eq!(log.lock().len(), 3, "the short one has ended");
    tokio::time::advance(REMEMBER).await;
    reviewer.review(&long).await.unwrap();
    assert_eq!(log.lock().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_readable_end_is_asked_about_each_time() {
    let (client, log) = scripted::client(|_| async { status(good()) });
    let reviewer = TokenReviewer::new(client, audiences(), limits());
    for _ in 0..2 {
        reviewer.review("opaque").await.unwrap();
    }
    assert_eq!(log.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_is_refused_once_the_answer_is_forgotten() {
    let revoked = Arc::new(AtomicUsize::new(0));
    let says = Arc::clone(&revoked);
    let (client, _) = scripted::client(move |_| {
        let is = says.load(Ordering::Relaxed) == 1;
        async move {
            status(if is {
                json!({"authenticated": false})
            } else {
                good()
            })
        }
    });
    let reviewer = TokenReviewer::new(client, audiences(), limits());
    let bearer = token("a", 600);
    reviewer.review(&bearer).await.unwrap();
    revoked.store(1, Ordering::Relaxed);
    tokio::time::advance(REMEMBER).await;
    let refused = reviewer.review(&bearer).await;
    assert_eq!(refused, Err(ReviewError::Unauthenticated));
}

#[tokio::test(start_paused = true)]
async fn a_slow_api_server_is_given_up_on_and_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (client, _) = scripted::client(move |_: Asked| {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                tokio::time::sleep(Duration::from_secs(600)).await;
            }
            status(good())
        }
    });
    let reviewer = TokenReviewer::new(client, audiences(), limits());
    let bearer = token("a", 600);
    let late = Err(ReviewError::Unavailable(Unavailable::TimedOut));
    assert_eq!(reviewer.review(&bearer).await, late);
    assert!(reviewer.review(&bearer).await.is_ok());
    assert!(reviewer.shared.known.lock().asking.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_an_api_server_nobody_is_accepted_and_nothing_is_remembered() {
    for (answer, why) in [
        ((0, json!({})), Unavailable::Connection),
        (failure(403, "Forbidden"), Unavailable::Refused),
        (failure(500, "InternalError"), Unavailable::Refused),
    ] {
        let (client, log) = scripted::client(move |_| {
            let answer = answer.clone();
            async move { answer }
        });
        let reviewer = TokenReviewer::new(client, audiences(), limits());
        let bearer = token("a", 600);
        for _ in 0..2 {
            let got = reviewer.review(&bearer).await;
            assert_eq!(got, Err(ReviewError::Unavailable(why)));
        }
        assert!(log.lock().len() >= 2, "asked again");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_question_is_asked_once_and_so_many_at_a_time() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, high) = (Arc::clone(&running), Arc::clone(&most));
    let (client, log) = scripted::client(move |_| {
        let (now, high) = (Arc::clone(&now), Arc::clone(&high));
        async move {
            high.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            status(good())
        }
    });
    let limits = ReviewLimits {
        concurrency: 3,
        ..limits()
    };
    let reviewer = TokenReviewer::new(client, audiences(), limits);
    let mut asking = tokio::task::JoinSet::new();
    for at in 0..40 {
        let (reviewer, bearer) = (reviewer.clone(), token(&format!("t{}", at % 10), 600));
        asking.spawn(async move { reviewer.review(&bearer).await.is_ok() });
    }
    assert!(asking.join_all().await.into_iter().all(|ok| ok));
    assert_eq!(log.lock().len(), 10);
    assert_eq!(most.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn what_is_no_token_is_not_asked_about() {
    let (client, log) = scripted::client(|_| async { status(good()) });
    let reviewer = TokenReviewer::new(client, audiences(), limits());
    for bad in [String::new(), "x".repeat(MAX_TOKEN + 1)] {
        assert_eq!(reviewer.review(&bad).await, Err(ReviewError::Size));
    }
    assert!(log.lock().is_empty());
}
