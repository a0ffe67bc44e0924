//! Linux network namespaces: open, enter, create; and links, addresses, routes
//! and rules in them over netlink. No `ip` program is needed.
//!
//! Owns the mechanism only: which namespace is a pod's, and what is put into
//! it, is for `redirect`, `net` and the test harness to know.

mod netlink;
mod ns;
mod privilege;

pub use netlink::{LinkState, Netlink, NetlinkError, PolicyRule, TableRoute};
pub use ns::{NamedNetNs, NetNs, NsId};
pub use privilege::require_privilege;
