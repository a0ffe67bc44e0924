//! The table of `security.rs`: objects and requests in YAML.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a table that can't be read is a failed test"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube::{Located, Object, Problem};
use ambit_policy::http::{HttpAttrs, HttpAuthorization, HttpPolicies, HttpRequest, RequestAuth};
use ambit_proto::waypoint as pb;
use ambit_translate::security::{self, Audience, Bound, Enforcer};
use ambit_translate::{RouteCondition, Translated, World, telemetry};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::world::TestWorld;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    cases: Vec<Case>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Case {
    name: String,
    /// Where it is written.
    clause: String,
    /// The namespace of the objects below.
    #[serde(rename = "in")]
    namespace: Option<String>,
    /// Specs of the object that the case is about; where none of `targetRefs`
    /// and `selector` is written, it is attached to the service reviews.
    policy: Option<Value>,
    jwt: Option<Value>,
    /// The same without that.
    bare: Option<Value>,
    bare_jwt: Option<Value>,
    limit: Option<Value>,
    linkerd: Option<Value>,
    telemetry: Option<Value>,
    /// Replaces the mesh configuration.
    mesh: Option<Value>,
    annotations: BTreeMap<String, String>,
    /// Other documents, as text.
    more: String,
    /// `CODE field`, in any order.
    problems: Vec<String>,
    /// A part of one of the remedies.
    remedy: Option<String>,
    /// `True Accepted`, ...; `none`.
    condition: Option<String>,
    /// `NAME -> AUDIENCE`, in order.
    sent: Option<Vec<String>>,
    /// Who enforces a policy without references.
    enforcer: Option<String>,
    /// Parts of what is sent, as Rust prints it.
    shows: Vec<String>,
    lacks: Vec<String>,
    requests: Vec<Request>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Request {
    /// Path.
    get: String,
    method: Option<String>,
    host: Option<String>,
    /// Lists are several lines.
    headers: BTreeMap<String, Value>,
    /// `TD/ns/N/sa/S`; `-` for none.
    peer: Option<String>,
    ip: Option<String>,
    remote: Option<String>,
    to: Option<String>,
    port: Option<u16>,
    /// Not HTTP.
    tcp: bool,
    sni: Option<String>,
    /// Of a good token.
    claims: Option<Map<String, Value>>,
    /// For policies of workloads.
    workload: Option<String>,
    /// `allow`, `deny`, `ask PROVIDER`; further words show in the details.
    want: String,
}

/// What all translations give, in one shape.
#[derive(Default)]
struct Got {
    problems: Vec<Problem>,
    conditions: Vec<RouteCondition>,
    sent: Vec<String>,
    printed: String,
    policies: Vec<(Audience, Arc<HttpAuthorization>)>,
    wrong: Vec<String>,
}

pub(crate) fn run(base: &str, text: &str) {
    let table: Table = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}"));
    let mut failed = Vec::new();
    for case in &table.cases {
        assert!(!case.clause.is_empty(), "{}: no clause", case.name);
        let wrong = check(base, case);
        failed.extend(wrong.iter().map(|wrong| format!("{}: {wrong}", case.name)));
    }
    let count = table.cases.len();
    assert!(
        failed.is_empty(),
        "{} faults in {count} cases:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

fn check(base: &str, case: &Case) -> Vec<String> {
    let own = documents(case);
    let world = TestWorld::from_yaml(&format!("{own}\n---\n{base}"));
    let read = ambit_kube::read_manifest("case.yaml", &own);
    let mut wrong: Vec<String> = Vec::new();
    let mut got = Got::default();
    got.problems.extend(read.problems.iter().cloned());
    for object in &read.objects {
        take(object, &world, &mut got);
        if let (Object::AuthorizationPolicy(policy), Some(want)) = (&object.object, &case.enforcer)
        {
            let said = match security::enforcer(&located(object, policy), &world) {
                Enforcer::Node => "node".to_owned(),
                Enforcer::Waypoint {
                    waypoint,
                    workloads,
                } => {
                    format!("{}/{} for {}", waypoint.0, waypoint.1, workloads.join(" "))
                }
            };
            if said != *want {
                wrong.push(format!("enforced by {said:?}, not {want:?}"));
            }
        }
    }
    if case.mesh.is_some() {
        mesh_wide(&world, &mut got);
    }
    wrong.append(&mut got.wrong);
    compare(case, &got, &mut wrong);
    for request in &case.requests {
        judge(request, &got, &mut wrong);
    }
    wrong
}

fn documents(case: &Case) -> String {
    let namespace = case.namespace.as_deref().unwrap_or("shop");
    let mut all = Vec::new();
    for (api, kind, spec) in [
        (
            "security.istio.io/v1",
            "AuthorizationPolicy",
            &attached(case.policy.as_ref()),
        ),
        ("security.istio.io/v1", "AuthorizationPolicy", &case.bare),
        (
            "security.istio.io/v1",
            "RequestAuthentication",
            &attached(case.jwt.as_ref()),
        ),
        (
            "security.istio.io/v1",
            "RequestAuthentication",
            &case.bare_jwt,
        ),
        ("ambit.mesh/v1alpha1", "LocalRateLimit", &case.limit),
        (
            "policy.linkerd.io/v1alpha1",
            "HTTPLocalRateLimitPolicy",
            &case.linkerd,
        ),
        ("telemetry.istio.io/v1", "Telemetry", &case.telemetry),
    ] {
        if let Some(spec) = spec {
            let metadata =
                json!({"name": "p", "namespace": namespace, "annotations": case.annotations});
            let object =
                json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec});
            all.push(object.to_string());
        }
    }
    if let Some(Value::Object(settings)) = &case.mesh {
        let mut settings = settings.clone();
        settings.insert("kind".into(), "MeshConfig".into());
        all.push(Value::Object(settings).to_string());
    }
    if !case.more.is_empty() {
        all.push(case.more.clone());
    }
    all.join("\n---\n")
}

