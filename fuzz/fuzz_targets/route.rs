//! Configuration and requests: a route of any bytes decodes or is refused, and a
//! request of any text is matched as the traced run says.
#![no_main]

use std::sync::Arc;

use ambit_proto::waypoint;
use ambit_route::{Head, Route, Routes};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|input: (&[u8], &str, &str, u16)| {
    let (message, path, query, port) = input;
    let Ok(message) = waypoint::Route::decode(message) else {
        return;
    };
    let Ok(route) = Route::decode("HTTPRoute/a/b", &message) else {
        return;
    };
    let Some(parent) = message.parents.first() else {
        return;
    };
    let routes = Routes::new(&parent.frontend);
    let mut edit = routes.edit();
    edit.set(Arc::new(route));
    let routes = edit.finish();
    let headers = HeaderMap::new();
    let head = Head {
        method: "GET",
        scheme: "http",
        authority: "a",
        path,
        query: Some(query),
        headers: &headers,
        port,
        source_namespace: Some("a"),
        claims: None,
    };
    let plain = format!("{:?}", routes.find(&head));
    let mut trace = ambit_route::Log::default();
    let traced = format!("{:?}", routes.find_with(&head, &mut trace));
    assert_eq!(plain, traced);
});
