//! Whether one policy matches one connection. Nothing here allocates.

use std::net::IpAddr;

use ambit_types::SpiffeId;
use ipnet::IpNet;

use crate::evaluate::Attrs;
use crate::model::{Authorization, Clause, Match, Rule, ServiceAccountMatch, StringMatch};
use crate::trace::{Field, Step, Tracer};

/// Rules are alternatives; a policy without rules never matches.
pub(crate) fn policy_matches<T: Tracer>(
    policy: &Authorization,
    attrs: &Attrs<'_>,
    tracer: &mut T,
) -> bool {
    let matched = policy.rules.iter().enumerate().any(|(index, rule)| {
        let matched = rule_matches(rule, attrs, tracer);
        if T::DETAIL {
            tracer.step(Step::Rule {
                policy,
                index,
                matched,
            });
        }
        matched
    });
    if T::ENABLED {
        tracer.step(Step::Policy { policy, matched });
    }
    matched
}

fn rule_matches<T: Tracer>(rule: &Rule, attrs: &Attrs<'_>, tracer: &mut T) -> bool {
    rule.clauses
        .iter()
        .all(|clause| clause_holds(clause, attrs, tracer))
}

fn clause_holds<T: Tracer>(clause: &Clause, attrs: &Attrs<'_>, tracer: &mut T) -> bool {
    clause.matches.is_empty()
        || clause
            .matches
            .iter()
            .any(|one| match_holds(one, attrs, tracer))
}

/// Fields are ANDed; an empty one is ignored, and all of them empty is false.
fn match_holds<T: Tracer>(one: &Match, attrs: &Attrs<'_>, tracer: &mut T) -> bool {
    let peer = attrs.peer;
    let namespace = peer.map_or("", |id| id.namespace());
    let mut fields = Fields {
        tracer,
        any: false,
        all: true,
    };
    let in_namespace = |m: &StringMatch| text_matches(m, namespace);
    let is_principal = |m: &StringMatch| peer.is_some_and(|id| principal_matches(m, id));
    let is_account = |m: &ServiceAccountMatch| peer.is_some_and(|id| account_matches(m, id));
    let from = |net: &IpNet| contains(net, attrs.source_ip);
    let to = |net: &IpNet| contains(net, attrs.destination.ip());
    let port = |port: &u16| *port == attrs.destination.port();

    fields.positive(Field::Namespaces, &one.namespaces, in_namespace);
    fields.negative(Field::NotNamespaces, &one.not_namespaces, in_namespace);
    fields.positive(Field::Principals, &one.principals, is_principal);
    fields.negative(Field::NotPrincipals, &one.not_principals, is_principal);
    fields.positive(Field::ServiceAccounts, &one.service_accounts, is_account);
    fields.negative(
        Field::NotServiceAccounts,
        &one.not_service_accounts,
        is_account,
    );
    fields.positive(Field::SourceIps, &one.source_ips, from);
    fields.negative(Field::NotSourceIps, &one.not_source_ips, from);
    fields.positive(Field::DestinationIps, &one.destination_ips, to);
    fields.negative(Field::NotDestinationIps, &one.not_destination_ips, to);
    fields.positive(Field::DestinationPorts, &one.destination_ports, port);
    fields.negative(Field::NotDestinationPorts, &one.not_destination_ports, port);
    fields.any && fields.all
}

/// The fields of one match so far.
struct Fields<'t, T> {
    tracer: &'t mut T,
    /// At least one field isn't empty.
    any: bool,
    /// Every field that isn't empty holds.
    all: bool,
}

impl<T: Tracer> Fields<'_, T> {
    fn positive<V>(&mut self, field: Field, values: &[V], test: impl Fn(&V) -> bool) {
        self.fold(field, values, |values| values.iter().any(test));
    }

    fn negative<V>(&mut self, field: Field, values: &[V], test: impl Fn(&V) -> bool) {
        self.fold(field, values, |values| !values.iter().any(test));
    }

    fn fold<V>(&mut self, field: Field, values: &[V], test: impl FnOnce(&[V]) -> bool) {
        if values.is_empty() {
            return;
        }
        self.any = true;
        // A trace shows every field; a decision stops at the first that fails.
        if self.all || T::DETAIL {
            let matched = test(values);
            self.all &= matched;
            if T::DETAIL {
                self.tracer.step(Step::Field { field, matched });
            }
        }
    }
}

fn contains(net: &IpNet, ip: IpAddr) -> bool {
    net.contains(&ip.to_canonical())
}

fn account_matches(one: &ServiceAccountMatch, id: &SpiffeId) -> bool {
    one.namespace == *id.namespace() && one.service_account == *id.service_account()
}

/// Compares with a text.
pub(crate) fn text_matches(one: &StringMatch, text: &str) -> bool {
    match one {
        StringMatch::Exact(exact) => **exact == *text,
        StringMatch::Prefix(prefix) => text.starts_with(&**prefix),
        StringMatch::Suffix(suffix) => text.ends_with(&**suffix),
        StringMatch::Presence() => !text.is_empty(),
    }
}

/// Compares with `TD/ns/NS/sa/SA` without writing it out.
pub(crate) fn principal_matches(one: &StringMatch, id: &SpiffeId) -> bool {
    let pieces = [
        &**id.trust_domain(),
        "/ns/",
        &**id.namespace(),
        "/sa/",
        &**id.service_account(),
    ];
    match one {
        StringMatch::Exact(exact) => pieces
            .iter()
            .try_fold(&**exact, |rest, piece| rest.strip_prefix(piece))
            .is_some_and(str::is_empty),
        StringMatch::Prefix(prefix) => begins(&pieces, prefix),
        StringMatch::Suffix(suffix) => ends(&pieces, suffix),
        StringMatch::Presence() => true,
    }
}

/// Whether the pieces, joined, begin with `rest`.
fn begins(pieces: &[&str], mut rest: &str) -> bool {
    for piece in pieces {
        match rest.strip_prefix(piece) {
            Some(left) => rest = left,
            None => return piece.starts_with(rest),
        }
    }
    rest.is_empty()
}

/// Whether the pieces, joined, end with `rest`.
fn ends(pieces: &[&str], mut rest: &str) -> bool {
    for piece in pieces.iter().rev() {
        match rest.strip_suffix(piece) {
            Some(left) => rest = left,
            None => return piece.ends_with(rest),
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;
