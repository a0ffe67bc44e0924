//! Faults of the API server, and of the way to it.

use std::time::Duration;

use serde_json::json;

use super::fake::{Fake, Trouble, event};
use super::{PODS, SERVICES, Seen, pod, pods, quick};

fn service(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "shop"},
           "spec": {"clusterIP": "10.9.0.1", "ports": [{"port": 80}]}})
}

#[tokio::test]
async fn a_list_comes_in_pages_and_a_change_at_once() {
    let fake = Fake::start().await;
    fake.page(7);
    pods(&fake, 30);
    let mut seen = Seen::synced(&fake).await;
    assert_eq!(seen.count("Pod"), 30);
    assert_eq!(fake.served(&format!("list {PODS}")), 5);
    fake.put(PODS, pod("new", "10.1.0.1"));
    fake.delete(PODS, "shop", "p000");
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
    let fake = Fake::start().await;
    pods(&fake, 3);
    let mut seen = Seen::synced(&fake).await;
    let mut failed = pod("p001", "10.0.0.1");
    failed["status"]["phase"] = "Failed".into();
    fake.put(PODS, failed);
    seen.until("failed", |seen| seen.count("Pod") == 2).await;
    let before = seen.objects.clone();
    let mut written = pod("p002", "10.0.0.2");
    written["metadata"]["managedFields"] = json!([{"manager": "somebody"}]);
    written["status"]["containerStatuses"] = json!([]);
    fake.put(PODS, written);
    fake.put(PODS, pod("p003", "10.0.0.3"));
    seen.until("a later one", |seen| seen.count("Pod") == 3)
        .await;
    let key = before.keys().find(|key| &*key.name == "p002").unwrap();
    assert_eq!(seen.objects[key], before[key], "equal to the compiler");
}

/// With watches whose end is never early.
async fn short_watches(fake: &Fake) -> Seen {
    let timing = super::Timing {
        watch: Duration::from_millis(1),
        ..quick()
    };
    let mut seen = Seen::with(fake, timing);
    seen.until("synced", |seen| seen.synced == 1).await;
    seen
}

#[tokio::test]
async fn a_watch_that_ends_before_its_time_is_followed_by_a_list() {
    let fake = Fake::start().await;
    pods(&fake, 3);
    let mut seen = Seen::synced(&fake).await;
    for round in 0..3 {
        fake.end_watches();
        let name = format!("late-{round}");
        fake.put(PODS, pod(&name, "10.1.0.1"));
        seen.until("after the end", |seen| seen.names("Pod").contains(&name))
            .await;
    }
    assert!(fake.served(&format!("list {PODS}")) > 1);
    assert_eq!(seen.count("Pod"), 6);
}

#[tokio::test]
async fn a_watch_that_ends_at_its_time_goes_on_from_where_it_was() {
    let fake = Fake::start().await;
    pods(&fake, 3);
    let mut seen = short_watches(&fake).await;
    for round in 0..3 {
        while fake.served(&format!("watch {PODS}")) <= round {
            seen.quiet().await;
        }
        fake.end_watches();
        let name = format!("late-{round}");
        fake.put(PODS, pod(&name, "10.1.0.1"));
        seen.until("after the end", |seen| seen.names("Pod").contains(&name))
            .await;
    }
    assert_eq!(
        fake.served(&format!("list {PODS}")),
        1,
        "one list was enough"
    );
}

#[tokio::test]
async fn forgotten_history_is_read_anew_and_what_vanished_is_told() {
    let fake = Fake::start().await;
    pods(&fake, 20);
    let mut seen = short_watches(&fake).await;
    while fake.served(&format!("watch {PODS}")) == 0 {
        seen.quiet().await;
    }
    let told = seen.told.len();
    // The server is there all the time; only the watch isn't.
    fake.trouble("watch", "/pods", Trouble::Status(500));
    fake.end_watches();
    fake.delete(PODS, "shop", "p007");
    fake.put(PODS, pod("p003", "10.2.0.3"));
    fake.put(PODS, pod("new", "10.2.0.1"));
    fake.compact();
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
    let fake = Fake::start().await;
    fake.set_down(true);
    pods(&fake, 5);
    let mut seen = Seen::of(&fake);
    seen.quiet().await;
    assert_eq!(seen.synced, 0, "nothing is known yet");
    assert!(
        seen.source
            .watches()
            .waiting()
            .iter()
            .any(|label| &**label == "Pod")
    );
    fake.set_down(false);
    seen.until("synced", |seen| seen.synced == 1).await;
    assert_eq!(seen.count("Pod"), 5);
    fake.set_down(true);
    seen.quiet().await;
    assert_eq!(seen.count("Pod"), 5, "the last state stays in force");
    fake.put(PODS, pod("after", "10.1.0.1"));
    fake.set_down(false);
    seen.until("back", |seen| seen.count("Pod") == 6).await;
}

