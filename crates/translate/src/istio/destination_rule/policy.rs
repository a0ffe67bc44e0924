//! Traffic policies: their blocks, which of them hold where, and the message
//! that they become (`waypoint-contract` 3.4, 3.5).

use std::sync::Arc;

use ambit_kube::{
    DestinationRuleSpec, DrConnectionPool, DrLoadBalancer, DrOutlierDetection, DrPortPolicy,
    DrProxyProtocol, DrProxyVersion, DrRetryBudget, DrTls, DrTrafficPolicy, DrTunnel,
};
use ambit_proto::waypoint::retry_budget::Kind as Budget;
use ambit_proto::waypoint::{ConcurrentBudget, Invalid, RetryBudget, TrafficPolicy};

use super::{balance, pool, tls};
use crate::istio::codes;
use crate::istio::mesh::MeshDefaults;
use crate::istio::say::{Fault, Say};
use crate::{ServiceInfo, World};

/// The blocks that hold at one level.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::istio) struct Blocks<'a> {
    pub(in crate::istio) balancer: Option<&'a DrLoadBalancer>,
    pub(in crate::istio) pool: Option<&'a DrConnectionPool>,
    pub(in crate::istio) outlier: Option<&'a DrOutlierDetection>,
    pub(in crate::istio) tls: Option<&'a DrTls>,
    pub(in crate::istio) tunnel: Option<&'a DrTunnel>,
    pub(in crate::istio) proxy: Option<&'a DrProxyProtocol>,
    pub(in crate::istio) budget: Option<&'a DrRetryBudget>,
}

impl<'a> Blocks<'a> {
    /// Those of a policy, its ports apart.
    pub(in crate::istio) fn of(policy: &'a DrTrafficPolicy) -> Self {
        Self {
            balancer: policy.load_balancer.as_ref(),
            pool: policy.connection_pool.as_ref(),
            outlier: policy.outlier_detection.as_ref(),
            tls: policy.tls.as_ref(),
            tunnel: policy.tunnel.as_ref(),
            proxy: policy.proxy_protocol.as_ref(),
            budget: policy.retry_budget.as_ref(),
        }
    }

    /// Block by block, with another level's where this one has none.
    pub(in crate::istio) fn over(self, base: Self) -> Self {
        Self {
            balancer: self.balancer.or(base.balancer),
            pool: self.pool.or(base.pool),
            outlier: self.outlier.or(base.outlier),
            tls: self.tls.or(base.tls),
            tunnel: self.tunnel.or(base.tunnel),
            proxy: self.proxy.or(base.proxy),
            budget: self.budget.or(base.budget),
        }
    }

    /// A port's: what a port can say is only its own, the rest is as above it.
    pub(in crate::istio) fn of_port(port: &'a DrPortPolicy, above: Self) -> Self {
        Self {
            balancer: port.load_balancer.as_ref(),
            pool: port.connection_pool.as_ref(),
            outlier: port.outlier_detection.as_ref(),
            tls: port.tls.as_ref(),
            ..above
        }
    }
}

/// Where problems go: those of fields, and those of secrets.
pub(in crate::istio) struct Says {
    pub(in crate::istio) fields: Say,
    pub(in crate::istio) secrets: Say,
}

/// Where certificates are looked up.
#[derive(Clone, Copy)]
pub(in crate::istio) struct Secrets<'a> {
    pub(in crate::istio) world: &'a dyn World,
    /// The waypoint's namespace.
    pub(in crate::istio) namespace: &'a str,
}

/// What blocks need to know.
pub(in crate::istio) struct PolicyScope<'a> {
    /// The service's host name.
    pub(in crate::istio) hostname: &'a str,
    /// The Service says itself where its traffic goes first.
    pub(in crate::istio) topology: bool,
    pub(in crate::istio) mesh: &'a MeshDefaults,
    /// None while only fields are judged.
    pub(in crate::istio) secrets: Option<Secrets<'a>>,
}

/// The message of the blocks that hold at one level.
pub(in crate::istio) fn traffic_policy(
    says: &mut Says,
    blocks: &Blocks<'_>,
    path: &str,
    scope: &PolicyScope<'_>,
) -> TrafficPolicy {
    let say = &mut says.fields;
    let mut built = TrafficPolicy {
        outlier: blocks
            .outlier
            .map(|outlier| pool::outlier(say, outlier, &format!("{path}.outlierDetection"))),
        load_balancer: balance::load_balancer(
            say,
            blocks.balancer,
            &format!("{path}.loadBalancer"),
            (blocks.outlier.is_some(), scope),
        ),
        pool: pool::connection_pool(
            say,
            blocks.pool,
            &format!("{path}.connectionPool"),
            scope.mesh,
        ),
        retry_budget: blocks
            .budget
            .map(|budget| retry_budget(say, budget, &format!("{path}.retryBudget"))),
        proxy_protocol: blocks.proxy.map_or(0, |proxy| match proxy.version {
            None | Some(DrProxyVersion::V1) => 1,
            Some(DrProxyVersion::V2) => 2,
        }),
        ..TrafficPolicy::default()
    };
    if let Some(tunnel) = blocks.tunnel {
        say.error(
            codes::RULE_REFUSED,
            Fault {
                field: &format!("{path}.tunnel"),
                value: &tunnel.target_host,
                message: "waypoints don't tunnel through a proxy, so traffic to this host is refused",
                remedy: "route to the target through an egress waypoint with a ServiceEntry",
            },
        );
        built.invalid = refused("DestinationRule tunnel isn't supported");
    }
    if let Some(tls) = blocks.tls {
        match tls::backend_tls(says, tls, &format!("{path}.tls"), scope) {
            Ok(tls) => built.tls = tls,
            Err(reason) => built.invalid = refused(&reason),
        }
    }
    built
}

