//! Where objects of a kind are found: groups, versions and paths.

use ambit_kube::{Kind, ObjectKey};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};

/// The resource of a kind in one of its versions.
pub(crate) fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// The objects of a kind in one of its versions, in one namespace; all of them without one.
pub(crate) fn api(client: &Client, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
    if namespace.is_empty() {
        Api::all_with(client.clone(), resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, resource)
    }
}

/// An object of a kind that is read, in one of the versions that are read.
pub(crate) fn api_of(client: &Client, key: &ObjectKey, version: &str) -> Api<DynamicObject> {
    let resource = resource(key.kind.group(), version, key.kind.as_str());
    api(client, &resource, &key.namespace)
}

/// How a kind's objects are written: `group/version`, or the version alone in the core group.
pub(crate) fn api_version(kind: Kind, version: &str) -> String {
    match kind.group() {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}
