//! One pod's namespace: brings its rules, policy rule and route to a wanted
//! state, checks them against the kernel, and takes them out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ambit_netns::{NetNs, Netlink, NetlinkError, PolicyRule};

use crate::nft::{self, Listing, NftError};
use crate::rules::{self, MARK_MASK, RETURN_MARK, ROUTE_TABLE, RULE_PRIORITY, RuleSet, TABLES};

/// The redirection of a namespace couldn't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The rule set.
    #[error("nftables rules")]
    Rules(#[from] NftError),
    /// The policy rule or the route.
    #[error("policy routing")]
    Routing(#[from] NetlinkError),
    /// The kernel doesn't answer.
    #[error("the kernel took longer than {DEADLINE:?}")]
    Deadline,
    /// No namespace of our own to learn in.
    #[error("create a scratch namespace")]
    Scratch(#[source] std::io::Error),
}

/// What a namespace was found to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing of ours.
    Nothing,
    /// Exactly what was wanted.
    Wanted,
    /// Something else under our names.
    Different,
}

/// What it took to reach the wanted state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// Nothing: it was there.
    Intact,
    /// It was written.
    Written,
}

/// Installs redirection. Clones share what was learned.
///
/// Whether the kernel holds a rule set can't be told from the document that
/// was sent: `nft` prints rules in its own words, which change from version to
/// version. So each rule set is first applied in a namespace of our own, and
/// what `nft` prints there is what it must print elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Redirector {
    learned: Arc<Mutex<HashMap<RuleSet, Arc<Listing>>>>,
}

impl Redirector {
    /// Nothing learned yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the namespace holds, compared with what is wanted.
    ///
    /// # Errors
    /// If the namespace can't be read.
    pub async fn look(&self, ns: &NetNs, wanted: &RuleSet) -> Result<Found, RedirectError> {
        let rules = nft::list(ns, &TABLES).await?;
        if rules.is_empty() {
            return Ok(Found::Nothing);
        }
        if rules != *self.learned(wanted).await? || !routing_is_there(ns).await? {
            return Ok(Found::Different);
        }
        Ok(Found::Wanted)
    }

    /// Brings the namespace to the wanted state, in one transaction, unless it
    /// is there already.
    ///
    /// # Errors
    /// If the namespace can't be read or changed. The rule set is then the old
    /// or the new one, whole.
    pub async fn ensure(&self, ns: &NetNs, wanted: &RuleSet) -> Result<Ensured, RedirectError> {
        if self.look(ns, wanted).await? == Found::Wanted {
            return Ok(Ensured::Intact);
        }
        // First the way back: until the rules are in, nothing carries the mark.
        answered(add_routing(ns)).await?;
        nft::apply(ns, &wanted.transaction()).await?;
        Ok(Ensured::Written)
    }

    /// Takes everything out. Fine if nothing is there.
    ///
    /// # Errors
    /// If the namespace can't be changed.
    pub async fn remove(&self, ns: &NetNs) -> Result<(), RedirectError> {
        if !nft::list(ns, &TABLES).await?.is_empty() {
            nft::apply(ns, &rules::removal()).await?;
        }
        answered(remove_routing(ns)).await
    }

    /// True if the namespace holds a table of ours, whatever is in it.
    ///
    /// # Errors
    /// If the namespace can't be read.
    pub async fn any(&self, ns: &NetNs) -> Result<bool, RedirectError> {
        Ok(!nft::list(ns, &TABLES).await?.is_empty())
    }

    async fn learned(&self, wanted: &RuleSet) -> Result<Arc<Listing>, RedirectError> {
        let known = self.cache().get(wanted).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let scratch = scratch_namespace().map_err(RedirectError::Scratch)?;
        nft::apply(&scratch, &wanted.transaction()).await?;
        let listing = Arc::new(nft::list(&scratch, &TABLES).await?);
        self.cache().insert(wanted.clone(), Arc::clone(&listing));
        Ok(listing)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<RuleSet, Arc<Listing>>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A namespace that nobody else sees; it ends with its last handle.
fn scratch_namespace() -> std::io::Result<NetNs> {
    let made = std::thread::Builder::new().spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        NetNs::current()
    })?;
    made.join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn policy_rule(v6: bool) -> PolicyRule {
    PolicyRule {
        v6,
        mark: RETURN_MARK,
        mask: MARK_MASK,
        table: ROUTE_TABLE,
        priority: RULE_PRIORITY,
    }
}

/// The families whose loopback works: nothing is delivered over it otherwise.
fn families(ns: &NetNs) -> std::io::Result<impl Iterator<Item = bool> + use<>> {
    let disabled = ns.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6"))?;
    let v6 = disabled.is_ok_and(|value| value.trim() == "0");
    Ok([Some(false), v6.then_some(true)].into_iter().flatten())
}

async fn routing_is_there(ns: &NetNs) -> Result<bool, RedirectError> {
    answered(read_routing(ns)).await
}

async fn read_routing(ns: &NetNs) -> Result<bool, RedirectError> {
    let netlink = Netlink::in_ns(ns)?;
    let rules = netlink.mark_rules().await?;
    let routes = netlink.routes_in_table(ROUTE_TABLE).await?;
    Ok(families(ns).map_err(NetlinkError::Open)?.all(|v6| {
        let route =
            |r: &ambit_netns::TableRoute| r.v6 == v6 && r.local && r.destination.prefix_len() == 0;
        rules.contains(&policy_rule(v6)) && routes.iter().any(route)
    }))
}

async fn add_routing(ns: &NetNs) -> Result<(), RedirectError> {
    let netlink = Netlink::in_ns(ns)?;
    for v6 in families(ns).map_err(NetlinkError::Open)? {
        netlink.add_local_default(v6, ROUTE_TABLE).await?;
        netlink.add_mark_rule(policy_rule(v6)).await?;
    }
    Ok(())
}

async fn remove_routing(ns: &NetNs) -> Result<(), RedirectError> {
    let netlink = Netlink::in_ns(ns)?;
    for v6 in [false, true] {
        netlink.del_mark_rule(policy_rule(v6)).await?;
    }
    netlink.flush_table(ROUTE_TABLE).await?;
    Ok(())
}

/// Netlink has no deadline of its own; `nft` has.
pub(crate) async fn answered<T>(
    work: impl Future<Output = Result<T, RedirectError>>,
) -> Result<T, RedirectError> {
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or(Err(RedirectError::Deadline))
}

const DEADLINE: Duration = Duration::from_secs(10);
