//! Kinds that come and go, settings, single objects, and objects that can't be read.

use ambit_kube::{Kind, Object, ObjectKey};
use ambit_testkit::apiserver::{ApiServer, Trouble};
use serde_json::json;

use super::{CRDS, POLICIES, Seen, policies_definition, policy};

const SYSTEM_MAPS: &str = "/api/v1/namespaces/istio-system/configmaps";

fn allow() -> serde_json::Value {
    json!({"action": "ALLOW", "rules": [{}]})
}

#[tokio::test]
async fn a_kind_is_read_from_when_it_is_defined_until_it_is_not() {
    let api = ApiServer::start().await.unwrap();
    let mut seen = Seen::synced(&api).await;
    api.add(POLICIES, policy("one", allow()));
    api.add(CRDS, policies_definition());
    seen.until("one", |seen| seen.names("AuthorizationPolicy") == ["one"])
        .await;
    api.add(POLICIES, policy("two", allow()));
    seen.until("two", |seen| seen.count("AuthorizationPolicy") == 2)
        .await;
    api.remove(CRDS, "", "authorizationpolicies.security.istio.io");
    seen.until("none", |seen| seen.count("AuthorizationPolicy") == 0)
        .await;
    api.add(CRDS, policies_definition());
    seen.until("again", |seen| seen.count("AuthorizationPolicy") == 2)
        .await;
    assert_eq!(seen.synced, 1);
}

#[tokio::test]
async fn a_kind_that_is_there_is_waited_for() {
    let api = ApiServer::start().await.unwrap();
    api.add(CRDS, policies_definition());
    api.add(POLICIES, policy("one", allow()));
    api.trouble_once("LIST", "/authorizationpolicies", Trouble::Refuse(503));
    let seen = Seen::synced(&api).await;
    assert_eq!(
        seen.names("AuthorizationPolicy"),
        ["one"],
        "before everything was told"
    );
}