#[tokio::test]
async fn lists_that_are_cut_slow_or_refused_are_made_again() {
    let fake = Fake::start().await;
    fake.page(4);
    pods(&fake, 10);
    for trouble in [
        Trouble::CutList,
        Trouble::Status(503),
        Trouble::Status(429),
        Trouble::Status(410),
        Trouble::Slow(Duration::from_millis(50)),
        Trouble::Status(500),
        Trouble::CutList,
    ] {
        fake.trouble("list", "/pods", trouble);
    }
    for trouble in [Trouble::Status(410), Trouble::Status(503)] {
        fake.trouble("watch", "/services", trouble);
    }
    let mut seen = Seen::synced(&fake).await;
    assert_eq!(seen.count("Pod"), 10);
    fake.put(SERVICES, service("cart"));
    seen.until("a service", |seen| seen.count("Service") == 1)
        .await;
}

#[tokio::test]
async fn a_forbidden_kind_is_waited_for_by_name() {
    let fake = Fake::start().await;
    for _ in 0..8 {
        fake.trouble("list", "/services", Trouble::Status(403));
    }
    let mut seen = Seen::of(&fake);
    seen.until("allowed at last", |seen| seen.synced == 1).await;
    let all = seen.source.watches().all();
    let (_, state) = all.iter().find(|(label, _)| &**label == "Service").unwrap();
    assert_eq!(state.faults["forbidden"], 8);
}

#[tokio::test]
async fn bookmarks_alone_keep_a_watch_current() {
    let fake = Fake::start().await;
    pods(&fake, 3);
    fake.put(SERVICES, service("cart"));
    let mut seen = short_watches(&fake).await;
    // Much happens elsewhere, and its history is forgotten.
    for at in 0..50 {
        fake.put(SERVICES, service(&format!("s{at}")));
    }
    seen.until("services", |seen| seen.count("Service") == 51)
        .await;
    while fake.served(&format!("watch {PODS}")) == 0 {
        seen.quiet().await;
    }
    fake.bookmark(PODS);
    seen.quiet().await;
    fake.compact();
    fake.end_watches();
    fake.put(PODS, pod("after", "10.1.0.1"));
    seen.until("after", |seen| seen.count("Pod") == 4).await;
    assert_eq!(
        fake.served(&format!("list {PODS}")),
        1,
        "the bookmark was enough"
    );
}

#[tokio::test]
async fn repeated_late_and_strange_lines_do_no_harm() {
    let fake = Fake::start().await;
    pods(&fake, 12);
    let mut seen = Seen::synced(&fake).await;
    let first = fake.put(PODS, pod("a", "10.1.0.1"));
    fake.put(PODS, pod("a", "10.1.0.2"));
    seen.until("a", |seen| seen.names("Pod").contains(&"a".to_owned()))
        .await;
    seen.quiet().await;
    let before = seen.objects.clone();
    let told = seen.told.len();
    fake.inject(PODS, &event("MODIFIED", pod("a", "10.1.0.1"), first));
    fake.inject(PODS, &event("DELETED", pod("a", "10.1.0.1"), first));
    fake.inject(PODS, &event("SOMETHING", pod("a", "10.1.0.9"), first + 9));
    fake.inject(PODS, "");
    seen.quiet().await;
    assert_eq!((seen.told.len(), &seen.objects), (told, &before));
    fake.delete(PODS, "shop", "a");
    seen.until("gone", |seen| seen.count("Pod") == 12).await;
    fake.inject(PODS, &event("MODIFIED", pod("a", "10.1.0.2"), first + 1));
    seen.quiet().await;
    assert_eq!(seen.count("Pod"), 12, "the dead stay dead");
    fake.inject(PODS, "this is no JSON");
    fake.put(PODS, pod("b", "10.1.0.3"));
    seen.until("b, by a new watch", |seen| seen.count("Pod") == 13)
        .await;
    assert_eq!(fake.served(&format!("list {PODS}")), 1);
}

#[tokio::test]
async fn silence_is_taken_for_a_dead_connection() {
    let fake = Fake::start().await;
    pods(&fake, 3);
    let timing = super::Timing {
        silence: Duration::from_millis(60),
        ..quick()
    };
    let mut seen = Seen::with(&fake, timing);
    seen.until("synced", |seen| seen.synced == 1).await;
    let watches = || fake.served(&format!("watch {PODS}"));
    while watches() < 3 {
        seen.quiet().await;
    }
    assert!(
        fake.served(&format!("list {PODS}")) > 1,
        "a server that says nothing is asked for everything"
    );
    assert_eq!(seen.count("Pod"), 3);
}

