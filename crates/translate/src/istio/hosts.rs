//! Host names of Istio's networking kinds, and who may see an object.
//!
//! Owns the expansion of short names, what a host pattern covers, and `exportTo`
//! (`waypoint-contract` 3.1, 3.4).

use std::sync::Arc;

use crate::{ServiceInfo, World};

/// A host as it is compared: short names become the namespace's service, other
/// names are lower-cased as they are.
pub(crate) fn expand(host: &str, namespace: &str, world: &dyn World) -> String {
    let host = host.to_ascii_lowercase();
    if host.contains('.') || host.starts_with('*') {
        host
    } else {
        format!("{host}.{namespace}.svc.{}", world.mesh().cluster_domain)
    }
}

/// Whether a pattern, a name or `*.` and a suffix, covers a host.
pub(crate) fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            host.len() > suffix.len() && host.ends_with(suffix) || pattern == "*" || pattern == host
        }
        None => pattern == host,
    }
}

/// Whether `exportTo` shows an object of `owner` to `viewer`; a list that is
/// empty is the mesh's default, and that is everybody where it isn't set.
pub(crate) fn visible(export_to: &[String], owner: &str, viewer: &str, default: &[String]) -> bool {
    let list = if export_to.is_empty() {
        default
    } else {
        export_to
    };
    list.is_empty()
        || list.iter().any(|entry| match entry.as_str() {
            "*" => true,
            "." => owner == viewer,
            "~" => false,
            namespace => namespace == viewer,
        })
}

/// The services that a host pattern means to clients of a namespace.
pub(crate) fn services(pattern: &str, client: &str, world: &dyn World) -> Vec<Arc<ServiceInfo>> {
    let mut found: Vec<_> = world.host(pattern, client).into_iter().collect();
    if let Some(suffix) = pattern.strip_prefix("*.") {
        for service in world.hosts_under(suffix, client) {
            if !found.iter().any(|known| known.key() == service.key()) {
                found.push(service);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(covers("*.example.com", "a.example.com"));
        assert!(covers("*.example.com", "a.b.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(covers("*", "x"));
        assert!(covers("a.b", "a.b"));
        assert!(!covers("a.b", "c.a.b"));
    }

    #[test]
    fn exports() {
        let list = |entries: &[&str]| entries.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>();
        assert!(visible(&[], "a", "b", &[]));
        assert!(!visible(&[], "a", "b", &list(&["."])));
        assert!(visible(&list(&["."]), "a", "a", &[]));
        assert!(visible(&list(&["b"]), "a", "b", &[]));
        assert!(!visible(&list(&["~"]), "a", "a", &[]));
        assert!(visible(&list(&["*"]), "a", "z", &list(&["."])));
    }
}
