//! What is counted of validation, of webhook configurations and of root
//! ConfigMaps.

use ambit_telemetry::Metrics;

use super::{
    ControlMetrics, NameLabel, PatchFailureLabel, ReasonLabel, RefusedLabel, ResourceLabel,
    StatusLabel,
};

impl ControlMetrics {
    pub(super) fn register_webhook(&self, to: &mut Metrics) {
        let name = "galley_validation_passed";
        to.register(name, "Objects let in", self.validated.clone());
        let name = "galley_validation_failed";
        to.register(name, "Objects refused", self.refused.clone());
        let name = "galley_validation_http_error";
        let help = "Admission requests that were not answered with a verdict";
        to.register(name, help, self.validation_errors.clone());
        let name = "galley_validation_config_updates";
        to.register(
            name,
            "Webhook configurations written",
            self.config_updates.clone(),
        );
        let name = "galley_validation_config_update_error";
        let help = "Webhook configurations not written";
        to.register(name, help, self.config_update_errors.clone());
        let name = "webhook_patch_attempts_total";
        to.register(
            name,
            "Patches of webhook configurations",
            self.patches.clone(),
        );
        let name = "webhook_patch_retries_total";
        to.register(name, "Patches tried again", self.patch_retries.clone());
        let name = "webhook_patch_failures_total";
        to.register(name, "Patches that failed", self.patch_failures.clone());
    }

    /// An object was judged; `refused` is why it may not go in.
    pub(crate) fn validated(
        &self,
        (group, version, resource): (&str, &str, &str),
        refused: Option<&'static str>,
    ) {
        // The API server's word; bounded all the same.
        let of = |text: &str| self.resources_validated.label(text);
        let (group, version, resource) = (of(group), of(version), of(resource));
        match refused {
            None => {
                let label = ResourceLabel {
                    group,
                    version,
                    resource,
                };
                self.validated.get_or_create(&label).inc();
            }
            Some(reason) => {
                let label = RefusedLabel {
                    group,
                    version,
                    resource,
                    reason,
                };
                self.refused.get_or_create(&label).inc();
            }
        }
    }

    /// An admission request got no verdict.
    pub(crate) fn validation_http_error(&self, status: u16) {
        let label = StatusLabel { status };
        self.validation_errors.get_or_create(&label).inc();
    }
}

impl ambit_cluster::RootMapObserver for ControlMetrics {
    fn written(&self) {
        self.root_maps_written.inc();
    }

    fn failed(&self) {
        self.root_maps_failed.inc();
    }
}

/// Names are those that we look for: two at most.
impl ambit_cluster::PatchObserver for ControlMetrics {
    fn attempted(&self, name: &str) {
        let label = NameLabel {
            name: name.to_owned(),
        };
        self.patches.get_or_create(&label).inc();
    }

    fn patched(&self) {
        self.config_updates.inc();
    }

    fn failed(&self, name: &str, reason: &'static str) {
        let label = PatchFailureLabel {
            name: name.to_owned(),
            reason,
        };
        self.patch_failures.get_or_create(&label).inc();
        let label = NameLabel {
            name: name.to_owned(),
        };
        self.patch_retries.get_or_create(&label).inc();
        self.config_update_errors
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }
}
