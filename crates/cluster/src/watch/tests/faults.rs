//! Faults of the API server, and of the way to it.

use std::time::Duration;

use ambit_testkit::apiserver::{ApiServer, Snapshot, Trouble, event};
use serde_json::json;

use super::{PODS, SERVICES, Seen, pod, pods, quick};

fn service(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "shop"},
           "spec": {"clusterIP": "10.9.0.1", "ports": [{"port": 80}]}})
}

#[tokio::test]
async fn a_list_comes_in_pages_and_a_change_at_once() {
    let api = ApiServer::start().await.unwrap();
    api.page(7);
    pods(&api, 30);
    let mut seen = Seen::synced(&api).await;
    assert_eq!(seen.count("Pod"), 30);
    assert_eq!(api.count("LIST", PODS), 5);
    api.add(PODS, pod("new", "10.1.0.1"));
    api.remove(PODS, "shop", "p000");
    seen.until("the change", |seen| {
        seen.names("Pod").contains(&"new".to_owned())
    })
    .await;
    seen.until("the end", |seen| {
        !seen.names("Pod").contains(&"p000".to_owned())
    })
    .await;
    assert_eq!(seen.synced, 1, "once, at the end of the first lists");
}

#[tokio::test]
async fn a_failed_pod_is_gone_and_what_is_not_read_is_no_change() {
    let api = ApiServer::start().await.unwrap();
    pods(&api, 3);
    let mut seen = Seen::synced(&api).await;
    let mut failed = pod("p001", "10.0.0.1");
    failed["status"]["phase"] = "Failed".into();
    api.add(PODS, failed);
    seen.until("failed", |seen| seen.count("Pod") == 2).await;
    let before = seen.objects.clone();
    let mut written = pod("p002", "10.0.0.2");
    written["metadata"]["managedFields"] = json!([{"manager": "somebody"}]);
    written["status"]["containerStatuses"] = json!([]);
    api.add(PODS, written);
    api.add(PODS, pod("p003", "10.0.0.3"));
    seen.until("a later one", |seen| seen.count("Pod") == 3)
        .await;
    let key = before.keys().find(|key| &*key.name == "p002").unwrap();
    assert_eq!(seen.objects[key], before[key], "equal to the compiler");
}

/// With watches whose end is never early.
async fn short_watches(api: &ApiServer) -> Seen {
    let timing = super::Timing {
        watch: Duration::from_millis(1),
        ..quick()
    };
    let mut seen = Seen::with(api, timing);
    seen.until("synced", |seen| seen.synced == 1).await;
    seen
}

#[tokio::test]
async fn a_watch_that_ends_before_its_time_is_followed_by_a_list() {
    let api = ApiServer::start().await.unwrap();
    pods(&api, 3);
    let mut seen = Seen::synced(&api).await;
    for round in 0..3 {
        api.end_watches();
        let name = format!("late-{round}");
        api.add(PODS, pod(&name, "10.1.0.1"));
        seen.until("after the end", |seen| seen.names("Pod").contains(&name))
            .await;
    }
    assert!(api.count("LIST", PODS) > 1);
    assert_eq!(seen.count("Pod"), 6);
}

#[tokio::test]
async fn a_watch_that_ends_at_its_time_goes_on_from_where_it_was() {
    let api = ApiServer::start().await.unwrap();
    pods(&api, 3);
    let mut seen = short_watches(&api).await;
    for round in 0..3 {
        while api.count("WATCH", PODS) <= round {
            seen.quiet().await;
        }
        api.end_watches();
        let name = format!("late-{round}");
        api.add(PODS, pod(&name, "10.1.0.1"));
        seen.until("after the end", |seen| seen.names("Pod").contains(&name))
            .await;
    }
    assert_eq!(api.count("LIST", PODS), 1, "one list was enough");
}

