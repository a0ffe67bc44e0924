//! `loadBalancer`: algorithm, hash, warm-up, localities (3.5, 5.6).

use ambit_kube::{DrConsistentHash, DrHashCookie, DrLoadBalancer, DrLocalityLb, DrSimpleLb};
use ambit_proto::waypoint::consistent_hash::Key;
use ambit_proto::waypoint::{
    Algorithm, ConsistentHash, Distribute, Failover, HashCookie, Header, LoadBalancer,
    LocalityBalancing, LocalityWeight, Warmup,
};

use super::PolicyScope;
use crate::istio::codes;
use crate::istio::say::{Fault, Say};
use crate::istio::values::is_token;

/// The largest Maglev table (3.5), and the largest ring (5.6).
const MAX_TABLE: u64 = 5_000_011;
const MAX_RING: u64 = 8 * 1024 * 1024;

fn refuse(say: &mut Say, field: &str, value: &str, message: &str, remedy: &str) {
    say.error(
        codes::RULE_VALUE,
        Fault {
            field,
            value,
            message,
            remedy,
        },
    );
}

/// The message; none where all is as without any.
pub(super) fn load_balancer(
    say: &mut Say,
    written: Option<&DrLoadBalancer>,
    path: &str,
    (ejects, scope): (bool, &PolicyScope<'_>),
) -> Option<LoadBalancer> {
    let mut built = LoadBalancer::default();
    if let Some(written) = written {
        let algorithm = match written.simple {
            Some(DrSimpleLb::RoundRobin) => Algorithm::RoundRobin,
            Some(DrSimpleLb::Random) => Algorithm::Random,
            Some(DrSimpleLb::Passthrough) => Algorithm::Passthrough,
            None
            | Some(DrSimpleLb::Unspecified | DrSimpleLb::LeastConn | DrSimpleLb::LeastRequest) => {
                Algorithm::LeastRequest
            }
        };
        built.algorithm = algorithm.into();
        if let Some(hash) = &written.consistent_hash {
            if written
                .simple
                .is_some_and(|simple| simple != DrSimpleLb::Unspecified)
            {
                refuse(
                    say,
                    path,
                    "",
                    "simple and consistentHash exclude each other; consistentHash holds",
                    "remove simple",
                );
            }
            if let Some((algorithm, hash)) =
                consistent_hash(say, hash, &format!("{path}.consistentHash"))
            {
                built.algorithm = algorithm.into();
                built.hash = Some(hash);
            }
        }
        built.warmup = warmup(say, written, path, built.algorithm());
    }
    let own = written.and_then(|written| written.locality_lb_setting.as_ref());
    built.locality = match own {
        Some(own) => locality(say, own, &format!("{path}.localityLbSetting"), ejects),
        // What the Service says beats the mesh's setting.
        None if scope.topology => None,
        None => scope.mesh.locality.as_ref().map_or_else(
            || ejects.then(|| on(true)),
            |mesh| locality(&mut say.silent(), mesh, "", ejects),
        ),
    };
    (written.is_some() || built.locality.is_some()).then_some(built)
}

fn on(enabled: bool) -> LocalityBalancing {
    LocalityBalancing {
        enabled,
        ..LocalityBalancing::default()
    }
}

fn consistent_hash(
    say: &mut Say,
    written: &DrConsistentHash,
    path: &str,
) -> Option<(Algorithm, ConsistentHash)> {
    let mut keys = Vec::new();
    if let Some(name) = &written.http_header_name {
        if is_token(name) {
            keys.push(Key::Header(name.to_ascii_lowercase()));
        } else {
            refuse(
                say,
                &format!("{path}.httpHeaderName"),
                name,
                "it can't be a header's name",
                "use letters, digits and dashes",
            );
        }
    }
    if let Some(cookie) = &written.http_cookie {
        keys.extend(hash_cookie(say, cookie, &format!("{path}.httpCookie")));
    }
    if written.use_source_ip == Some(true) {
        keys.push(Key::SourceIp(true));
    }
    if let Some(name) = &written.http_query_parameter_name {
        keys.push(Key::Query(name.clone()));
    }
    if keys.len() != 1 {
        let count = keys.len().to_string();
        refuse(
            say,
            path,
            &count,
            "a hash has exactly one key; endpoints are chosen without it",
            "keep one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName",
        );
        return None;
    }
    let (algorithm, size) = table(say, written, path);
    Some((
        algorithm,
        ConsistentHash {
            key: keys.pop(),
            size,
        },
    ))
}

fn hash_cookie(say: &mut Say, cookie: &DrHashCookie, path: &str) -> Option<Key> {
    if !is_token(&cookie.name) {
        refuse(
            say,
            &format!("{path}.name"),
            &cookie.name,
            "a cookie needs a name",
            "name the cookie",
        );
        return None;
    }
    let attribute = |a: &ambit_kube::DrCookieAttribute| Header {
        name: a.name.clone(),
        value: a.value.clone().unwrap_or_default(),
    };
    let built = HashCookie {
        name: cookie.name.clone(),
        path: cookie.path.clone().unwrap_or_default(),
        ttl_ms: cookie.ttl.map(ambit_kube::ProtoDuration::as_millis),
        attributes: cookie.attributes.iter().map(attribute).collect(),
    };
    // They are written into a header as they are.
    let parts = built
        .attributes
        .iter()
        .flat_map(|a| [a.name.as_str(), a.value.as_str()]);
    let stray = |text: &&str| !text.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b';');
    if let Some(stray) = parts.chain([built.path.as_str()]).find(stray) {
        refuse(
            say,
            path,
            stray,
            "an attribute of a cookie has printable characters only, and no semicolon",
            "correct path and attributes",
        );
        return None;
    }
    Some(Key::Cookie(built))
}