fn attached(spec: Option<&Value>) -> Option<Value> {
    let mut spec = spec?.clone();
    let map = spec.as_object_mut().expect("a spec is a map");
    if !["selector", "targetRef", "targetRefs"]
        .iter()
        .any(|key| map.contains_key(*key))
    {
        let target = json!([{"group": "", "kind": "Service", "name": "reviews"}]);
        map.insert("targetRefs".into(), target);
    }
    Some(spec)
}

fn located<T>(object: &Located<Object>, inner: &Arc<T>) -> Located<Arc<T>> {
    Located {
        object: Arc::clone(inner),
        origin: object.origin.clone(),
        lines: object.lines.clone(),
    }
}

fn take(object: &Located<Object>, world: &dyn World, got: &mut Got) {
    match &object.object {
        Object::AuthorizationPolicy(one) => {
            let translated = security::authorization(&located(object, one), world);
            got.policies(translated);
        }
        Object::Broken(one) => got.policies(security::broken(&located(object, one), world)),
        Object::RequestAuthentication(one) => {
            let translated = security::authentication(&located(object, one), world);
            for bound in translated.resource.iter().flatten() {
                if let Err(error) = ambit_jwt::Authentication::try_from(bound.resource.clone()) {
                    got.wrong
                        .push(format!("a waypoint can't read {}: {error}", bound.name));
                }
            }
            got.add(&translated);
        }
        Object::LocalRateLimit(one) => {
            got.limits(security::local_rate_limit(&located(object, one), world));
        }
        Object::HttpLocalRateLimitPolicy(one) => {
            got.limits(security::http_local_rate_limit(
                &located(object, one),
                world,
            ));
        }
        Object::Telemetry(one) => {
            let translated = telemetry::object(&located(object, one), world);
            got.problems.extend(translated.problems);
            got.telemetry(world);
        }
        _ => {}
    }
}

fn mesh_wide(world: &TestWorld, got: &mut Got) {
    let (providers, problems) = security::providers(world);
    got.problems.extend(problems);
    got.problems.extend(telemetry::mesh(world));
    got.printed += &format!("{providers:?}");
    got.telemetry(world);
}