#[tokio::test]
async fn forgotten_history_is_read_anew_and_what_vanished_is_told() {
    let api = ApiServer::start().await.unwrap();
    pods(&api, 20);
    let mut seen = short_watches(&api).await;
    while api.count("WATCH", PODS) == 0 {
        seen.quiet().await;
    }
    let told = seen.told.len();
    api.end_watches();
    api.remove(PODS, "shop", "p007");
    api.add(PODS, pod("p003", "10.2.0.3"));
    api.add(PODS, pod("new", "10.2.0.1"));
    api.compact();
    seen.until("new", |seen| seen.names("Pod").contains(&"new".to_owned()))
        .await;
    seen.until("gone", |seen| seen.count("Pod") == 20).await;
    let mut news: Vec<_> = seen.told[told..]
        .iter()
        .filter(|line| line.contains("Pod"))
        .collect();
    news.sort();
    assert_eq!(
        news,
        ["+Pod new.shop", "+Pod p003.shop", "-Pod p007.shop"],
        "and nothing else"
    );
    assert!(seen.source.watches().all().iter().any(|(label, state)| {
        &**label == "Pod" && state.faults["expired"] == 1 && state.resyncs == 1
    }));
}

#[tokio::test]
async fn nothing_is_lost_while_nobody_answers() {
    let api = ApiServer::start().await.unwrap();
    api.set_down(true);
    pods(&api, 5);
    let mut seen = Seen::of(&api);
    seen.quiet().await;
    assert_eq!(seen.synced, 0, "nothing is known yet");
    assert!(
        seen.source
            .watches()
            .waiting()
            .iter()
            .any(|label| &**label == "Pod")
    );
    api.set_down(false);
    seen.until("synced", |seen| seen.synced == 1).await;
    assert_eq!(seen.count("Pod"), 5);
    api.set_down(true);
    seen.quiet().await;
    assert_eq!(seen.count("Pod"), 5, "the last state stays in force");
    api.add(PODS, pod("after", "10.1.0.1"));
    api.set_down(false);
    seen.until("back", |seen| seen.count("Pod") == 6).await;
}

#[tokio::test]
async fn lists_that_are_cut_slow_or_refused_are_made_again() {
    let api = ApiServer::start().await.unwrap();
    api.page(4);
    pods(&api, 10);
    for trouble in [
        Trouble::Cut,
        Trouble::Refuse(503),
        Trouble::Refuse(429),
        Trouble::Refuse(410),
        Trouble::Delay(Duration::from_millis(50)),
        Trouble::Refuse(500),
        Trouble::Cut,
    ] {
        api.trouble_once("LIST", "/pods", trouble);
    }
    for trouble in [Trouble::Refuse(410), Trouble::Refuse(503)] {
        api.trouble_once("WATCH", "/services", trouble);
    }
    let mut seen = Seen::synced(&api).await;
    assert_eq!(seen.count("Pod"), 10);
    api.add(SERVICES, service("cart"));
    seen.until("a service", |seen| seen.count("Service") == 1)
        .await;
}

#[tokio::test]
async fn a_forbidden_kind_is_waited_for_by_name() {
    let api = ApiServer::start().await.unwrap();
    for _ in 0..8 {
        api.trouble_once("LIST", "/services", Trouble::Refuse(403));
    }
    let mut seen = Seen::of(&api);
    seen.until("allowed at last", |seen| seen.synced == 1).await;
    let all = seen.source.watches().all();
    let (_, state) = all.iter().find(|(label, _)| &**label == "Service").unwrap();
    assert_eq!(state.faults["forbidden"], 8);
}

#[tokio::test]
async fn bookmarks_alone_keep_a_watch_current() {
    let api = ApiServer::start().await.unwrap();
    pods(&api, 3);
    api.add(SERVICES, service("cart"));
    let mut seen = short_watches(&api).await;
    // Much happens elsewhere, and its history is forgotten.
    for at in 0..50 {
        api.add(SERVICES, service(&format!("s{at}")));
    }
    seen.until("services", |seen| seen.count("Service") == 51)
        .await;
    while api.count("WATCH", PODS) == 0 {
        seen.quiet().await;
    }
    api.bookmark(PODS);
    seen.quiet().await;
    api.compact();
    api.end_watches();
    api.add(PODS, pod("after", "10.1.0.1"));
    seen.until("after", |seen| seen.count("Pod") == 4).await;
    assert_eq!(api.count("LIST", PODS), 1, "the bookmark was enough");
}

