use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::static_config::StaticConfig;

fn workload(index: usize, capacity: u32, status: &str) -> String {
    format!(
        "- {{uid: w{index}, name: w{index}, namespace: shop, workloadIps: [10.0.{}.{}], capacity: {capacity}, status: {status}, services: {{shop/s: {{80: 8080}}}}}}\n",
        index / 250,
        index % 250
    )
}

fn state(workloads: impl Iterator<Item = String>, balancer: &str) -> StaticConfig {
    let workloads: String = workloads.collect();
    StaticConfig::parse(&format!(
        "services: [{{name: s, namespace: shop, hostname: s, vips: [], ports: {{80: 80}}, loadBalancer: {balancer}}}]\nworkloads:\n{workloads}"
    ))
    .unwrap()
}

/// How often each endpoint is chosen in `draws` draws.
fn draw(config: &StaticConfig, draws: u64) -> Vec<u64> {
    let mut set = EndpointSet::default();
    for one in config.workloads() {
        set.insert(Arc::clone(one));
    }
    let wanted = Wanted {
        source: &config.workloads()[0],
        service: &config.services()[0],
        port: 80,
        dialled: [10, 96, 0, 1].into(),
        is_waypoint: false,
    };
    let mut rng = StdRng::seed_from_u64(7);
    let mut counts = vec![0; config.workloads().len()];
    for _ in 0..draws {
        let chosen = wanted.choose(&set, &mut rng).unwrap();
        let index: usize = chosen.workload.name[1..].parse().unwrap();
        counts[index] += 1;
    }
    counts
}

/// Shares follow capacities, both where endpoints are drawn and where all are
/// looked at, and whatever is not eligible is never chosen.
#[test]
fn shares_follow_capacities() {
    for size in [4, 40] {
        let config = state(
            (0..size).map(|n| match n % 4 {
                0 => workload(n, 1, "Healthy"),
                1 => workload(n, 3, "Healthy"),
                2 => workload(n, 0, "Healthy"),
                _ => workload(n, 9, "Unhealthy"),
            }),
            "{mode: Standard}",
        );
        let draws = 400 * size as u64;
        let counts = draw(&config, draws);
        let groups = size as f64 / 4.0;
        for (index, count) in counts.into_iter().enumerate() {
            let share = match index % 4 {
                0 => 1.0 / 4.0,
                1 => 3.0 / 4.0,
                _ => 0.0,
            };
            let expected = draws as f64 * share / groups;
            let off = (count as f64 - expected).abs();
            assert!(
                off <= 6.0 * expected.sqrt(),
                "{index}: {count}, not {expected}"
            );
        }
    }
}

/// With one eligible endpoint in many, luck runs out and a scan finds it.
#[test]
fn a_lone_eligible_endpoint_is_found() {
    let config = state(
        (0..500).map(|n| workload(n, 1, if n == 321 { "Healthy" } else { "Unhealthy" })),
        "{mode: Standard}",
    );
    assert_eq!(draw(&config, 20)[321], 20);
}

/// Loosening the health policy restores endpoints at once, unlike upstream,
/// which drops them when they arrive (`ztunnel-contract` 3.2).
#[test]
fn health_is_decided_when_choosing() {
    let config = state(
        (0..2).map(|n| workload(n, 1, "Unhealthy")),
        "{healthPolicy: AllowAll}",
    );
    assert!(draw(&config, 100).iter().all(|count| *count > 20));
}

#[test]
fn failover_uses_the_highest_rank_only() {
    let at = |index: usize, region: &str, zone: &str, network: &str| {
        format!(
            "- {{uid: w{index}, name: w{index}, namespace: shop, network: \"{network}\", workloadIps: [10.0.0.{index}], locality: {{region: {region}, zone: {zone}}}, services: {{shop/s: {{80: 8080}}}}}}\n",
        )
    };
    let prefer = "{mode: Failover, routingPreferences: [Network, Region, Zone]}";
    let chosen = |workloads: Vec<String>| {
        let mut workloads = workloads;
        // The source is not an endpoint that could be chosen.
        workloads.insert(
            0,
            at(0, "r1", "z1", "")
                .replace("80: 8080", "81: 0")
                .replace("shop/s", "shop/t"),
        );
        let config = state(workloads.into_iter(), prefer);
        let mut set = EndpointSet::default();
        for one in &config.workloads()[1..] {
            set.insert(Arc::clone(one));
        }
        let wanted = Wanted {
            source: &config.workloads()[0],
            service: &config.services()[0],
            port: 80,
            dialled: [10, 96, 0, 1].into(),
            is_waypoint: false,
        };
        (0..100)
            .map(|seed| {
                let mut rng = StdRng::seed_from_u64(seed);
                wanted
                    .choose(&set, &mut rng)
                    .unwrap()
                    .workload
                    .name
                    .to_string()
            })
            .collect::<std::collections::BTreeSet<_>>()
    };
    let same_zone = at(1, "r1", "z1", "");
    let same_region = at(2, "r1", "z2", "");
    let far = at(3, "r2", "z1", "");
    let remote_same_zone = at(4, "r1", "z1", "other");
    let remote_far = at(5, "r2", "z9", "other");
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
    let all = vec![
        same_zone,
        same_region.clone(),
        far.clone(),
        remote_same_zone.clone(),
        remote_far.clone(),
    ];
    assert_eq!(chosen(all), names(&["w1"]));
    assert_eq!(chosen(vec![same_region, far.clone()]), names(&["w2"]));
    // Any endpoint in the network beats any outside.
    assert_eq!(chosen(vec![far, remote_same_zone.clone()]), names(&["w3"]));
    // Outside the network the remaining scopes still count.
    assert_eq!(chosen(vec![remote_same_zone, remote_far]), names(&["w4"]));
}
