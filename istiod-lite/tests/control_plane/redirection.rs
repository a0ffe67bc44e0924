use ambit_channel::ControlPlane;
use ambit_proto::enrolment::enrolment_client::EnrolmentClient;
use ambit_proto::enrolment::{NodeReport, PodRedirection, Redirection, ReportAck};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::{Mesh, eventually};

/// A node agent's stream.
struct Agent {
    node: String,
    sequence: u64,
    reports: mpsc::Sender<NodeReport>,
    acks: Streaming<ReportAck>,
}

impl Agent {
    async fn connect(channel: ControlPlane, node: &str) -> Result<Self, Status> {
        let (reports, stream) = mpsc::channel(4);
        let mut client = EnrolmentClient::new(channel);
        let acks = client.report(ReceiverStream::new(stream)).await?;
        Ok(Self {
            node: node.to_owned(),
            sequence: 0,
            reports,
            acks: acks.into_inner(),
        })
    }

    /// Reports these pods of `shop` as redirected; returns what was refused.
    async fn report(&mut self, pods: &[(&str, &str)]) -> Result<Vec<String>, Status> {
        self.sequence += 1;
        let pods = pods.iter().map(|(name, uid)| PodRedirection {
            namespace: "shop".into(),
            name: (*name).into(),
            uid: (*uid).into(),
            redirection: Redirection::Enabled.into(),
        });
        let report = NodeReport {
            node: self.node.clone(),
            sequence: self.sequence,
            pods: pods.collect(),
        };
        self.reports.send(report).await.unwrap();
        let ack = self.acks.message().await?.unwrap();
        assert_eq!(ack.sequence, self.sequence);
        let refused = ack.refused.into_iter();
        Ok(refused
            .map(|r| format!("{}/{}: {}", r.namespace, r.name, r.reason))
            .collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_report_makes_a_workload_hbone_and_it_outlives_agent_and_control_plane() {
    let mut mesh = Mesh::prepare(&[]);
    let enrolled = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n";
    mesh.write("ns.yaml", enrolled);
    mesh.launch().await;
    let view = mesh.follow("n2").await;
    assert_eq!(
        view.is_hbone("cart"),
        Some(false),
        "a label alone never does"
    );

    let mut agent = Agent::connect(mesh.agent("n1"), "n1").await.unwrap();
    assert_eq!(
        agent.report(&[("cart", "uid-cart")]).await.unwrap(),
        [""; 0]
    );
    eventually("hbone", || view.is_hbone("cart") == Some(true)).await;
    drop(agent);

    mesh.stop().await;
    mesh.launch().await;
    // What the first answer says, before any agent is back.
    let view = mesh.follow("n2").await;
    assert_eq!(view.is_hbone("cart"), Some(true));

    let mut agent = Agent::connect(mesh.agent("n1"), "n1").await.unwrap();
    agent.report(&[]).await.unwrap();
    eventually("plaintext", || view.is_hbone("cart") == Some(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_other_nodes_and_other_uids_are_refused_by_name() {
    let mesh = Mesh::start().await;
    let view = mesh.follow("n1").await;
    let mut agent = Agent::connect(mesh.agent("n1"), "n1").await.unwrap();
    let pods = [
        ("cart", "uid-cart"),
        ("pay", "uid-pay"),
        ("ghost", "uid-ghost"),
    ];
    let refused = agent.report(&pods).await.unwrap();
    let want = [
        "shop/pay: the pod is not on this node",
        "shop/ghost: no such pod",
    ];
    assert_eq!(refused, want);
    let refused = agent.report(&[("cart", "uid-of-before")]).await.unwrap();
    assert_eq!(refused, ["shop/cart: the pod has another uid"]);
    // A pod that its agent knew first counts as soon as it is known.
    agent.report(&[("late", "uid-late")]).await.unwrap();
    mesh.write_pod("shop", "late", "late", "n1");
    eventually("late is hbone", || view.is_hbone("late") == Some(true)).await;
    assert_eq!(view.is_hbone("cart"), Some(false));
    assert_eq!(view.is_hbone("pay"), Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_agent_of_a_node_may_report_for_it() {
    let mesh = Mesh::start().await;
    let proxy = Agent::connect(mesh.proxy("n1"), "n1").await;
    assert_eq!(proxy.err().unwrap().code(), Code::PermissionDenied);
    let mut other = Agent::connect(mesh.agent("n2"), "n1").await.unwrap();
    let refused = other.report(&[("cart", "uid-cart")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}
