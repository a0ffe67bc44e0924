//! Linkerd's failure accrual and balancer annotations of a Service (8.3).

use ambit_kube::Problem;
use ambit_proto::waypoint::FailureAccrual;

use super::annotations::{about, annotation, bad, time};
use crate::istio::codes;
use crate::istio::say::{Fault, Say};
use crate::{ServiceInfo, World};

const ACCRUAL: &str = "balancer.linkerd.io/failure-accrual";

/// What the annotations say; none where failures aren't counted.
pub(super) fn failure_accrual(
    service: &ServiceInfo,
    world: &dyn World,
    problems: &mut Vec<Problem>,
) -> Option<FailureAccrual> {
    let mut say = about(service, world);
    let built = read(&mut say, service);
    not_followed(&mut say, service);
    problems.extend(say.into_problems());
    built
}

fn read(say: &mut Say, service: &ServiceInfo) -> Option<FailureAccrual> {
    let mode = annotation(service, ACCRUAL)?;
    if !matches!(mode, "consecutive" | "unified") {
        bad(say, ACCRUAL, mode, "write consecutive");
        return None;
    }
    if mode == "unified" {
        say.warning(
            codes::ANNOTATION,
            Fault {
                field: &field(ACCRUAL),
                value: mode,
                message: "only failures in a row are counted, not the rate of successes",
                remedy: "write consecutive, or use outlierDetection of a DestinationRule",
            },
        );
    }
    let name = |part: &str| format!("{ACCRUAL}-{part}");
    let failures = name("consecutive-max-failures");
    let consecutive_failures = annotation(service, &failures).map_or(Some(7), |text| {
        let count = text.parse().ok().filter(|count| *count > 0);
        if count.is_none() {
            bad(say, &failures, text, "write a number above 0");
        }
        count
    });
    let mut penalty = |part: &str, default: u64| {
        let name = name(&format!("consecutive-{part}"));
        annotation(service, &name)
            .map_or(Some(default), |text| time(say, &name, text))
            .unwrap_or(default)
    };
    let min_penalty_ms = penalty("min-penalty", 1_000);
    let max_penalty_ms = penalty("max-penalty", 60_000).max(min_penalty_ms);
    let ratio = name("consecutive-jitter-ratio");
    let jitter = annotation(service, &ratio).map_or(Some(0.5), |text| {
        let jitter = text.parse::<f64>().ok();
        let jitter = jitter.filter(|jitter| (0.0..=100.0).contains(jitter));
        if jitter.is_none() {
            bad(say, &ratio, text, "write a number from 0 to 100");
        }
        jitter
    });
    Some(FailureAccrual {
        consecutive_failures: consecutive_failures.unwrap_or(7),
        min_penalty_ms,
        max_penalty_ms,
        jitter: jitter.unwrap_or(0.5),
    })
}

fn field(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

fn not_followed(say: &mut Say, service: &ServiceInfo) {
    for (name, value) in &service.annotations {
        if name.starts_with("balancer.alpha.linkerd.io/") {
            say.warning(
                codes::ANNOTATION,
                Fault {
                    field: &field(name),
                    value,
                    message: "waypoints don't do this",
                    remedy: "use outlierDetection of a DestinationRule, or consecutive failure accrual",
                },
            );
        }
    }
}
