//! A control plane: etcd and kube-apiserver, on wish the controllers and the
//! scheduler, all real. Usable without nodes, as what tests of watches, leases,
//! statuses, tokens and admission talk to.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ambit_netns::{NetNs, Netlink};
use ambit_testkit::{client, eventually_within};
use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::api::Api;
use super::certs::{Authority, Leaf};
use super::options::{ControlPlaneOptions, nth};
use super::run::Run;
use super::space::{Holder, Program, Space};
use super::{paths, relay};

/// A running control plane in a box of its own. Dropping it removes the box
/// and every trace of it, unless it was left to itself.
pub struct ControlPlane {
    options: ControlPlaneOptions,
    authority: Authority,
    space: Space,
    netlink: Netlink,
    programs: BTreeMap<&'static str, Program>,
    relay: Child,
    api: Api,
    admin: PathBuf,
    holder: Option<Holder>,
    run: Run,
}

impl ControlPlane {
    /// Starts one in a box with a name of its own, and waits until it answers.
    ///
    /// # Errors
    /// What couldn't be started, with the program's own words.
    pub async fn start(options: ControlPlaneOptions) -> Result<Self> {
        Self::start_in(Run::create_numbered("control")?, options).await
    }

    /// [`start`](Self::start) in a run that the caller made.
    ///
    /// # Errors
    /// What couldn't be started, with the program's own words.
    pub async fn start_in(run: Run, options: ControlPlaneOptions) -> Result<Self> {
        let mut unfinished = Unfinished(Some(run));
        let run = unfinished.0.as_mut().context("just made")?;
        for program in ["etcd", "kube-apiserver", "kubectl"] {
            paths::kube_program(program)?;
        }
        let dir = run.dir().to_owned();
        let (space, holder) = Space::create(&dir.join("box.log"))?;
        run.set_init(space.init())?;
        let netlink = Netlink::in_ns(space.net())?;
        netlink.link_up("lo").await?;
        // The nodes will be on it; until then it only has the address.
        netlink.add_bridge(BRIDGE).await?;
        let address = IpNet::new(options.address().into(), options.nodes.prefix_len())?;
        netlink.add_addr(BRIDGE, address).await?;
        netlink.link_up(BRIDGE).await?;
        let authority = certificates(&dir.join("pki"), &options)?;
        let (relay, port) = start_relay(&space, &options)?;
        let admin = dir.join("kubeconfig");
        authority.kubeconfig("admin", &format!("https://127.0.0.1:{port}"), &admin)?;
        let mut made = Self {
            api: Api::of_box(&admin, &space)?,
            options,
            authority,
            space,
            netlink,
            programs: BTreeMap::new(),
            relay,
            admin,
            holder: Some(holder),
            run: unfinished.0.take().context("just made")?,
        };
        made.start_etcd()?;
        made.start_api_server()?;
        made.wait_ready().await?;
        if made.options.controllers {
            made.start_controllers()?;
            made.wait_for_accounts().await?;
        }
        Ok(made)
    }

    /// A kubeconfig of the administrator, for this machine (not for the box).
    pub fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// The administrator's client.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// How it was made.
    pub fn options(&self) -> &ControlPlaneOptions {
        &self.options
    }

    /// The box, to start programs in.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The box's network: a server that the API server calls (a webhook) has
    /// to listen there, and there `address():6443` is the API server.
    pub fn ns(&self) -> &NetNs {
        self.space.net()
    }