#[tokio::test]
async fn repeated_late_and_strange_lines_do_no_harm() {
    let api = ApiServer::start().await.unwrap();
    pods(&api, 12);
    let mut seen = Seen::synced(&api).await;
    let first = api.add(PODS, pod("a", "10.1.0.1"));
    api.add(PODS, pod("a", "10.1.0.2"));
    seen.until("a", |seen| seen.names("Pod").contains(&"a".to_owned()))
        .await;
    seen.quiet().await;
    let before = seen.objects.clone();
    let told = seen.told.len();
    api.inject(PODS, &event("MODIFIED", pod("a", "10.1.0.1"), first));
    api.inject(PODS, &event("DELETED", pod("a", "10.1.0.1"), first));
    api.inject(PODS, &event("SOMETHING", pod("a", "10.1.0.9"), first + 9));
    api.inject(PODS, "");
    seen.quiet().await;
    assert_eq!((seen.told.len(), &seen.objects), (told, &before));
    api.remove(PODS, "shop", "a");
    seen.until("gone", |seen| seen.count("Pod") == 12).await;
    api.inject(PODS, &event("MODIFIED", pod("a", "10.1.0.2"), first + 1));
    seen.quiet().await;
    assert_eq!(seen.count("Pod"), 12, "the dead stay dead");
    api.inject(PODS, "this is no JSON");
    api.add(PODS, pod("b", "10.1.0.3"));
    seen.until("b, and a new list", |seen| {
        seen.count("Pod") == 13 && api.count("LIST", PODS) == 2
    })
    .await;
}

#[tokio::test]
async fn silence_is_taken_for_a_dead_connection() {
    let api = ApiServer::start().await.unwrap();
    pods(&api, 3);
    let timing = super::Timing {
        silence: Duration::from_millis(60),
        ..quick()
    };
    let mut seen = Seen::with(&api, timing);
    seen.until("synced", |seen| seen.synced == 1).await;
    let watches = || api.count("WATCH", PODS);
    while watches() < 3 {
        seen.quiet().await;
    }
    assert!(
        api.count("LIST", PODS) > 1,
        "a server that says nothing is asked for everything"
    );
    assert_eq!(seen.count("Pod"), 3);
}

#[tokio::test]
async fn an_object_of_a_mebibyte_is_read() {
    let api = ApiServer::start().await.unwrap();
    let mut seen = Seen::synced(&api).await;
    let mut large = pod("large", "10.1.0.1");
    large["metadata"]["annotations"] = json!({"example.org/blob": "x".repeat(1 << 20)});
    api.add(PODS, large);
    seen.until("large", |seen| seen.count("Pod") == 1).await;
    let object = seen.objects.values().next().unwrap();
    assert_eq!(object.metadata().unwrap().annotations, None, "and not kept");
}

/// Pods as they are told, of which an older snapshot has fewer, and other ones.
async fn with_snapshot(api: &ApiServer) -> (Snapshot, Seen) {
    for at in 0..10 {
        api.add(PODS, pod(&format!("p{at:03}"), &format!("10.7.0.{at}")));
    }
    let old = api.snapshot();
    pods(api, 12);
    let mut seen = Seen::synced(api).await;
    while api.count("WATCH", PODS) == 0 {
        seen.quiet().await;
    }
    (old, seen)
}

/// Nobody answers, and that was noticed.
async fn away(api: &ApiServer, seen: &mut Seen) {
    api.set_down(true);
    let away = |seen: &Seen| {
        let all = seen.source.watches().all();
        all.iter()
            .any(|(label, state)| &**label == "Pod" && !state.faults.is_empty())
    };
    while !away(seen) {
        seen.quiet().await;
    }
}

#[tokio::test]
async fn a_restored_older_history_is_believed() {
    let api = ApiServer::start().await.unwrap();
    let (old, mut seen) = with_snapshot(&api).await;
    api.restore(&old);
    api.bookmark(PODS);
    seen.until("the older state", |seen| seen.count("Pod") == 10)
        .await;
    api.add(PODS, pod("new", "10.1.0.1"));
    seen.until("what happens then", |seen| seen.count("Pod") == 11)
        .await;
    let shown = format!("{:?}", seen.objects);
    assert!(
        shown.contains("10.7.0.5") && !shown.contains("10.0.0.5"),
        "versions are not compared"
    );
}

