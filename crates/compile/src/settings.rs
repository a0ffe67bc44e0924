//! What doesn't change while a compiler lives.

use std::sync::Arc;

/// Facts about the cluster that no object tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// First part of every workload's uid.
    pub cluster_id: Arc<str>,
    /// Suffix of Kubernetes host names.
    pub cluster_domain: Arc<str>,
    /// Where the control plane lives: its label names the cluster's network, and it is the root namespace unless
    /// the mesh configuration names another.
    pub system_namespace: Arc<str>,
    /// Objects of another revision (`istio.io/rev`) don't exist for us; empty takes all.
    pub revision: Arc<str>,
    /// The trust domain, when it is fixed from outside (the certificate authority's); otherwise the mesh
    /// configuration says, or the default holds.
    pub trust_domain: Option<Arc<str>>,
    /// Send policies that are marked as dry runs (`AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY`).
    pub dry_run_policies: bool,
    /// What waypoints run, unless their Gateway says otherwise (`ambit.mesh/waypoint-image`).
    pub waypoint_image: Arc<str>,
    /// A service whose waypoint can't serve is reached without it, as with upstream (ADR 0011); off by default. The
    /// mesh configuration's `defaultConfig.proxyMetadata.AMBIT_WAYPOINT_BYPASS`, `allow` or `deny`, wins.
    pub waypoint_bypass: bool,
    /// The source takes redirection from pods' annotations, so that one isn't doubtful.
    pub redirection_annotations: bool,
}

impl Default for Settings {
    /// Upstream's defaults (`control-plane-contract` 8.5, 8.6).
    fn default() -> Self {
        Self {
            cluster_id: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            system_namespace: "istio-system".into(),
            revision: "default".into(),
            trust_domain: None,
            dry_run_policies: false,
            waypoint_image: "ambit/waypoint:dev".into(),
            waypoint_bypass: false,
            redirection_annotations: false,
        }
    }
}
