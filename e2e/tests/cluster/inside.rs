//! Pods, asked and looked at: by kubectl on any cluster, and with their own
//! network where they run on this machine.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use ambit_e2e::kube::Api;
use ambit_e2e::observe::Trace;
use ambit_e2e::scrape::Samples;
use ambit_netns::{NetNs, Netlink};
use ambit_testkit::capture::{Capture, Traffic};
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A pod that was seen running.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) object: Value,
}

impl Pod {
    /// Of an object.
    pub(crate) fn of(object: Value) -> Result<Self> {
        let text = |field: &str| {
            let text = object["metadata"][field].as_str();
            text.map(str::to_owned)
                .with_context(|| format!("no {field}"))
        };
        Ok(Self {
            namespace: text("namespace")?,
            name: text("name")?,
            object,
        })
    }

    pub(crate) fn uid(&self) -> &str {
        self.object["metadata"]["uid"].as_str().unwrap_or_default()
    }

    pub(crate) fn node(&self) -> &str {
        self.object["spec"]["nodeName"].as_str().unwrap_or_default()
    }

    pub(crate) fn ip(&self) -> Result<IpAddr> {
        let ip = self.object["status"]["podIP"].as_str();
        Ok(ip.context("no address yet")?.parse()?)
    }

    /// How often its containers were started again.
    pub(crate) fn restarts(&self) -> i64 {
        let all = self.object["status"]["containerStatuses"].as_array();
        let all = all.into_iter().flatten();
        all.filter_map(|one| one["restartCount"].as_i64()).sum()
    }

    pub(crate) fn is_ready(&self) -> bool {
        let conditions = self.object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        self.object["metadata"]["deletionTimestamp"].is_null()
            && conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
    }

    /// What the node agent says of it.
    pub(crate) fn redirection(&self) -> Option<&str> {
        self.object["metadata"]["annotations"]["ambient.istio.io/redirection"].as_str()
    }

    /// As it is now.
    pub(crate) async fn again(&self, api: &Api) -> Result<Self> {
        let (namespace, name) = (&self.namespace, &self.name);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        Self::of(api.get(&path).await?)
    }

    /// Its network, if it runs on this machine.
    pub(crate) fn ns(&self) -> Result<Option<NetNs>> {
        Ok(match process_of(self.uid())? {
            Some(pid) => Some(NetNs::open(format!("/proc/{pid}/ns/net"))?),
            None => None,
        })
    }

    /// What redirection left in it, if it runs on this machine.
    pub(crate) async fn trace(&self) -> Result<Option<Trace>> {
        Ok(match self.ns()? {
            Some(ns) => Some(Trace::of(&ns).await?),
            None => None,
        })
    }

    /// Asks from inside, with the echo program's `ask`: a value for each
    /// request, with `status` and `body`, or `error`.
    pub(crate) fn asks(&self, api: &Api, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut program = vec!["ambit-echo", "ask"];
        program.extend(arguments);
        let said = api.exec(&self.namespace, &self.name, &program)?;
        let lines = said.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    }

    /// [`asks`](Self::asks) once; the body of an answer with status 200.
    pub(crate) fn gets(&self, api: &Api, url: &str) -> Result<Value> {
        let mut answer = self.asks(api, &[url])?.pop().context("no line")?;
        ensure!(answer["status"] == 200, "{url}: {answer}");
        Ok(answer["body"].take())
    }

    /// The status that it is answered with; none if it is refused.
    pub(crate) fn status(&self, api: &Api, arguments: &[&str]) -> Result<Option<u64>> {
        let answer = self.asks(api, arguments)?.pop().context("no line")?;
        match answer["status"].as_u64() {
            Some(status) => Ok(Some(status)),
            None => refused(&answer).map(|()| None),
        }
    }

    /// A page of one of its ports, by way of the API server.
    pub(crate) async fn page(&self, api: &Api, port: u16, path: &str) -> Result<String> {
        let (namespace, name) = (&self.namespace, &self.name);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy{path}");
        api.text(&path).await
    }

    /// Its metrics: those of a proxy.
    pub(crate) async fn metrics(&self, api: &Api) -> Result<Samples> {
        Ok(Samples::parse(&self.page(api, 15020, "/metrics").await?))
    }

    /// What goes over its link while something happens; nothing if it doesn't
    /// run on this machine.
    pub(crate) async fn capture<T>(
        &self,
        happens: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<(T, Option<Traffic>)> {
        let Some(ns) = self.ns()? else {
            return Ok((happens().await?, None));
        };
        let links = Netlink::in_ns(&ns)?.links().await?;
        let link = links.iter().find(|link| link.name == "eth0");
        let capture = Capture::start(&ns, link.context("no eth0")?.index)?;
        let happened = happens().await;
        let traffic = capture.stop()?;
        Ok((happened?, Some(traffic)))
    }
}

/// Fails unless an answer is a refusal below HTTP, that came in time.
pub(crate) fn refused(answer: &Value) -> Result<()> {
    let error = answer["error"].as_str();
    ensure!(
        error.is_some_and(|error| !error.contains("in time")),
        "{answer}"
    );
    Ok(())
}

/// The pods with a label, by node and name; those that end are left out.
pub(crate) async fn pods(api: &Api, namespace: &str, label: &str) -> Result<Vec<Pod>> {
    let label = label.replace('=', "%3D");
    let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={label}");
    let mut list = api.get(&path).await?;
    let items = list["items"].as_array_mut().context("no list")?;
    let items = items.iter_mut().map(Value::take);
    let items = items.filter(|item| item["metadata"]["deletionTimestamp"].is_null());
    let mut pods = items.map(Pod::of).collect::<Result<Vec<_>>>()?;
    pods.sort_by(|a, b| (a.node(), &a.name).cmp(&(b.node(), &b.name)));
    Ok(pods)
}

/// What the programs of the mesh wrote last.
pub(crate) fn said(api: &Api) -> String {
    let logs = |app: &str| {
        let mut kubectl = api.kubectl()?;
        kubectl.args([
            "logs",
            "-n",
            "istio-system",
            "--prefix",
            "--tail=150",
            "-l",
            app,
        ]);
        let output = kubectl.output()?;
        Ok::<_, anyhow::Error>(
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let all = ["app=istiod", "app=ztunnel", "k8s-app=istio-cni-node"].map(logs);
    all.map(|said| said.unwrap_or_else(|error| format!("{error:#}")))
        .concat()
}

/// Waits until as many pods with a label are ready.
pub(crate) async fn ready(
    api: &Api,
    namespace: &str,
    label: &str,
    count: usize,
) -> Result<Vec<Pod>> {
    let what = format!("{count} pods {label} of {namespace} are ready");
    eventually_within(BOUND, &what, async || {
        let pods = pods(api, namespace, label).await?;
        let states: Vec<_> = pods.iter().map(|pod| &pod.object["status"]).collect();
        ensure!(
            pods.len() == count && pods.iter().all(Pod::is_ready),
            "{states:?}"
        );
        Ok(pods)
    })
    .await
}

/// Of a pod's processes on this machine, one that is there.
pub(crate) fn process_of(uid: &str) -> Result<Option<u32>> {
    Ok(processes_of(uid)?.first().copied())
}

/// A pod's processes on this machine.
pub(crate) fn processes_of(uid: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    ensure!(!uid.is_empty(), "a pod has a uid");
    // As drivers of cgroups write it.
    let names = [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))];
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // Those that have just ended have none.
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if names.iter().any(|name| cgroup.contains(name)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Of every wait: a machine of two cores may have much else to do.
pub(crate) const BOUND: Duration = Duration::from_secs(150);
