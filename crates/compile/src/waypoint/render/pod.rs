//! The pod of a waypoint: one container without privileges.

use ambit_kube::core::IntOrString;
use ambit_kube::k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, HTTPGetAction, ObjectFieldSelector, PodSpec, Probe, ProjectedVolumeSource,
    ResourceFieldSelector, ResourceRequirements, SeccompProfile, SecurityContext,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use ambit_kube::k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::deployment::Plan;

pub(super) fn spec(plan: &Plan<'_>) -> PodSpec {
    PodSpec {
        service_account_name: Some(plan.account.clone()),
        termination_grace_period_seconds: Some(GRACE),
        containers: vec![container(plan)],
        volumes: Some(volumes()),
        ..PodSpec::default()
    }
}

fn container(plan: &Plan<'_>) -> Container {
    let annotations = plan.gateway.metadata.annotations.as_ref();
    let image = annotations.and_then(|annotations| annotations.get(IMAGE));
    Container {
        name: "istio-proxy".to_owned(),
        image: Some(image.map_or(&*plan.image, String::as_str).to_owned()),
        args: Some(vec!["proxy".to_owned(), "waypoint".to_owned()]),
        env: Some(environment(plan)),
        ports: Some(vec![port("metrics", 15020), port("status-port", 15021)]),
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            initial_delay_seconds: Some(1),
            failure_threshold: Some(30),
            ..ready()
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(15),
            timeout_seconds: Some(1),
            failure_threshold: Some(4),
            ..ready()
        }),
        resources: Some(resources()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_group: Some(1337),
            run_as_non_root: Some(true),
            run_as_user: Some(1337),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            mount("istiod-ca-cert", "/var/run/secrets/istio"),
            mount("istio-token", "/var/run/secrets/tokens"),
            // The root file system can't be written to.
            VolumeMount {
                read_only: None,
                ..mount("ambit-run", "/var/run/ambit")
            },
        ]),
        ..Container::default()
    }
}

fn environment(plan: &Plan<'_>) -> Vec<EnvVar> {
    let control_plane = format!(
        "https://{}.{}.svc:15012",
        plan.istiod(),
        plan.system_namespace
    );
    let grace = GRACE.to_string();
    let fields = [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("INSTANCE_IP", "status.podIP"),
        ("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ("NODE_NAME", "spec.nodeName"),
    ];
    let texts = [
        ("CA_ADDRESS", &*control_plane),
        ("XDS_ADDRESS", &*control_plane),
        ("TRUST_DOMAIN", &*plan.trust_domain),
        ("CLUSTER_ID", &*plan.cluster_id),
        ("CLUSTER_DOMAIN", &*plan.cluster_domain),
        ("NETWORK", &*plan.network),
        ("XDS_ROOT_CA", "/var/run/secrets/istio/root-cert.pem"),
        ("CA_ROOT_CA", "/var/run/secrets/istio/root-cert.pem"),
        ("AUTH_TOKEN", "/var/run/secrets/tokens/istio-token"),
        ("AMBIT_TAP_TOKEN_FILE", "/var/run/ambit/tap-token"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", &*grace),
    ];
    let fields = fields.into_iter().map(|(name, path)| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
    let texts = texts.into_iter().filter(|(_, value)| !value.is_empty());
    let texts = texts.map(|(name, value)| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    });
    let limit = EnvVar {
        name: "ISTIO_CPU_LIMIT".to_owned(),
        value_from: Some(EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector {
                resource: "limits.cpu".to_owned(),
                ..ResourceFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    fields.chain(texts).chain([limit]).collect()
}

fn volumes() -> Vec<Volume> {
    vec![
        Volume {
            name: "ambit-run".to_owned(),
            // A token: on no disk.
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity("1Mi".to_owned())),
            }),
            ..Volume::default()
        },
        Volume {
            name: "istiod-ca-cert".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: "istio-ca-root-cert".to_owned(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "istio-token".to_owned(),
            projected: Some(ProjectedVolumeSource {
                sources: Some(vec![VolumeProjection {
                    service_account_token: Some(ServiceAccountTokenProjection {
                        audience: Some("istio-ca".to_owned()),
                        expiration_seconds: Some(43_200),
                        path: "istio-token".to_owned(),
                    }),
                    ..VolumeProjection::default()
                }]),
                ..ProjectedVolumeSource::default()
            }),
            ..Volume::default()
        },
    ]
}

fn resources() -> ResourceRequirements {
    let of = |cpu: &str, memory: &str| {
        [("cpu", cpu), ("memory", memory)]
            .map(|(key, value)| (key.to_owned(), Quantity(value.to_owned())))
            .into()
    };
    ResourceRequirements {
        requests: Some(of("100m", "128Mi")),
        limits: Some(of("2", "1Gi")),
        ..ResourceRequirements::default()
    }
}

fn ready() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/healthz/ready".to_owned()),
            port: IntOrString::Int(15021),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// Which image runs, as an annotation of the Gateway.
/// Seconds that open work has at the end.
const GRACE: i64 = 30;
const IMAGE: &str = "ambit.mesh/waypoint-image";
