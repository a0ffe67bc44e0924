//! The policies that bind one workload at one moment.

use ambit_types::NamespacedName;
use smallvec::SmallVec;

use crate::model::Authorization;

/// What decides about connections to one workload: its namespace's policies,
/// the global ones, and those it lists (`ztunnel-contract` section 6).
#[derive(Debug, Clone, Default)]
pub struct PolicySet<'p> {
    policies: SmallVec<[&'p Authorization; 8]>,
    blocked: SmallVec<[Blocked<'p>; 2]>,
}

/// A policy that binds the workload and can't be evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked<'p> {
    /// Its name.
    pub key: &'p NamespacedName,
    /// What is wrong with it.
    pub why: BlockedWhy,
}

/// Why a policy can't be evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockedWhy {
    /// The workload lists it and it hasn't arrived.
    Unknown,
    /// It arrived in a form that can't be read, and never in a good one.
    Unreadable,
}

impl<'p> PolicySet<'p> {
    /// Adds a policy.
    pub fn push(&mut self, policy: &'p Authorization) {
        self.policies.push(policy);
    }

    /// Adds a policy that can't be evaluated and therefore denies.
    pub fn block(&mut self, blocked: Blocked<'p>) {
        self.blocked.push(blocked);
    }

    /// The policies that can be evaluated.
    pub fn policies(&self) -> &[&'p Authorization] {
        &self.policies
    }

    /// The policies that can't be.
    pub fn blocked(&self) -> &[Blocked<'p>] {
        &self.blocked
    }

    /// True if nothing binds the workload.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.blocked.is_empty()
    }
}
