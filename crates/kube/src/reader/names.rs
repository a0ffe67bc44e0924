//! Which names Kubernetes accepts.

use crate::Kind;

/// What is wrong with a name of a kind, if anything.
pub(super) fn fault(kind: Kind, name: &str) -> Option<&'static str> {
    match kind {
        Kind::Namespace => label_fault(name),
        Kind::Service => label_fault(name).or_else(|| {
            name.starts_with(|c: char| c.is_ascii_digit())
                .then_some("the name of a Service begins with a letter")
        }),
        _ => subdomain_fault(name),
    }
}

/// What is wrong with the name of a namespace, if anything.
pub(super) fn label_fault(name: &str) -> Option<&'static str> {
    if name.contains('.') {
        return Some("no dots are allowed here");
    }
    if name.len() > 63 {
        return Some("it has more than 63 characters");
    }
    subdomain_fault(name)
}

fn subdomain_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > 253 {
        return Some("it has more than 253 characters");
    }
    if !name
        .chars()
        .all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.'))
    {
        return Some("only a-z, 0-9, `-` and `.` are allowed");
    }
    let well_cut = |part: &str| !part.is_empty() && !part.starts_with('-') && !part.ends_with('-');
    (!name.split('.').all(well_cut)).then_some("every part begins and ends with a letter or digit")
}

#[cfg(test)]
mod tests {
    use super::fault;
    use crate::Kind;

    #[test]
    fn names_are_judged_by_kind() {
        for (kind, name, good) in [
            (Kind::Pod, "cart-0", true),
            (Kind::Pod, "cart.v2", true),
            (Kind::Pod, "Cart", false),
            (Kind::Pod, "-cart", false),
            (Kind::Pod, "cart-.v2", false),
            (Kind::Pod, "", false),
            (Kind::Service, "cart.v2", false),
            (Kind::Service, "2cart", false),
            (Kind::Namespace, "2cart", true),
            (Kind::Namespace, "a.b", false),
            (Kind::AuthorizationPolicy, "deny_cart", false),
        ] {
            assert_eq!(fault(kind, name).is_none(), good, "{kind} {name:?}");
        }
        assert!(fault(Kind::Namespace, &"a".repeat(64)).is_some());
    }
}
