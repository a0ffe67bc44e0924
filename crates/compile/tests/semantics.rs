//! The semantics tables of `cases/`: objects in, and what proxies, users and operators then see. Everything is
//! looked at behind the decoders of `state` and `policy`, never in our own bytes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_compile::{AddressResource, Compiler, Delta, Settings, Snapshot, Status};
use ambit_kube::{Change, Kind, ObjectKey, Redirection, Severity, read_manifest};
use ambit_policy::{AllowedBy, Attrs, DeniedBy, Verdict, evaluate};
use ambit_proto::{security, waypoint, workload};
use ambit_state::{StateConfig, StateReader};
use ambit_types::SpiffeId;
use prost::Message;
use serde::Deserialize;
use serde_json::{Value, json};

use show::{show_endpoint, show_rule, show_service, show_workload};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Objects by name, that cases begin with.
    #[serde(default)]
    parts: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    /// The clauses of `control-plane-contract` (or of the design) that it is about.
    clause: String,
    #[serde(default)]
    settings: Setting,
    /// It has a document that can't be read, and is about that.
    #[serde(default)]
    unreadable: bool,
    /// Applied first, as a batch of its own.
    #[serde(default)]
    before: String,
    /// Of the table, before `objects`.
    #[serde(default)]
    parts: Vec<String>,
    #[serde(default)]
    objects: String,
    /// `Kind namespace/name`, or `Kind name`; after `objects`, in the same batch.
    #[serde(default)]
    deleted: Vec<String>,
    #[serde(default)]
    redirections: Vec<Report>,
    #[serde(default)]
    workloads: BTreeMap<String, Value>,
    #[serde(default)]
    services: BTreeMap<String, Value>,
    /// `namespace/name`: scope, action and number of rules.
    #[serde(default)]
    policies: BTreeMap<String, Value>,
    /// What waypoints are told of a service's endpoints, by uid.
    #[serde(default)]
    endpoints: BTreeMap<String, Value>,
    /// What waypoints are told, `Type name`, with the audience.
    #[serde(default)]
    configuration: BTreeMap<String, String>,
    #[serde(default)]
    absent: Vec<String>,
    /// Every workload, service and policy that the batch after `before` sends (`+name`) or takes away (`-name`).
    #[serde(default)]
    sent: Option<Vec<String>>,
    /// What runs for a waypoint, by `namespace/gateway`.
    #[serde(default)]
    rendered: BTreeMap<String, Value>,
    #[serde(default)]
    not_rendered: Vec<String>,
    #[serde(default)]
    verdicts: Vec<Decision>,
    /// Conditions by object; texts are parts that must occur.
    #[serde(default)]
    statuses: BTreeMap<String, Value>,
    /// All of them, if given: code, object, field, value.
    #[serde(default)]
    diagnostics: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Setting {
    trust_domain: Option<String>,
    dry_run_policies: bool,
    cluster_id: Option<String>,
    cluster_domain: Option<String>,
    /// An empty one takes all objects.
    revision: Option<String>,
}

impl Setting {
    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        let text = |text: &Option<String>| text.as_deref().map(Arc::<str>::from);
        settings.trust_domain = text(&self.trust_domain);
        settings.dry_run_policies = self.dry_run_policies;
        settings.cluster_id = text(&self.cluster_id).unwrap_or(settings.cluster_id);
        settings.cluster_domain = text(&self.cluster_domain).unwrap_or(settings.cluster_domain);
        settings.revision = text(&self.revision).unwrap_or(settings.revision);
        settings
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    namespace: String,
    pod: String,
    #[serde(default)]
    uid: String,
    state: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    to: String,
    #[serde(default = "eighty")]
    port: u16,
    /// None is plaintext.
    #[serde(default)]
    peer: Option<String>,
    #[serde(default)]
    source: Option<IpAddr>,
    want: String,
}

fn eighty() -> u16 {
    80
}

struct World {
    compiler: Compiler,
    addresses: BTreeMap<String, workload::Address>,
    policies: BTreeMap<String, security::Authorization>,
    configuration: BTreeMap<String, String>,
    endpoints: BTreeMap<String, Value>,
    reader: StateReader,
    delta: Delta,
}

