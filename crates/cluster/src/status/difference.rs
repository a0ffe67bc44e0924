//! What is to be said against what is said: pure, but for the time that is written beside it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use ambit_kube::Kind;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

/// The time, as a kind writes it.
pub(super) struct Clock(String);

impl Clock {
    /// With nanoseconds on Istio's kinds, with seconds on others (`control-plane-contract` 4.6).
    pub(super) fn new(kind: Kind, now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        let nanos = i128::try_from(since.as_nanos()).unwrap_or_default();
        let at = Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::UNIX_EPOCH);
        Self(if kind.group().ends_with(".istio.io") {
            format!("{at:.9}")
        } else {
            format!("{at:.0}")
        })
    }
}

/// The manager's whole status with times; none if it is there already, or if what is there is newer. `fields` are
/// everybody's, `owned` are the manager's.
pub(super) fn own(
    wanted: &Value,
    now: &Value,
    (owned, fields): (&[&Value], &[&Value]),
    clock: &Clock,
) -> Option<Value> {
    if is_older(wanted, now) {
        return None;
    }
    let given_up = owned.iter().any(|of| has_more(of, fields, wanted, now));
    if !given_up && is_said(wanted, now) {
        return None;
    }
    Some(timed(wanted, now, clock))
}

/// The whole list with ours as wanted and others' as they are; none if that is how it is.
pub(super) fn share(
    wanted: &[Value],
    now: &[Value],
    controller: &str,
    clock: &Clock,
) -> Option<Vec<Value>> {
    let is_ours =
        |entry: &&Value| entry.get("controllerName").and_then(Value::as_str) == Some(controller);
    let (ours, others): (Vec<&Value>, Vec<&Value>) = now.iter().partition(is_ours);
    let same = |(wanted, now): (&Value, &&Value)| is_said(wanted, now);
    if ours.len() == wanted.len() && wanted.iter().zip(&ours).all(same) {
        return None;
    }
    let before = |entry: &Value| {
        let by = ["parentRef", "ancestorRef"];
        let same = |one: &&Value| by.iter().all(|name| one.get(name) == entry.get(name));
        ours.iter().copied().find(same).unwrap_or(&Value::Null)
    };
    if wanted.iter().any(|entry| is_older(entry, before(entry))) {
        return None;
    }
    let ours = wanted
        .iter()
        .map(|entry| timed(entry, before(entry), clock));
    Some(others.into_iter().cloned().chain(ours).collect())
}

/// Whether everything that is wanted is there; times don't count.
fn is_said(wanted: &Value, now: &Value) -> bool {
    match (wanted, now) {
        (Value::Object(wanted), _) => {
            let mut wanted = wanted.iter();
            wanted.all(|(name, value)| is_said(value, now.get(name).unwrap_or(&Value::Null)))
        }
        // What more there is of ours is found by its ownership.
        (Value::Array(wanted), _) if wanted.is_empty() => true,
        (Value::Array(wanted), Value::Array(now)) => match key(wanted) {
            Some(key) => wanted.iter().all(|item| {
                let there = now.iter().find(|there| there.get(key) == item.get(key));
                there.is_some_and(|there| is_said(item, there))
            }),
            None => wanted.len() == now.len() && wanted.iter().zip(now).all(|(w, n)| is_said(w, n)),
        },
        _ => wanted == now,
    }
}

/// Conditions by type, listeners by name; other lists are what they are as a whole.
fn key(items: &[Value]) -> Option<&'static str> {
    let has = |name: &str| items.iter().all(|item| item.get(name).is_some());
    let conditions = !items.is_empty() && has("type") && has("status");
    let listeners = !items.is_empty() && has("name") && has("conditions");
    let condition = conditions.then_some("type");
    condition.or_else(|| listeners.then_some("name"))
}

/// Whether one of the conditions that are there is about a later generation than the one that is wanted.
fn is_older(wanted: &Value, now: &Value) -> bool {
    let number = |condition: &Value| {
        let generation = condition.get("observedGeneration")?;
        let text = generation.as_str().and_then(|text| text.parse().ok());
        generation.as_i64().or(text)
    };
    each(wanted).any(|condition| {
        let kind = condition.get("type");
        let there = each(now).find(|there| there.get("type") == kind);
        let there = there.and_then(number);
        matches!((number(condition), there), (Some(wanted), Some(there)) if wanted < there)
    })
}

fn each(status: &Value) -> impl Iterator<Item = &Value> {
    let conditions = status.get("conditions").and_then(Value::as_array);
    conditions.into_iter().flatten()
}

/// Whether a manager owns members, conditions or listeners that aren't wanted any more.
fn has_more(owned: &Value, fields: &[&Value], wanted: &Value, now: &Value) -> bool {
    let members = owned.get(STATUS).and_then(Value::as_object);
    members.into_iter().flatten().any(|(field, items)| {
        let Some(name) = field.strip_prefix("f:") else {
            return false;
        };
        let Some(wanted) = wanted.get(name) else {
            return true;
        };
        let list = wanted.as_array().map(Vec::as_slice).unwrap_or_default();
        let keyed = |of: &&Value| {
            keys(of.get(STATUS).and_then(|of| of.get(field)))
                .next()
                .is_some()
        };
        if !fields.iter().any(keyed) {
            // Where the kind doesn't say that it has keys, who owns a list owns all of it.
            let there = now.get(name).and_then(Value::as_array);
            return there.is_some_and(|there| there.len() > list.len());
        }
        let kept = list.iter().filter_map(|item| {
            let key = key(list)?;
            let mut of = Map::new();
            of.insert(key.to_owned(), item.get(key)?.clone());
            Some(Value::Object(of).to_string())
        });
        let kept: BTreeSet<_> = kept.collect();
        keys(Some(items)).any(|item| !kept.contains(item))
    })
}

/// The keys of the items of a list that are owned.
fn keys(items: Option<&Value>) -> impl Iterator<Item = &str> {
    let items = items.and_then(Value::as_object).into_iter().flatten();
    items.filter_map(|(item, _)| item.strip_prefix("k:"))
}

const STATUS: &str = "f:status";

/// With the time of each condition: of its last change, which is now if its status isn't what it was.
fn timed(wanted: &Value, now: &Value, clock: &Clock) -> Value {
    match wanted {
        Value::Array(items) => {
            let there = now.as_array().map(Vec::as_slice).unwrap_or_default();
            let key = key(items);
            let before = |item: &Value| {
                let key = key?;
                there.iter().find(|there| there.get(key) == item.get(key))
            };
            let items = items
                .iter()
                .map(|item| timed(item, before(item).unwrap_or(&Value::Null), clock));
            items.collect()
        }
        Value::Object(members) => {
            let mut of: Map<_, _> = members
                .iter()
                .map(|(name, value)| {
                    let before = now.get(name).unwrap_or(&Value::Null);
                    (name.clone(), timed(value, before, clock))
                })
                .collect();
            if of.contains_key("type") && of.contains_key("status") {
                let unchanged = now.get("status") == of.get("status");
                let since = now.get("lastTransitionTime").filter(|_| unchanged);
                let since = since.filter(|since| since.is_string()).cloned();
                let since = since.unwrap_or_else(|| clock.0.clone().into());
                of.insert("lastTransitionTime".to_owned(), since);
            }
            Value::Object(of)
        }
        _ => wanted.clone(),
    }
}
