//! Which fields a kind has, from its JSON schema; asked only when something is wrong.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use super::path::{FieldPath, Step};
use crate::core::{EndpointSlice, Namespace, Node, ObjectMeta, Pod, Service, ServiceAccount};
use crate::data::ReportedShape;
use crate::gateway::{
    BackendTlsPolicySpec, GatewayClassSpec, GatewaySpec, GrpcRouteSpec, HttpRouteSpec,
    ReferenceGrantSpec, TcpRouteSpec, TlsRouteSpec, XBackendTrafficPolicySpec,
};
use crate::{
    AuthorizationPolicySpec, ConfigMap, DestinationRuleSpec, HttpLocalRateLimitPolicySpec,
    HttpRouteGroupSpec, IstioStatus, Kind, LinkerdServerSpec, LocalRateLimitSpec,
    PeerAuthenticationSpec, RequestAuthenticationSpec, Secret, ServiceEntrySpec,
    ServiceEntryStatus, ServiceProfileSpec, TelemetrySpec, TrafficSplitSpec, VirtualServiceSpec,
    WorkloadEntrySpec,
};

/// The schema of a kind, for questions about field names.
pub(super) struct Fields {
    root: Value,
}

impl Fields {
    /// Of a kind; nothing is known of `MeshConfig`.
    pub(super) fn of(kind: Kind) -> Self {
        let root = match kind {
            Kind::MeshConfig => Value::Null,
            Kind::Namespace => schema::<Namespace>(),
            Kind::Node => schema::<Node>(),
            Kind::ServiceAccount => schema::<ServiceAccount>(),
            Kind::Pod => schema::<Pod>(),
            Kind::Service => schema::<Service>(),
            Kind::EndpointSlice => schema::<EndpointSlice>(),
            Kind::ServiceEntry => custom::<ServiceEntrySpec, ServiceEntryStatus>(),
            Kind::WorkloadEntry => custom::<WorkloadEntrySpec, IstioStatus>(),
            Kind::AuthorizationPolicy => custom::<AuthorizationPolicySpec, IstioStatus>(),
            Kind::PeerAuthentication => custom::<PeerAuthenticationSpec, IstioStatus>(),
            Kind::ConfigMap => schema::<ConfigMap>(),
            Kind::Secret => schema::<Secret>(),
            Kind::RequestAuthentication => custom::<RequestAuthenticationSpec, IstioStatus>(),
            Kind::GatewayClass => custom::<GatewayClassSpec, IstioStatus>(),
            Kind::Gateway => custom::<GatewaySpec, IstioStatus>(),
            Kind::ReferenceGrant => custom::<ReferenceGrantSpec, IstioStatus>(),
            Kind::BackendTlsPolicy => custom::<BackendTlsPolicySpec, IstioStatus>(),
            Kind::XBackendTrafficPolicy => custom::<XBackendTrafficPolicySpec, IstioStatus>(),
            Kind::HttpRoute => custom::<HttpRouteSpec, IstioStatus>(),
            Kind::GrpcRoute => custom::<GrpcRouteSpec, IstioStatus>(),
            Kind::TcpRoute => custom::<TcpRouteSpec, IstioStatus>(),
            Kind::TlsRoute => custom::<TlsRouteSpec, IstioStatus>(),
            Kind::VirtualService => custom::<VirtualServiceSpec, IstioStatus>(),
            Kind::DestinationRule => custom::<DestinationRuleSpec, IstioStatus>(),
            Kind::Telemetry => custom::<TelemetrySpec, IstioStatus>(),
            Kind::LocalRateLimit => custom::<LocalRateLimitSpec, IstioStatus>(),
            Kind::ServiceProfile => custom::<ServiceProfileSpec, IstioStatus>(),
            Kind::LinkerdServer => custom::<LinkerdServerSpec, IstioStatus>(),
            Kind::HttpLocalRateLimitPolicy => custom::<HttpLocalRateLimitPolicySpec, IstioStatus>(),
            Kind::TrafficSplit => custom::<TrafficSplitSpec, IstioStatus>(),
            Kind::HttpRouteGroup => custom::<HttpRouteGroupSpec, IstioStatus>(),
            _ => schema::<ReportedShape>(),
        };
        Self { root }
    }