impl World {
    fn of(case: &Case, parts: &BTreeMap<String, String>) -> Self {
        let mut compiler = Compiler::new(case.settings.settings());
        compiler.apply(changes(case, &case.before, &[]));
        let mut documents: Vec<_> = case.parts.iter().map(|part| parts[part].as_str()).collect();
        documents.push(&case.objects);
        let documents = documents.join("\n---\n");
        let mut all = changes(case, &documents, &case.redirections);
        all.extend(case.deleted.iter().map(|text| Change::Delete(key(text))));
        let delta = compiler.apply(all);
        let snapshot = compiler.snapshot();
        let (mut writer, reader) = ambit_state::new(StateConfig::default());
        let policies = snapshot.authorizations.iter();
        let policies = policies.map(|policy| (policy.name.to_string(), policy.body.clone()));
        assert_eq!(
            writer.apply_authorizations_encoded(policies.collect(), &[]),
            []
        );
        let addresses = snapshot.addresses.iter();
        let addresses = addresses.map(|address| (address.name.to_string(), address.body.clone()));
        assert_eq!(writer.apply_addresses_encoded(addresses.collect(), &[]), []);
        let decoded = |resource: &AddressResource| {
            let message = workload::Address::decode(resource.body.clone()).unwrap();
            (resource.name.to_string(), message)
        };
        Self {
            addresses: snapshot.addresses.iter().map(|a| decoded(a)).collect(),
            policies: snapshot
                .authorizations
                .iter()
                .map(|p| {
                    let message = security::Authorization::decode(p.body.clone()).unwrap();
                    (p.name.to_string(), message)
                })
                .collect(),
            configuration: configuration(&snapshot),
            endpoints: endpoints(&snapshot),
            compiler,
            reader,
            delta,
        }
    }

    fn workload(&self, uid: &str) -> Option<Value> {
        match self.addresses.get(uid)?.r#type.as_ref()? {
            workload::address::Type::Workload(message) => Some(show_workload(message)),
            workload::address::Type::Service(_) => None,
        }
    }

    fn service(&self, name: &str) -> Option<Value> {
        match self.addresses.get(name)?.r#type.as_ref()? {
            workload::address::Type::Service(message) => Some(show_service(message)),
            workload::address::Type::Workload(_) => None,
        }
    }

    fn policy(&self, name: &str) -> Option<Value> {
        let policy = self.policies.get(name)?;
        Some(json!({
            "scope": policy.scope().as_str_name(),
            "action": policy.action().as_str_name(),
            "rules": policy.rules.len(),
            "shape": policy.rules.iter().map(show_rule).collect::<Vec<_>>(),
            "dryRun": policy.dry_run,
        }))
    }

    fn verdict(&self, decision: &Decision) -> String {
        let view = self.reader.view();
        let Some(workload) = view.workload(&decision.to) else {
            return "no such workload".to_owned();
        };
        let peer: Option<SpiffeId> = decision
            .peer
            .as_ref()
            .map(|peer| format!("spiffe://{peer}").parse().unwrap());
        let ip = workload
            .ips
            .first()
            .copied()
            .unwrap_or([10, 0, 0, 2].into());
        let attrs = Attrs {
            source_ip: decision.source.unwrap_or([10, 9, 9, 9].into()),
            destination: SocketAddr::new(ip, decision.port),
            peer: peer.as_ref(),
        };
        match evaluate(&view.policies_for(workload), &attrs) {
            Verdict::Allow(AllowedBy::Default) => "allow".to_owned(),
            Verdict::Allow(AllowedBy::Policy(policy)) => format!("allow by {policy}"),
            Verdict::Deny(DeniedBy::Policy(policy)) => format!("deny by {policy}"),
            Verdict::Deny(DeniedBy::NoAllowMatched) => "deny".to_owned(),
            Verdict::Deny(DeniedBy::PolicyUnknown(policy)) => format!("unknown {policy}"),
            Verdict::Deny(DeniedBy::PolicyUnreadable(policy)) => format!("unreadable {policy}"),
        }
    }

    fn sent(&self) -> Vec<String> {
        let (addresses, policies) = (&self.delta.addresses, &self.delta.authorizations);
        let changed = addresses.changed.iter().map(|one| &one.name);
        let changed = changed.chain(policies.changed.iter().map(|one| &one.name));
        let removed = addresses.removed.iter().chain(&policies.removed);
        let mut all: Vec<_> = changed.map(|name| format!("+{name}")).collect();
        all.extend(removed.map(|name| format!("-{name}")));
        all.sort();
        all
    }

    fn rendered(&self, gateway: &str) -> Option<Value> {
        let rendered = self.compiler.rendered().get(gateway)?;
        Some(json!({
            "serviceAccount": rendered.service_account,
            "deployment": rendered.deployment,
            "service": rendered.service,
            "disruptionBudget": rendered.disruption_budget,
            "autoscaler": rendered.autoscaler,
        }))
    }

    fn diagnostics(&self) -> Vec<String> {
        let all = self.compiler.diagnostics();
        let lines = all.iter().map(|d| {
            let mut line = d.code.to_string();
            if let Some(key) = &d.key {
                line = format!("{line} {key}");
            }
            for part in [&d.field, &d.value].into_iter().flatten() {
                line = format!("{line} {part}");
            }
            line
        });
        lines.collect()
    }
}

