//! Semantics tables of Istio's and Linkerd's inputs: objects and requests in
//! YAML, read and translated as in production and asked for as a waypoint does
//! (`ambit-route`), so that what is compared is what becomes of a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::{Located, Object, Problem, read_manifest};
use ambit_proto::waypoint as proto;
use ambit_route::{Answer, Found, FoundTcp, Head, MatchedPath, RedirectInput, Routes, Rule};
use ambit_translate::{Translated, World, istio, linkerd};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::TestWorld;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) cases: Vec<Case>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) clause: String,
    /// The namespace of the object below.
    #[serde(rename = "in")]
    pub(crate) namespace: Option<String>,
    /// Spec of a VirtualService.
    pub(crate) vs: Option<Value>,
    /// Spec of a DestinationRule.
    pub(crate) dr: Option<Value>,
    /// Further documents.
    pub(crate) more: String,
    /// `CODE field` of each problem, in any order.
    pub(crate) problems: Vec<String>,
    /// A part of the remedy of one of them.
    pub(crate) remedy: Option<String>,
    pub(crate) requests: Vec<Request>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) backends: Vec<Backend>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Request {
    pub(crate) to: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) from: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) get: String,
    pub(crate) host: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) claims: Option<Value>,
    pub(crate) want: String,
    /// Parts of the rule's message.
    pub(crate) shows: Vec<String>,
    pub(crate) lacks: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Connection {
    pub(crate) to: String,
    pub(crate) port: u16,
    pub(crate) from: Option<String>,
    pub(crate) sni: Option<String>,
    pub(crate) want: String,
}

/// What a service's Backend says for a port and subset, taken as the proxy does.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Backend {
    pub(crate) of: Option<String>,
    pub(crate) at: Option<String>,
    pub(crate) port: Option<u32>,
    pub(crate) subset: Option<String>,
    /// Look at the whole message instead of a traffic policy.
    pub(crate) whole: bool,
    pub(crate) shows: Vec<String>,
    pub(crate) lacks: Vec<String>,
}

pub(crate) fn run(base: &str, text: &str) {
    let table: Table = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}"));
    let mut failed = Vec::new();
    for case in &table.cases {
        assert!(!case.clause.is_empty(), "{}: no clause", case.name);
        for wrong in check(base, case) {
            failed.push(format!("{}: {wrong}", case.name));
        }
    }
    let count = table.cases.len();
    assert!(
        failed.is_empty(),
        "{} wrong in {count} cases:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

fn check(base: &str, case: &Case) -> Vec<String> {
    let own = documents(case);
    let world = TestWorld::from_yaml(&format!("{base}\n---\n{own}"));
    let read = read_manifest("case.yaml", &own);
    let mut wrong: Vec<_> = read
        .problems
        .iter()
        .map(|p| format!("reader: {p}"))
        .collect();
    let mut routes: Vec<proto::Route> = Vec::new();
    let mut problems = Vec::new();
    for object in &read.objects {
        take(object, &world, &mut routes, &mut problems);
    }
    let live = Live::new(&routes, &mut wrong);
    for backend in &case.backends {
        backend_is(backend, &world, &mut problems, &mut wrong);
    }
    let mut said: Vec<String> = problems
        .iter()
        .map(|p| format!("{} {}", p.code, p.field.as_deref().unwrap_or_default()))
        .collect();
    let mut want = case.problems.clone();
    said.sort();
    want.sort();
    if said != want {
        let full: Vec<_> = problems
            .iter()
            .map(|p| format!("\n      {} {p}", p.code))
            .collect();
        wrong.push(format!("problems {said:?}, not {want:?}{}", full.concat()));
    }
    for problem in &problems {
        if problem.remedy.is_none() && problem.code.as_str() != "AMB0445" {
            wrong.push(format!("no remedy: {problem}"));
        }
    }
    if let Some(remedy) = &case.remedy
        && !problems
            .iter()
            .any(|p| p.remedy.as_ref().is_some_and(|r| r.contains(remedy)))
    {
        wrong.push(format!("no remedy says {remedy}"));
    }
    for request in &case.requests {
        live.request(request, &mut wrong);
    }
    for connection in &case.connections {
        live.connection(connection, &mut wrong);
    }
    wrong
}

fn documents(case: &Case) -> String {
    let namespace = case.namespace.as_deref().unwrap_or("shop");
    let mut documents = Vec::new();
    for (kind, name, spec) in [
        ("VirtualService", "v", &case.vs),
        ("DestinationRule", "d", &case.dr),
    ] {
        if let Some(spec) = spec {
            let object = json!({
                "apiVersion": "networking.istio.io/v1",
                "kind": kind,
                "metadata": {"name": name, "namespace": namespace},
                "spec": spec,
            });
            documents.push(object.to_string());
        }
    }
    if !case.more.is_empty() {
        documents.push(case.more.clone());
    }
    documents.join("\n---\n")
}

fn located<T>(object: &Located<Object>, inner: &Arc<T>) -> Located<Arc<T>> {
    Located {
        object: Arc::clone(inner),
        origin: object.origin.clone(),
        lines: object.lines.clone(),
    }
}

fn take(
    object: &Located<Object>,
    world: &dyn World,
    routes: &mut Vec<proto::Route>,
    problems: &mut Vec<Problem>,
) {
    let translated: Translated<Vec<proto::Route>> = match &object.object {
        Object::VirtualService(inner) => istio::virtual_service(&located(object, inner), world),
        Object::ServiceProfile(inner) => linkerd::service_profile(&located(object, inner), world),
        Object::TrafficSplit(inner) => linkerd::traffic_split(&located(object, inner), world),
        Object::DestinationRule(inner) => {
            problems.extend(istio::destination_rule(&located(object, inner), world).problems);
            return;
        }
        Object::Reported(_) | Object::LinkerdServer(_) => {
            problems.extend(istio::unused(object));
            problems.extend(linkerd::unused(object));
            return;
        }
        _ => return,
    };
    routes.extend(translated.resource.into_iter().flatten());
    problems.extend(translated.problems);
}

/// The routes of each frontend, as a waypoint has them.
struct Live<'a> {
    messages: BTreeMap<String, &'a proto::Route>,
    frontends: BTreeMap<String, Routes>,
}