    /// The names of the fields that the object at `path` can have.
    pub(super) fn at(&self, path: &FieldPath) -> Vec<&str> {
        let mut schema = &self.root;
        for step in &path.0 {
            let next = match step {
                Step::Key(key) => self.property(schema, key),
                Step::Index(_) => self.resolve(schema).get("items"),
            };
            let Some(next) = next else { return Vec::new() };
            schema = next;
        }
        let properties = self
            .resolve(schema)
            .get("properties")
            .and_then(Value::as_object);
        properties
            .map(|map| map.keys().map(String::as_str).collect())
            .unwrap_or_default()
    }

    /// Where else in the kind a field of that name belongs, written without indexes; the shallowest place.
    pub(super) fn home_of(&self, name: &str) -> Option<String> {
        let mut level = vec![(String::new(), &self.root)];
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for (at, schema) in level {
                let mut schema = self.resolve(schema);
                while let Some(items) = schema.get("items") {
                    schema = self.resolve(items);
                }
                let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
                    continue;
                };
                if properties.contains_key(name) && !at.is_empty() {
                    return Some(at);
                }
                next.extend(properties.iter().filter(|(key, _)| *key != "status").map(
                    |(key, value)| {
                        (
                            if at.is_empty() {
                                key.clone()
                            } else {
                                format!("{at}.{key}")
                            },
                            value,
                        )
                    },
                ));
            }
            level = next;
        }
        None
    }

    fn property<'s>(&'s self, schema: &'s Value, key: &str) -> Option<&'s Value> {
        let schema = self.resolve(schema);
        schema
            .get("properties")
            .and_then(|properties| properties.get(key))
            .or_else(|| schema.get("additionalProperties"))
    }

    /// Follows references and the wrappers that optional values get.
    fn resolve<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let mut schema = schema;
        for _ in 0..MAX_DEPTH {
            let inner = if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
                reference
                    .strip_prefix('#')
                    .and_then(|pointer| self.root.pointer(pointer))
            } else {
                ["anyOf", "allOf", "oneOf"].iter().find_map(|wrapper| {
                    let choices = schema.get(wrapper)?.as_array()?;
                    choices.iter().find(|choice| {
                        choice.get("$ref").is_some() || choice.get("properties").is_some()
                    })
                })
            };
            match inner {
                Some(inner) => schema = inner,
                None => break,
            }
        }
        schema
    }
}

fn schema<T: JsonSchema>() -> Value {
    SchemaGenerator::default()
        .into_root_schema_for::<T>()
        .to_value()
}

/// The schema of a custom resource: `kube` leaves the metadata out of it.
fn custom<Spec: JsonSchema, Status: JsonSchema>() -> Value {
    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "only its schema is used")]
    #[serde(rename_all = "camelCase")]
    struct Custom<Spec, Status> {
        api_version: String,
        kind: String,
        metadata: ObjectMeta,
        spec: Spec,
        status: Status,
    }
    schema::<Custom<Spec, Status>>()
}

/// Deeper than any object nests, and an end to recursive schemas.
const MAX_DEPTH: usize = 12;

#[cfg(test)]
mod tests {
    use super::{FieldPath, Fields};
    use crate::Kind;

    #[test]
    fn fields_are_found_through_lists_and_references() {
        let fields = Fields::of(Kind::AuthorizationPolicy);
        let source = FieldPath::of(&["spec", "rules"])
            .index(0)
            .key("from")
            .index(3)
            .key("source");
        assert!(fields.at(&source).contains(&"notPrincipals"));
        assert!(fields.at(&FieldPath::default()).contains(&"metadata"));
        assert!(fields.at(&FieldPath::of(&["metadata"])).contains(&"labels"));
        assert_eq!(
            fields.home_of("principals").as_deref(),
            Some("spec.rules.from.source")
        );
        let pod = Fields::of(Kind::Pod);
        let container = FieldPath::of(&["spec", "containers"]).index(0);
        assert!(pod.at(&container).contains(&"imagePullPolicy"));
    }
}
