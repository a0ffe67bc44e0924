//! One look at a cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use ambit_kube::{Change, Kind, ObjectKey};
use ambit_testkit::apiserver::{ApiServer, Trouble};
use serde_json::json;

use super::{CRDS, PODS, POLICIES, pod, policies_definition, policy, quick};
use crate::scripted;
use crate::watch::{ApiSettings, Look};

const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
const PATIENCE: Duration = Duration::from_secs(20);

fn look(api: &ApiServer) -> Look {
    let settings = ApiSettings {
        system_namespace: "istio-system".into(),
        revision: "default".into(),
        shared_mesh_config: None,
        timing: quick(),
    };
    Look::start(scripted::connect(api), settings)
}

fn names(changes: &[Change]) -> BTreeSet<String> {
    let named = changes.iter().map(|change| match change {
        Change::Apply(located) => located.object.key().to_string(),
        Change::Delete(_) => "nothing".to_owned(),
        other => format!("{other:?}"),
    });
    named.filter(|name| name != "nothing").collect()
}

#[tokio::test]
async fn a_look_has_everything_that_is_there() {
    let api = ApiServer::start().await.unwrap();
    api.add(CRDS, policies_definition());
    api.add(POLICIES, policy("one", json!({"rules": [{}]})));
    api.add(PODS, pod("cart", "10.0.0.1"));
    let secret = |name: &str| json!({"metadata": {"name": name, "namespace": "shop"}, "data": {"a": "Yg=="}});
    api.add(SECRETS, secret("partner"));
    api.add(SECRETS, secret("nobody-asked"));
    let mut look = look(&api);
    let all = look.all(PATIENCE).await.unwrap();
    let wanted = ["AuthorizationPolicy one.shop", "Pod cart.shop"];
    assert_eq!(names(&all), wanted.map(str::to_owned).into());
    let key = |name: &str| ObjectKey::new(Kind::Secret, "shop", name);
    let referred = BTreeSet::from([key("partner"), key("absent")]);
    let (told, unread) = look.single(&referred).await;
    assert_eq!(names(&told), ["Secret partner.shop".to_owned()].into());
    assert_eq!(unread, []);
    assert_eq!(look.single(&referred).await, (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn what_may_not_be_read_ends_it_and_is_named() {
    let api = ApiServer::start().await.unwrap();
    for _ in 0..200 {
        api.trouble_once("LIST", "/pods", Trouble::Refuse(403));
    }
    let unread = look(&api).all(PATIENCE).await.unwrap_err();
    assert_eq!(&*unread.what, "Pod");
    assert!(unread.to_string().contains("forbidden"), "{unread}");
}

#[tokio::test]
async fn without_an_api_server_it_ends() {
    let api = ApiServer::start().await.unwrap();
    api.set_down(true);
    let unread = look(&api).all(PATIENCE).await.unwrap_err();
    assert!(unread.to_string().contains("no answer"), "{unread}");
}

#[tokio::test]
async fn a_server_that_is_only_slow_is_waited_for_so_long() {
    let api = ApiServer::start().await.unwrap();
    api.trouble_once("LIST", "/pods", Trouble::Delay(Duration::from_secs(60)));
    let unread = look(&api)
        .all(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!(&*unread.what, "Pod");
    assert!(unread.to_string().contains("in time"), "{unread}");
}
