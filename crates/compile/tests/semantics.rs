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

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ambit_compile::{AddressResource, Compiler, Settings, Snapshot};
use ambit_kube::{Change, Redirection, read_manifest};
use ambit_policy::{AllowedBy, Attrs, DeniedBy, Verdict, evaluate};
use ambit_proto::{security, workload};
use ambit_state::{StateConfig, StateReader};
use ambit_types::SpiffeId;
use prost::Message;
use serde::Deserialize;
use serde_json::{Value, json};

use show::{show_service, show_workload};

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
    /// Applied first, as a batch of its own.
    #[serde(default)]
    before: String,
    /// Of the table, before `objects`.
    #[serde(default)]
    parts: Vec<String>,
    #[serde(default)]
    objects: String,
    #[serde(default)]
    redirections: Vec<Report>,
    #[serde(default)]
    workloads: BTreeMap<String, Value>,
    #[serde(default)]
    services: BTreeMap<String, Value>,
    /// `namespace/name`: scope, action and number of rules.
    #[serde(default)]
    policies: BTreeMap<String, Value>,
    /// What waypoints are told, `Type name`, with the audience.
    #[serde(default)]
    configuration: BTreeMap<String, String>,
    #[serde(default)]
    absent: Vec<String>,
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
    reader: StateReader,
}

impl World {
    fn of(case: &Case, parts: &BTreeMap<String, String>) -> Self {
        let mut settings = Settings::default();
        settings.trust_domain = case.settings.trust_domain.as_deref().map(Into::into);
        settings.dry_run_policies = case.settings.dry_run_policies;
        let mut compiler = Compiler::new(settings);
        compiler.apply(changes(&case.before, &[]));
        let mut documents: Vec<_> = case.parts.iter().map(|part| parts[part].as_str()).collect();
        documents.push(&case.objects);
        let documents = documents.join("\n---\n");
        compiler.apply(changes(&documents, &case.redirections));
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
            compiler,
            reader,
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
    let types = snapshot.waypoint.iter().zip(ambit_proto::waypoint::TYPES);
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

fn changes(text: &str, reports: &[Report]) -> Vec<Change> {
    let loaded = read_manifest("case.yaml", text);
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
    for (name, want) in &case.policies {
        compare(name, want, world.policy(name));
    }
    let statuses = world.compiler.statuses();
    for (key, want) in &case.statuses {
        let status = statuses.iter().find(|(known, _)| known.to_string() == *key);
        let shown = status.map(|(_, status)| {
            let wanted = |of: &&ambit_compile::Condition| want["type"] == *of.kind;
            let told = status.conditions.iter().find(wanted);
            serde_json::to_value(told.unwrap_or(&status.conditions[0])).unwrap()
        });
        match want {
            Value::Bool(false) if shown.is_none() => {}
            _ => compare(key, want, shown),
        }
    }
    for (name, want) in &case.configuration {
        let got = world.configuration.get(name).cloned();
        compare(name, &json!(want), got.map(Value::from));
    }
    for name in &case.absent {
        if world.configuration.contains_key(name) {
            wrong.push(format!("{name} is told"));
        }
        if world.addresses.contains_key(name) || world.policies.contains_key(name) {
            wrong.push(format!("{name} is there"));
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
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run(stringify!($name), include_str!(concat!("cases/", stringify!($name), ".yaml")));
        }
    )*};
}

tables! { workloads services entries policies peers faults waypoints guards }