fn configuration(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let types = snapshot.waypoint.iter().zip(waypoint::TYPES);
    let all = types.flat_map(|(resources, of)| {
        let kind = of.rsplit('.').next().unwrap();
        let named = resources.iter().map(move |resource| {
            let name = format!("{kind} {}", resource.name);
            (name, resource.audience.join(","))
        });
        named.collect::<Vec<_>>()
    });
    all.collect()
}

fn endpoints(snapshot: &Snapshot) -> BTreeMap<String, Value> {
    let mut types = waypoint::TYPES.iter();
    let at = types
        .position(|of| *of == waypoint::ENDPOINTS_TYPE)
        .unwrap();
    let all = snapshot.waypoint[at].iter().map(|resource| {
        let message = waypoint::Endpoints::decode(resource.body.clone()).unwrap();
        let of = message.endpoints.iter();
        let of = of.map(|endpoint| (endpoint.uid.clone(), show_endpoint(endpoint)));
        (resource.name.to_string(), Value::Object(of.collect()))
    });
    all.collect()
}

fn key(text: &str) -> ObjectKey {
    let (kind, name) = text.split_once(' ').unwrap();
    let mut kinds = Kind::ALL.iter();
    let kind = kinds.find(|known| known.to_string() == kind).unwrap();
    match name.split_once('/') {
        Some((namespace, name)) => ObjectKey::new(*kind, namespace, name),
        None => ObjectKey::new(*kind, "", name),
    }
}

fn changes(case: &Case, text: &str, reports: &[Report]) -> Vec<Change> {
    let loaded = read_manifest("case.yaml", text);
    let mut errors = loaded.problems.iter();
    let error = errors.find(|problem| problem.severity == Severity::Error);
    if let Some(error) = error.filter(|_| !case.unreadable) {
        panic!("{}: {error}", case.name);
    }
    let objects = loaded.objects.into_iter().map(Change::Apply);
    let reports = reports.iter().map(|report| Change::Redirection {
        namespace: report.namespace.as_str().into(),
        name: report.pod.as_str().into(),
        uid: report.uid.as_str().into(),
        state: match report.state.as_str() {
            "enabled" => Redirection::Enabled,
            "pending" => Redirection::Pending,
            _ => Redirection::None,
        },
    });
    objects.chain(reports).collect()
}

/// What of `want` isn't in `got`: maps are compared by the keys that are wanted, texts under `message` by part.
fn missing(path: &str, want: &Value, got: &Value) -> Vec<String> {
    if let (Value::Object(want), Value::Object(got)) = (want, got)
        && !path.ends_with("services")
    {
        let of = |key: &String| {
            got.get(key)
                .cloned()
                .unwrap_or(Value::from("(no such field)"))
        };
        let inner = want
            .iter()
            .flat_map(|(key, want)| missing(&format!("{path}.{key}"), want, &of(key)));
        return inner.collect();
    }
    if let (Value::Array(want), Value::Array(got)) = (want, got)
        && want.len() == got.len()
        && want.iter().all(Value::is_object)
    {
        let pairs = want.iter().zip(got).enumerate();
        let inner =
            pairs.flat_map(|(at, (want, got))| missing(&format!("{path}[{at}]"), want, got));
        return inner.collect();
    }
    if path.ends_with(".message") {
        let (want, got) = (
            want.as_str().unwrap_or_default(),
            got.as_str().unwrap_or_default(),
        );
        if got.contains(want) {
            return Vec::new();
        }
    }
    if want == got {
        return Vec::new();
    }
    vec![format!("{path}: want {want}, got {got}")]
}

/// One condition of a status, if its type is wanted; the whole status, if a member of it is.
fn shown(status: Option<&Status>, want: &Value) -> Option<Value> {
    let status = status?;
    let whole = ["conditions", "listeners", "addresses", "parents"];
    if whole.iter().any(|member| want.get(member).is_some()) {
        return serde_json::to_value(status).ok();
    }
    let mut conditions = status.conditions.iter();
    let Some(kind) = want.get("type") else {
        return serde_json::to_value(conditions.next()?).ok();
    };
    let found = conditions.find(|condition| kind == condition.kind);
    // `{type: X, status: none}`: there is no such condition.
    Some(found.map_or_else(
        || json!({"type": kind, "status": "none"}),
        |condition| serde_json::to_value(condition).unwrap(),
    ))
}

