//! `ambit ztunnel-config` on a saved dump, and on a proxy in a network namespace.
#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod program;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;

use ambit_netns::{NamedNetNs, Netlink};
use program::{ambit, ambit_in, ambit_reading, fixture};

fn short(arguments: &[&str]) -> String {
    let dump = fixture("config_dump.json");
    let mut all = vec!["ztunnel-config"];
    all.extend(arguments);
    all.extend(["--file", &dump]);
    let run = ambit(&all);
    assert_eq!(run.code, 0, "{arguments:?}: {}", run.notes);
    run.output
}

#[test]
fn workloads_have_the_columns_of_the_contract() {
    assert_eq!(
        short(&["workload"]),
        "NAMESPACE POD NAME ADDRESS             NODE   WAYPOINT PROTOCOL\n\
         bank      ledger   ledger.bank.example        None     TCP\n\
         shop      cart-0   10.7.1.5,fd07::5    node-1 None     HBONE\n\
         shop      cart-1   10.7.1.6            node-1 NA       TCP\n\
         shop      web-0    10.7.2.4            node-2 gate     HBONE\n"
    );
}

#[test]
fn workloads_can_be_filtered() {
    let names = |arguments: &[&str]| -> Vec<String> {
        let text = short(arguments);
        text.lines()
            .skip(1)
            .map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&["w", "--workload-namespace", "bank"]), ["ledger"]);
    assert_eq!(
        names(&["workloads", "--workload-node", "node-2"]),
        ["web-0"]
    );
    assert_eq!(names(&["workload", "--address", "fd07::5"]), ["cart-0"]);
    assert!(names(&["workload", "--address", "10.0.0.1"]).is_empty());
}

#[test]
fn services_count_healthy_workloads() {
    assert_eq!(
        short(&["svc"]),
        "NAMESPACE SERVICE NAME SERVICE VIP       WAYPOINT ENDPOINTS\n\
         shop      cart         10.96.7.1,fd96::1 None     1/2\n\
         shop      gate         10.96.7.9         None     0/0\n"
    );
    assert_eq!(
        short(&["service", "--service-namespace", "bank"])
            .lines()
            .count(),
        1,
        "headers always"
    );
}

#[test]
fn policies_and_certificates_have_their_columns() {
    assert_eq!(
        short(&["policies"]),
        "NAMESPACE    POLICY NAME ACTION SCOPE\n\
         istio-system all         Allow  Global\n\
         shop         gate        Deny   WorkloadSelector\n"
    );
    let certificates = short(&["cert"]);
    let rows: Vec<Vec<&str>> = certificates
        .lines()
        .map(|line| {
            line.split("  ")
                .filter(|cell| !cell.is_empty())
                .map(str::trim)
                .collect()
        })
        .collect();
    assert_eq!(
        rows[0],
        [
            "CERTIFICATE NAME",
            "TYPE",
            "STATUS",
            "VALID CERT",
            "SERIAL NUMBER",
            "NOT AFTER",
            "NOT BEFORE"
        ]
    );
    let cart = "spiffe://cluster.local/ns/shop/sa/cart";
    let (until, from) = ("2120-01-01T00:00:00Z", "2020-01-01T00:00:00Z");
    assert_eq!(
        rows[1],
        [cart, "Leaf", "Available", "true", "1000", until, from]
    );
    assert_eq!(
        rows[2],
        [cart, "Intermediate", "Available", "true", "ff", until, from]
    );
    assert_eq!(
        rows[3],
        [
            cart,
            "Root",
            "Available",
            "false",
            "10",
            "2020-01-02T00:00:00Z",
            from
        ]
    );
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    assert_eq!(
        rows[4],
        [web, "NA", "Unavailable", "false", "NA", "NA", "NA"]
    );
}

#[test]
fn connections_have_names_unless_raw() {
    assert_eq!(
        short(&["connections"]),
        "WORKLOAD    DIRECTION LOCAL             REMOTE           REMOTE TARGET                  PROTOCOL\n\
         cart-0.shop Inbound   cart-0.shop:8080  web-0.shop:40000                                HBONE\n\
         cart-0.shop Outbound  cart-0.shop:50000 10.7.9.9:15008   gate.shop.svc.cluster.local:80 HBONE\n"
    );
    assert!(
        short(&["cons", "--raw", "--direction", "inbound"])
            .contains("10.7.1.5:8080 10.7.2.4:40000")
    );
}

#[test]
fn all_is_everything_with_or_without_banners() {
    let all = short(&["all", "--with-headers"]);
    for banner in [
        "WORKLOAD INFO",
        "SERVICE INFO",
        "POLICY INFO",
        "SECRET INFO",
        "CONNECTIONS INFO",
    ] {
        assert!(all.contains(banner), "{banner}");
    }
    assert!(!short(&["all"]).contains("INFO"));
}

