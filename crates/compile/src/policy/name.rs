//! The names of policies on the wire.

use crate::waypoint::GUARD_PREFIX;

use super::peer::{PORT_POLICY_PREFIX, STATIC_STRICT};

/// The name under which an authorization policy is sent.
///
/// Its own, except that a name which would be taken for a generated policy's is moved aside, and that the parts of a
/// `namespace/name` have no slash: the name that stands in for an unreadable one may be that of a file. Two names
/// never become one.
pub(crate) fn sent_name(name: &str) -> String {
    const MOVED: &str = "user_";
    let taken = name == STATIC_STRICT
        || [PORT_POLICY_PREFIX, GUARD_PREFIX, MOVED]
            .iter()
            .any(|taken| name.starts_with(taken));
    let name = name.replace('%', "%25").replace('/', "%2F");
    if taken {
        format!("{MOVED}{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_apart() {
        let cases = [
            ("allow-web", "allow-web"),
            (
                "istio_converted_static_strict",
                "user_istio_converted_static_strict",
            ),
            (
                "converted_peer_authentication_x",
                "user_converted_peer_authentication_x",
            ),
            ("user_x", "user_user_x"),
            ("(unnamed 1 of a/b.yaml)", "(unnamed 1 of a%2Fb.yaml)"),
            ("(unnamed 1 of a%2Fb.yaml)", "(unnamed 1 of a%252Fb.yaml)"),
        ];
        for (name, sent) in cases {
            assert_eq!(sent_name(name), sent);
        }
    }
}
