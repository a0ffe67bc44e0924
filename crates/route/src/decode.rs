//! `ambit.waypoint.v1.Route` into the types of this crate. Expressions are
//! compiled here, with bounds; what can't be read names its field.

mod actions;
mod matches;

use std::sync::Arc;
use std::time::Duration;

use ambit_proto::waypoint as proto;
use http::StatusCode;

pub use actions::{decode_retry, session as decode_session};
pub use matches::decode_text;

use crate::model::{
    Answer, DirectResponse, Invalid, Origin, Parent, Route, RouteKind, Rule, Semantics,
};
use crate::sni::SniPattern;
use crate::text::InvalidPattern;

/// A route that can't be used: the resource is refused as a whole.
#[derive(Debug, thiserror::Error)]
#[error("{field}")]
pub struct InvalidRoute {
    /// Where, as a path into the message (`rules[2].matches[0].path`).
    pub field: String,
    /// What is wrong there.
    pub source: Wrong,
}

/// What is wrong with a field.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// An expression or a comparison.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// A header's name.
    #[error("{name:?} is no header name")]
    HeaderName {
        /// As written.
        name: Box<str>,
    },
    /// A header's value.
    #[error("the value of {name:?} can't be sent in a header")]
    HeaderValue {
        /// The header.
        name: Box<str>,
    },
    /// A status.
    #[error("{status} is no HTTP status")]
    Status {
        /// As written.
        status: u32,
    },
    /// A port.
    #[error("{port} is no port")]
    Port {
        /// As written.
        port: u32,
    },
    /// A CORS origin.
    #[error("{origin:?} is neither `*` nor scheme://host[:port]")]
    Origin {
        /// As written.
        origin: Box<str>,
    },
    /// An enum's number that this version doesn't know.
    #[error("{number} is unknown")]
    Unknown {
        /// The number.
        number: i32,
    },
    /// Something that must be there.
    #[error("nothing is set")]
    Nothing,
    /// Conditions in conditions.
    #[error("conditions are nested more than {most} deep")]
    Nested {
        /// The bound.
        most: u32,
    },
    /// More than there may be.
    #[error("{count}; the most is {most}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// The bound.
        most: usize,
    },
}

/// The result of reading one field.
pub(crate) type Decoded<T> = Result<T, InvalidRoute>;

/// Names the field of what is wrong.
pub(crate) trait In<T> {
    /// `field` is relative to the message at hand.
    fn within(self, field: &str) -> Decoded<T>;
}

impl<T, E: Into<Wrong>> In<T> for Result<T, E> {
    fn within(self, field: &str) -> Decoded<T> {
        self.map_err(|wrong| InvalidRoute {
            field: field.to_owned(),
            source: wrong.into(),
        })
    }
}

/// Puts the outer field before the inner one.
pub(crate) fn under<T>(outer: &str, result: Decoded<T>) -> Decoded<T> {
    result.map_err(|inner| InvalidRoute {
        field: format!("{outer}.{}", inner.field),
        source: inner.source,
    })
}

/// Reads every element of a list.
pub(crate) fn list<M, T>(
    field: &str,
    messages: &[M],
    mut read: impl FnMut(&M) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    // Exactly as much as is needed: there may be thousands of routes, and most lists have one element, where a vector
    // that grows by itself would have room for four.
    let mut all = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        all.push(read(message).map_err(|inner| InvalidRoute {
            field: format!("{field}[{at}].{}", inner.field),
            source: inner.source,
        })?);
    }
    Ok(all)
}

impl Route {
    /// Reads a resource named `name`.
    ///
    /// # Errors
    /// The first field that can't be used.
    pub fn decode(name: &str, message: &proto::Route) -> Result<Self, InvalidRoute> {
        let kind = match proto::RouteKind::try_from(message.kind) {
            Ok(proto::RouteKind::Http) => RouteKind::Http,
            Ok(proto::RouteKind::Grpc) => RouteKind::Grpc,
            Ok(proto::RouteKind::Tls) => RouteKind::Tls,
            Ok(proto::RouteKind::Tcp) => RouteKind::Tcp,
            Err(_) => return unknown(message.kind).within("kind"),
        };
        let semantics = match proto::Semantics::try_from(message.semantics) {
            Ok(proto::Semantics::GatewayApi) => Semantics::GatewayApi,
            Ok(proto::Semantics::VirtualService) => Semantics::VirtualService,
            Ok(proto::Semantics::ServiceProfile) => Semantics::ServiceProfile,
            Err(_) => return unknown(message.semantics).within("semantics"),
        };
        let origin = origin(message.origin.as_ref());
        let parents = list("parents", &message.parents, |parent| {
            Ok(Parent {
                frontend: parent.frontend.as_str().into(),
                port: port(parent.port).within("port")?,
            })
        })?;
        let rules = list("rules", &message.rules, |rule| {
            Rule::decode(rule, kind, semantics).map(Arc::new)
        })?;
        Ok(Self {
            name: name.into(),
            object: format!("{}/{}", origin.namespace, origin.name).into(),
            origin,
            parents,
            kind,
            semantics,
            created: message.created,
            consumer_namespace: (!message.consumer_namespace.is_empty())
                .then(|| message.consumer_namespace.as_str().into()),
            rules,
        })
    }
}