fn check(case: &Case, parts: &BTreeMap<String, String>) -> Vec<String> {
    let world = World::of(case, parts);
    let mut wrong = Vec::new();
    let mut compare = |name: &String, want: &Value, got: Option<Value>| match got {
        Some(got) => wrong.extend(missing(name, want, &got)),
        None => wrong.push(format!("{name} is absent")),
    };
    for (name, want) in &case.workloads {
        compare(name, want, world.workload(name));
    }
    for (name, want) in &case.services {
        compare(name, want, world.service(name));
    }
    for (name, want) in &case.endpoints {
        compare(name, want, world.endpoints.get(name).cloned());
    }
    for (name, want) in &case.policies {
        compare(name, want, world.policy(name));
    }
    let statuses = world.compiler.statuses();
    for (key, want) in &case.statuses {
        let status = statuses.iter().find(|(known, _)| known.to_string() == *key);
        let status = status.map(|(_, status)| &**status);
        match want {
            Value::Bool(false) if status.is_none() => {}
            _ => compare(key, want, shown(status, want)),
        }
    }
    for (gateway, want) in &case.rendered {
        compare(gateway, want, world.rendered(gateway));
    }
    for (name, want) in &case.configuration {
        let got = world.configuration.get(name).cloned();
        compare(name, &json!(want), got.map(Value::from));
    }
    let rendered = case.not_rendered.iter();
    wrong.extend(
        rendered
            .filter(|gateway| world.rendered(gateway).is_some())
            .cloned(),
    );
    for name in &case.absent {
        if world.configuration.contains_key(name) {
            wrong.push(format!("{name} is told"));
        }
        if world.addresses.contains_key(name) || world.policies.contains_key(name) {
            wrong.push(format!("{name} is there"));
        }
    }
    if let Some(want) = &case.sent {
        let got = world.sent();
        if got != *want {
            wrong.push(format!("sent: want {want:?}, got {got:?}"));
        }
    }
    for decision in &case.verdicts {
        let got = world.verdict(decision);
        if got != decision.want {
            let Decision {
                to,
                port,
                peer,
                want,
                ..
            } = decision;
            wrong.push(format!("{peer:?} to {to}:{port}: want {want}, got {got}"));
        }
    }
    if let Some(want) = &case.diagnostics {
        let mut got = world.diagnostics();
        let mut want = want.clone();
        got.sort();
        want.sort();
        if got != want {
            wrong.push(format!("diagnostics: want {want:#?}, got {got:#?}"));
        }
    }
    wrong
}

fn run(file: &str, text: &str) {
    let table: Table = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut failed = Vec::new();
    for case in &table.cases {
        let wrong = check(case, &table.parts);
        let verdict = if wrong.is_empty() { "ok" } else { "FAILED" };
        println!("{file}: {} ({}) ... {verdict}", case.name, case.clause);
        if !wrong.is_empty() {
            failed.push(format!(
                "{} ({}):\n  {}",
                case.name,
                case.clause,
                wrong.join("\n  ")
            ));
        }
    }
    assert!(failed.is_empty(), "{file}:\n{}", failed.join("\n"));
}

macro_rules! tables {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name), include_str!(concat!("cases/", stringify!($name), ".yaml")));
            }
        )*

        const TABLES: &[(&str, &str)] = &[
            $((stringify!($name), include_str!(concat!("cases/", stringify!($name), ".yaml")))),*
        ];
    };
}

tables! {
    workloads fields members services presets entries hosts policies rules reach peers modes waypoints binding gateways
    guards faults
}

/// Every row of sections 2 to 5 has a case, or says where else it is shown; and what a case cites exists.
#[test]
fn every_row_of_the_contract_is_cited() {
    let rows: Vec<_> = include_str!("clauses.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let mut cited = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (file, text) in TABLES {
        let table: Table = serde_saphyr::from_str(text).unwrap();
        for case in table.cases {
            for clause in case.clause.split(';').map(str::trim) {
                let section =
                    clause.starts_with(['2', '3', '4', '5']) && clause.get(1..2) == Some(".");
                let known =
                    rows.contains(&clause) || !clause.contains(' ') || clause.contains(", ");
                assert!(
                    !section || known,
                    "{file}: {}: no row {clause:?} in clauses.txt",
                    case.name
                );
                cited.insert(clause.to_owned());
            }
            assert!(
                names.insert((*file, case.name.clone())),
                "{file}: {} twice",
                case.name
            );
        }
    }
    let open: Vec<_> = rows
        .iter()
        .filter(|row| !cited.contains(**row) && !row.contains(": "))
        .collect();
    assert!(open.is_empty(), "rows without a case: {open:#?}");
    assert!(names.len() >= 300, "{} cases", names.len());
}