#[tokio::test]
async fn a_kind_whose_version_changes_keeps_its_objects() {
    let api = ApiServer::start().await.unwrap();
    let old = super::definition(
        "security.istio.io",
        "AuthorizationPolicy",
        "authorizationpolicies",
        &["v1beta1"],
    );
    let old_path = "/apis/security.istio.io/v1beta1/authorizationpolicies";
    api.add(CRDS, old);
    api.add(old_path, policy("one", allow()));
    api.add(old_path, policy("two", allow()));
    let mut seen = Seen::synced(&api).await;
    assert_eq!(seen.count("AuthorizationPolicy"), 2);
    api.add(POLICIES, policy("one", allow()));
    api.add(POLICIES, policy("three", allow()));
    api.add(CRDS, policies_definition());
    let want = ["one", "three"];
    seen.until("of the new version", |seen| {
        seen.names("AuthorizationPolicy") == want
    })
    .await;
    assert!(
        !seen
            .told
            .contains(&"-AuthorizationPolicy one.shop".to_owned()),
        "never away"
    );
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_closes_and_others_keep_their_last_form() {
    let api = ApiServer::start().await.unwrap();
    api.add(CRDS, policies_definition());
    let entries = "/apis/networking.istio.io/v1/serviceentries";
    api.add(
        CRDS,
        super::definition(
            "networking.istio.io",
            "ServiceEntry",
            "serviceentries",
            &["v1"],
        ),
    );
    api.add(POLICIES, policy("good", allow()));
    api.add(
        POLICIES,
        policy("bad", json!({"action": "ALLOW", "rulez": [{"a": 1}]})),
    );
    let entry = |hosts: serde_json::Value| {
        json!({"metadata": {"name": "db", "namespace": "shop"},
               "spec": {"hosts": hosts, "resolution": "DNS", "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}})
    };
    api.add(entries, entry(json!(["db.example.org"])));
    let mut seen = Seen::synced(&api).await;
    let key = |kind, name: &str| ObjectKey::new(kind, "shop", name);
    let bad = &seen.objects[&key(Kind::AuthorizationPolicy, "bad")];
    assert!(matches!(bad, Object::Broken(_)), "{bad:?}");
    let said = |seen: &Seen, name: &str| -> Vec<String> {
        let of = |p: &&ambit_kube::Problem| p.key.as_ref().is_some_and(|key| &*key.name == name);
        let all = seen.problems.iter().filter(of);
        all.map(|p| format!("{} {}", p.code, p.origin)).collect()
    };
    assert_eq!(said(&seen, "bad"), ["AMB0106 AuthorizationPolicy/shop/bad"]);
    let good = seen.objects[&key(Kind::ServiceEntry, "db")].clone();
    api.add(entries, entry(json!("db.example.org")));
    seen.until("a problem", |seen| !said(seen, "db").is_empty())
        .await;
    assert_eq!(seen.objects[&key(Kind::ServiceEntry, "db")], good);
    let origin = "ServiceEntry/shop/db";
    assert_eq!(
        said(&seen, "db"),
        [format!("AMB0107 {origin}"), format!("AMB0123 {origin}")]
    );
    api.add(POLICIES, policy("bad", allow()));
    api.remove(entries, "shop", "db");
    seen.until("none", |seen| seen.problems.is_empty()).await;
}

fn map(name: &str, mesh: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "istio-system"}, "data": {"mesh": mesh}})
}

#[tokio::test]
async fn settings_are_merged_and_kept_when_they_cannot_be_read() {
    let api = ApiServer::start().await.unwrap();
    api.add(SYSTEM_MAPS, map("istio", "trustDomain: td\n"));
    api.add(SYSTEM_MAPS, map("unrelated", "trustDomain: other\n"));
    let mut seen = Seen::synced(&api).await;
    let settings = |seen: &Seen| {
        let config = seen.objects.values().find_map(|object| match object {
            Object::MeshConfig(config) => Some(config.spec.clone()),
            _ => None,
        });
        config.map(|spec| (spec.trust_domain, spec.root_namespace))
    };
    let of =
        |domain: &str, root: Option<&str>| Some((Some(domain.to_owned()), root.map(str::to_owned)));
    assert_eq!(settings(&seen), of("td", None));
    api.add(
        SYSTEM_MAPS,
        map("shared", "trustDomain: common\nrootNamespace: roots\n"),
    );
    seen.until("merged", |seen| settings(seen) == of("td", Some("roots")))
        .await;
    api.add(SYSTEM_MAPS, map("istio", "trustDomain: [td\n"));
    seen.until("a problem", |seen| !seen.problems.is_empty())
        .await;
    assert_eq!(
        settings(&seen),
        of("td", Some("roots")),
        "the last good form"
    );
    api.remove(SYSTEM_MAPS, "istio-system", "istio");
    seen.until("shared alone", |seen| {
        settings(seen) == of("common", Some("roots"))
    })
    .await;
    assert!(seen.problems.is_empty());
    api.remove(SYSTEM_MAPS, "istio-system", "shared");
    seen.until("none", |seen| settings(seen).is_none()).await;
    assert_eq!(seen.count("ConfigMap"), 0, "no other ConfigMap is read");
}

#[tokio::test]
async fn single_objects_are_read_while_they_are_wanted() {
    let api = ApiServer::start().await.unwrap();
    let secrets = "/api/v1/namespaces/shop/secrets";
    let secret = |name: &str| json!({"metadata": {"name": name, "namespace": "shop"}, "data": {"tls.key": "c2VjcmV0"}});
    api.add(secrets, secret("wanted"));
    api.add(secrets, secret("other"));
    let mut seen = Seen::synced(&api).await;
    let wanted = seen.source.wanted();
    let key = |name: &str| ObjectKey::new(Kind::Secret, "shop", name);
    assert!(wanted.set(&[key("wanted"), key("absent")].into()));
    assert!(
        !wanted.set(&[key("wanted"), key("absent")].into()),
        "the same again"
    );
    seen.until("told", |seen| seen.synced == 2).await;
    assert_eq!(seen.names("Secret"), ["wanted"]);
    api.add(secrets, secret("absent"));
    seen.until("it comes later", |seen| seen.count("Secret") == 2)
        .await;
    assert!(wanted.set(&[key("absent")].into()));
    seen.until("no longer wanted", |seen| {
        seen.names("Secret") == ["absent"]
    })
    .await;
    for _ in 0..4 {
        wanted.set(&[].into());
        wanted.set(&[key("absent")].into());
    }
    seen.until("after all", |seen| seen.names("Secret") == ["absent"])
        .await;
    seen.quiet().await;
    assert_eq!(seen.names("Secret"), ["absent"]);
}

#[tokio::test]
async fn defaults_are_read_for_their_label_and_single_ones_besides() {
    let api = ApiServer::start().await.unwrap();
    let with = |labels: serde_json::Value| json!({"metadata": {"name": "d", "namespace": "istio-system", "labels": labels}, "data": {"a": "b"}});
    let labelled = || with(json!({"gateway.istio.io/defaults-for-class": "istio-waypoint"}));
    api.add(SYSTEM_MAPS, labelled());
    let mut seen = Seen::synced(&api).await;
    assert_eq!(seen.names("ConfigMap"), ["d"]);
    let key = ObjectKey::new(Kind::ConfigMap, "istio-system", "d");
    assert!(seen.source.wanted().set(&[key].into()));
    seen.until("told", |seen| seen.synced == 2).await;
    api.add(SYSTEM_MAPS, with(json!({})));
    seen.quiet().await;
    assert_eq!(seen.count("ConfigMap"), 1, "it is wanted still");
    assert!(seen.source.wanted().set(&[].into()));
    seen.until("none", |seen| seen.count("ConfigMap") == 0)
        .await;
    api.add(SYSTEM_MAPS, labelled());
    seen.until("labelled again", |seen| seen.count("ConfigMap") == 1)
        .await;
}

#[tokio::test]
async fn single_objects_that_cannot_be_had_hold_nothing_up() {
    let api = ApiServer::start().await.unwrap();
    let mut seen = Seen::synced(&api).await;
    for _ in 0..1000 {
        api.trouble_once("LIST", "/secrets", Trouble::Refuse(403));
    }
    let key = ObjectKey::new(Kind::Secret, "shop", "secret");
    assert!(seen.source.wanted().set(&[key].into()));
    seen.until("told all the same", |seen| seen.synced == 2)
        .await;
}
