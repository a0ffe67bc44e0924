//! A provider that is asked with an HTTP request like the one in question.

use ambit_proto::waypoint as pb;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use pb::authorization_provider::Kind;

use super::{Asking, Changes, Seen, Trouble, Verdict, exchange};
use crate::config::Provider;
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
    let question = question(settings, head, checked, seen);
    let question = question.map_err(|error| Trouble::Unreachable(error.to_string()))?;
    let response = exchange(asking, provider, Version::Http1, question).await?;
    let (parts, (body, _)) = response.into_parts();
    let listed = |patterns: &[pb::StringMatch]| -> Vec<(HeaderName, HeaderValue)> {
        let all = parts.headers.iter();
        all.filter(|(name, _)| any(patterns, name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    if parts.status == http::StatusCode::OK {
        return Ok(Verdict::Allow(Changes {
            set: listed(&settings.headers_to_upstream),
            response: listed(&settings.headers_to_downstream_on_allow),
            ..Changes::default()
        }));
    }
    if parts.status.is_server_error() {
        return Err(Trouble::Answer(format!("HTTP status {}", parts.status)));
    }
    let mut reply = LocalReply::new(parts.status, body, Flag::ExtAuthz, "ext_authz_denied");
    *reply.headers = denial(settings, &parts.headers);
    Ok(Verdict::Deny(Box::new(reply)))
}

fn question(
    settings: &pb::HttpProvider,
    head: &Parts,
    checked: &Checked,
    seen: Seen,
) -> http::Result<Request<UpBody>> {
    let path = format!("{}{}", settings.path_prefix, checked.target);
    let mut request = Request::builder()
        .method(head.method.clone())
        .uri(path)
        .header(HOST, checked.authority.clone());
    for (name, value) in &head.headers {
        let wanted = *name == AUTHORIZATION || any(&settings.request_headers, name.as_str());
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
fn denial(settings: &pb::HttpProvider, from: &HeaderMap) -> HeaderMap {
    let patterns = &settings.headers_to_downstream_on_deny;
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

/// Whether a header's name is one of those. Names have no case.
fn any(patterns: &[pb::StringMatch], name: &str) -> bool {
    use pb::string_match::Kind::{Exact, Prefix, Presence, Regex, Suffix};
    patterns.iter().any(|pattern| match &pattern.kind {
        Some(Exact(text)) => name.eq_ignore_ascii_case(text),
        Some(Prefix(text)) => name.starts_with(&text.to_ascii_lowercase()),
        Some(Suffix(text)) => name.ends_with(&text.to_ascii_lowercase()),
        Some(Presence(_)) => true,
        Some(Regex(_)) | None => false,
    })
}
