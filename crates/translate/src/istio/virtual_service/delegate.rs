//! Delegates: rules that another VirtualService holds (3.1, 3.2).
//!
//! Owns how a root's rule and a delegate's become one: conditions of both, the
//! delegate's value where both set a field, maps merged.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube::{
    Kind, Object, ObjectKey, StringMatch, VirtualService, VsDelegate, VsHeaderOperations,
    VsHeaders, VsHttpMatch, VsHttpRoute,
};

use super::Scope;
use crate::istio::say::{Fault, Say};
use crate::istio::{codes, hosts, mesh};

/// An HTTP rule, with where it was written.
pub(super) struct Piece {
    pub(super) route: VsHttpRoute,
    /// `spec.http[2]`, or `spec.http[2].delegate.http[0]`.
    pub(super) path: String,
    /// Why its requests are refused; already said.
    pub(super) refused: Option<String>,
}

/// All rules, delegates put in their places.
pub(super) fn pieces(say: &mut Say, http: &[VsHttpRoute], scope: &Scope<'_>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (at, route) in http.iter().enumerate() {
        let path = format!("spec.http[{at}]");
        match &route.delegate {
            None => pieces.push(Piece {
                route: route.clone(),
                path,
                refused: None,
            }),
            Some(to) => delegated(say, (route, to), &path, scope, &mut pieces),
        }
    }
    pieces
}

fn delegated(
    say: &mut Say,
    (root, to): (&VsHttpRoute, &VsDelegate),
    path: &str,
    scope: &Scope<'_>,
    pieces: &mut Vec<Piece>,
) {
    let field = format!("{path}.delegate");
    let Some((delegate, namespace)) = find(say, root, to, &field, scope) else {
        // Its share of requests must not reach what comes next.
        pieces.push(Piece {
            route: VsHttpRoute {
                name: root.name.clone(),
                matches: root.matches.clone(),
                ..VsHttpRoute::default()
            },
            path: field,
            refused: Some(format!("no delegate {}", to.name)),
        });
        return;
    };
    let mut root = root.clone();
    complete(&mut root, scope.namespace, scope);
    for (at, leaf) in delegate.spec.http.iter().enumerate() {
        let path = format!("{field}.http[{at}]");
        let nested = leaf.delegate.is_some();
        if nested {
            bad(
                say,
                &path,
                &to.name,
                "a delegate can't delegate further, so requests of this rule get 503",
                "name that VirtualService in the root",
            );
        }
        let mut leaf = leaf.clone();
        complete(&mut leaf, &namespace, scope);
        match merged_matches(&root.matches, &leaf.matches) {
            Some(matches) => pieces.push(Piece {
                route: VsHttpRoute {
                    matches,
                    ..merged(&root, leaf)
                },
                path,
                refused: nested.then(|| "a delegate delegates".to_owned()),
            }),
            None => say.warning(
                codes::BAD_DELEGATE,
                Fault {
                    field: &path,
                    value: leaf.name.as_deref().unwrap_or_default(),
                    message: "its matches aren't within those of the root's rule, so it isn't used",
                    remedy: "match a part of what the root's rule matches",
                },
            ),
        }
    }
}

fn bad(say: &mut Say, field: &str, value: &str, message: &str, remedy: &str) {
    say.error(
        codes::BAD_DELEGATE,
        Fault {
            field,
            value,
            message,
            remedy,
        },
    );
}