/// `reviews.shop` is `shop/reviews.shop.svc.cluster.local`.
fn full(host: &str) -> String {
    match host.split('.').collect::<Vec<_>>().as_slice() {
        [_, namespace] => format!("{namespace}/{host}.svc.cluster.local"),
        _ => format!("shop/{host}"),
    }
}

fn short(service: &str) -> &str {
    let host = service.split_once('/').map_or(service, |(_, host)| host);
    host.strip_suffix(".svc.cluster.local").unwrap_or(host)
}

impl<'a> Live<'a> {
    fn new(routes: &'a [proto::Route], wrong: &mut Vec<String>) -> Self {
        let mut live = Self {
            messages: BTreeMap::new(),
            frontends: BTreeMap::new(),
        };
        for message in routes {
            let name = istio::route_name(message);
            match ambit_route::Route::decode(&name, message) {
                Ok(route) => {
                    let route = Arc::new(route);
                    for parent in &message.parents {
                        let routes = live
                            .frontends
                            .entry(parent.frontend.clone())
                            .or_insert_with(|| Routes::new(&parent.frontend));
                        let mut edit = routes.edit();
                        edit.set(Arc::clone(&route));
                        *routes = edit.finish();
                    }
                }
                Err(error) => wrong.push(format!("a waypoint can't read {name}: {error}")),
            }
            if live.messages.insert(name.clone(), message).is_some() {
                wrong.push(format!("two routes are called {name}"));
            }
        }
        live
    }

    fn request(&self, request: &Request, wrong: &mut Vec<String>) {
        let to = full(request.to.as_deref().unwrap_or("reviews.shop"));
        let (path, query) = match request.get.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.get.as_str(), None),
        };
        let mut headers = http::HeaderMap::new();
        for (name, value) in &request.headers {
            let name: http::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let head = Head {
            method: request.method.as_deref().unwrap_or("GET"),
            scheme: "http",
            authority: request.host.as_deref().unwrap_or("reviews"),
            path,
            query,
            headers: &headers,
            port: request.port.unwrap_or(80),
            source_namespace: Some(request.from.as_deref().unwrap_or("shop")),
            claims: request.claims.as_ref(),
        };
        let none = Routes::new(&to);
        let found = self.frontends.get(&to).unwrap_or(&none).find(&head);
        let (got, message) = match &found {
            Found::Service => ("service".to_owned(), None),
            Found::NoMatch => ("404".to_owned(), None),
            Found::Rule(matched) => {
                let rules = &matched.route.rules;
                let at = rules
                    .iter()
                    .position(|rule| Arc::ptr_eq(rule, matched.rule))
                    .unwrap();
                let message = &self.messages[&*matched.route.name].rules[at];
                (outcome(matched.rule, &head, matched.path), Some(message))
            }
        };
        let what = format!("{} {}", head.method, request.get);
        if got != request.want {
            wrong.push(format!("{what}: {got}, not {}", request.want));
        }
        let shown = format!("{message:?}");
        compare(&what, &shown, &request.shows, &request.lacks, wrong);
    }

    fn connection(&self, connection: &Connection, wrong: &mut Vec<String>) {
        let to = full(&connection.to);
        let none = Routes::new(&to);
        let routes = self.frontends.get(&to).unwrap_or(&none);
        let from = Some(connection.from.as_deref().unwrap_or("shop"));
        let got = match routes.find_tcp(connection.port, from, connection.sni.as_deref()) {
            FoundTcp::Service => "service".to_owned(),
            FoundTcp::NoMatch => "closed".to_owned(),
            FoundTcp::Rule(matched) => destinations(matched.rule),
        };
        if got != connection.want {
            wrong.push(format!(
                "{}:{}: {got}, not {}",
                connection.to, connection.port, connection.want
            ));
        }
    }
}

