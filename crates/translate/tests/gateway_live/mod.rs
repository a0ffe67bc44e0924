//! What a waypoint makes of translated routes and backends: requests and
//! connections are asked for behind the decoders of `ambit-route`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_proto::waypoint as proto;
use ambit_route::{Answer, Found, FoundTcp, Head, RedirectInput, Routes, Rule};
use ambit_translate::{World, gateway_api};
use serde::Deserialize;

use crate::world::TestWorld;

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
    pub(crate) want: String,
    /// The path that the backend sees.
    pub(crate) becomes: Option<String>,
    pub(crate) shows: Vec<String>,
    pub(crate) lacks: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Connection {
    pub(crate) to: Option<String>,
    pub(crate) port: u16,
    pub(crate) from: Option<String>,
    pub(crate) sni: Option<String>,
    pub(crate) want: String,
}

/// A Backend after the policies, as the proxy reads it.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BackendLook {
    pub(crate) of: String,
    pub(crate) port: u32,
    /// Merged policies that were there before, by text: `pool`, `subset`, `tls`.
    pub(crate) with: Vec<String>,
    pub(crate) subset: bool,
    pub(crate) shows: Vec<String>,
    pub(crate) lacks: Vec<String>,
}

/// The routes of each frontend, as a waypoint has them.
pub(crate) struct Live<'a> {
    messages: BTreeMap<String, &'a proto::Route>,
    frontends: BTreeMap<String, Routes>,
}

/// `echo.shop` is `shop/echo.shop.svc.cluster.local`.
fn full(host: &str) -> String {
    match host.split('.').collect::<Vec<_>>().as_slice() {
        [_, namespace] => format!("{namespace}/{host}.svc.cluster.local"),
        _ => format!("shop/{host}"),
    }
}

pub(crate) fn short(service: &str) -> &str {
    let host = service.split_once('/').map_or(service, |(_, host)| host);
    host.strip_suffix(".svc.cluster.local").unwrap_or(host)
}

impl<'a> Live<'a> {
    pub(crate) fn new(routes: &'a [proto::Route], wrong: &mut Vec<String>) -> Self {
        let mut live = Self {
            messages: BTreeMap::new(),
            frontends: BTreeMap::new(),
        };
        for message in routes {
            let name = gateway_api::route_name(message);
            match ambit_route::Route::decode(&name, message) {
                Ok(route) => live.add(message, Arc::new(route)),
                Err(error) => wrong.push(format!("a waypoint can't read {name}: {error}")),
            }
            if live.messages.insert(name.clone(), message).is_some() {
                wrong.push(format!("two routes are called {name}"));
            }
        }
        live
    }

    fn add(&mut self, message: &proto::Route, route: Arc<ambit_route::Route>) {
        for parent in &message.parents {
            let routes = self
                .frontends
                .entry(parent.frontend.clone())
                .or_insert_with(|| Routes::new(&parent.frontend));
            let mut edit = routes.edit();
            edit.set(Arc::clone(&route));
            *routes = edit.finish();
        }
    }

    pub(crate) fn request(&self, request: &Request, wrong: &mut Vec<String>) {
        let to = full(request.to.as_deref().unwrap_or("echo.shop"));
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
            authority: request.host.as_deref().unwrap_or("echo"),
            path,
            query,
            headers: &headers,
            port: request.port.unwrap_or(80),
            source_namespace: Some(request.from.as_deref().unwrap_or("shop")),
            claims: None,
        };
        let none = Routes::new(&to);
        let mut becomes = None;
        let found = self.frontends.get(&to).unwrap_or(&none).find(&head);
        let (got, message) = match &found {
            Found::Service => ("service".to_owned(), None),
            Found::NoMatch => ("404".to_owned(), None),
            Found::Rule(matched) => {
                let rules = &matched.route.rules;
                let at = rules
                    .iter()
                    .position(|rule| Arc::ptr_eq(rule, matched.rule));
                let message = &self.messages[&*matched.route.name].rules[at.unwrap()];
                let backend = matched.rule.backends.first();
                let rewrite = backend.and_then(|backend| backend.rewrite.as_ref());
                let rewrite = rewrite.or(matched.rule.rewrite.as_ref());
                becomes = rewrite
                    .and_then(|rewrite| rewrite.apply(path, query, matched.path))
                    .map(|path| path.to_string());
                (answer(matched, &head), Some(message))
            }
        };
        let what = format!("{} {}", head.method, request.get);
        if got != request.want {
            wrong.push(format!("{what}: {got}, not {}", request.want));
        }
        if request.becomes.is_some() && becomes != request.becomes {
            wrong.push(format!(
                "{what} becomes {becomes:?}, not {:?}",
                request.becomes
            ));
        }
        compare(
            &what,
            &format!("{message:?}"),
            &request.shows,
            &request.lacks,
            wrong,
        );
    }

    pub(crate) fn connection(&self, connection: &Connection, wrong: &mut Vec<String>) {
        let to = full(connection.to.as_deref().unwrap_or("echo.shop"));
        let none = Routes::new(&to);
        let routes = self.frontends.get(&to).unwrap_or(&none);
        let from = Some(connection.from.as_deref().unwrap_or("shop"));
        let found = routes.find_tcp(connection.port, from, connection.sni.as_deref());
        let got = match found {
            FoundTcp::Service => "service".to_owned(),
            FoundTcp::NoMatch => "closed".to_owned(),
            FoundTcp::Rule(matched) => destinations(matched.rule),
        };
        if got != connection.want {
            wrong.push(format!(
                "{}: {got}, not {}",
                connection.port, connection.want
            ));
        }
    }
}