fn find(
    say: &mut Say,
    root: &VsHttpRoute,
    to: &VsDelegate,
    field: &str,
    scope: &Scope<'_>,
) -> Option<(Arc<VirtualService>, String)> {
    if !root.route.is_empty() || root.redirect.is_some() || root.direct_response.is_some() {
        bad(
            say,
            field,
            &to.name,
            "delegate excludes route, redirect and directResponse",
            "keep one of them",
        );
        return None;
    }
    let namespace = to
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| scope.namespace.to_owned());
    let key = ObjectKey::new(Kind::VirtualService, &*namespace, &*to.name);
    let found = scope.world.object(&key).map(|located| located.object);
    let Some(Object::VirtualService(found)) = found else {
        let name = format!("{namespace}/{}", to.name);
        bad(
            say,
            field,
            &name,
            "there is no such VirtualService, so requests of this rule get 503",
            "create it, or correct name and namespace",
        );
        return None;
    };
    if !found.spec.hosts.is_empty() {
        bad(
            say,
            field,
            &to.name,
            "a VirtualService with hosts can't be a delegate",
            "remove its hosts",
        );
        return None;
    }
    let default = mesh::virtual_service_export(scope.world.mesh());
    if !hosts::visible(&found.spec.export_to, &namespace, scope.namespace, default) {
        bad(
            say,
            field,
            &to.name,
            "the delegate isn't exported to this namespace",
            "add the namespace to its exportTo",
        );
        return None;
    }
    if !found.spec.tls.is_empty() || !found.spec.tcp.is_empty() {
        bad(
            say,
            field,
            &to.name,
            "tls and tcp rules of a delegate aren't used",
            "put them into the root",
        );
    }
    Some((found, namespace))
}

/// Short host names are of the namespace of the object that wrote them.
fn complete(route: &mut VsHttpRoute, namespace: &str, scope: &Scope<'_>) {
    let targets = route
        .route
        .iter_mut()
        .map(|entry| &mut entry.destination)
        .chain(route.mirror.as_mut())
        .chain(
            route
                .mirrors
                .iter_mut()
                .map(|mirror| &mut mirror.destination),
        );
    for target in targets {
        target.host = hosts::expand(&target.host, namespace, scope.world);
    }
}

/// The delegate's rule with what only the root sets.
fn merged(root: &VsHttpRoute, leaf: VsHttpRoute) -> VsHttpRoute {
    let name = match (&root.name, &leaf.name) {
        (Some(root), Some(leaf)) => Some(format!("{root}-{leaf}")),
        (root, leaf) => leaf.clone().or_else(|| root.clone()),
    };
    let own_mirror = leaf.mirror.is_some() || !leaf.mirrors.is_empty();
    let from_root = |set: bool| !own_mirror && set;
    VsHttpRoute {
        name,
        rewrite: leaf.rewrite.or_else(|| root.rewrite.clone()),
        timeout: leaf.timeout.or(root.timeout),
        retries: leaf.retries.or_else(|| root.retries.clone()),
        fault: leaf.fault.or_else(|| root.fault.clone()),
        mirror: leaf
            .mirror
            .or_else(|| root.mirror.clone().filter(|_| from_root(true))),
        mirrors: if from_root(leaf.mirrors.is_empty()) {
            root.mirrors.clone()
        } else {
            leaf.mirrors
        },
        mirror_percent: leaf
            .mirror_percent
            .or(root.mirror_percent.filter(|_| !own_mirror)),
        mirror_percentage: leaf
            .mirror_percentage
            .or(root.mirror_percentage.filter(|_| !own_mirror)),
        cors_policy: leaf.cors_policy.or_else(|| root.cors_policy.clone()),
        headers: merged_headers(root.headers.as_ref(), leaf.headers),
        ..leaf
    }
}

fn merged_headers(root: Option<&VsHeaders>, leaf: Option<VsHeaders>) -> Option<VsHeaders> {
    let (Some(root), Some(leaf)) = (root, &leaf) else {
        return leaf.or_else(|| root.cloned());
    };
    let operations = |root: &Option<VsHeaderOperations>, leaf: &Option<VsHeaderOperations>| {
        let (Some(root), Some(leaf)) = (root, leaf) else {
            return leaf.clone().or_else(|| root.clone());
        };
        let mut merged = root.clone();
        merged.set.extend(leaf.set.clone());
        merged.add.extend(leaf.add.clone());
        merged.remove.extend(leaf.remove.clone());
        Some(merged)
    };
    Some(VsHeaders {
        request: operations(&root.request, &leaf.request),
        response: operations(&root.response, &leaf.response),
    })
}