#[tokio::test]
async fn an_object_of_a_mebibyte_is_read() {
    let fake = Fake::start().await;
    let mut seen = Seen::synced(&fake).await;
    let mut large = pod("large", "10.1.0.1");
    large["metadata"]["annotations"] = json!({"example.org/blob": "x".repeat(1 << 20)});
    fake.put(PODS, large);
    seen.until("large", |seen| seen.count("Pod") == 1).await;
    let object = seen.objects.values().next().unwrap();
    assert_eq!(object.metadata().unwrap().annotations, None, "and not kept");
}

#[tokio::test]
async fn a_restored_older_history_is_believed() {
    let fake = Fake::start().await;
    pods(&fake, 12);
    let mut seen = Seen::synced(&fake).await;
    while fake.served(&format!("watch {PODS}")) == 0 {
        seen.quiet().await;
    }
    let older = (0..10).map(|at| pod(&format!("p{at:03}"), &format!("10.7.0.{at}")));
    fake.restore(50, PODS, older.collect());
    fake.bookmark(PODS);
    seen.until("the older state", |seen| seen.count("Pod") == 10)
        .await;
    fake.put(PODS, pod("new", "10.1.0.1"));
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
    let fake = Fake::start().await;
    pods(&fake, 12);
    let mut seen = Seen::synced(&fake).await;
    while fake.served(&format!("watch {PODS}")) == 0 {
        seen.quiet().await;
    }
    fake.set_down(true);
    let older = (0..10).map(|at| pod(&format!("p{at:03}"), &format!("10.7.0.{at}")));
    let away = |seen: &Seen| {
        let all = seen.source.watches().all();
        all.iter()
            .any(|(label, state)| &**label == "Pod" && !state.faults.is_empty())
    };
    while !away(&seen) {
        seen.quiet().await;
    }
    // It has made more versions than we know of by the time that it answers.
    fake.restore(1000, PODS, older.collect());
    fake.set_down(false);
    seen.until("the older state", |seen| seen.count("Pod") == 10)
        .await;
    fake.put(PODS, pod("new", "10.1.0.1"));
    seen.until("what happens then", |seen| seen.count("Pod") == 11)
        .await;
    assert!(!format!("{:?}", seen.objects).contains("10.0.0.5"));
}

/// Half of the pods and more vanish: by events, and by a list.
#[tokio::test]
async fn a_mass_deletion_waits_for_a_list_that_agrees() {
    let fake = Fake::start().await;
    pods(&fake, 40);
    let mut seen = Seen::synced(&fake).await;
    while fake.served(&format!("watch {PODS}")) == 0 {
        seen.quiet().await;
    }
    // Events that aren't true.
    for at in 0..40 {
        let name = format!("p{at:03}");
        fake.inject(PODS, &event("DELETED", pod(&name, "10.0.0.1"), 1000 + at));
    }
    seen.until("a second list", |_| {
        fake.served(&format!("list {PODS}")) == 2
    })
    .await;
    seen.quiet().await;
    assert_eq!(seen.count("Pod"), 40, "the list says that they are there");
    let deleted = seen.told.iter().filter(|line| line.starts_with("-Pod"));
    assert!(deleted.count() <= 20, "not more than half were ever told");
    // A list that isn't true.
    fake.set_down(true);
    fake.trouble("list", "/pods", Trouble::EmptyList);
    fake.put(PODS, pod("p000", "10.0.0.1"));
    fake.compact();
    fake.set_down(false);
    seen.until("a third and fourth", |_| {
        fake.served(&format!("list {PODS}")) >= 4
    })
    .await;
    seen.quiet().await;
    assert_eq!(seen.count("Pod"), 40);
    // And what is true.
    for at in 5..40 {
        fake.delete(PODS, "shop", &format!("p{at:03}"));
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
    let fake = Fake::start().await;
    pods(&fake, 40);
    let timing = super::Timing {
        confirm: Duration::from_secs(3600),
        ..quick()
    };
    let mut seen = Seen::with(&fake, timing);
    seen.until("synced", |seen| seen.synced == 1).await;
    fake.set_down(true);
    fake.trouble("list", "/pods", Trouble::EmptyList);
    fake.put(PODS, pod("p000", "10.0.0.1"));
    fake.compact();
    fake.set_down(false);
    seen.until("held", |seen| {
        let all = seen.source.watches().all();
        all.iter()
            .any(|(label, state)| &**label == "Pod" && state.held == 40)
    })
    .await;
    assert_eq!(seen.count("Pod"), 40);
}
