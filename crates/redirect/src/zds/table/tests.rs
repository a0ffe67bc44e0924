use super::*;

fn info(name: &str) -> WorkloadInfo {
    WorkloadInfo {
        name: name.into(),
        namespace: "shop".into(),
        service_account: "default".into(),
    }
}

fn netns() -> Option<NetNs> {
    Some(NetNs::current().unwrap())
}

/// Everything a connection sends until it idles, each step accepted unless refused by name.
fn drive(table: &mut Table, id: u64, refuse: &[&str], now: Instant) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        let step = table.next(id, now);
        let (text, uid) = match &step {
            Step::Add { uid, .. } => (format!("add {uid}"), uid.to_string()),
            Step::Keep(uid) => (format!("keep {uid}"), uid.to_string()),
            Step::Del(uid) => (format!("del {uid}"), uid.to_string()),
            Step::SnapshotSent => ("snapshot".to_owned(), String::new()),
            Step::Idle(_) => return said,
        };
        said.push(text);
        let answer = match refuse.contains(&uid.as_str()) {
            true => Err("port in use".to_owned()),
            false => Ok(()),
        };
        table.answered(id, &step, answer, now);
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_names_every_pod_then_changes_follow() {
    let now = Instant::now();
    let mut table = Table::default();
    assert!(table.insert("a", info("a"), netns()));
    assert!(table.insert("b", info("b"), None));
    assert_eq!(table.state("a"), ProxyState::Unreachable);
    table.connected(1);
    assert_eq!(
        drive(&mut table, 1, &[], now),
        ["add a", "keep b", "snapshot"]
    );
    assert_eq!(table.state("a"), ProxyState::Listening);
    assert_eq!(table.state("b"), ProxyState::Listening);

    assert!(
        !table.insert("a", info("a"), netns()),
        "the same again is no news"
    );
    assert!(drive(&mut table, 1, &[], now).is_empty());
    // At hand now: what was kept is handed over.
    assert!(table.insert("b", info("b"), netns()));
    table.insert("c", info("c"), netns());
    assert_eq!(table.state("b"), ProxyState::Unreachable);
    assert_eq!(drive(&mut table, 1, &[], now), ["add b", "add c"]);
    assert!(table.remove("a"));
    assert!(table.removal_pending("a"));
    assert_eq!(drive(&mut table, 1, &[], now), ["del a"]);
    assert!(!table.removal_pending("a"));
    assert_eq!(table.state("a"), ProxyState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_only_known_is_never_named_after_the_snapshot() {
    let now = Instant::now();
    let mut table = Table::default();
    table.connected(1);
    assert_eq!(drive(&mut table, 1, &[], now), ["snapshot"]);
    table.insert("a", info("a"), None);
    assert!(drive(&mut table, 1, &[], now).is_empty());
    assert_eq!(table.state("a"), ProxyState::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn the_newest_gets_adds_all_get_removals_and_the_previous_takes_over() {
    let now = Instant::now();
    let mut table = Table::default();
    table.insert("a", info("a"), netns());
    table.connected(1);
    drive(&mut table, 1, &[], now);
    table.connected(2);
    assert_eq!(
        table.state("a"),
        ProxyState::Listening,
        "the old one still serves"
    );
    table.insert("b", info("b"), netns());
    assert!(drive(&mut table, 1, &[], now).is_empty());
    assert_eq!(
        drive(&mut table, 2, &[], now),
        ["add a", "add b", "snapshot"]
    );

    table.remove("b");
    assert_eq!(
        drive(&mut table, 1, &[], now),
        ["del b"],
        "also where it was never added"
    );
    assert_eq!(drive(&mut table, 2, &[], now), ["del b"]);

    table.insert("c", info("c"), netns());
    assert_eq!(drive(&mut table, 2, &[], now), ["add c"]);
    table.disconnected(2);
    assert_eq!(table.state("c"), ProxyState::Unreachable);
    assert_eq!(drive(&mut table, 1, &[], now), ["add c"]);
    assert_eq!(table.state("c"), ProxyState::Listening);
    table.disconnected(1);
    assert_eq!(table.state("a"), ProxyState::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_overtaken_within_its_snapshot_still_ends_it() {
    let now = Instant::now();
    let mut table = Table::default();
    table.insert("a", info("a"), netns());
    table.connected(1);
    table.connected(2);
    assert_eq!(drive(&mut table, 1, &[], now), ["add a", "snapshot"]);
    assert_eq!(drive(&mut table, 2, &[], now), ["add a", "snapshot"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_pod_is_surfaced_and_told_again_later() {
    let now = Instant::now();
    let mut table = Table::default();
    table.insert("a", info("a"), netns());
    table.connected(1);
    assert_eq!(drive(&mut table, 1, &["a"], now), ["add a", "snapshot"]);
    assert_eq!(table.state("a"), ProxyState::Refused("port in use".into()));
    let Step::Idle(Some(again)) = table.next(1, now) else {
        panic!("no retry is planned");
    };
    assert_eq!(again - now, FIRST_RETRY);
    let mut at = again;
    for _ in 0..10 {
        assert_eq!(drive(&mut table, 1, &["a"], at), ["add a"]);
        let Step::Idle(Some(next)) = table.next(1, at) else {
            panic!("no retry is planned");
        };
        assert!(next > at && next - at <= MAX_RETRY);
        at = next;
    }
    assert_eq!(drive(&mut table, 1, &[], at), ["add a"]);
    assert_eq!(table.state("a"), ProxyState::Listening);
}

#[tokio::test(start_paused = true)]
async fn removed_and_added_between_two_messages_is_one_add() {
    let now = Instant::now();
    let mut table = Table::default();
    table.insert("a", info("a"), netns());
    table.connected(1);
    drive(&mut table, 1, &[], now);
    table.remove("a");
    let step = table.next(1, now);
    assert!(matches!(&step, Step::Del(_)));
    // It is back while the removal is on its way: the answer doesn't end it.
    table.insert("a", info("a"), netns());
    table.answered(1, &step, Ok(()), now);
    assert_eq!(drive(&mut table, 1, &[], now), ["add a"]);
}