impl Got {
    fn add<R: std::fmt::Debug>(&mut self, translated: &Translated<Vec<Bound<R>>>) {
        self.problems.extend(translated.problems.iter().cloned());
        self.conditions
            .extend(translated.conditions.iter().cloned());
        for bound in translated.resource.iter().flatten() {
            let audience = match &bound.audience {
                Audience::Class(class) => format!("class {class}"),
                Audience::Waypoints(list) => {
                    let names = list
                        .iter()
                        .map(|(namespace, name)| format!("{namespace}/{name}"));
                    names.collect::<Vec<_>>().join(" ")
                }
            };
            self.sent.push(format!("{} -> {audience}", bound.name));
            self.printed += &format!("{:?}\n", bound.resource);
        }
    }

    fn policies(&mut self, translated: Translated<Vec<Bound<pb::Authorization>>>) {
        self.add(&translated);
        for bound in translated.resource.into_iter().flatten() {
            match HttpAuthorization::try_from(bound.resource) {
                Ok(policy) => self.policies.push((bound.audience, Arc::new(policy))),
                Err(error) => self
                    .wrong
                    .push(format!("a waypoint can't read {}: {error}", bound.name)),
            }
        }
    }

    fn limits(&mut self, translated: Translated<Vec<Bound<pb::RateLimit>>>) {
        for bound in translated.resource.iter().flatten() {
            let now = std::time::Instant::now();
            if let Err(error) = ambit_upstream::RateLimit::decode(&bound.name, &bound.resource, now)
            {
                self.wrong
                    .push(format!("a waypoint can't read {}: {error}", bound.name));
            }
        }
        self.add(&translated);
    }

    /// What `gate` of shop records, and for reviews.
    fn telemetry(&mut self, world: &dyn World) {
        let waypoint = world.waypoint("shop", "gate").expect("the base has it");
        let service = world.service("shop", "reviews").expect("the base has it");
        let gateway = telemetry::gateway(&waypoint, world);
        let frontend = telemetry::frontend(&service, &waypoint, world);
        self.printed += &format!("gateway: {gateway:?}\nfrontend: {frontend:?}\n");
        self.printed += &format!(
            "reporter: {}\n",
            telemetry::destination_reporter(world.mesh())
        );
    }
}

fn compare(case: &Case, got: &Got, wrong: &mut Vec<String>) {
    let brief = |p: &Problem| format!("{} {}", p.code, p.field.as_deref().unwrap_or_default());
    let mut said: Vec<String> = got.problems.iter().map(brief).collect();
    let mut want = case.problems.clone();
    said.sort();
    want.sort();
    if said != want {
        let full = got
            .problems
            .iter()
            .map(|p| format!("\n      {} {p}", p.code));
        wrong.push(format!(
            "problems {said:?}, not {want:?}{}",
            full.collect::<String>()
        ));
    }
    if let Some(remedy) = &case.remedy {
        let mut remedies = got.problems.iter().filter_map(|p| p.remedy.as_ref());
        if !remedies.any(|one| one.contains(remedy.as_str())) {
            wrong.push(format!("no remedy says {remedy:?}"));
        }
    }
    if let Some(want) = &case.condition {
        let word = |one: &RouteCondition| {
            format!(
                "{} {}",
                if one.status { "True" } else { "False" },
                one.reason
            )
        };
        let said = got
            .conditions
            .first()
            .map_or_else(|| "none".to_owned(), word);
        if said != *want {
            wrong.push(format!(
                "condition {said:?}, not {want:?}: {:?}",
                got.conditions
            ));
        }
    }
    if let Some(want) = &case.sent
        && *want != got.sent
    {
        wrong.push(format!("sent {:?}, not {want:?}", got.sent));
    }
    for part in &case.shows {
        if !got.printed.contains(part.as_str()) {
            wrong.push(format!("{part:?} isn't in {}", got.printed));
        }
    }
    for part in &case.lacks {
        if got.printed.contains(part.as_str()) {
            wrong.push(format!("{part:?} is in {}", got.printed));
        }
    }
}