impl Rule {
    /// Reads a rule that isn't part of a route: a backend's default rule.
    ///
    /// # Errors
    /// The first field that can't be used.
    pub fn decode(
        message: &proto::Rule,
        kind: RouteKind,
        semantics: Semantics,
    ) -> Result<Self, InvalidRoute> {
        let matches = list("matches", &message.matches, |m| matches::decode(m, kind))?;
        let ops = actions::header_ops;
        let mut backends = list("backends", &message.backends, actions::backend)?;
        if let ([only], false) = (backends.as_mut_slice(), semantics == Semantics::GatewayApi) {
            // A single destination ignores its weight (3.2).
            only.weight = only.weight.max(1);
        }
        Ok(Self {
            name: message.name.as_str().into(),
            semantics,
            matches,
            request_headers: ops("request_headers", message.request_headers.as_ref())?,
            response_headers: ops("response_headers", message.response_headers.as_ref())?,
            cors: optional("cors", message.cors.as_ref(), actions::cors)?,
            fault: optional("fault", message.fault.as_ref(), actions::fault)?.map(|fault| *fault),
            answer: answer(message)?,
            rewrite: optional("rewrite", message.rewrite.as_ref(), actions::rewrite)?,
            mirrors: list("mirrors", &message.mirrors, actions::mirror)?,
            total_weight: backends.iter().map(|b| u64::from(b.weight)).sum(),
            backends,
            to_frontend: message.to_frontend,
            timeout: duration(message.timeout_ms),
            retry: optional("retry", message.retry.as_ref(), decode_retry)?,
            session: optional("session", message.session.as_ref(), actions::session)?,
            response_classes: list(
                "response_classes",
                &message.response_classes,
                matches::response_class,
            )?,
            idle_timeout: duration(message.idle_timeout_ms),
            response_timeout: duration(message.response_timeout_ms),
            sni: message
                .sni
                .iter()
                .map(|name| SniPattern::new(name))
                .collect(),
            route_headers_last: message.route_headers_last,
        })
    }
}

fn answer(message: &proto::Rule) -> Decoded<Option<Box<Answer>>> {
    let answer = if let Some(bad) = &message.invalid {
        Answer::Invalid(under("invalid", invalid(bad))?)
    } else if let Some(redirect) = &message.redirect {
        Answer::Redirect(under("redirect", actions::redirect(redirect))?)
    } else if let Some(direct) = &message.direct_response {
        let body = &direct.body;
        if body.len() > MAX_DIRECT_BODY {
            let wrong = Wrong::TooMany {
                count: body.len(),
                most: MAX_DIRECT_BODY,
            };
            return Err(wrong).within("direct_response.body");
        }
        Answer::Direct(DirectResponse {
            status: status(direct.status).within("direct_response.status")?,
            body: body.clone().into(),
        })
    } else {
        return Ok(None);
    };
    Ok(Some(Box::new(answer)))
}

/// Reads a message that needn't be there.
fn optional<M, T>(
    field: &str,
    message: Option<&M>,
    read: impl FnOnce(&M) -> Decoded<T>,
) -> Decoded<Option<Box<T>>> {
    message
        .map(|message| under(field, read(message)).map(Box::new))
        .transpose()
}

fn origin(message: Option<&proto::Origin>) -> Origin {
    message.map_or_else(Origin::default, |origin| Origin {
        kind: origin.kind.as_str().into(),
        namespace: origin.namespace.as_str().into(),
        name: origin.name.as_str().into(),
        generation: origin.generation,
    })
}

pub(crate) fn invalid(message: &proto::Invalid) -> Decoded<Invalid> {
    Ok(Invalid {
        reason: message.reason.as_str().into(),
        status: match message.status {
            0 => StatusCode::INTERNAL_SERVER_ERROR,
            code => status(code).within("status")?,
        },
    })
}

pub(crate) fn status(code: u32) -> Result<StatusCode, Wrong> {
    u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(Wrong::Status { status: code })
}

pub(crate) fn port(port: u32) -> Result<u16, Wrong> {
    u16::try_from(port).map_err(|_| Wrong::Port { port })
}

/// Absent and 0 are no bound.
pub(crate) fn duration(ms: Option<u64>) -> Option<Duration> {
    ms.filter(|ms| *ms > 0).map(Duration::from_millis)
}

fn unknown<T>(number: i32) -> Result<T, Wrong> {
    Err(Wrong::Unknown { number })
}

/// `waypoint-contract` 1.9.
const MAX_DIRECT_BODY: usize = 1 << 20;
