//! The program as a runtime calls it, with an agent that answers as it is told.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are here"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

const POD: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1";
const PREVIOUS: &str = r#"{"cniVersion":"1.0.0",  "interfaces":[{"name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"interface":0,"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"address":"fd00::3/64"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}"#;

fn call(command: &str, arguments: &str, config: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ambit-cni"))
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", "/run/netns/a")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(config.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn config(socket: &Path, previous: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"pods","type":"ambit-cni","socket":"{}","excludeNamespaces":["kube-system"],"agentNamespace":"istio-system","agentPrefix":"istio-cni-node-","prevResult":{previous}}}"#,
        socket.display()
    )
}

/// Answers one request, and tells what it was.
fn agent(dir: &Path, answer: &'static str) -> (PathBuf, JoinHandle<(String, Value)>) {
    let socket = dir.join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = String::new();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).unwrap();
            seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            if let Some((head, body)) = seen.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|l| l.strip_prefix("Content-Length: "));
                if body.len() >= length.unwrap().parse().unwrap() {
                    break;
                }
            }
        }
        stream.write_all(answer.as_bytes()).unwrap();
        let (head, body) = seen.split_once("\r\n\r\n").unwrap();
        (
            head.lines().next().unwrap().to_owned(),
            serde_json::from_str(body).unwrap(),
        )
    });
    (socket, serving)
}

const YES: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const NO: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 7\r\n\r\nnot yet";

#[test]
fn add_asks_and_passes_on_what_the_chain_made() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, agent) = agent(dir.path(), YES);
    let output = call("ADD", POD, &config(&socket, PREVIOUS));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(result(&output), result_of(PREVIOUS));
    let (line, body) = agent.join().unwrap();
    assert_eq!(line, "POST /cmdadd HTTP/1.1");
    let expected = json!({"Netns": "/run/netns/a", "PodName": "web-0", "PodNamespace": "shop",
        "PodUID": "u-1", "ContainerID": "c1",
        "IPs": [{"Address": "10.1.2.3"}, {"Address": "fd00::3"}]});
    assert_eq!(body, expected);
}

fn result(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn result_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn refusal(output: &Output) -> (u64, String) {
    assert!(!output.status.success(), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["cniVersion"], "1.0.0");
    let message = error["msg"].as_str().unwrap().to_owned();
    (error["code"].as_u64().unwrap(), message)
}

#[test]
fn a_no_and_an_agent_that_is_away_keep_the_pod_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, agent) = agent(dir.path(), NO);
    let refused = refusal(&call("ADD", POD, &config(&socket, PREVIOUS)));
    assert_eq!(refused, (11, "ambit-cni: not yet".to_owned()));
    agent.join().unwrap();
    // The socket is still there, and nobody listens.
    let (code, message) = refusal(&call("ADD", POD, &config(&socket, PREVIOUS)));
    assert_eq!(code, 11);
    assert!(message.contains("the node agent isn't there"), "{message}");
}

#[test]
fn those_who_are_never_enrolled_start_without_the_agent() {
    let config = config(Path::new("/no/such/socket"), PREVIOUS);
    let exempt = [
        "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns-1",
        "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=istio-cni-node-abc",
        "",
    ];
    for arguments in exempt {
        let output = call("ADD", arguments, &config);
        assert!(output.status.success(), "{arguments}: {output:?}");
        assert_eq!(result(&output), result_of(PREVIOUS));
    }
}

#[test]
fn del_never_fails_and_tells_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, agent) = agent(dir.path(), NO);
    let output = call("DEL", POD, &config(&socket, PREVIOUS));
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let (line, body) = agent.join().unwrap();
    assert_eq!(
        (line.as_str(), &body["ContainerID"]),
        ("POST /cmddel HTTP/1.1", &json!("c1"))
    );
    for config in [&*config(&socket, "null"), "{", ""] {
        let output = call("DEL", POD, config);
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
}

#[test]
fn check_asks_and_prints_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, agent) = agent(dir.path(), YES);
    let output = call("CHECK", POD, &config(&socket, PREVIOUS));
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    assert_eq!(agent.join().unwrap().0, "POST /cmdcheck HTTP/1.1");
}

#[test]
fn a_call_that_is_wrong_says_so_in_cnis_codes() {
    let config = config(Path::new("/no/such/socket"), "null");
    assert_eq!(refusal(&call("ADD", POD, &config)).0, 7);
    assert_eq!(refusal(&call("FLY", POD, &config)).0, 4);
    let output = call("ADD", POD, "{");
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.success(), &error["code"]),
        (false, &json!(6))
    );
}

#[test]
fn version_status_and_gc_need_no_agent() {
    let config = config(Path::new("/no/such/socket"), "null");
    let output = call("VERSION", "", r#"{"cniVersion":"0.4.0"}"#);
    let versions: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(versions["cniVersion"], "0.4.0");
    let supported = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(versions["supportedVersions"], supported);
    for command in ["STATUS", "GC"] {
        let output = call(command, "", &config);
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
}