fn table(say: &mut Say, written: &DrConsistentHash, path: &str) -> (Algorithm, u64) {
    if let Some(maglev) = &written.maglev {
        if written.ring_hash.is_some() {
            refuse(
                say,
                path,
                "",
                "ringHash and maglev exclude each other; maglev holds",
                "keep one of them",
            );
        }
        let size = maglev.table_size.unwrap_or_default();
        if size != 0 && (size > MAX_TABLE || !is_prime(size)) {
            refuse(
                say,
                &format!("{path}.maglev.tableSize"),
                &size.to_string(),
                "the size is a prime up to 5000011; 65537 holds",
                "write such a number",
            );
            return (Algorithm::Maglev, 0);
        }
        return (Algorithm::Maglev, size);
    }
    let ring = written
        .ring_hash
        .as_ref()
        .and_then(|ring| ring.minimum_ring_size);
    let size = ring.or(written.minimum_ring_size).unwrap_or_default();
    if size > MAX_RING {
        refuse(
            say,
            &format!("{path}.ringHash.minimumRingSize"),
            &size.to_string(),
            "a ring has at most 8388608 entries; so many are used",
            "write a smaller number",
        );
    }
    (Algorithm::RingHash, size.min(MAX_RING))
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

fn warmup(
    say: &mut Say,
    written: &DrLoadBalancer,
    path: &str,
    algorithm: Algorithm,
) -> Option<Warmup> {
    let (duration, minimum, aggression) = match (&written.warmup, written.warmup_duration_secs) {
        (Some(warmup), _) => (warmup.duration, warmup.minimum_percent, warmup.aggression),
        (None, Some(duration)) => (Some(duration), None, None),
        (None, None) => return None,
    };
    let field = format!("{path}.warmup");
    let duration_ms = duration.map_or(0, ambit_kube::ProtoDuration::as_millis);
    if duration_ms == 0 {
        refuse(
            say,
            &format!("{field}.duration"),
            "",
            "without a duration there is no warm-up",
            "set it",
        );
        return None;
    }
    if !matches!(algorithm, Algorithm::RoundRobin | Algorithm::LeastRequest) {
        say.warning(
            codes::RULE_REFUSED,
            Fault {
                field: &field,
                value: "",
                message: "there is warm-up with ROUND_ROBIN and LEAST_REQUEST only",
                remedy: "change the algorithm, or remove the warm-up",
            },
        );
        return None;
    }
    let percent = minimum.unwrap_or(10.0);
    let in_range = (0.0..=100.0).contains(&percent);
    if !in_range {
        refuse(
            say,
            &format!("{field}.minimumPercent"),
            &percent.to_string(),
            "a percentage is 0 to 100; 10 holds",
            "write such a number",
        );
    }
    let aggression = aggression.unwrap_or(1.0);
    let grows = aggression.is_finite() && aggression >= 1.0;
    if !grows {
        refuse(
            say,
            &format!("{field}.aggression"),
            &aggression.to_string(),
            "it is at least 1; 1 holds",
            "write 1 or more",
        );
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 100 by the check above"
    )]
    let minimum_percent = if in_range { percent.round() as u32 } else { 10 };
    Some(Warmup {
        duration_ms,
        minimum_percent,
        aggression: if grows { aggression } else { 1.0 },
    })
}