fn refused(reason: &str) -> Option<Invalid> {
    Some(Invalid {
        reason: reason.to_owned(),
        status: 503,
    })
}

fn retry_budget(say: &mut Say, written: &DrRetryBudget, path: &str) -> RetryBudget {
    let mut percent = written.percent.map_or(20.0, |percent| percent.value());
    if !(0.0..=100.0).contains(&percent) {
        say.error(
            codes::RULE_VALUE,
            Fault {
                field: &format!("{path}.percent"),
                value: &percent.to_string(),
                message: "a percentage is 0 to 100; 20 holds",
                remedy: "write such a number",
            },
        );
        percent = 20.0;
    }
    if written
        .budget_interval
        .is_some_and(|interval| !interval.is_zero())
    {
        say.info(
            codes::RULE_REFUSED,
            Fault {
                field: &format!("{path}.budgetInterval"),
                value: "",
                message: "the budget is of the requests that are active, at every moment, not of an interval",
                remedy: "use an XBackendTrafficPolicy for a budget over an interval",
            },
        );
    }
    RetryBudget {
        kind: Some(Budget::Concurrent(ConcurrentBudget {
            percent,
            min_concurrency: written.min_retry_concurrency.unwrap_or(3),
        })),
    }
}

/// Says what is wrong with each level of a rule, each once.
pub(super) fn report(
    say: &mut Say,
    spec: &DestinationRuleSpec,
    services: &[Arc<ServiceInfo>],
    world: &dyn World,
) {
    let defaults = MeshDefaults::of(world.mesh());
    let scope = PolicyScope {
        hostname: &spec.host,
        topology: false,
        mesh: &defaults,
        secrets: None,
    };
    let mut says = Says {
        fields: say.fork(),
        secrets: say.fork(),
    };
    let mut levels = vec![(
        spec.traffic_policy.as_ref(),
        "spec.trafficPolicy".to_owned(),
        None,
    )];
    for (at, subset) in spec.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{at}]");
        if !is_label(&subset.name) {
            says.fields.error(
                codes::RULE_VALUE,
                Fault {
                    field: &format!("{path}.name"),
                    value: &subset.name,
                    message: "the name of a subset is a DNS label",
                    remedy: "use lower-case letters, digits and dashes, at most 63",
                },
            );
        }
        let base = spec.traffic_policy.as_ref();
        levels.push((
            subset.traffic_policy.as_ref(),
            format!("{path}.trafficPolicy"),
            base,
        ));
    }
    for (policy, path, base) in levels {
        let Some(policy) = policy else {
            continue;
        };
        let own = Blocks::of(policy);
        let above = base.map_or_else(Blocks::default, Blocks::of);
        // Ejection may stand above; it isn't said twice.
        let judged = Blocks {
            outlier: own.outlier,
            ..own
        };
        let ejects = own.outlier.or(above.outlier).is_some();
        traffic_policy(&mut says, &judged, &path, &scope);
        balance::note_failover(
            &mut says.fields,
            own.balancer,
            &format!("{path}.loadBalancer"),
            ejects,
        );
        for (at, port) in policy.port_level_settings.iter().enumerate() {
            let path = format!("{path}.portLevelSettings[{at}]");
            note_port(&mut says.fields, port, &path, services);
            let blocks = Blocks::of_port(port, Blocks::default());
            traffic_policy(&mut says, &blocks, &path, &scope);
            let ejects = blocks.outlier.is_some();
            balance::note_failover(
                &mut says.fields,
                blocks.balancer,
                &format!("{path}.loadBalancer"),
                ejects,
            );
        }
    }
    say.take(says.fields);
}

fn note_port(say: &mut Say, port: &DrPortPolicy, path: &str, services: &[Arc<ServiceInfo>]) {
    let number = port.port.map_or(0, |port| port.number);
    let known = services
        .iter()
        .flat_map(|service| &service.ports)
        .any(|port| u32::from(port.number) == number);
    if !known && (number == 0 || !services.is_empty()) {
        say.warning(
            codes::RULE_PORT,
            Fault {
                field: &format!("{path}.port.number"),
                value: &number.to_string(),
                message: "no service of the host has this port, so the entry does nothing",
                remedy: "write a port of the Service, not a target port",
            },
        );
    }
}

fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