fn compare(what: &str, text: &str, shows: &[String], lacks: &[String], wrong: &mut Vec<String>) {
    for part in shows {
        if !text.contains(part.as_str()) {
            wrong.push(format!("{what}: no {part} in {text}"));
        }
    }
    for part in lacks {
        if text.contains(part.as_str()) {
            wrong.push(format!("{what}: {part} in {text}"));
        }
    }
}

fn answer(matched: &ambit_route::Matched<'_>, head: &Head<'_>) -> String {
    match matched.rule.answer.as_deref() {
        Some(Answer::Redirect(redirect)) => {
            let input = RedirectInput {
                scheme: head.scheme,
                authority: head.authority,
                port: head.port,
                path: head.path,
                query: head.query,
            };
            let location = redirect.location(&input, matched.path).unwrap();
            let location = location.to_str().unwrap();
            format!("{} {location}", redirect.status.as_u16())
        }
        _ => destinations(matched.rule),
    }
}

fn destinations(rule: &Rule) -> String {
    if let Some(Answer::Invalid(invalid)) = rule.answer.as_deref() {
        return invalid.status.as_u16().to_string();
    }
    let several = rule.backends.len() > 1;
    let shown = rule.backends.iter().map(|to| {
        let mut text = match &to.invalid {
            Some(invalid) => invalid.status.as_u16().to_string(),
            None => format!("{}:{}", short(&to.service), to.port),
        };
        if several {
            text += &format!("={}", to.weight);
        }
        text
    });
    shown.collect::<Vec<_>>().join(" ")
}

pub(crate) fn backend(look: &BackendLook, world: &TestWorld, wrong: &mut Vec<String>) {
    let key = full(&look.of);
    let (_, host) = key.split_once('/').unwrap();
    let service = world.host(host, "shop").unwrap();
    let ports = service.ports.iter();
    let ports = ports.map(|port| proto::BackendPort {
        number: u32::from(port.number),
        name: port.name.to_string(),
        protocol: port.protocol.into(),
        policy: None,
    });
    let mut message = proto::Backend {
        ports: ports.collect(),
        ..proto::Backend::default()
    };
    let has = |what: &str| look.with.iter().any(|with| with == what);
    let pool = |max_requests| proto::TrafficPolicy {
        pool: Some(proto::ConnectionPool {
            max_requests: Some(max_requests),
            ..proto::ConnectionPool::default()
        }),
        ..proto::TrafficPolicy::default()
    };
    if has("pool") {
        message.policy = Some(pool(77));
    }
    if has("subset") {
        message.subsets.push(proto::Subset {
            name: "v1".to_owned(),
            policy: Some(pool(88)),
            ..proto::Subset::default()
        });
    }
    if has("tls") {
        message.policy.get_or_insert_default().tls = Some(proto::BackendTls {
            hostname: "destination-rule.example".to_owned(),
            ..proto::BackendTls::default()
        });
    }
    gateway_api::apply_backend_policies(&mut message, &service, world);
    let policy = effective(&message, look.port, look.subset.then_some("v1"));
    let text = format!(
        "{policy:?} {:?} {:?}",
        message.policy_origins, message.default_rule
    );
    compare(&look.of, &text, &look.shows, &look.lacks, wrong);
}

/// S.ports[P], S.policy, ports[P], policy: the first that is there.
fn effective(
    backend: &proto::Backend,
    port: u32,
    subset: Option<&str>,
) -> Option<proto::TrafficPolicy> {
    let subset = subset.and_then(|name| backend.subsets.iter().find(|known| known.name == name));
    let of_subset = subset.and_then(|subset| {
        let of_port = subset.ports.iter().find(|known| known.number == port);
        let of_port = of_port.and_then(|known| known.policy.clone());
        of_port.or_else(|| subset.policy.clone())
    });
    let of_port = || backend.ports.iter().find(|known| known.number == port);
    of_subset
        .or_else(|| of_port().and_then(|known| known.policy.clone()))
        .or_else(|| backend.policy.clone())
}
