//! Policies, as a table.

use super::dump::{Dump, Entry, Policy};
use crate::table::render;

/// The policies of a namespace, or all, by namespace and name.
pub(super) fn select<'d>(namespace: Option<&str>, dump: &'d Dump) -> Vec<&'d Entry<Policy>> {
    let mut found: Vec<_> = dump
        .policies
        .iter()
        .filter(|one| namespace.is_none_or(|wanted| wanted == one.namespace))
        .collect();
    found.sort_by_key(|one| (&one.namespace, &one.name));
    found
}

pub(super) fn table(policies: &[&Entry<Policy>]) -> String {
    let row = |one: &&Entry<Policy>| {
        [
            one.namespace.clone(),
            one.name.clone(),
            one.action.clone(),
            one.scope.clone(),
        ]
    };
    let rows: Vec<_> = policies.iter().map(row).collect();
    render(["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"], &rows, 1)
}
