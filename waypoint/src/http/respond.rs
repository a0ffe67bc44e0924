//! Responses on their way to the client: what is added to a backend's, and our
//! own answers.

use ambit_route::{CorsDecision, Rule};
use http::header::{CONNECTION, SERVER, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use http_body::Body;

use super::body::DownBody;
use super::choose::Chosen;
use super::exchange::{Exchange, Streaming};
use super::forward::Forwarded;
use super::head::sanitise_response;
use super::reply::{Flag, LocalReply};
use crate::config::{Gateway, ServerHeader};

/// What a response gets besides what the backend said.
#[derive(Default)]
pub(crate) struct Decor {
    /// Set.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Cookies of sessions and of hashing.
    pub(crate) cookies: Vec<HeaderValue>,
}

impl Decor {
    /// Cleans and completes a backend's head.
    pub(crate) fn apply(
        self,
        rule: Option<&Rule>,
        chosen: &Chosen<'_>,
        head: &Parts,
        forwarded: &mut Forwarded,
    ) {
        let upgraded = forwarded.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let headers = forwarded.response.headers_mut();
        sanitise_response(headers, upgraded);
        if upgraded {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        for cookie in self.cookies {
            headers.append(SET_COOKIE, cookie);
        }
        let Some(rule) = rule else { return };
        if let Some(cors) = &rule.cors
            && let CorsDecision::Actual(actual) = cors.decide(&head.method, &head.headers)
        {
            actual.apply(headers);
        }
        for ops in rule.response_ops_in_order(chosen.backend) {
            ops.apply(headers);
        }
    }
}

/// A backend's response, streaming.
pub(crate) fn respond(
    gateway: &Gateway,
    forwarded: Box<Forwarded>,
    mut exchange: Box<Exchange>,
) -> Response<DownBody> {
    let Forwarded {
        response,
        held,
        deadline,
        idle,
    } = *forwarded;
    let (mut head, incoming) = response.into_parts();
    exchange.status = Some(head.status);
    exchange.note_grpc(&head.headers);
    if let Some(time) = exchange.upstream_time {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        head.headers.insert(SERVICE_TIME, HeaderValue::from(millis));
    }
    server(gateway, &mut head.headers);
    let web = exchange.web.take();
    let web = web.filter(|web| web.response(&mut head.headers));
    exchange.keep_response(&head.headers);
    head.version = Version::HTTP_11;
    let ended = incoming.is_end_stream();
    let mut stream = Streaming::new(incoming, exchange, held);
    if ended {
        stream.finish_now();
        return Response::from_parts(head, DownBody::Empty);
    }
    stream.until(deadline);
    stream.idle(idle);
    let stream = Box::new(stream);
    let body = match web {
        Some(web) => DownBody::Web(web.body(stream)),
        None => DownBody::Stream(stream),
    };
    Response::from_parts(head, body)
}

/// An answer of our own, and its record.
pub(crate) fn answer(
    gateway: &Gateway,
    mut reply: LocalReply,
    mut exchange: Box<Exchange>,
) -> Response<DownBody> {
    if exchange.grpc_route && reply.flag == Some(Flag::NoCluster) {
        // 2.4: whatever a GRPCRoute leads to that can't be used.
        reply.grpc_status = Some(GRPC_UNAVAILABLE);
    }
    let (close, details, flag) = (reply.close, reply.details.clone(), reply.flag);
    let mut response = reply.into_response(exchange.grpc);
    if let Some(web) = &exchange.web {
        web.response(response.headers_mut());
    }
    if let Some(flag) = flag {
        exchange.flag(flag);
    }
    exchange.details = Some(details);
    exchange.status = Some(response.status());
    exchange.note_grpc(response.headers());
    exchange.sent = response.body().size_hint().exact().unwrap_or(0);
    if close && exchange.version != Version::HTTP_2 {
        let value = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, value);
    }
    server(gateway, response.headers_mut());
    exchange.keep_response(response.headers());
    exchange.finish();
    response
}

fn server(gateway: &Gateway, headers: &mut HeaderMap) {
    if let ServerHeader::Overwrite(value) = &gateway.server {
        headers.insert(SERVER, value.clone());
    }
}

/// gRPC's status UNAVAILABLE.
const GRPC_UNAVAILABLE: u32 = 14;
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
