//! The view depends on what is there, not on how it came there.

use proptest::prelude::*;

use super::*;
use crate::dump::dump;
use crate::lookup::Found;

/// One step: a workload or a service in one of its forms, or its removal.
#[derive(Debug, Clone)]
enum Op {
    Workload(u8, u8),
    NoWorkload(u8),
    Service(u8, u8),
    NoService(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6_u8, any::<u8>()).prop_map(|(n, form)| Op::Workload(n, form)),
        2 => (0..6_u8).prop_map(Op::NoWorkload),
        3 => (0..4_u8, any::<u8>()).prop_map(|(n, form)| Op::Service(n, form)),
        1 => (0..4_u8).prop_map(Op::NoService),
    ]
}

/// Workloads have addresses of their own: of two on one address the newest
/// wins, which is about order by intent.
fn workload(n: u8, form: u8) -> pb::Workload {
    let mut one = pod(&format!("p{n}"), [10, 0, n, form % 3]);
    for service in 0..4 {
        if form & (1 << service) != 0 {
            one = endpoint_of(&format!("shop/s{service}"), one);
        }
    }
    if form & 16 != 0 {
        one.hostname = format!("p{n}.example");
    }
    if form & 32 != 0 {
        one.network_mode = pb::NetworkMode::HostNetwork.into();
    }
    if form & 64 != 0 {
        one.node = "n2".into();
    }
    if form & 128 != 0 {
        one.addresses.push(Bytes::from(vec![0xfd ^ n; 16]));
        one.network = "other".into();
    }
    one
}

/// Services share addresses and ranges: their tie-break has no order.
fn service_form(n: u8, form: u8) -> pb::Service {
    let mut one = service(&format!("s{n}"), [10, 96, 0, form % 4]);
    if form & 16 != 0 {
        one.addresses.push(pb::NetworkAddress {
            address: vec![10, 97, 0, 0],
            length: Some(16 + u32::from(form % 4)),
            ..Default::default()
        });
    }
    one.canonical = form & 32 != 0;
    if form & 64 != 0 {
        one.visibility = pb::Visibility::Namespace.into();
    }
    one
}

/// All that can be asked, as text.
fn answers(view: &View) -> String {
    let mut text = dump(view).to_string();
    let mut ask = |found: Option<Found<'_>>| match found {
        Some(Found::Workload(one)) => text.push_str(one.uid.as_str()),
        Some(Found::Service(one)) => text.push_str(&one.key.to_string()),
        None => text.push('-'),
    };
    for network in ["", "other"] {
        for a in 0..6 {
            for b in 0..4 {
                for ip in [[10, 0, a, b], [10, 96, 0, b], [10, 97, a * 16, b]] {
                    ask(view.at(network, ip.into(), Some("web")));
                    ask(view
                        .service_at(network, ip.into(), Some("shop"))
                        .map(Found::Service));
                }
            }
            let name = format!("p{a}");
            ask(view
                .local_workload(&name, "shop", "default")
                .map(Found::Workload));
            ask(view.named(&NamespacedHostname::new("shop", format!("p{a}.example"))));
        }
    }
    text
}

fn is_empty(view: &View) -> bool {
    view.workloads.is_empty()
        && view.locals.is_empty()
        && view.workload_hosts.is_empty()
        && view.services.is_empty()
        && view.service_hosts.is_empty()
        && view.networks.is_empty()
        && view.endpoints.is_empty()
        && view.policies.is_empty()
}

fn apply(writer: &mut StateWriter, op: &Op) {
    match op {
        Op::Workload(n, form) => {
            writer.apply_addresses(vec![named(workload(*n, *form))], &[]);
        }
        Op::NoWorkload(n) => {
            writer.apply_addresses(vec![], &[format!("c//Pod/shop/p{n}")]);
        }
        Op::Service(n, form) => {
            writer.apply_addresses(vec![named_service(service_form(*n, *form))], &[]);
        }
        Op::NoService(n) => {
            writer.apply_addresses(vec![], &[format!("shop/s{n}")]);
        }
    }
}

/// What is left after all steps, in the order of names.
fn left(ops: &[Op]) -> Vec<(String, pb::Address)> {
    let mut left = std::collections::BTreeMap::new();
    for op in ops {
        match op {
            Op::Workload(n, form) => left.extend([named(workload(*n, *form))]),
            Op::Service(n, form) => left.extend([named_service(service_form(*n, *form))]),
            Op::NoWorkload(n) => drop(left.remove(&format!("c//Pod/shop/p{n}"))),
            Op::NoService(n) => drop(left.remove(&format!("shop/s{n}"))),
        }
    }
    left.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Step by step, or at once from nothing: the same view.
    #[test]
    fn changes_end_where_a_rebuild_ends(ops in prop::collection::vec(op(), 0..40)) {
        let (mut stepwise, step_reader) = started();
        for op in &ops {
            apply(&mut stepwise, op);
        }
        let (mut at_once, once_reader) = started();
        at_once.apply_addresses(left(&ops), &[]);
        prop_assert_eq!(answers(&step_reader.view()), answers(&once_reader.view()));
    }

    /// Resources that don't share an address may come in any order.
    #[test]
    fn order_does_not_matter(
        ops in prop::collection::vec(op(), 0..40),
        seed in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let forward = left(&ops);
        let mut turned = forward.clone();
        if !turned.is_empty() {
            let turn = seed.index(turned.len());
            turned.rotate_left(turn);
            turned[turn..].reverse();
        }
        let (mut a, a_reader) = started();
        a.apply_addresses(forward, &[]);
        let (mut b, b_reader) = started();
        let second = turned.split_off(cut.index(turned.len() + 1));
        b.apply_addresses(turned, &[]);
        b.apply_addresses(second, &[]);
        prop_assert_eq!(answers(&a_reader.view()), answers(&b_reader.view()));
    }

    /// Everything that came can go, and nothing stays behind.
    #[test]
    fn removing_everything_leaves_nothing(ops in prop::collection::vec(op(), 0..40)) {
        let (mut writer, _reader) = started();
        for op in &ops {
            apply(&mut writer, op);
        }
        let names: Vec<_> = left(&ops).into_iter().map(|(name, _)| name).collect();
        writer.apply_addresses(vec![], &names);
        prop_assert!(is_empty(&writer.view));
    }
}
