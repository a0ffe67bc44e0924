use ambit_testkit::apiserver::{ApiServer, Trouble};

use super::*;
use crate::scripted;

const MARK: Mark = Mark {
    label: "gateway.istio.io/managed",
    manager: "istio.io/gateway-controller",
};
const AT: &str = "/apis/apps/v1/namespaces/shop/deployments/wp";

async fn scene() -> (ApiServer, Client) {
    let api = ApiServer::start().await.unwrap();
    let client = scripted::connect(&api);
    (api, client)
}

fn deployment(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": name, "namespace": "shop",
            "labels": {"gateway.istio.io/managed": "istio.io-mesh-controller"},
            "ownerReferences": [{"uid": "gw-1", "name": "wp", "kind": "Gateway"}],
        },
        "spec": {"template": {"spec": {"containers": [{"name": "istio-proxy", "image": image}]}}},
    })
}

#[tokio::test]
async fn an_object_is_applied_whole_and_what_others_added_stays() {
    let (api, client) = scene().await;
    assert_eq!(
        apply(&client, &deployment("wp", "a"), MARK).await.unwrap(),
        Applied::Done
    );
    let mut scaled = api.get(AT).unwrap();
    scaled["spec"]["replicas"] = json!(3);
    api.put(AT, scaled);
    assert_eq!(
        apply(&client, &deployment("wp", "b"), MARK).await.unwrap(),
        Applied::Done
    );
    let now = api.get(AT).unwrap();
    assert_eq!(now["spec"]["replicas"], 3);
    let image = "/spec/template/spec/containers/0/image";
    assert_eq!(now.pointer(image).unwrap(), "b");
}

#[tokio::test]
async fn what_somebody_else_made_stays_as_it_is() {
    let (api, client) = scene().await;
    let mut theirs = deployment("wp", "theirs");
    theirs["metadata"]["labels"] = json!({});
    api.put(AT, theirs);
    let before = api.get(AT);
    let applied = apply(&client, &deployment("wp", "ours"), MARK).await;
    assert_eq!(applied.unwrap(), Applied::NotOurs);
    assert_eq!(api.get(AT), before);
}

#[tokio::test]
async fn a_change_in_between_is_looked_at_again() {
    let (api, client) = scene().await;
    apply(&client, &deployment("wp", "a"), MARK).await.unwrap();
    let (changed, mut times) = (api.clone(), 0);
    // Somebody takes the mark away between the look and the write.
    let touched = changed.get(AT).unwrap();
    api.trouble(move |verb, _| {
        times += usize::from(verb == "APPLY");
        (verb == "APPLY" && times == 1).then_some(Trouble::Refuse(409))
    });
    let mut unmarked = touched;
    unmarked["metadata"]["labels"] = json!({});
    changed.put(AT, unmarked);
    let applied = apply(&client, &deployment("wp", "b"), MARK).await;
    assert_eq!(applied.unwrap(), Applied::NotOurs);
    api.trouble(|verb, _| (verb == "APPLY").then_some(Trouble::Refuse(409)));
    api.delete(AT);
    let endless = apply(&client, &deployment("wp", "b"), MARK).await;
    assert!(matches!(endless, Err(WriteError::Contested)), "{endless:?}");
}

#[tokio::test]
async fn only_our_own_leftovers_are_deleted() {
    let (api, client) = scene().await;
    apply(&client, &deployment("wp", "a"), MARK).await.unwrap();
    apply(&client, &deployment("old", "a"), MARK).await.unwrap();
    let mut of_another = deployment("another", "a");
    of_another["metadata"]["ownerReferences"][0]["uid"] = json!("gw-2");
    apply(&client, &of_another, MARK).await.unwrap();
    let mut unmarked = deployment("unmarked", "a");
    unmarked["metadata"]["labels"] = json!({});
    api.put(&AT.replace("wp", "unmarked"), unmarked);
    let what = Leftovers {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        namespace: "shop",
        selector: "",
        owner: "gw-1",
        keep: &["wp"],
    };
    assert_eq!(delete_leftovers(&client, what, MARK).await.unwrap(), 1);
    assert_eq!(api.paths().len(), 3);
    assert!(api.get(&AT.replace("wp", "old")).is_none());
}

#[tokio::test]
async fn what_is_missing_is_created_and_what_is_there_is_not_touched() {
    let (api, client) = scene().await;
    let class = |controller: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
            "metadata": {"name": "istio-waypoint"}, "spec": {"controllerName": controller},
        })
    };
    assert!(
        create_missing(&client, &class("a"), MARK.manager)
            .await
            .unwrap()
    );
    assert!(
        !create_missing(&client, &class("b"), MARK.manager)
            .await
            .unwrap()
    );
    let at = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/istio-waypoint";
    assert_eq!(api.get(at).unwrap()["spec"]["controllerName"], "a");
}