/// Asks as the waypoint `gate` of shop.
fn judge(request: &Request, got: &Got, wrong: &mut Vec<String>) {
    let (service, namespace) = request
        .to
        .as_deref()
        .unwrap_or("reviews.shop")
        .split_once('.')
        .expect("NAME.NAMESPACE");
    let frontend = format!("{namespace}/{service}.{namespace}.svc.cluster.local")
        .parse()
        .expect("a hostname");
    let here = got.policies.iter().filter(|(audience, _)| match audience {
        Audience::Class(class) => **class == *"istio-waypoint",
        Audience::Waypoints(list) => list
            .iter()
            .any(|(namespace, name)| **namespace == *"shop" && **name == *"gate"),
    });
    let port = request.port.unwrap_or(80);
    let policies = HttpPolicies::bind(here.map(|(_, policy)| policy), Some(&frontend), port);
    let verdict = ask(request, port, &policies);
    if !verdict.contains(request.want.as_str())
        || verdict.split(' ').next() != request.want.split(' ').next()
    {
        wrong.push(format!(
            "{} {:?} {:?}: {verdict}, not {}",
            request.get, request.headers, request.peer, request.want
        ));
    }
}

fn ask(request: &Request, port: u16, policies: &HttpPolicies) -> String {
    let mut headers = http::HeaderMap::new();
    for (name, value) in &request.headers {
        let name: http::HeaderName = name.parse().expect("a header name");
        let lines = match value {
            Value::Array(lines) => lines.clone(),
            one => vec![one.clone()],
        };
        for line in lines {
            headers.append(
                &name,
                line.as_str()
                    .expect("a text")
                    .parse()
                    .expect("a header value"),
            );
        }
    }
    let peer = request
        .peer
        .as_deref()
        .unwrap_or("cluster.local/ns/shop/sa/web");
    let peer = (peer != "-").then(|| format!("spiffe://{peer}").parse().expect("an identity"));
    let claims = request.claims.clone().unwrap_or_default();
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let audiences: Vec<String> = match claims.get("aud") {
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|one| one.as_str().map(str::to_owned))
            .collect(),
        Some(Value::String(one)) => vec![one.clone()],
        _ => Vec::new(),
    };
    let auth = RequestAuth {
        issuer: text("iss").unwrap_or_default(),
        subject: text("sub").unwrap_or_default(),
        audiences: &audiences,
        presenter: text("azp"),
        claims: &claims,
    };
    let ip = |text: Option<&String>| text.map(|text| text.parse::<IpAddr>().expect("an address"));
    let seen = HttpRequest {
        method: request.method.as_deref().unwrap_or("GET"),
        host: request.host.as_deref().unwrap_or("reviews.shop"),
        path: &request.get,
        headers: &headers,
        auth: request.claims.is_some().then_some(auth),
    };
    let attrs = HttpAttrs {
        source_ip: ip(request.ip.as_ref()).unwrap_or(IpAddr::from([10, 0, 0, 7])),
        remote_ip: ip(request.remote.as_ref()),
        peer: peer.as_ref(),
        destination_ip: IpAddr::from([10, 1, 0, 1]),
        destination_port: port,
        sni: request.sni.as_deref(),
        http: (!request.tcp).then_some(seen),
    };
    let early = HttpAttrs {
        http: attrs.http.map(|http| HttpRequest { auth: None, ..http }),
        ..attrs
    };
    if let Some(asked) = policies.custom(&early).first() {
        return format!("ask {}", asked.provider);
    }
    let decision = match &request.workload {
        Some(uid) => policies.evaluate_workload(uid, &attrs),
        None => policies.evaluate(&attrs),
    };
    let shadow = match (
        decision.shadow.deny_result(),
        decision.shadow.allow_result(),
    ) {
        (None, None) => String::new(),
        (deny, allow) => format!(" shadow deny={deny:?} allow={allow:?}"),
    };
    match decision.verdict {
        ambit_policy::http::HttpVerdict::Allow(_) => format!("allow{shadow}"),
        ambit_policy::http::HttpVerdict::Deny(by) => format!("deny {by}{shadow}"),
    }
}
