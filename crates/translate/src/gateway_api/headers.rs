//! Header modifiers (`waypoint-contract` 2.5).

use ambit_proto::waypoint::{Header, HeaderOps};

use super::codes;
use super::report::{Fault, Report};
use super::spec::{HeaderSpec, NameValue};

/// The changes that a modifier makes; a name that can't be a header makes the
/// rule (or backend) unusable.
pub(super) fn read(report: &mut Report, field: &str, spec: &HeaderSpec) -> HeaderOps {
    let most = [spec.set.len(), spec.add.len(), spec.remove.len()];
    if most.iter().any(|count| *count > MOST) {
        report.unusable(
            "UnsupportedValue",
            codes::LIMIT,
            Fault {
                field,
                value: "",
                message: "set, add and remove have at most 16 entries each",
                remedy: "split the rule, or leave some out",
            },
        );
        return HeaderOps::default();
    }
    let ops = HeaderOps {
        set: pairs(report, &format!("{field}.set"), &spec.set),
        add: pairs(report, &format!("{field}.add"), &spec.add),
        remove: names(report, &format!("{field}.remove"), &spec.remove),
    };
    twice(report, field, &ops);
    ops
}

/// Each name once: of equivalent names the first counts.
fn pairs(report: &mut Report, field: &str, entries: &[NameValue]) -> Vec<Header> {
    let mut kept: Vec<Header> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("{field}[{index}]");
        let name = entry.name.to_ascii_lowercase();
        if !is_name(&name) {
            bad(report, &format!("{at}.name"), &entry.name, NAME_RULE);
        } else if !is_value(&entry.value) {
            bad(report, &format!("{at}.value"), &entry.value, VALUE_RULE);
        } else if kept.iter().any(|header| header.name == name) {
            second(report, &at, &entry.name);
        } else {
            kept.push(Header {
                name,
                value: entry.value.clone(),
            });
        }
    }
    kept
}

fn names(report: &mut Report, field: &str, entries: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let name = entry.to_ascii_lowercase();
        if !is_name(&name) {
            bad(report, &format!("{field}[{index}]"), entry, NAME_RULE);
        } else if !kept.contains(&name) {
            kept.push(name);
        }
    }
    kept
}

/// A header in two actions is doubtful, but what happens is well defined.
fn twice(report: &mut Report, field: &str, ops: &HeaderOps) {
    let set = ops.set.iter().map(|header| &header.name);
    for name in set.chain(&ops.remove) {
        let actions = usize::from(ops.set.iter().any(|h| h.name == *name))
            + usize::from(ops.add.iter().any(|h| h.name == *name))
            + usize::from(ops.remove.contains(name));
        if actions > 1 {
            report.warning(
                codes::BAD_HEADER,
                Fault {
                    field,
                    value: name,
                    message: "the header is in more than one of set, add and remove; they are \
                              applied in the order remove, set, add",
                    remedy: "name each header in one action only",
                },
            );
        }
    }
}

fn bad(report: &mut Report, field: &str, value: &str, remedy: &'static str) {
    report.unusable(
        "UnsupportedValue",
        codes::BAD_HEADER,
        Fault {
            field,
            value,
            message: "this can't be a header",
            remedy,
        },
    );
}

/// Of equivalent names only the first counts.
pub(super) fn second(report: &mut Report, field: &str, name: &str) {
    report.warning(
        codes::SECOND_ENTRY,
        Fault {
            field,
            value: name,
            message: "an earlier entry has the same name, so that this one has no effect",
            remedy: "remove it, or merge the two",
        },
    );
}

/// A token (RFC 9110), at most 256 bytes.
pub(super) fn is_name(name: &str) -> bool {
    (1..=256).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// No control characters but the tab, at most 4,096 bytes.
fn is_value(value: &str) -> bool {
    value.len() <= 4096
        && value
            .bytes()
            .all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

const NAME_RULE: &str = "write a header name: letters, digits and -, without spaces or colons";
const VALUE_RULE: &str = "write a value without line breaks, of at most 4096 bytes";
/// Entries of each action (2.5).
const MOST: usize = 16;