#[tokio::test]
async fn what_was_restored_while_nobody_answered_is_read_whatever_its_versions_are() {
    let api = ApiServer::start().await.unwrap();
    let (old, mut seen) = with_snapshot(&api).await;
    away(&api, &mut seen).await;
    api.restore(&old);
    // It has made more versions than we know of by the time that it answers.
    api.skip_to(1000);
    api.set_down(false);
    seen.until("the older state", |seen| seen.count("Pod") == 10)
        .await;
    api.add(PODS, pod("new", "10.1.0.1"));
    seen.until("what happens then", |seen| seen.count("Pod") == 11)
        .await;
    assert!(!format!("{:?}", seen.objects).contains("10.0.0.5"));
}

#[tokio::test]
async fn what_was_restored_and_got_the_same_version_as_before_is_read() {
    let api = ApiServer::start().await.unwrap();
    let old = api.snapshot();
    let version = api.add(PODS, pod("a", "10.1.0.1"));
    let mut seen = Seen::synced(&api).await;
    while api.count("WATCH", PODS) == 0 {
        seen.quiet().await;
    }
    away(&api, &mut seen).await;
    api.restore(&old);
    assert_eq!(api.add(PODS, pod("a", "10.1.0.2")), version);
    api.set_down(false);
    seen.until("the other one", |seen| {
        format!("{:?}", seen.objects).contains("10.1.0.2")
    })
    .await;
}

/// Half of the pods and more vanish: by events, and by a list.
#[tokio::test]
async fn a_mass_deletion_waits_for_a_list_that_agrees() {
    let api = ApiServer::start().await.unwrap();
    pods(&api, 40);
    let mut seen = Seen::synced(&api).await;
    while api.count("WATCH", PODS) == 0 {
        seen.quiet().await;
    }
    // Events that aren't true.
    for at in 0..40 {
        let name = format!("p{at:03}");
        api.inject(PODS, &event("DELETED", pod(&name, "10.0.0.1"), 1000 + at));
    }
    seen.until("a second list", |_| api.count("LIST", PODS) == 2)
        .await;
    seen.quiet().await;
    assert_eq!(seen.count("Pod"), 40, "the list says that they are there");
    let deleted = seen.told.iter().filter(|line| line.starts_with("-Pod"));
    assert!(deleted.count() <= 20, "not more than half were ever told");
    // A list that isn't true.
    api.set_down(true);
    api.trouble_once("LIST", "/pods", Trouble::Empty);
    api.add(PODS, pod("p000", "10.0.0.1"));
    api.compact();
    api.set_down(false);
    seen.until("a third and fourth", |_| api.count("LIST", PODS) >= 4)
        .await;
    seen.quiet().await;
    assert_eq!(seen.count("Pod"), 40);
    // And what is true.
    for at in 5..40 {
        api.remove(PODS, "shop", &format!("p{at:03}"));
    }
    seen.until("they are gone", |seen| seen.count("Pod") == 5)
        .await;
    let held = |seen: &Seen| {
        let all = seen.source.watches().all();
        all.into_iter()
            .find(|(label, _)| &**label == "Pod")
            .unwrap()
            .1
            .held
    };
    assert_eq!(held(&seen), 0);
}

#[tokio::test]
async fn what_is_held_back_shows() {
    let api = ApiServer::start().await.unwrap();
    pods(&api, 40);
    let timing = super::Timing {
        confirm: Duration::from_secs(3600),
        ..quick()
    };
    let mut seen = Seen::with(&api, timing);
    seen.until("synced", |seen| seen.synced == 1).await;
    api.set_down(true);
    api.trouble_once("LIST", "/pods", Trouble::Empty);
    api.add(PODS, pod("p000", "10.0.0.1"));
    api.compact();
    api.set_down(false);
    seen.until("held", |seen| {
        let all = seen.source.watches().all();
        all.iter()
            .any(|(label, state)| &**label == "Pod" && state.held == 40)
    })
    .await;
    assert_eq!(seen.count("Pod"), 40);
}