    /// The API server inside of the box's network.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.options.address().into(), API_PORT)
    }

    /// The API server's URL inside of the box.
    pub fn inside_url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// The box's authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The box's directory, with logs.
    pub fn dir(&self) -> &Path {
        self.run.dir()
    }

    /// The box's run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    pub(crate) fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// A kubeconfig of another user, by certificate.
    ///
    /// # Errors
    /// If files can't be written.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let file = user.replace([':', '/'], "-");
        self.authority.leaf(&Leaf {
            file: &file,
            user,
            groups,
            ..Leaf::default()
        })?;
        let server = self.admin_server()?;
        let to = self.dir().join(format!("{file}.kubeconfig"));
        self.authority.kubeconfig(&file, &server, &to)?;
        Ok(to)
    }

    fn admin_server(&self) -> Result<String> {
        let config: Value = serde_json::from_slice(&fs::read(&self.admin)?)?;
        let server = config["clusters"][0]["cluster"]["server"].as_str();
        Ok(server.context("a kubeconfig has a server")?.to_owned())
    }

    /// A running program: `etcd`, `kube-apiserver`, `kube-controller-manager`,
    /// `kube-scheduler`.
    ///
    /// # Errors
    /// If it doesn't run.
    pub fn program(&mut self, name: &str) -> Result<&mut Program> {
        let found = self.programs.get_mut(name);
        found.with_context(|| format!("{name} doesn't run"))
    }

    /// Stops a program: SIGTERM, and after 20 s SIGKILL.
    ///
    /// # Errors
    /// If it doesn't run.
    pub fn stop(&mut self, name: &str) -> Result<()> {
        self.program(name)?.stop(Duration::from_secs(20))?;
        self.programs.remove(name);
        Ok(())
    }

    /// Starts etcd (again), with the data that it had.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_etcd(&mut self) -> Result<()> {
        let dir = self.etcd_dir();
        let mut command = Command::new(paths::kube_program("etcd")?);
        command
            .arg("--data-dir")
            .arg(&dir)
            .args(["--unsafe-no-fsync", "--log-level", "warn"])
            .args(["--listen-client-urls", ETCD_URL])
            .args(["--advertise-client-urls", ETCD_URL])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .args(["--quota-backend-bytes", "8589934592"]);
        self.begin("etcd", command)
    }

    /// Starts kube-apiserver (again).
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_api_server(&mut self) -> Result<()> {
        let file = |name: &str| self.authority.path(name);
        let services = self.options.services.to_string();
        let address = self.options.address().to_string();
        let mut command = Command::new(paths::kube_program("kube-apiserver")?);
        command
            .args(["--etcd-servers", ETCD_URL])
            .args(["--secure-port", &API_PORT.to_string()])
            .args(["--bind-address", "0.0.0.0"])
            .args(["--advertise-address", &address])
            .args(["--authorization-mode", "Node,RBAC"])
            .args(["--enable-admission-plugins", "NodeRestriction"])
            .args(["--service-cluster-ip-range", &services])
            .args(["--service-account-issuer", ISSUER])
            .args(["--api-audiences", &format!("{ISSUER},istio-ca")])
            .args(["--kubelet-preferred-address-types", "InternalIP"])
            .args(["--max-requests-inflight", "2000"])
            .args(["--max-mutating-requests-inflight", "1000"])
            .arg("--allow-privileged");
        let files = [
            ("--cert-dir", "."),
            ("--tls-cert-file", "apiserver.crt"),
            ("--tls-private-key-file", "apiserver.key"),
            ("--client-ca-file", "ca.crt"),
            ("--service-account-key-file", "sa.pub"),
            ("--service-account-signing-key-file", "sa.key"),
            ("--kubelet-client-certificate", "admin.crt"),
            ("--kubelet-client-key", "admin.key"),
        ];
        for (flag, name) in files {
            command.arg(flag).arg(file(name));
        }
        command.args(&self.options.api_server);
        self.begin("kube-apiserver", command)
    }

    fn start_controllers(&mut self) -> Result<()> {
        let config = |user: &str| self.authority.path(&format!("{user}.kubeconfig"));
        let file = |name: &str| self.authority.path(name);
        let mut controllers = Command::new(paths::kube_program("kube-controller-manager")?);
        for flag in CONFIG_FLAGS {
            controllers.arg(flag).arg(config("kube-controller-manager"));
        }
        for (flag, name) in [
            ("--root-ca-file", "ca.crt"),
            ("--service-account-private-key-file", "sa.key"),
            ("--cluster-signing-cert-file", "ca.crt"),
            ("--cluster-signing-key-file", "ca.key"),
        ] {
            controllers.arg(flag).arg(file(name));
        }
        controllers
            .args(["--use-service-account-credentials", "--leader-elect=false"])
            // Nodes have their ranges from us.
            .arg("--allocate-node-cidrs=false")
            .args(["--kube-api-qps", "500", "--kube-api-burst", "1000"])
            .args(["--concurrent-endpoint-syncs", "20"])
            // A node that died is noticed in seconds: tests wait for it.
            .args(["--node-monitor-grace-period", "16s"]);
        let mut scheduler = Command::new(paths::kube_program("kube-scheduler")?);
        for flag in CONFIG_FLAGS {
            scheduler.arg(flag).arg(config("kube-scheduler"));
        }
        scheduler.arg("--leader-elect=false").args([
            "--kube-api-qps",
            "500",
            "--kube-api-burst",
            "1000",
        ]);
        self.begin("kube-controller-manager", controllers)?;
        self.begin("kube-scheduler", scheduler)
    }

    /// Restarts kube-controller-manager and kube-scheduler.
    ///
    /// # Errors
    /// If one doesn't stop or start.
    pub(crate) fn restart_controllers(&mut self) -> Result<()> {
        self.stop("kube-controller-manager")?;
        self.stop("kube-scheduler")?;
        self.start_controllers()
    }

    fn begin(&mut self, name: &'static str, command: Command) -> Result<()> {
        let program = Program::start(&self.space, self.run.dir(), name, command)?;
        self.programs.insert(name, program);
        Ok(())
    }

    /// Waits until the API server is ready.
    ///
    /// # Errors
    /// If it ended or isn't ready within a minute, with its last words.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let (api, programs) = (self.api.clone(), &mut self.programs);
        eventually_within(MINUTE, "the API server is ready", async || {
            for program in programs.values_mut() {
                program.check()?;
            }
            // Its bootstrap of roles and namespaces is part of being ready.
            api.get("/api/v1/namespaces/kube-system").await?;
            api.text("/readyz").await
        })
        .await
        .map(|_| ())
    }

    async fn wait_for_accounts(&mut self) -> Result<()> {
        let (api, programs) = (self.api.clone(), &mut self.programs);
        eventually_within(MINUTE, "the controllers work", async || {
            for program in programs.values_mut() {
                program.check()?;
            }
            api.get("/api/v1/namespaces/default/serviceaccounts/default")
                .await?;
            api.get("/api/v1/namespaces/default/configmaps/kube-root-ca.crt")
                .await
        })
        .await
        .map(|_| ())
    }

    /// Throws etcd's history away: watches from before it get 410 Gone once
    /// the API server has to ask etcd, after a restart of it for certain.
    ///
    /// # Errors
    /// If etcd refuses.
    pub async fn compact(&self) -> Result<()> {
        let list = self.api.get("/api/v1/namespaces?limit=1").await?;
        let revision = list["metadata"]["resourceVersion"].as_str();
        let body = json!({"revision": revision.context("a list has a version")?, "physical": true});
        let etcd = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 2379);
        let answer = client::post(self.ns(), etcd, "/v3/kv/compaction", body.to_string()).await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    /// Where etcd's data is.
    pub(crate) fn etcd_dir(&self) -> PathBuf {
        self.dir().join("etcd")
    }

    /// Leaves the box to itself: it stays up when this process ends.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn leave(mut self) -> Result<PathBuf> {
        self.run.disown()?;
        let holder = self.holder.take().context("it is left once")?;
        holder.let_go()?;
        Ok(self.admin.clone())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Without one it was left to itself.
        let Some(holder) = self.holder.take() else {
            return;
        };
        holder.kill();
        // Killed with the box: they only have to be waited for.
        self.api.end();
        let _ = self.relay.wait();
        for program in self.programs.values_mut() {
            let _ = program.kill();
        }
        drop(holder);
        report(self.run.remove());
    }
}

