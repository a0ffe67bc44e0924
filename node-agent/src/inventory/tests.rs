use super::*;

fn inventory(manifests: &str) -> Inventory {
    let mut inventory = Inventory::new("n1".into(), true);
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
        inventory.admission(&name),
        (Admission::Enrolled, Some("u-a".into()))
    );
    let ip: IpAddr = "10.0.0.9".parse().unwrap();
    inventory.sandbox_added(&name, "/run/netns/x".into(), vec![ip]);
    let wishes = inventory.wishes();
    let Some(Wish::Serve(spec)) = wishes.get("u-a") else {
        panic!("{wishes:?}");
    };
    assert_eq!(
        (spec.netns.as_deref(), &spec.ips),
        (Some(std::path::Path::new("/run/netns/x")), &vec![ip])
    );
    inventory.sandbox_removed(&name);
    assert!(inventory.wishes().is_empty());
    inventory.sandbox_added(&name, "/run/netns/y".into(), vec![]);
    assert_eq!(inventory.wishes().len(), 1);
    let nobody = PodName {
        namespace: "shop".into(),
        name: "b".into(),
    };
    assert_eq!(inventory.admission(&nobody), (Admission::Unknown, None));
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
