use std::fmt::Write as _;

use super::*;

fn allocation() -> Allocation {
    let ranges = ("240.240.0.0/16".parse(), "2001:2::/48".parse());
    Allocation::new(ranges.0.unwrap(), ranges.1.unwrap(), "default")
}

fn entry(name: &str, created: &str, more: &str, status: &[(&str, &str)]) -> Change {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: {name}\n  namespace: shop\n  generation: 3\n  creationTimestamp: {created}\n{more}"
    );
    if !status.is_empty() {
        text.push_str("status:\n  addresses:\n");
    }
    for (host, value) in status {
        writeln!(text, "  - {{host: {host:?}, value: {value:?}}}").unwrap();
    }
    let mut loaded = ambit_kube::read_manifest("e.yaml", &text);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    Change::Apply(loaded.objects.remove(0))
}

const DNS: &str =
    "spec: {hosts: [a.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}\n";
const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-02-01T00:00:00Z";

fn shown(allocation: &mut Allocation) -> Vec<String> {
    let wanted = allocation.wanted().into_iter();
    let shown = wanted.map(|one| {
        let of = one.addresses.iter();
        let of: Vec<_> = of.map(|(host, ip)| format!("{host}={ip}")).collect();
        format!("{}: {}", one.entry.name, of.join(" "))
    });
    shown.collect()
}

#[test]
fn each_host_gets_one_of_each_family_from_the_start_of_the_range() {
    let mut allocation = allocation();
    let two = "spec: {hosts: [a.com, b.com], resolution: STATIC}\n";
    allocation.learn(&[entry("one", EARLY, two, &[]), entry("two", LATE, DNS, &[])]);
    assert_eq!(
        shown(&mut allocation),
        [
            "one: a.com=240.240.0.1 a.com=2001:2::1 b.com=240.240.0.2 b.com=2001:2::2",
            "two: a.com=240.240.0.3 a.com=2001:2::3",
        ]
    );
    assert_eq!(allocation.wanted()[0].generation, Some(3));
}

#[test]
fn who_is_eligible() {
    let cases = [
        ("spec: {hosts: [a.com], resolution: NONE}\n", 0),
        (
            "spec: {hosts: [a.com], resolution: DNS, addresses: [10.0.0.1]}\n",
            0,
        ),
        (
            "  labels: {networking.istio.io/enable-autoallocate-ip: 'false'}\nspec: {hosts: [a.com], resolution: DNS}\n",
            0,
        ),
        (
            "  labels: {networking.istio.io/enable-autoallocate-ip: 'true'}\nspec: {hosts: [a.com], resolution: DNS}\n",
            2,
        ),
        (
            "  labels: {istio.io/rev: other}\nspec: {hosts: [a.com], resolution: DNS}\n",
            0,
        ),
        (
            "  labels: {istio.io/rev: default}\nspec: {hosts: [a.com], resolution: DNS}\n",
            2,
        ),
        ("spec: {hosts: ['*.a.com'], resolution: STATIC}\n", 0),
        ("spec: {hosts: ['*.a.com'], resolution: DYNAMIC_DNS}\n", 2),
        (
            "spec: {hosts: ['*.a.com', b.com, b.com], resolution: STATIC}\n",
            2,
        ),
    ];
    for (spec, count) in cases {
        let mut allocation = allocation();
        allocation.learn(&[entry("e", EARLY, spec, &[])]);
        let wanted = allocation.wanted();
        let addresses: usize = wanted.iter().map(|one| one.addresses.len()).sum();
        assert_eq!(addresses, count, "{spec}");
    }
}

#[test]
fn what_is_written_is_kept_and_wants_no_write() {
    let mut allocation = allocation();
    let has = [("a.com", "240.240.7.7"), ("a.com", "2001:2::77")];
    allocation.learn(&[entry("one", EARLY, DNS, &has), entry("two", LATE, DNS, &[])]);
    assert_eq!(
        shown(&mut allocation),
        ["two: a.com=240.240.0.1 a.com=2001:2::1"]
    );
    // Half of it is added to.
    assert!(allocation.learn(&[entry("one", EARLY, DNS, &has[..1])]));
    let shown = shown(&mut allocation);
    assert_eq!(shown[0], "one: a.com=240.240.7.7 a.com=2001:2::2");
}

