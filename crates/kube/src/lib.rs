//! Kubernetes and Istio object types and the manifest reader; no client.
//!
//! Owns the shapes of the objects that Ambit reads, their keys and origins, and the reader that turns the text of
//! a manifest file, or an API server's JSON, into them. It judges a document's *form* only (does it parse, are its fields known and of the
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

mod api;
mod change;
mod data;
mod istio;
mod key;
mod linkerd;
mod local_rate_limit;
mod mesh_config;
mod object;
mod origin;
mod problem;
mod providers;
mod reader;
mod scalar;
mod smi;

pub use api::{NotAnObject, read_object, read_settings};
pub use change::{Change, Redirection};
pub use data::{ConfigMap, Reported, Secret};
pub use istio::*;
pub use k8s_openapi;
pub use key::{Kind, ObjectKey};
pub use linkerd::*;
pub use local_rate_limit::*;
pub use mesh_config::*;
pub use object::{BrokenPolicy, Object, Reach};
pub use origin::{FieldLines, Located, Origin};
pub use problem::{Code, Problem, Severity};
pub use providers::*;
pub use reader::{Loaded, Unread, read_manifest, read_yaml};
pub use scalar::{Percent, ProtoDuration, StringMatch, Weight};
pub use smi::*;

/// The core kinds, from `k8s-openapi`.
pub mod core {
    pub use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
    pub use k8s_openapi::api::discovery::v1::EndpointSlice;
    pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
    pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
}

/// Gateway API's kinds, from `gateway-api`: the experimental channel, whose types have the fields of the standard one
/// too.
pub mod gateway {
    pub use gateway_api::Duration;
    pub use gateway_api::backendtlspolicies::{self, BackendTlsPolicy, BackendTlsPolicySpec};
    pub use gateway_api::experimental::gatewayclasses::{self, GatewayClass, GatewayClassSpec};
    pub use gateway_api::experimental::gateways::{self, Gateway, GatewaySpec};
    pub use gateway_api::experimental::grpcroutes::{self, GrpcRoute, GrpcRouteSpec};
    pub use gateway_api::experimental::httproutes::{self, HttpRoute, HttpRouteSpec};
    pub use gateway_api::experimental::referencegrants::{
        self, ReferenceGrant, ReferenceGrantSpec,
    };
    pub use gateway_api::experimental::tcproutes::{self, TcpRoute, TcpRouteSpec};
    pub use gateway_api::experimental::tlsroutes::{self, TlsRoute, TlsRouteSpec};
    pub use gateway_api::experimental::xbackendtrafficpolicies::{
        self, XBackendTrafficPolicy, XBackendTrafficPolicySpec,
    };
}
