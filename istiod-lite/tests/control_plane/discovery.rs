use ambit_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};

use crate::harness::{Mesh, eventually, uid};

const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-pay, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/pay]}}]}]
";

#[tokio::test(flavor = "multi_thread")]
async fn policies_arrive_before_the_workloads_that_they_bind_and_leave_after() {
    let mesh = Mesh::prepare(&[]);
    mesh.write("policy.yaml", DENY);
    let mesh = mesh.started().await;
    let view = mesh.follow("n1").await;
    let log = view.take_log();
    let at = |name: &str| log.iter().position(|n| n == name);
    assert!(
        at("shop/deny-pay").unwrap() < at(&uid("cart")).unwrap(),
        "{log:?}"
    );

    std::fs::remove_file(mesh.manifest("policy.yaml")).unwrap();
    eventually("the policy is gone", || {
        view.names(AUTHORIZATION_TYPE).is_empty()
    })
    .await;
    // The workload that listed it first, then the policy.
    assert_eq!(view.take_log(), [uid("cart"), "-shop/deny-pay".into()]);

    mesh.write("policy.yaml", DENY);
    eventually("both are back", || {
        view.names(AUTHORIZATION_TYPE) == ["shop/deny-pay"]
    })
    .await;
    let log = || view.take_log();
    let mut all = log();
    eventually("the workload lists it again", || {
        all.extend(log());
        all.len() == 2
    })
    .await;
    assert_eq!(all, ["shop/deny-pay".into(), uid("cart")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_is_one_resource_for_everybody() {
    let mesh = Mesh::start().await;
    let (one, two) = (mesh.follow("n1").await, mesh.follow("n2").await);
    for view in [&one, &two] {
        view.take_log();
    }
    let before = mesh.metric("pilot_xds_pushes", "wds").await;
    mesh.write_pod("shop", "pay", "another", "n2");
    for view in [&one, &two] {
        let mut log = Vec::new();
        eventually("the edit", || {
            log.extend(view.take_log());
            !log.is_empty()
        })
        .await;
        assert_eq!(log, [uid("pay")]);
    }
    let after = mesh.metric("pilot_xds_pushes", "wds").await;
    assert!((after - before - 2.0).abs() < 0.1, "{before} {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_are_told_and_the_rest_goes_on() {
    let mesh = Mesh::start().await;
    let view = mesh.follow("n1").await;
    let all = view.names(ADDRESS_TYPE);
    mesh.write("broken.yaml", "kind: [\n");
    mesh.write_pod("shop", "more", "more", "n1");
    eventually("what is good arrives", || {
        view.names(ADDRESS_TYPE).contains(&uid("more"))
    })
    .await;
    assert_eq!(view.names(ADDRESS_TYPE).len(), all.len() + 1);
    mesh.page_with(&["broken.yaml"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_sends_nothing_that_is_held() {
    let mesh = Mesh::prepare(&[]);
    mesh.write("policy.yaml", DENY);
    let mut mesh = mesh.started().await;
    let port = mesh.secure().port();
    let view = mesh.follow("n1").await;
    assert_eq!(view.names(AUTHORIZATION_TYPE), ["shop/deny-pay"]);
    view.take_log();
    mesh.stop().await;
    mesh.write_pod("shop", "new", "new", "n1");
    // Again at the address that the client knows.
    mesh.relaunch_at(port).await;
    eventually("what changed meanwhile", || {
        view.names(ADDRESS_TYPE).contains(&uid("new"))
    })
    .await;
    assert_eq!(view.take_log(), [uid("new")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_breaks_keeps_its_last_good_form_and_one_that_never_was_good_denies() {
    let mesh = Mesh::prepare(&[]);
    mesh.write("policy.yaml", DENY);
    let mesh = mesh.started().await;
    let view = mesh.follow("n1").await;
    view.take_log();
    let impossible = "from: [{source: {ipBlocks: [10.0.0.0/99]}}]";
    let principals = "from: [{source: {principals: [cluster.local/ns/shop/sa/pay]}}]";
    mesh.write("policy.yaml", &DENY.replace(principals, impossible));
    let never = DENY
        .replace(principals, impossible)
        .replace("deny-pay", "never");
    mesh.write("never.yaml", &never);
    eventually(
        "what never was good is sent, as something that denies",
        || view.names(AUTHORIZATION_TYPE) == ["shop/deny-pay", "shop/never"],
    )
    .await;
    let log = view.take_log();
    assert!(
        !log.contains(&"shop/deny-pay".to_owned()),
        "as it was: {log:?}"
    );
    let page = mesh
        .page_with(&["10.0.0.0/99", "policy.yaml", "never.yaml", "ipBlocks"])
        .await;
    let objects: Vec<_> = page["statuses"].as_array().unwrap().iter().collect();
    assert_eq!(objects.len(), 2, "{page:#}");
}