#[test]
fn the_oldest_keeps_what_two_have_and_users_keep_all() {
    let mut allocation = allocation();
    let has = [("a.com", "240.240.0.1"), ("a.com", "2001:2::1")];
    let user =
        "spec: {hosts: [c.com], resolution: STATIC, addresses: [240.240.0.2, '2001:2::/126']}\n";
    allocation.learn(&[
        entry("young", LATE, DNS, &has),
        entry("old", EARLY, DNS, &has[..1]),
        entry("user", LATE, user, &[]),
    ]);
    assert_eq!(
        shown(&mut allocation),
        [
            "old: a.com=240.240.0.1 a.com=2001:2::4",
            "young: a.com=240.240.0.3 a.com=2001:2::5",
        ]
    );
}

#[test]
fn what_is_not_wanted_any_more_is_taken_away() {
    let mut allocation = allocation();
    let has = [
        ("a.com", "240.240.0.1"),
        ("a.com", "2001:2::1"),
        ("gone.com", "240.240.0.2"),
    ];
    allocation.learn(&[entry("e", EARLY, DNS, &has)]);
    assert_eq!(
        shown(&mut allocation),
        ["e: a.com=240.240.0.1 a.com=2001:2::1"]
    );
    let own = "spec: {hosts: [a.com], resolution: DNS, addresses: [10.0.0.1]}\n";
    allocation.learn(&[entry("e", EARLY, own, &has[..2])]);
    assert_eq!(shown(&mut allocation), ["e: "]);
    // Another revision's are not ours to take.
    let theirs = "  labels: {istio.io/rev: other}\nspec: {hosts: [a.com], resolution: NONE}\n";
    allocation.learn(&[entry("e", EARLY, theirs, &has[..2])]);
    assert!(shown(&mut allocation).is_empty());
    allocation.learn(&[entry("ours", LATE, DNS, &[])]);
    assert_eq!(
        shown(&mut allocation),
        ["ours: a.com=240.240.0.2 a.com=2001:2::2"]
    );
    allocation.learn(&[Change::Delete(ObjectKey::new(
        Kind::ServiceEntry,
        "shop",
        "ours",
    ))]);
    let bad = [
        ("a.com", "240.240.0.1"),
        ("a.com", "2001:2::1"),
        ("a.com", "nonsense"),
    ];
    allocation.learn(&[entry("e", EARLY, DNS, &bad)]);
    assert_eq!(
        shown(&mut allocation),
        ["e: a.com=240.240.0.1 a.com=2001:2::1"]
    );
    assert!(allocation.learn(&[Change::Delete(ObjectKey::new(
        Kind::ServiceEntry,
        "shop",
        "e"
    ))]));
    assert!(shown(&mut allocation).is_empty());
}

#[test]
fn a_decision_holds_until_it_is_seen_or_somebody_else_leads() {
    let mut allocation = allocation();
    allocation.learn(&[entry("young", LATE, DNS, &[])]);
    assert_eq!(
        shown(&mut allocation),
        ["young: a.com=240.240.0.1 a.com=2001:2::1"]
    );
    // Older, and seen before our own write came back.
    allocation.learn(&[entry("old", EARLY, DNS, &[])]);
    let both = [
        "old: a.com=240.240.0.2 a.com=2001:2::2",
        "young: a.com=240.240.0.1 a.com=2001:2::1",
    ];
    assert_eq!(shown(&mut allocation), both);
    allocation.forget_decisions();
    assert_eq!(
        shown(&mut allocation)[0],
        "old: a.com=240.240.0.1 a.com=2001:2::1"
    );
    let has = [("a.com", "240.240.0.1"), ("a.com", "2001:2::1")];
    allocation.learn(&[entry("old", EARLY, DNS, &has)]);
    assert_eq!(
        shown(&mut allocation),
        ["young: a.com=240.240.0.2 a.com=2001:2::2"]
    );
}

#[test]
fn a_range_that_is_used_up_gives_no_more() {
    let mut allocation = Allocation::new(
        "240.240.0.0/30".parse().unwrap(),
        "2001:2::/126".parse().unwrap(),
        "",
    );
    let many = "spec: {hosts: [a, b, c, d, e], resolution: STATIC}\n";
    allocation.learn(&[entry("e", EARLY, many, &[])]);
    let wanted = allocation.wanted();
    assert_eq!(wanted[0].addresses.len(), 6);
}
