//! Kubernetes and Istio object types and the manifest reader; no client.
//!
//! Owns the shapes of the objects that Ambit reads, their keys and origins, and the reader that turns the text of
//! a manifest file into them. It judges a document's *form* only (does it parse, are its fields known and of the
//! right type); what an object means, and whether it can work, is the compiler's business. It opens no file and
//! no connection.
//!
//! ```
//! let loaded = ambit_kube::read_manifest(
//!     "shop.yaml",
//!     "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
//! );
//! assert!(loaded.problems.is_empty());
//! assert_eq!(loaded.objects[0].object.key().to_string(), "Namespace shop");
//! ```

mod change;
mod istio;
mod key;
mod mesh_config;
mod object;
mod origin;
mod problem;
mod reader;

pub use change::{Change, Redirection};
pub use istio::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, Condition, ExtensionProviderRef, From,
    IstioCondition, IstioStatus, Location, MutualTls, MutualTlsMode, Operation, PeerAuthentication,
    PeerAuthenticationSpec, PolicyTargetReference, Resolution, Rule, SelectorLabels, ServiceEntry,
    ServiceEntryAddress, ServiceEntrySpec, ServiceEntryStatus, ServicePort, Source, To,
    WorkloadEntry, WorkloadEntrySpec, WorkloadSelector,
};
pub use k8s_openapi;
pub use key::{Kind, ObjectKey};
pub use mesh_config::{
    CertificateData, MeshConfig, MeshConfigSpec, OutboundTrafficPolicy, ScopeConfig,
    ServiceEntryVisibility, VisibilityPolicy, VisibilityRule,
};
pub use object::{BrokenPolicy, Object, Reach};
pub use origin::{FieldLines, Located, Origin};
pub use problem::{Code, Problem, Severity};
pub use reader::{Loaded, Unread, read_manifest};

/// The core kinds, from `k8s-openapi`.
pub mod core {
    pub use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
    pub use k8s_openapi::api::discovery::v1::EndpointSlice;
    pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
}