/// Every pair that can be merged; none where there are pairs and none can.
fn merged_matches(root: &[VsHttpMatch], leaf: &[VsHttpMatch]) -> Option<Vec<VsHttpMatch>> {
    if root.is_empty() || leaf.is_empty() {
        return Some([root, leaf].concat());
    }
    let merged: Vec<_> = root
        .iter()
        .flat_map(|root| leaf.iter().filter_map(|leaf| merged_match(root, leaf)))
        .collect();
    (!merged.is_empty()).then_some(merged)
}

/// Both conditions at once; none where the leaf's isn't within the root's.
fn merged_match(root: &VsHttpMatch, leaf: &VsHttpMatch) -> Option<VsHttpMatch> {
    let name = match (&root.name, &leaf.name) {
        (Some(root), Some(leaf)) => Some(format!("{root}-{leaf}")),
        (root, leaf) => leaf.clone().or_else(|| root.clone()),
    };
    Some(VsHttpMatch {
        name,
        uri: narrowed(root.uri.as_ref(), leaf.uri.as_ref())?,
        scheme: narrowed(root.scheme.as_ref(), leaf.scheme.as_ref())?,
        method: narrowed(root.method.as_ref(), leaf.method.as_ref())?,
        authority: narrowed(root.authority.as_ref(), leaf.authority.as_ref())?,
        headers: narrowed_map(&root.headers, &leaf.headers)?,
        without_headers: united(&root.without_headers, &leaf.without_headers)?,
        query_params: narrowed_map(&root.query_params, &leaf.query_params)?,
        ignore_uri_case: if leaf.uri.is_some() {
            leaf.ignore_uri_case
        } else {
            root.ignore_uri_case
        },
        port: same(root.port, leaf.port)?,
        source_labels: united(&root.source_labels, &leaf.source_labels)?,
        source_namespace: same(root.source_namespace.clone(), leaf.source_namespace.clone())?,
        gateways: if leaf.gateways.is_empty() {
            root.gateways.clone()
        } else {
            leaf.gateways.clone()
        },
        stat_prefix: leaf
            .stat_prefix
            .clone()
            .or_else(|| root.stat_prefix.clone()),
    })
}

/// One of both, or what both say; none where they differ.
fn same<T: PartialEq>(root: Option<T>, leaf: Option<T>) -> Option<Option<T>> {
    match (root, leaf) {
        (Some(root), Some(leaf)) => (root == leaf).then_some(Some(leaf)),
        (root, leaf) => Some(leaf.or(root)),
    }
}

fn narrowed(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> Option<Option<StringMatch>> {
    match (root, leaf) {
        (Some(root), Some(leaf)) => within(root, leaf).then(|| Some(leaf.clone())),
        (root, leaf) => Some(leaf.or(root).cloned()),
    }
}

/// Whether what the leaf matches, the root does. What isn't plain is taken as not so.
fn within(root: &StringMatch, leaf: &StringMatch) -> bool {
    if root == leaf || *root == StringMatch::default() {
        return true;
    }
    let narrower = leaf.exact.as_ref().or(leaf.prefix.as_ref());
    match (&root.prefix, narrower) {
        (Some(prefix), Some(text)) => text.starts_with(prefix.as_str()),
        _ => false,
    }
}

fn narrowed_map(
    root: &BTreeMap<String, StringMatch>,
    leaf: &BTreeMap<String, StringMatch>,
) -> Option<BTreeMap<String, StringMatch>> {
    let mut merged = root.clone();
    for (name, value) in leaf {
        let both = narrowed(root.get(name), Some(value))?;
        merged.extend(both.map(|value| (name.clone(), value)));
    }
    Some(merged)
}

/// The entries of both; none where they differ for a name.
fn united<T: Clone + PartialEq>(
    root: &BTreeMap<String, T>,
    leaf: &BTreeMap<String, T>,
) -> Option<BTreeMap<String, T>> {
    let differs = |(name, value): (&String, &T)| leaf.get(name).is_some_and(|other| other != value);
    if root.iter().any(differs) {
        return None;
    }
    let mut merged = root.clone();
    merged.extend(
        leaf.iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    Some(merged)
}