/// A run whose control plane didn't come about.
struct Unfinished(Option<Run>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            report(run.remove());
        }
    }
}

#[allow(
    clippy::print_stderr,
    reason = "a Drop can't return it, and it must be known"
)]
fn report(removed: Result<()>) {
    if let Err(error) = removed {
        eprintln!("the box left something behind: {error:#}");
    }
}

fn certificates(dir: &Path, options: &ControlPlaneOptions) -> Result<Authority> {
    let authority = Authority::create(dir)?;
    authority.token_key()?;
    authority.leaf(&Leaf {
        file: "apiserver",
        user: "kube-apiserver",
        addresses: &[
            Ipv4Addr::LOCALHOST.into(),
            options.address().into(),
            nth(options.services, 1).into(),
        ],
        names: &[
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ],
        ..Leaf::default()
    })?;
    authority.leaf(&Leaf {
        file: "admin",
        user: "admin",
        groups: &["system:masters"],
        ..Leaf::default()
    })?;
    let inside = format!("https://{}:{API_PORT}", options.address());
    for name in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        authority.leaf(&Leaf {
            file: name,
            user: &format!("system:{name}"),
            ..Leaf::default()
        })?;
        let to = authority.path(&format!("{name}.kubeconfig"));
        authority.kubeconfig(name, &inside, &to)?;
    }
    Ok(authority)
}

fn start_relay(space: &Space, options: &ControlPlaneOptions) -> Result<(Child, u16)> {
    let to = SocketAddr::new(options.address().into(), API_PORT);
    let mut command = relay::command(to, space.init(), options.port)?;
    // It outlives whoever reads what this process writes.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = space.spawn_outside(&mut command)?;
    let output = child.stdout.take().context("its output is piped")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let port = line.trim().parse();
    Ok((child, port.context("the relay didn't start")?))
}

const API_PORT: u16 = 6443;
pub(crate) const BRIDGE: &str = "box0";
const ETCD_URL: &str = "http://127.0.0.1:2379";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const MINUTE: Duration = Duration::from_secs(60);
const CONFIG_FLAGS: [&str; 3] = [
    "--kubeconfig",
    "--authentication-kubeconfig",
    "--authorization-kubeconfig",
];