#[test]
fn json_and_yaml_are_the_dumps_own_objects() {
    let dump: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("config_dump.json")).unwrap())
            .unwrap();
    let all: serde_json::Value = serde_json::from_str(&short(&["all", "-o", "json"])).unwrap();
    assert_eq!(all, dump);
    let workloads: serde_json::Value = serde_json::from_str(&short(&[
        "workload",
        "--workload-namespace",
        "bank",
        "-o",
        "json",
    ]))
    .unwrap();
    assert_eq!(workloads, serde_json::json!([dump["workloads"][3]]));
    let policies: serde_json::Value =
        serde_saphyr::from_str(&short(&["policy", "-o", "yaml"])).unwrap();
    assert_eq!(policies[1], dump["policies"][0]);
}

#[test]
fn a_dump_comes_from_standard_input_too() {
    let text = std::fs::read_to_string(fixture("config_dump.json")).unwrap();
    let run = ambit_reading(&text, &["zc", "workload", "-f", "-"]);
    assert_eq!(
        (run.code, run.output.lines().count()),
        (0, 5),
        "{}",
        run.notes
    );
}

#[test]
fn wrong_calls_say_so() {
    for (arguments, code, word) in [
        (&["zc", "certificate"][..], 64, "--node must be set"),
        (&["zc", "workload"], 64, "--node NAME"),
        (
            &["zc", "workload", "--file", "a", "--node", "b"],
            64,
            "cannot be used with",
        ),
        (&["zc", "workload", "--proxy-admin-port", "0"], 64, "0"),
        (
            &["zc", "workload", "--file", "no/such/file"],
            1,
            "no/such/file",
        ),
        (
            &["zc", "workload", "--node", "../secret"],
            1,
            "no node ../secret",
        ),
    ] {
        let run = ambit(arguments);
        assert_eq!(run.code, code, "{arguments:?}: {}", run.notes);
        assert!(run.notes.contains(word), "{arguments:?}: {}", run.notes);
    }
    let run = ambit_reading("[]", &["zc", "all", "--file", "-"]);
    assert_eq!(run.code, 65, "{}", run.notes);
}

/// Answers one request for a config dump.
fn serve_one(listener: TcpListener, dump: &str) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let request = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .next()
        .unwrap()
        .unwrap();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{dump}",
        dump.len()
    )
    .unwrap();
    request
}

/// Describes a node, as the demo does.
fn describe(dir: &Path, node: &str, netns: &Path, port: u16) {
    std::fs::create_dir_all(dir.join("nodes")).unwrap();
    let entry = serde_json::json!({"netns": netns, "admin": format!("127.0.0.1:{port}")});
    std::fs::write(dir.join(format!("nodes/{node}.json")), entry.to_string()).unwrap();
}

#[test]
fn a_node_of_the_demo_is_asked_for_its_dump() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("config_dump.json")).unwrap();
    for arguments in [&["zc", "policy", "--node", "node-1"][..], &["zc", "policy"]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        describe(dir.path(), "node-1", Path::new("/proc/self/ns/net"), port);
        let run = std::thread::scope(|scope| {
            let proxy = scope.spawn(|| serve_one(listener, &text));
            let run = ambit_in(dir.path(), arguments);
            assert_eq!(proxy.join().unwrap(), "GET /config_dump HTTP/1.1");
            run
        });
        assert_eq!(
            (run.code, run.output.lines().count()),
            (0, 3),
            "{}",
            run.notes
        );
    }
    let run = ambit_in(dir.path(), &["zc", "policy", "--node", "node-7"]);
    assert_eq!(run.code, 1);
    assert!(
        run.notes.contains("no node node-7") && run.notes.contains("node-1"),
        "{}",
        run.notes
    );
    // Nobody listens there any more.
    let run = ambit_in(dir.path(), &["zc", "policy", "--node", "node-1"]);
    assert_eq!(run.code, 1);
    assert!(
        run.notes.contains("the proxy of node-1 at 127.0.0.1"),
        "{}",
        run.notes
    );
}

#[test]
fn a_node_is_asked_inside_its_network_namespace() {
    if !ambit_netns::require_privilege("a proxy in a network namespace of its own") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let node = NamedNetNs::create(dir.path(), "node").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        Netlink::in_ns(node.ns())
            .unwrap()
            .link_up("lo")
            .await
            .unwrap()
    });
    let listener = node
        .ns()
        .run_on_thread(|| TcpListener::bind("127.0.0.1:15000").unwrap())
        .unwrap();
    describe(dir.path(), "node-1", node.path(), 1);
    let text = std::fs::read_to_string(fixture("config_dump.json")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| serve_one(listener, &text));
        let run = ambit_in(
            dir.path(),
            &[
                "zc",
                "all",
                "--node",
                "node-1",
                "--proxy-admin-port",
                "15000",
            ],
        );
        assert_eq!(run.code, 0, "{}", run.notes);
        assert!(run.output.contains("web-0"));
    });
}
