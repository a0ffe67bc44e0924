//! A provider that speaks Envoy's gRPC protocol.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version as HttpVersion};
use prost::Message;

use super::message::{
    Address, Attributes, CheckRequest, CheckResponse, Denied, HeaderOption, HttpAttributes, Peer,
    RequestAttributes, SocketAddress,
};
use super::{Asking, Changes, Seen, Trouble, Verdict, exchange};
use crate::config::{Config, Provider};
use crate::dial::Version;
use crate::http::body::UpBody;
use crate::http::head::Checked;
use crate::http::reply::{Flag, GRPC_STATUS, LocalReply};
use crate::http::server::Inner;
use crate::node::Worker;

pub(super) async fn ask(
    asking: &Asking<'_>,
    provider: &Provider,
    head: &Parts,
    checked: &Checked,
    seen: Seen,
) -> Result<Verdict, Trouble> {
    let message = question(asking, provider, head, checked, seen);
    check(asking.place(), provider, &message).await
}

/// About a connection: only who and where.
pub(super) async fn ask_tcp(
    config: &Config,
    inner: &Inner,
    provider: &Provider,
) -> Result<Verdict, Trouble> {
    let message = CheckRequest {
        attributes: Some(attributes(inner, None)),
    };
    check((config, &inner.worker), provider, &message).await
}

async fn check(
    place: (&Config, &Worker),
    provider: &Provider,
    message: &CheckRequest,
) -> Result<Verdict, Trouble> {
    let mut framed = BytesMut::with_capacity(message.encoded_len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    framed.put_slice(&message.encode_to_vec());
    let host = provider.message.service.split_once('/');
    let authority = host.map_or("authorization", |(_, host)| host);
    let uri = format!("http://{authority}{METHOD}");
    let request = Request::post(uri)
        .version(HttpVersion::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(UpBody::Full(Some(framed.freeze())))
        .map_err(|error| Trouble::Unreachable(error.to_string()))?;
    let response = exchange(place, provider, Version::Http2, request).await?;
    let (parts, (body, trailers)) = response.into_parts();
    let status = trailers.as_ref().unwrap_or(&parts.headers);
    match grpc_status(status).or_else(|| grpc_status(&parts.headers)) {
        Some(0) => {}
        Some(status) => return Err(Trouble::Answer(format!("gRPC status {status}"))),
        None => return Err(Trouble::Answer(format!("HTTP status {}", parts.status))),
    }
    read(&body)
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

fn question(
    asking: &Asking<'_>,
    provider: &Provider,
    head: &Parts,
    checked: &Checked,
    seen: Seen,
) -> CheckRequest {
    let mut headers: HashMap<String, String> = HashMap::with_capacity(head.headers.len());
    for (name, value) in &head.headers {
        let text = String::from_utf8_lossy(value.as_bytes());
        let line = headers.entry(name.as_str().to_owned()).or_default();
        if !line.is_empty() {
            line.push(',');
        }
        line.push_str(&text);
    }
    let inner = asking.subject.inner;
    let id = headers.get("x-request-id").cloned().unwrap_or_default();
    let size = i64::try_from(seen.body.len()).unwrap_or(i64::MAX);
    let (body, raw_body) = if provider.message.pack_as_bytes {
        (String::new(), seen.body)
    } else {
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        (text, Vec::new())
    };
    let http = HttpAttributes {
        id,
        method: head.method.to_string(),
        headers,
        path: checked.target.to_string(),
        host: checked.authority.to_str().unwrap_or_default().to_owned(),
        scheme: "http".to_owned(),
        size,
        protocol: if head.version == HttpVersion::HTTP_2 {
            "HTTP/2".to_owned()
        } else {
            "HTTP/1.1".to_owned()
        },
        body,
        raw_body,
    };
    let request = RequestAttributes { http: Some(http) };
    CheckRequest {
        attributes: Some(attributes(inner, Some(request))),
    }
}

fn attributes(inner: &Inner, request: Option<RequestAttributes>) -> Attributes {
    Attributes {
        source: Some(Peer {
            address: address(inner.source),
            principal: inner.peer.to_string(),
            ..Peer::default()
        }),
        destination: Some(Peer {
            address: address(inner.dialled),
            principal: inner.worker.node.id.to_string(),
            ..Peer::default()
        }),
        request,
    }
}

fn address(of: std::net::SocketAddr) -> Option<Address> {
    Some(Address {
        socket: Some(SocketAddress {
            address: of.ip().to_string(),
            port: u32::from(of.port()),
        }),
    })
}

fn read(body: &Bytes) -> Result<Verdict, Trouble> {
    let message = match body.split_first_chunk::<5>() {
        Some(([0, length @ ..], rest)) => {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            rest.get(..length)
        }
        _ => None,
    };
    let message = message.ok_or_else(|| Trouble::Answer("no message".to_owned()))?;
    let answer = CheckResponse::decode(message);
    let answer = answer.map_err(|error| Trouble::Answer(error.to_string()))?;
    let allowed = answer.status.as_ref().is_none_or(|status| status.code == 0);
    if !allowed {
        return Ok(Verdict::Deny(Box::new(denied(
            &answer.denied.unwrap_or_default(),
        ))));
    }
    let mut changes = Changes::default();
    let Some(ok) = answer.allowed else {
        return Ok(Verdict::Allow(changes));
    };
    for option in &ok.headers {
        let Some(pair) = pair(option) else { continue };
        if option.append == Some(true) {
            changes.append.push(pair);
        } else {
            changes.set.push(pair);
        }
    }
    let names = ok.headers_to_remove.iter();
    let names = names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    changes.remove = names.filter(|name| name != http::header::HOST).collect();
    changes.response = ok.response_headers.iter().filter_map(pair).collect();
    Ok(Verdict::Allow(changes))
}

fn denied(denied: &Denied) -> LocalReply {
    let status = denied.status.as_ref().map_or(403, |status| status.code);
    let status = u16::try_from(status).ok().filter(|status| *status >= 200);
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let mut reply = LocalReply::new(
        status.unwrap_or(StatusCode::FORBIDDEN),
        denied.body.clone(),
        Flag::ExtAuthz,
        "ext_authz_denied",
    );
    for (name, value) in denied.headers.iter().filter_map(pair) {
        if name != http::header::CONTENT_LENGTH && name != http::header::TRANSFER_ENCODING {
            reply.headers.append(name, value);
        }
    }
    reply
}

fn pair(option: &HeaderOption) -> Option<(HeaderName, HeaderValue)> {
    let header = option.header.as_ref()?;
    let name = HeaderName::from_bytes(header.key.as_bytes()).ok()?;
    let value = if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    };
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
