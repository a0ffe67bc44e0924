//! A provider that is asked with an HTTP request like the one in question.

use ambit_proto::waypoint as pb;
use ambit_route::Pattern;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use pb::authorization_provider::Kind;

use super::{Asking, Changes, Seen, Trouble, Verdict, exchange};
use crate::config::{HeaderLists, Provider};
use crate::dial::Version;
use crate::http::body::UpBody;
use crate::http::head::Checked;
use crate::http::reply::{Flag, LocalReply};

pub(super) async fn ask(
    asking: &Asking<'_>,
    provider: &Provider,
    head: &Parts,
    checked: &Checked,
    seen: Seen,
) -> Result<Verdict, Trouble> {
    let Some(Kind::Http(settings)) = &provider.message.kind else {
        return Err(Trouble::Unknown);
    };
    let lists = &provider.lists;
    let question = question(settings, lists, (head, checked), seen);
    let question = question.map_err(|error| Trouble::Unreachable(error.to_string()))?;
    let response = exchange(asking.place(), provider, Version::Http1, question).await?;
    let (parts, (body, _)) = response.into_parts();
    let listed = |patterns: &[Pattern]| -> Vec<(HeaderName, HeaderValue)> {
        let all = parts.headers.iter();
        all.filter(|(name, _)| any(patterns, name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    if parts.status == http::StatusCode::OK {
        return Ok(Verdict::Allow(Changes {
            set: listed(&lists.to_upstream),
            response: listed(&lists.to_client_on_allow),
            ..Changes::default()
        }));
    }
    if parts.status.is_server_error() {
        return Err(Trouble::Answer(format!("HTTP status {}", parts.status)));
    }
    let mut reply = LocalReply::new(parts.status, body, Flag::ExtAuthz, "ext_authz_denied");
    *reply.headers = denial(lists, &parts.headers);
    Ok(Verdict::Deny(Box::new(reply)))
}

fn question(
    settings: &pb::HttpProvider,
    lists: &HeaderLists,
    (head, checked): (&Parts, &Checked),
    seen: Seen,
) -> http::Result<Request<UpBody>> {
    let path = format!("{}{}", settings.path_prefix, checked.target);
    let mut request = Request::builder()
        .method(head.method.clone())
        .uri(path)
        .header(HOST, checked.authority.clone());
    for (name, value) in &head.headers {
        let wanted = *name == AUTHORIZATION || any(&lists.to_provider, name.as_str());
        if wanted && *name != HOST && *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING {
            request = request.header(name, value);
        }
    }
    for header in &settings.additional_headers {
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    request.body(if seen.body.is_empty() {
        UpBody::Empty
    } else {
        UpBody::Full(Some(seen.body.into()))
    })
}

/// Headers of a refusal that reach the client: all but those of the hop, or
/// those that are listed.
fn denial(lists: &HeaderLists, from: &HeaderMap) -> HeaderMap {
    let patterns = &lists.to_client_on_deny;
    let mut headers = HeaderMap::new();
    for (name, value) in from {
        let hop = *name == CONTENT_LENGTH
            || *name == TRANSFER_ENCODING
            || *name == http::header::CONNECTION;
        let wanted = patterns.is_empty() || *name == CONTENT_TYPE || any(patterns, name.as_str());
        if wanted && !hop {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// Whether a header's name is one of those.
fn any(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|one| one.matches(name.as_bytes()))
}