fn compare(what: &str, shown: &str, shows: &[String], lacks: &[String], wrong: &mut Vec<String>) {
    if shows == ["None"] && shown != "None" {
        wrong.push(format!("{what}: not nothing, but {shown}"));
    }
    for part in shows {
        if !shown.contains(part.as_str()) {
            wrong.push(format!("{what}: no {part} in {shown}"));
        }
    }
    for part in lacks {
        if shown.contains(part.as_str()) {
            wrong.push(format!("{what}: {part} in {shown}"));
        }
    }
}

fn outcome(rule: &Rule, head: &Head<'_>, path: MatchedPath) -> String {
    match rule.answer.as_deref() {
        Some(Answer::Invalid(invalid)) => invalid.status.as_u16().to_string(),
        Some(Answer::Direct(direct)) => format!(
            "direct {} {}",
            direct.status.as_u16(),
            String::from_utf8_lossy(&direct.body)
        ),
        Some(Answer::Redirect(redirect)) => {
            let input = RedirectInput {
                scheme: head.scheme,
                authority: head.authority,
                port: head.port,
                path: head.path,
                query: head.query,
            };
            let location = redirect.location(&input, path).unwrap();
            format!(
                "redirect {} {}",
                redirect.status.as_u16(),
                location.to_str().unwrap()
            )
        }
        None if rule.to_frontend => "rule to service".to_owned(),
        None => destinations(rule),
    }
}

fn destinations(rule: &Rule) -> String {
    if let Some(Answer::Invalid(invalid)) = rule.answer.as_deref() {
        return invalid.status.as_u16().to_string();
    }
    let several = rule.backends.len() > 1;
    let shown = rule.backends.iter().map(|to| {
        let mut text = format!("{}:{}", short(&to.service), to.port);
        if !to.subset.is_empty() {
            text += &format!("#{}", to.subset);
        }
        if several {
            text += &format!("={}", to.weight);
        }
        if let Some(invalid) = &to.invalid {
            text += &format!("!{}", invalid.status.as_u16());
        }
        text
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn backend_is(
    backend: &Backend,
    world: &TestWorld,
    problems: &mut Vec<Problem>,
    wrong: &mut Vec<String>,
) {
    let key = full(backend.of.as_deref().unwrap_or("reviews.shop"));
    let (_, host) = key.split_once('/').unwrap();
    let service = world
        .host(host, "shop")
        .unwrap_or_else(|| panic!("no service {host}"));
    let at = backend.at.as_deref().unwrap_or("shop");
    let translated = istio::backend(&service, at, world);
    problems.extend(translated.problems);
    let message = translated.resource.unwrap();
    if let Err(error) = ambit_upstream::Backend::decode(&message) {
        wrong.push(format!("a waypoint can't read {host}: {error}"));
    }
    let policy = effective(
        &message,
        backend.port.unwrap_or(80),
        backend.subset.as_deref(),
    );
    let shown = if backend.whole {
        format!("{message:?}")
    } else {
        format!("{policy:?}")
    };
    compare(
        &format!("{host} at {at}"),
        &shown,
        &backend.shows,
        &backend.lacks,
        wrong,
    );
}

/// S.ports[P], S.policy, ports[P], policy: the first that is there.
fn effective(
    backend: &proto::Backend,
    port: u32,
    subset: Option<&str>,
) -> Option<proto::TrafficPolicy> {
    if let Some(name) = subset {
        let subset = backend
            .subsets
            .iter()
            .find(|known| known.name == name)
            .unwrap();
        let of_port = subset.ports.iter().find(|known| known.number == port);
        if let Some(policy) = of_port.and_then(|known| known.policy.clone()) {
            return Some(policy);
        }
        if subset.policy.is_some() {
            return subset.policy.clone();
        }
    }
    let of_port = backend.ports.iter().find(|known| known.number == port);
    of_port
        .and_then(|known| known.policy.clone())
        .or_else(|| backend.policy.clone())
}
