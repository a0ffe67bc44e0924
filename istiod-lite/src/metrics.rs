//! What the control plane counts (`control-plane-contract` 11).
//!
//! Upstream's counters have no `_total` in their names, and dashboards use
//! those names; the encoder appends it to counters, so they are gauges that
//! only grow.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ambit_kube::Kind;
use ambit_telemetry::Metrics;
use ambit_xds::Published;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::names::Names;

mod duties;
mod streams;

use streams::type_label;

type Grows = Gauge;
type Seconds = Gauge<f64, AtomicU64>;

/// The labels of a family with one of them.
macro_rules! label {
    ($type:ident, $field:ident) => {
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $type {
            $field: &'static str,
        }
    };
}
label!(TypeLabel, r#type);
label!(ReasonLabel, reason);
label!(ErrorLabel, error);

/// Of a family that has one member, or none.
type NoLabel = Vec<(String, String)>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabel {
    r#type: &'static str,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabel {
    service: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    group: String,
    version: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabel {
    group: String,
    version: String,
    resource: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabel {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PatchFailureLabel {
    name: String,
    reason: &'static str,
}

/// One method an event.
pub(crate) struct ControlMetrics {
    started: Instant,
    uptime: Seconds,
    streams: Family<VersionLabel, Gauge>,
    pushes: Family<TypeLabel, Grows>,
    push_bytes: Family<TypeLabel, Histogram>,
    rejects: Family<TypeLabel, Grows>,
    rejected: Family<RejectedLabel, Grows>,
    rejected_names: Names,
    versions: Names,
    stale_nonces: Family<TypeLabel, Grows>,
    write_timeouts: Grows,
    behind: Grows,
    convergence: Histogram,
    debounce: Histogram,
    compile: Histogram,
    triggers: Family<TypeLabel, Grows>,
    updates: Family<TypeLabel, Grows>,
    services: Gauge,
    resources: Family<TypeLabel, Gauge>,
    redirected: Gauge,
    csrs: Grows,
    issued: Grows,
    ca_unauthenticated: Grows,
    csr_errors: Grows,
    sign_errors: Family<ErrorLabel, Grows>,
    root_expiry: Seconds,
    root_expiry_in: Seconds,
    chain_expiry: Family<NoLabel, Seconds>,
    chain_expiry_in: Family<NoLabel, Seconds>,
    id_errors: Grows,
    impersonations: Family<ReasonLabel, Grows>,
    unauthenticated: Family<FailureLabel, Grows>,
    agents_refused: Family<ReasonLabel, Grows>,
    pods_refused: Grows,
    handshakes_failed: Family<ReasonLabel, Grows>,
    state_errors: Grows,
    root_maps_written: Grows,
    root_maps_failed: Grows,
    validated: Family<ResourceLabel, Grows>,
    refused: Family<RefusedLabel, Grows>,
    resources_validated: Names,
    validation_errors: Family<StatusLabel, Grows>,
    config_updates: Grows,
    config_update_errors: Family<ReasonLabel, Grows>,
    patches: Family<NameLabel, Grows>,
    patch_retries: Family<NameLabel, Grows>,
    patch_failures: Family<PatchFailureLabel, Grows>,
}

impl ControlMetrics {
    /// Registers everything.
    pub(crate) fn register(metrics: &mut Metrics) -> Self {
        let this = Self::unregistered();
        metrics.register_build("pilot", env!("CARGO_PKG_VERSION"));
        this.register_discovery(metrics);
        this.register_certificates(metrics);
        this.register_own(metrics);
        this.register_webhook(metrics);
        this
    }

    fn unregistered() -> Self {
        let bytes = || Histogram::new([1e3, 1e4, 1e5, 1e6, 4e6, 1e7, 4e7]);
        let seconds = || Histogram::new([0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0, 10.0]);
        Self {
            started: Instant::now(),
            uptime: Seconds::default(),
            streams: Family::default(),
            pushes: Family::default(),
            push_bytes: Family::new_with_constructor(bytes),
            rejects: Family::default(),
            rejected: Family::default(),
            rejected_names: Names::default(),
            versions: Names::default(),
            stale_nonces: Family::default(),
            write_timeouts: Grows::default(),
            behind: Grows::default(),
            convergence: Histogram::new([0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0]),
            debounce: seconds(),
            compile: seconds(),
            triggers: Family::default(),
            updates: Family::default(),
            services: Gauge::default(),
            resources: Family::default(),
            redirected: Gauge::default(),
            csrs: Grows::default(),
            issued: Grows::default(),
            ca_unauthenticated: Grows::default(),
            csr_errors: Grows::default(),
            sign_errors: Family::default(),
            root_expiry: Seconds::default(),
            root_expiry_in: Seconds::default(),
            chain_expiry: Family::default(),
            chain_expiry_in: Family::default(),
            id_errors: Grows::default(),
            impersonations: Family::default(),
            unauthenticated: Family::default(),
            agents_refused: Family::default(),
            pods_refused: Grows::default(),
            handshakes_failed: Family::default(),
            state_errors: Grows::default(),
            root_maps_written: Grows::default(),
            root_maps_failed: Grows::default(),
            validated: Family::default(),
            refused: Family::default(),
            resources_validated: Names::default(),
            validation_errors: Family::default(),
            config_updates: Grows::default(),
            config_update_errors: Family::default(),
            patches: Family::default(),
            patch_retries: Family::default(),
            patch_failures: Family::default(),
        }
    }

    fn register_discovery(&self, to: &mut Metrics) {
        let version = VersionLabel {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let info = Family::<VersionLabel, Gauge>::default();
        info.get_or_create(&version).set(1);
        to.register("pilot_info", "Version of the control plane", info);
        to.register(
            "pilot_xds",
            "Streams by the node's version",
            self.streams.clone(),
        );
        to.register("pilot_xds_pushes", "Responses sent", self.pushes.clone());
        to.register(
            "pilot_xds_config_size_bytes",
            "Sizes of responses",
            self.push_bytes.clone(),
        );
        to.register(
            "pilot_total_xds_rejects",
            "Responses that nodes rejected",
            self.rejects.clone(),
        );
        to.register(
            "ambit_xds_rejected_resources",
            "Rejections by the resource that was at fault",
            self.rejected.clone(),
        );
        to.register(
            "pilot_xds_expired_nonce",
            "Answers with a stale nonce",
            self.stale_nonces.clone(),
        );
        to.register(
            "pilot_xds_write_timeout",
            "Clients that did not read",
            self.write_timeouts.clone(),
        );
        let help = "Time from a change to a node that has all of it";
        to.register(
            "pilot_proxy_convergence_time",
            help,
            self.convergence.clone(),
        );
        to.register(
            "pilot_debounce_time",
            "Time that changes were gathered for",
            self.debounce.clone(),
        );
        to.register(
            "pilot_push_triggers",
            "Publications by what caused them",
            self.triggers.clone(),
        );
        to.register(
            "pilot_inbound_updates",
            "Changes of objects",
            self.updates.clone(),
        );
        to.register("pilot_services", "Services", self.services.clone());
        to.register(
            "istiod_uptime_seconds",
            "Time since the start",
            self.uptime.clone(),
        );
    }

    fn register_certificates(&self, to: &mut Metrics) {
        to.register(
            "citadel_server_csr_count",
            "Certificate requests",
            self.csrs.clone(),
        );
        let name = "citadel_server_success_cert_issuance_count";
        to.register(name, "Certificates issued", self.issued.clone());
        let name = "citadel_server_authentication_failure_count";
        to.register(
            name,
            "Certificate callers refused",
            self.ca_unauthenticated.clone(),
        );
        let name = "citadel_server_csr_parsing_err_count";
        to.register(
            name,
            "Unacceptable certificate requests",
            self.csr_errors.clone(),
        );
        let name = "citadel_server_csr_sign_err_count";
        to.register(name, "Failures to sign", self.sign_errors.clone());
        let name = "citadel_server_id_extraction_err_count";
        let help = "Calls without a caller";
        to.register(name, help, self.id_errors.clone());
        let name = "citadel_server_root_cert_expiry_timestamp";
        let help = "End of the first root that ends";
        to.register(name, help, self.root_expiry.clone());
        let name = "citadel_server_root_cert_expiry_seconds";
        let help = "Time until the first root ends";
        to.register(name, help, self.root_expiry_in.clone());
        // Not there where a root signs itself.
        let name = "citadel_server_cert_chain_expiry_timestamp";
        let help = "End of the first certificate on the way up to the roots that ends";
        to.register(name, help, self.chain_expiry.clone());
        let name = "citadel_server_cert_chain_expiry_seconds";
        let help = "Time until it ends";
        to.register(name, help, self.chain_expiry_in.clone());
    }

    /// What upstream doesn't have.
    fn register_own(&self, to: &mut Metrics) {
        let name = "ambit_impersonations";
        to.register(
            name,
            "Certificates for pods, by outcome",
            self.impersonations.clone(),
        );
        let name = "ambit_authentication_failures";
        to.register(
            name,
            "Callers not authenticated",
            self.unauthenticated.clone(),
        );
        let name = "ambit_agents_refused";
        to.register(name, "Agents refused", self.agents_refused.clone());
        let name = "ambit_reported_pods_refused";
        to.register(
            name,
            "Reported pods that do not count",
            self.pods_refused.clone(),
        );
        let name = "ambit_redirected_pods";
        to.register(
            name,
            "Pods whose traffic is redirected",
            self.redirected.clone(),
        );
        let name = "ambit_handshake_failures";
        to.register(
            name,
            "TLS handshakes that failed",
            self.handshakes_failed.clone(),
        );
        let name = "ambit_streams_behind";
        to.register(
            name,
            "Streams ended for being too far behind",
            self.behind.clone(),
        );
        let name = "ambit_compile_seconds";
        to.register(
            name,
            "Time to compile a batch of changes",
            self.compile.clone(),
        );
        let name = "ambit_resources";
        to.register(name, "Resources served", self.resources.clone());
        let name = "ambit_root_configmaps_written";
        let help = "Root ConfigMaps made or corrected";
        to.register(name, help, self.root_maps_written.clone());
        let name = "ambit_root_configmap_errors";
        let help = "Root ConfigMaps not written, to be tried again";
        to.register(name, help, self.root_maps_failed.clone());
        let name = "ambit_state_write_errors";
        to.register(
            name,
            "Failures to write kept state",
            self.state_errors.clone(),
        );
    }

    /// Before each scrape: what depends on the clock.
    pub(crate) fn refresh(&self, roots_end: SystemTime, chain_ends: Option<SystemTime>) {
        self.uptime.set(self.started.elapsed().as_secs_f64());
        let since_epoch = |t: SystemTime| t.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = since_epoch(SystemTime::now()).as_secs_f64();
        let ends = since_epoch(roots_end).as_secs_f64();
        self.root_expiry.set(ends);
        self.root_expiry_in.set(ends - now);
        if let Some(ends) = chain_ends {
            let ends = since_epoch(ends).as_secs_f64();
            self.chain_expiry.get_or_create(&NoLabel::new()).set(ends);
            self.chain_expiry_in
                .get_or_create(&NoLabel::new())
                .set(ends - now);
        }
    }

    /// A call came without a caller.
    pub(crate) fn no_identity(&self) {
        self.id_errors.inc();
    }

    /// An object changed or went.
    pub(crate) fn update(&self, kind: Kind) {
        let r#type = match kind {
            Kind::Service => "svc",
            Kind::EndpointSlice | Kind::Pod | Kind::WorkloadEntry => "eds",
            _ => "config",
        };
        self.updates.get_or_create(&TypeLabel { r#type }).inc();
    }

    /// Changes were compiled and published.
    pub(crate) fn published(&self, published: &Published, gathered: Duration, compiled: Duration) {
        self.debounce.observe(gathered.as_secs_f64());
        self.compile.observe(compiled.as_secs_f64());
        if published.touched.iter().any(|(_, count)| *count > 0) {
            let ambient = TypeLabel { r#type: "ambient" };
            self.triggers.get_or_create(&ambient).inc();
        }
    }

    /// How much there is now.
    pub(crate) fn sizes(&self, sizes: &[ambit_xds::TypeSize], services: usize, redirected: usize) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for size in sizes {
            let label = type_label(&size.type_url);
            self.resources
                .get_or_create(&label)
                .set(gauge(size.resources));
        }
        self.services.set(gauge(services));
        self.redirected.set(gauge(redirected));
    }

    /// A certificate request arrived.
    pub(crate) fn csr(&self) {
        self.csrs.inc();
    }

    /// It was signed.
    pub(crate) fn issued(&self) {
        self.issued.inc();
    }

    /// It wasn't acceptable.
    pub(crate) fn csr_rejected(&self) {
        self.csr_errors.inc();
    }

    /// It couldn't be signed.
    pub(crate) fn sign_failed(&self) {
        let error = ErrorLabel { error: "sign" };
        self.sign_errors.get_or_create(&error).inc();
    }

    /// Its caller isn't who it should be.
    pub(crate) fn ca_unauthenticated(&self) {
        self.ca_unauthenticated.inc();
    }

    /// A node proxy asked for a pod's certificate.
    pub(crate) fn impersonation(&self, reason: &'static str) {
        self.impersonations
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// A caller isn't authenticated.
    pub(crate) fn unauthenticated(&self, service: &'static str, reason: &'static str) {
        if service == "ca" {
            self.ca_unauthenticated.inc();
        }
        let label = FailureLabel { service, reason };
        self.unauthenticated.get_or_create(&label).inc();
    }

    /// An agent isn't the agent of a node.
    pub(crate) fn agent_refused(&self, reason: &'static str) {
        self.agents_refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// A reported pod doesn't count.
    pub(crate) fn pod_refused(&self) {
        self.pods_refused.inc();
    }

    /// A TLS handshake failed.
    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshakes_failed
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// Kept state couldn't be written.
    pub(crate) fn state_error(&self) {
        self.state_errors.inc();
    }
}
