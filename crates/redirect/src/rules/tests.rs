use serde_json::Value;

use super::*;

/// `chain: match .. -> action`, for reading.
fn rules(set: &RuleSet) -> Vec<String> {
    let document = serde_json::to_value(set.transaction()).unwrap();
    let commands = document["nftables"].as_array().unwrap();
    let rules = commands.iter().filter_map(|c| c.get("add")?.get("rule"));
    rules.map(render).collect()
}

fn render(rule: &Value) -> String {
    let table = rule["table"]
        .as_str()
        .unwrap()
        .trim_start_matches("istio-ambient-");
    let chain = rule["chain"].as_str().unwrap().trim_start_matches("istio-");
    let statements = rule["expr"].as_array().unwrap();
    assert_eq!(
        statements[statements.len() - 2],
        serde_json::json!({"counter": null})
    );
    let statements = statements.iter().filter(|s| s.get("counter").is_none());
    let texts: Vec<_> = statements.map(statement).collect();
    format!("{table} {chain}: {}", texts.join(" "))
}

fn statement(statement: &Value) -> String {
    let (kind, body) = statement.as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "match" => {
            let op = body["op"].as_str().unwrap();
            format!(
                "[{} {op} {}]",
                expression(&body["left"]),
                expression(&body["right"])
            )
        }
        "mangle" => format!(
            "{} := {}",
            expression(&body["key"]),
            expression(&body["value"])
        ),
        "redirect" => format!("-> :{}", expression(&body["port"])),
        verdict => verdict.to_owned(),
    }
}

fn expression(value: &Value) -> String {
    let Value::Object(object) = value else {
        return value.as_u64().map_or_else(
            || value.as_str().unwrap().to_owned(),
            |n| match n {
                0..0x111 | 0x1000..0x10000 => n.to_string(),
                mark => format!("{mark:#x}"),
            },
        );
    };
    let (kind, body) = object.iter().next().unwrap();
    match kind.as_str() {
        "payload" => format!(
            "{}.{}",
            body["protocol"].as_str().unwrap(),
            body["field"].as_str().unwrap()
        ),
        "meta" | "ct" => format!("{kind}.{}", body["key"].as_str().unwrap()),
        operator => format!(
            "({} {operator} {})",
            expression(&body[0]),
            expression(&body[1])
        ),
    }
}

/// `ztunnel-contract` 7.1, row by row, in the order of its last paragraph.
#[test]
fn all_thirteen_rules_of_one_family() {
    let everything = RuleSet::Capture(Capture {
        inbound: Inbound::Capture,
        ipv6: false,
        dns: true,
        virtual_interfaces: vec!["tap0".into()],
    });
    let new = "[(tcp.flags & 23) == 2]";
    let proxy = "[(meta.mark & 0xfff) == 0x539]";
    let not_proxy = "[(meta.mark & 0xfff) != 0x539]";
    let tcp = "[meta.l4proto == tcp]";
    let v4 = "[meta.nfproto == ipv4]";
    let away = "[ip.daddr != 127.0.0.1]";
    let want = [
        // 2 and 6
        format!("mangle prerouting: {proxy} ct.mark := ((ct.mark & 0xfffff000) | 0x111)"),
        "mangle output: [(ct.mark & 0xfff) == 0x111] meta.mark := ct.mark".to_owned(),
        // 1, twice: REDIRECT, then RETURN
        format!("nat prerouting: {v4} [meta.iifname == tap0] {new} -> :15001"),
        format!("nat prerouting: {v4} [meta.iifname == tap0] {tcp} return"),
        // 3, 5
        format!("nat prerouting: {tcp} [ip.saddr == 169.254.7.127] accept"),
        format!("nat prerouting: {away} {new} [tcp.dport != 15008] {not_proxy} -> :15006"),
        // 4, 7, 8, 11, 12, 13
        format!("nat output: {tcp} [ip.daddr == 169.254.7.127] accept"),
        format!("nat output: {v4} [meta.oifname != lo] [udp.dport == 53] {not_proxy} -> :15053"),
        format!("nat output: {away} [tcp.dport == 53] {not_proxy} -> :15053"),
        format!("nat output: {v4} {tcp} [(meta.mark & 0xfff) == 0x111] accept"),
        format!("nat output: {away} [meta.oifname == lo] accept"),
        format!("nat output: {away} {new} {not_proxy} -> :15001"),
        // 9, 10
        format!("raw output: {v4} [udp.dport == 53] {proxy} ct.zone := 1"),
        format!("raw prerouting: {v4} [udp.sport == 53] {not_proxy} ct.zone := 1"),
    ];
    let got = rules(&everything);
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got, want);
    }
    assert_eq!(got.len(), want.len());
}

#[test]
fn conditions_of_the_rules() {
    let count = |capture: Capture| rules(&RuleSet::Capture(capture)).len();
    let default = Capture::default();
    // 2, 6, 11 once; 3, 4, 5, 12, 13 for each family.
    assert_eq!(count(default.clone()), 3 + 2 * 5);
    assert_eq!(
        count(Capture {
            ipv6: false,
            ..default.clone()
        }),
        3 + 5
    );
    assert_eq!(
        count(Capture {
            inbound: Inbound::Bypass,
            ..default.clone()
        }),
        3 + 2 * 3
    );
    assert_eq!(
        count(Capture {
            dns: true,
            ..default
        }),
        3 + 2 * 5 + 3 + 2
    );
}

#[test]
fn a_pod_that_leaves_keeps_translation_and_the_way_back() {
    assert_eq!(rules(&RuleSet::Drain).len(), 2);
    let document = serde_json::to_string(&RuleSet::Drain.transaction()).unwrap();
    for hook in ["prerouting", "output"] {
        let chain = format!(r#""name":"istio-{hook}","type":"nat","hook":"{hook}","prio":-100"#);
        assert!(document.contains(&chain), "{document}");
    }
}

#[test]
fn one_transaction_replaces_whatever_was_there() {
    let document = serde_json::to_value(removal()).unwrap();
    let commands = document["nftables"].as_array().unwrap();
    assert_eq!(commands.len(), 2 * TABLES.len());
    let sets = [RuleSet::Capture(Capture::default()), RuleSet::Drain];
    for set in sets {
        let whole = serde_json::to_value(set.transaction()).unwrap();
        let begins = &whole["nftables"].as_array().unwrap()[..commands.len()];
        assert_eq!(begins, commands.as_slice());
    }
}
