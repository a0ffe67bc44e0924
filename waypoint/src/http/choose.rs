//! From a rule to what the request is sent to, or to the answer that the rule
//! gives by itself.

use std::sync::Arc;

use ambit_route::{Answer, Choice, MatchedPath, Redirect, RedirectInput, Rule};
use ambit_upstream::Endpoint;
use http::StatusCode;

use super::head::Checked;
use super::reply::LocalReply;
use crate::config::{Config, Missing, Target, Upstream};
use crate::destination::Found;

/// Where a request goes.
pub(crate) struct Chosen<'c> {
    /// `None`: a workload's own address, of which no backend speaks.
    pub(crate) target: Option<Arc<Target>>,
    /// The destination of the rule, if it was one.
    pub(crate) backend: Option<&'c ambit_route::BackendRef>,
    /// Only this endpoint: the client dialled it.
    pub(crate) direct: Option<(Arc<Endpoint>, u16)>,
    /// What is spoken there, as far as was declared.
    pub(crate) upstream: Upstream,
}

/// Draws the destination.
///
/// # Errors
/// The answer where there is none, or where it is elsewhere.
pub(crate) fn choose<'c>(
    config: &Config,
    found: &Found<'c>,
    rule: Option<&'c Rule>,
    checked: &Checked,
    path: MatchedPath,
) -> Result<Chosen<'c>, LocalReply> {
    let (frontend, port, pod) = match found {
        Found::Workload { pod, port } => {
            return Ok(Chosen {
                target: None,
                backend: None,
                direct: Some((Arc::clone(&pod.endpoint), *port)),
                upstream: found.upstream(),
            });
        }
        Found::Service {
            frontend,
            port,
            pod,
        } => (frontend, port, pod),
    };
    let (key, number, subset, backend) = match rule.map(|rule| rule.choose(&mut rand::rng())) {
        None | Some(Choice::Frontend) => (&*frontend.key, port.number, "", None),
        Some(Choice::Refused { status, .. }) => return Err(LocalReply::no_cluster(status)),
        Some(Choice::Backend(backend)) => {
            if let Some(redirect) = &backend.redirect {
                return Err(redirected(redirect, found, checked, path));
            }
            let number = match backend.port {
                0 => port.number,
                number => number,
            };
            (&*backend.service, number, &*backend.subset, Some(backend))
        }
    };
    let missing = rule.map_or(StatusCode::SERVICE_UNAVAILABLE, |rule| {
        rule.semantics.missing_backend()
    });
    let target = config
        .service(key)
        .ok_or(Missing)
        .and_then(|service| service.target(number, subset))
        .map_err(|Missing| LocalReply::no_cluster(missing))?;
    // The pod that was dialled gets its own requests; where a route sends them
    // elsewhere, the pod has no say.
    let stays = *key == *frontend.key && number == port.number;
    let direct = pod.filter(|_| stays);
    Ok(Chosen {
        upstream: target.upstream,
        target: Some(Arc::clone(target)),
        backend,
        direct: direct.map(|(pod, port)| (Arc::clone(&pod.endpoint), port)),
    })
}

/// The answer that a rule gives by itself.
pub(crate) fn answered(
    answer: &Answer,
    found: &Found<'_>,
    checked: &Checked,
    path: MatchedPath,
) -> LocalReply {
    match answer {
        Answer::Redirect(redirect) => redirected(redirect, found, checked, path),
        Answer::Direct(direct) => {
            LocalReply::new(direct.status, direct.body.clone(), None, "direct_response")
        }
        Answer::Invalid(invalid) => LocalReply::no_cluster(invalid.status),
    }
}

fn redirected(
    redirect: &Redirect,
    found: &Found<'_>,
    checked: &Checked,
    path: MatchedPath,
) -> LocalReply {
    let input = RedirectInput {
        scheme: "http",
        authority: checked.authority.to_str().unwrap_or_default(),
        port: found.service_port(),
        path: checked.target.path(),
        query: checked.target.query(),
    };
    let Some(location) = redirect.location(&input, path) else {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return LocalReply::new(status, "", None, "redirect_has_no_location");
    };
    let mut reply = LocalReply::new(redirect.status, "", None, "redirect");
    reply.headers.insert(http::header::LOCATION, location);
    reply
}
