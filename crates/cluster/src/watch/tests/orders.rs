//! Whatever happens in whatever order, it ends in what one list says; and the compiler's output is a function of
//! the objects (its own histories test that).

use std::time::Duration;

use ambit_testkit::apiserver::{ApiServer, Trouble};
use proptest::prelude::*;
use serde_json::json;

use super::{CRDS, PODS, POLICIES, SERVICES, Seen, pod, policies_definition, policy};

/// What happens to the cluster, or on the way to it.
#[derive(Debug, Clone)]
enum Happens {
    Pod(u8, u8),
    PodFails(u8),
    PodGone(u8),
    Service(u8, bool),
    Policy(u8, bool),
    Defined(bool),
    EndWatches,
    Compact,
    Away,
    Trouble(u8),
    Wait,
}

fn happens() -> impl Strategy<Value = Happens> {
    use Happens::*;
    prop_oneof![
        6 => (0..14u8, 0..3u8).prop_map(|(pod, ip)| Pod(pod, ip)),
        2 => (0..14u8).prop_map(PodFails),
        4 => (0..14u8).prop_map(PodGone),
        3 => (0..3u8, any::<bool>()).prop_map(|(service, there)| Service(service, there)),
        3 => (0..3u8, any::<bool>()).prop_map(|(policy, there)| Policy(policy, there)),
        1 => any::<bool>().prop_map(Defined),
        2 => Just(EndWatches),
        1 => Just(Compact),
        1 => Just(Away),
        2 => (0..5u8).prop_map(Trouble),
        3 => Just(Wait),
    ]
}

async fn happen(api: &ApiServer, seen: &mut Seen, what: Happens) {
    match what {
        Happens::Pod(name, ip) => {
            api.add(PODS, pod(&format!("p{name}"), &format!("10.0.{ip}.{name}")));
        }
        Happens::PodFails(name) => {
            let mut pod = pod(&format!("p{name}"), "10.0.9.9");
            pod["status"]["phase"] = "Failed".into();
            api.add(PODS, pod);
        }
        Happens::PodGone(name) => api.remove(PODS, "shop", &format!("p{name}")),
        Happens::Service(name, there) => {
            let name = format!("s{name}");
            if there {
                let spec = json!({"clusterIP": "10.9.0.1", "selector": {"app": "cart"},
                                  "ports": [{"port": 80, "targetPort": "http"}]});
                let metadata = json!({"name": name, "namespace": "shop"});
                api.add(SERVICES, json!({"metadata": metadata, "spec": spec}));
            } else {
                api.remove(SERVICES, "shop", &name);
            }
        }
        Happens::Policy(name, there) => {
            let name = format!("a{name}");
            if there {
                let spec = json!({"selector": {"matchLabels": {"app": "cart"}}, "action": "DENY",
                                  "rules": [{"to": [{"operation": {"ports": ["80"]}}]}]});
                api.add(POLICIES, policy(&name, spec));
            } else {
                api.remove(POLICIES, "shop", &name);
            }
        }
        Happens::Defined(true) => {
            api.add(CRDS, policies_definition());
        }
        Happens::Defined(false) => {
            api.remove(CRDS, "", "authorizationpolicies.security.istio.io");
        }
        Happens::EndWatches => api.end_watches(),
        Happens::Compact => api.compact(),
        Happens::Away => {
            api.set_down(true);
            tokio::time::sleep(Duration::from_millis(8)).await;
            api.set_down(false);
        }
        Happens::Trouble(which) => {
            let (verb, path, trouble) = match which {
                0 => ("LIST", "/pods", Trouble::Cut),
                1 => ("WATCH", "/pods", Trouble::Refuse(410)),
                2 => ("LIST", "/authorizationpolicies", Trouble::Refuse(503)),
                3 => ("WATCH", "/services", Trouble::Refuse(500)),
                _ => (
                    "LIST",
                    "/services",
                    Trouble::Delay(Duration::from_millis(5)),
                ),
            };
            api.trouble_once(verb, path, trouble);
        }
        Happens::Wait => {
            let until = tokio::time::Instant::now() + Duration::from_millis(3);
            while let Ok(Some(batch)) = tokio::time::timeout_at(until, seen.changes.recv()).await {
                seen.take(batch);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_interleaving_ends_in_what_a_list_says(story in prop::collection::vec(happens(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let api = ApiServer::start().await.unwrap();
            api.page(5);
            for at in 0..12 {
                api.add(PODS, pod(&format!("p{at}"), &format!("10.0.0.{at}")));
            }
            // A kind that is defined is served, also while it has no objects.
            api.add(POLICIES, policy("a0", json!({})));
            api.remove(POLICIES, "shop", "a0");
            let mut seen = Seen::synced(&api).await;
            for what in story {
                happen(&api, &mut seen, what).await;
            }
            // Troubles that are left over would meet the fresh reader too.
            api.calm();
            let fresh = Seen::synced(&api).await;
            let (want, problems) = (fresh.objects.clone(), fresh.problems.clone());
            drop(fresh);
            seen.until("the same objects", |seen| seen.objects == want).await;
            assert_eq!(seen.problems, problems);
        });
    }
}
