use super::*;

fn inventory(manifests: &str) -> Inventory {
    let mut inventory = Inventory::new("n1".into(), true, &["quiet".into()]);
    let loaded = ambit_kube::read_manifest("test.yaml", manifests);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    for object in loaded.objects {
        inventory.apply(Change::Apply(object));
    }
    inventory
}

fn pod(name: &str, metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: u-{name}{metadata}}}\n\
         spec: {{nodeName: n1{spec}, containers: [{{name: c, image: i}}]}}\nstatus: {{{status}}}\n"
    )
}

const SHOP: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {dataplane-mode: ambient}}\n";

#[test]
fn pods_of_this_node_are_served_or_left() {
    let manifests = [
        SHOP.to_owned(),
        pod("in", "", ", serviceAccountName: acc", "podIP: 10.0.0.1"),
        pod("out", ", labels: {istio.io/dataplane-mode: none}", "", ""),
        pod("host", "", ", hostNetwork: true", ""),
        pod("over", "", "", "phase: Succeeded"),
        pod("away", "", "", "").replace("n1", "n2"),
    ];
    let inventory = inventory(&manifests.concat());
    let wishes = inventory.wishes();
    let ids: Vec<_> = wishes.keys().map(|id| &**id).collect();
    assert_eq!(ids, ["u-in", "u-out"]);
    let Some(Wish::Serve(spec)) = wishes.get("u-in") else {
        panic!("{wishes:?}");
    };
    assert_eq!(spec.info.service_account, "acc");
    assert_eq!(spec.ips, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert!(matches!(wishes.get("u-out"), Some(Wish::Leave(_))));
}

#[test]
fn a_pod_that_moves_or_is_deleted_is_over() {
    let mut inventory =
        inventory(&[SHOP.to_owned(), pod("a", "", "", ""), pod("b", "", "", "")].concat());
    let moved = pod("a", "", "", "").replace("n1", "n2");
    let moved = ambit_kube::read_manifest("test.yaml", &moved)
        .objects
        .remove(0);
    inventory.apply(Change::Apply(moved));
    let key = ambit_kube::ObjectKey::new(Kind::Pod, "shop", "b");
    inventory.apply(Change::Delete(key));
    assert!(inventory.wishes().is_empty());
}

#[test]
fn a_job_that_ends_while_it_is_served_is_over() {
    let mut inventory = inventory(
        &[
            SHOP.to_owned(),
            pod("job", "", "", ""),
            pod("web", "", "", ""),
        ]
        .concat(),
    );
    assert_eq!(inventory.wishes().len(), 2);
    for phase in ["phase: Succeeded", "phase: Failed"] {
        let ended = ambit_kube::read_manifest("test.yaml", &pod("job", "", "", phase));
        let ended = ended.objects.into_iter().map(Change::Apply);
        ended.for_each(|change| inventory.apply(change));
        let wishes = inventory.wishes();
        let ids: Vec<_> = wishes.keys().map(|id| &**id).collect();
        assert_eq!(ids, ["u-web"], "{phase}");
    }
}

#[test]
fn annotations_shape_the_rules() {
    let bypass = r#", annotations: {ambient.istio.io/bypass-inbound-capture: "true", istio.io/reroute-virtual-interfaces: "tap0, tap1", ambit.mesh/netns: /run/netns/a}"#;
    let inventory = inventory(&[SHOP.to_owned(), pod("a", bypass, "", "")].concat());
    let wishes = inventory.wishes();
    let Some(Wish::Serve(spec)) = wishes.get("u-a") else {
        panic!("{wishes:?}");
    };
    assert_eq!(spec.capture.inbound, Inbound::Bypass);
    assert_eq!(
        spec.capture.virtual_interfaces,
        ["tap0".into(), "tap1".into()]
    );
    assert_eq!(
        spec.netns.as_deref(),
        Some(std::path::Path::new("/run/netns/a"))
    );
    assert_eq!(spec.info.service_account, "default");
}

#[test]
fn the_plugin_names_the_namespace_until_it_takes_it_away() {
    let mut inventory = inventory(&[SHOP.to_owned(), pod("a", "", "", "")].concat());
    let name = PodName {
        namespace: "shop".into(),
        name: "a".into(),
    };
    assert_eq!(
        inventory.admission(&name, None),
        (Admission::Enrolled, Some("u-a".into()))
    );
    let ip: IpAddr = "10.0.0.9".parse().unwrap();
    let place = |netns: &str, container: &str| SandboxPlace {
        netns: netns.into(),
        ips: vec![ip],
        container: Some(container.into()),
    };
    inventory.sandbox_added(&name, place("/run/netns/x", "c1"));
    let wishes = inventory.wishes();
    let Some(Wish::Serve(spec)) = wishes.get("u-a") else {
        panic!("{wishes:?}");
    };
    assert_eq!(
        (spec.netns.as_deref(), &spec.ips),
        (Some(std::path::Path::new("/run/netns/x")), &vec![ip])
    );
    inventory.sandbox_removed(&name, Some("c0"));
    assert_eq!(inventory.wishes().len(), 1, "that was a sandbox before");
    inventory.sandbox_removed(&name, Some("c1"));
    assert!(inventory.wishes().is_empty());
    inventory.sandbox_added(&name, place("/run/netns/y", "c2"));
    assert_eq!(inventory.wishes().len(), 1);
    inventory.sandbox_removed(&name, Some("c1"));
    assert_eq!(inventory.wishes().len(), 1, "said again, and late");
    let nobody = PodName {
        namespace: "shop".into(),
        name: "b".into(),
    };
    assert_eq!(
        inventory.admission(&nobody, None),
        (Admission::Unknown, None)
    );
}

#[test]
fn a_pod_without_uid_is_known_by_its_name() {
    let text = pod("a", "", "", "").replace(", uid: u-a", "");
    let inventory = inventory(&[SHOP.to_owned(), text].concat());
    let wishes = inventory.wishes();
    let Some(Wish::Serve(spec)) = wishes.get("shop/a") else {
        panic!("{wishes:?}");
    };
    assert_eq!(&*spec.uid, "");
}

#[test]
fn a_pod_of_an_excluded_namespace_is_left_alone() {
    let own_label = ", labels: {istio.io/dataplane-mode: ambient}";
    let text = pod("a", own_label, "", "").replace("shop", "quiet");
    let inventory = inventory(&[SHOP.to_owned(), text].concat());
    let wishes = inventory.wishes();
    assert!(matches!(wishes.get("u-a"), Some(Wish::Leave(_))));
}

#[test]
fn a_static_pod_is_looked_for_by_the_hash_that_kubelet_knows_it_by() {
    let mirror = ", annotations: {kubernetes.io/config.mirror: m, kubernetes.io/config.hash: abc}";
    let fake = ", annotations: {kubernetes.io/config.hash: abc}";
    let pods = [
        SHOP.to_owned(),
        pod("a", mirror, "", ""),
        pod("b", fake, "", ""),
    ];
    let wishes = inventory(&pods.concat()).wishes();
    let uid = |id: &str| match wishes.get(id) {
        Some(Wish::Serve(spec)) => spec.cgroup_uid.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (uid("u-a"), uid("u-b")),
        ("abc".to_owned(), "u-b".to_owned())
    );
}

#[test]
fn only_pods_that_live_are_annotated() {
    let enabled = r#", annotations: {ambient.istio.io/redirection: enabled}, resourceVersion: "7""#;
    let leaving = r#", deletionTimestamp: "2026-01-01T00:00:00Z""#;
    let pods = [
        pod("a", enabled, "", ""),
        pod("b", "", "", "phase: Succeeded"),
        pod("c", leaving, "", ""),
        pod("d", "", "", ""),
        pod("e", "", "", "").replace(", uid: u-e", ""),
    ];
    let observed = inventory(&pods.concat()).annotated();
    let seen: Vec<_> = observed
        .iter()
        .map(|o| (&*o.id, &*o.version, o.redirection.as_deref()))
        .collect();
    assert_eq!(seen, [("u-a", "7", Some("enabled")), ("u-d", "", None)]);
}

#[test]
fn a_pod_of_the_same_name_before_tells_nothing_of_the_next() {
    let static_pod =
        ", annotations: {kubernetes.io/config.mirror: m, kubernetes.io/config.hash: abc}";
    let inventory = inventory(&[SHOP.to_owned(), pod("a", static_pod, "", "")].concat());
    let name = PodName {
        namespace: "shop".into(),
        name: "a".into(),
    };
    let asked = |uid| inventory.admission(&name, uid).0;
    assert_eq!(asked(Some("u-a")), Admission::Enrolled);
    assert_eq!(asked(Some("abc")), Admission::Enrolled);
    assert_eq!(asked(Some("u-next")), Admission::Unknown);
}