/// Says that failover was written where nothing ejects.
pub(super) fn note_failover(
    say: &mut Say,
    written: Option<&DrLoadBalancer>,
    path: &str,
    ejects: bool,
) {
    let Some(locality) = written.and_then(|written| written.locality_lb_setting.as_ref()) else {
        return;
    };
    let fails_over = !locality.failover.is_empty() || !locality.failover_priority.is_empty();
    if fails_over && !ejects && locality.enabled != Some(false) {
        say.warning(
            codes::NO_FAILOVER,
            Fault {
                field: &format!("{path}.localityLbSetting"),
                value: "",
                message: "without outlierDetection there is no failover",
                remedy: "add outlierDetection to the same policy",
            },
        );
    }
}

fn locality(
    say: &mut Say,
    written: &DrLocalityLb,
    path: &str,
    ejects: bool,
) -> Option<LocalityBalancing> {
    if written.enabled == Some(false) {
        return Some(on(false));
    }
    let kinds = [
        !written.distribute.is_empty(),
        !written.failover.is_empty(),
        !written.failover_priority.is_empty(),
    ];
    if kinds[0] && (kinds[1] || kinds[2]) {
        refuse(
            say,
            path,
            "",
            "distribute excludes failover and failoverPriority; distribute holds",
            "keep one of them",
        );
    }
    let mut built = on(true);
    for (at, entry) in written.distribute.iter().enumerate() {
        let sum: u64 = entry.to.values().map(|weight| u64::from(*weight)).sum();
        if sum != 100 {
            refuse(
                say,
                &format!("{path}.distribute[{at}].to"),
                &sum.to_string(),
                "the weights of a distribution add up to 100, so it isn't used",
                "correct the weights",
            );
            continue;
        }
        built.distribute.push(Distribute {
            from: entry.from.clone(),
            to: entry
                .to
                .iter()
                .map(|(locality, weight)| LocalityWeight {
                    locality: locality.clone(),
                    weight: *weight,
                })
                .collect(),
        });
    }
    if kinds[0] {
        return (!built.distribute.is_empty()).then_some(built);
    }
    if !ejects {
        return None;
    }
    for (at, entry) in written.failover.iter().enumerate() {
        if entry.from == entry.to || entry.from.is_empty() || entry.to.is_empty() {
            refuse(
                say,
                &format!("{path}.failover[{at}]"),
                &entry.to,
                "failover leads from one region to another, so it isn't used",
                "name two regions",
            );
            continue;
        }
        built.failover.push(Failover {
            from: entry.from.clone(),
            to: entry.to.clone(),
        });
    }
    built
        .failover_priority
        .clone_from(&written.failover_priority);
    Some(built)
}
