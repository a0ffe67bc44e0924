//! The rule sets of a pod's namespace as typed nftables documents
//! (`ztunnel-contract` 7.1 and 7.3).
//!
//! Owns which rules there are and in which order. It runs nothing.
//!
//! One deviation from the contract: rules 1, 5 and 13 redirect first SYNs only.
//! Conntrack starts in a namespace with our first rule, and from then on a
//! packet in the middle of a connection that is older looks like the first of
//! a new one. Redirected, it would meet a listener that knows nothing of it,
//! and the application would see a reset (docs/adr/0003).

mod words;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use nftables::batch::Batch;
use nftables::expr::MetaKey;
use nftables::schema::{Chain, NfListObject, Nftables};
use nftables::stmt::{Mangle, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use self::words::{
    accept, both, compare, ct, ct_mark, either, field, mark, meta, new_connection, number, port,
    redirect, rule, table, tcp, text,
};

/// What a namespace's rule set must do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RuleSet {
    /// Take new connections to the proxy.
    Capture(Capture),
    /// Let new connections go direct, and carry those that the proxy has.
    Drain,
}

/// Which connections are taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Capture {
    /// Whether plaintext that comes to the pod goes to the proxy.
    pub inbound: Inbound,
    /// Whether IPv6 is taken as well.
    pub ipv6: bool,
    /// Whether DNS questions are taken (rules 7 to 10).
    pub dns: bool,
    /// Interfaces whose traffic is the pod's egress, such as a VM's (rule 1).
    pub virtual_interfaces: Vec<Arc<str>>,
}

/// What becomes of plaintext that comes to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inbound {
    /// Rules 3 and 5: the proxy gets it, kubelet's probes pass.
    Capture,
    /// `ambient.istio.io/bypass-inbound-capture`: it goes to the application.
    Bypass,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            inbound: Inbound::Capture,
            ipv6: true,
            dns: false,
            virtual_interfaces: Vec::new(),
        }
    }
}

/// Every packet of the proxy carries it, under [`MARK_MASK`].
pub const PROXY_MARK: u32 = 0x539;
/// Every packet that belongs to a transparent socket of the proxy carries it.
pub const RETURN_MARK: u32 = 0x111;
/// The bits of a mark that are ours.
pub const MARK_MASK: u32 = 0xfff;
/// The table that delivers marked packets locally.
pub const ROUTE_TABLE: u32 = 100;
/// Preference of the rule that looks that table up.
pub const RULE_PRIORITY: u32 = 32764;
/// Source of kubelet's probes after the host's translation.
pub const PROBE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 127);
/// As [`PROBE_V4`], of IPv6.
pub const PROBE_V6: Ipv6Addr = Ipv6Addr::new(
    0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff,
);
/// Where captured egress goes.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where captured plaintext ingress goes.
pub const INBOUND_PLAINTEXT_PORT: u16 = 15006;
/// Where HBONE comes in; never redirected.
pub const HBONE_PORT: u16 = 15008;
/// Where captured DNS questions go.
pub const DNS_PORT: u16 = 15053;

/// The tables that may be ours, with what each is for.
pub const TABLES: [&str; 3] = [NAT_TABLE, MANGLE_TABLE, RAW_TABLE];
const NAT_TABLE: &str = "istio-ambient-nat";
const MANGLE_TABLE: &str = "istio-ambient-mangle";
const RAW_TABLE: &str = "istio-ambient-raw";
const PREROUTING: &str = "istio-prerouting";
const OUTPUT: &str = "istio-output";
/// The zone of the proxy's own DNS questions.
const DNS_ZONE: u32 = 1;

impl RuleSet {
    /// The transaction that leaves exactly this rule set, whatever was there.
    pub fn transaction(&self) -> Nftables<'static> {
        let mut batch = Batch::new();
        clear(&mut batch);
        let dns = matches!(self, Self::Capture(capture) if capture.dns);
        // A nat chain that does nothing still keeps translation registered:
        // connections that were redirected before go on.
        base_chains(
            &mut batch,
            NAT_TABLE,
            (NfChainType::NAT, NfChainType::NAT),
            -100,
        );
        let mangle = (NfChainType::Filter, NfChainType::Route);
        base_chains(&mut batch, MANGLE_TABLE, mangle, -150);
        if dns {
            let raw = (NfChainType::Filter, NfChainType::Filter);
            base_chains(&mut batch, RAW_TABLE, raw, -300);
        }
        mangle_rules(&mut batch);
        if let Self::Capture(capture) = self {
            capture.nat_rules(&mut batch);
            if dns {
                capture.raw_rules(&mut batch);
            }
        }
        batch.to_nftables()
    }
}

/// The transaction that leaves no table of ours.
pub fn removal() -> Nftables<'static> {
    let mut batch = Batch::new();
    clear(&mut batch);
    batch.to_nftables()
}

/// Adding before deleting makes it right whether or not the table exists.
fn clear(batch: &mut Batch<'static>) {
    for name in TABLES {
        batch.add(table(name));
        batch.delete(table(name));
    }
}

fn base_chains(
    batch: &mut Batch<'static>,
    name: &'static str,
    (prerouting, output): (NfChainType, NfChainType),
    priority: i32,
) {
    batch.add(table(name));
    for (chain, kind, hook) in [
        (PREROUTING, prerouting, NfHook::Prerouting),
        (OUTPUT, output, NfHook::Output),
    ] {
        batch.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: name.into(),
            name: chain.into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
    }
}

/// Rules 2 and 6: what the proxy opened towards the application, with the
/// client's address as its source, finds its way back.
fn mangle_rules(batch: &mut Batch<'static>) {
    let remember = Statement::Mangle(Mangle {
        key: ct_mark(),
        // The upper bits may be somebody else's.
        value: either(both(ct_mark(), !MARK_MASK), RETURN_MARK),
    });
    rule(
        batch,
        MANGLE_TABLE,
        PREROUTING,
        [mark(Operator::EQ, PROXY_MARK), remember],
    );
    let returning = compare(
        both(ct_mark(), MARK_MASK),
        Operator::EQ,
        number(RETURN_MARK),
    );
    let restore = Statement::Mangle(Mangle {
        key: meta(MetaKey::Mark),
        value: ct_mark(),
    });
    rule(batch, MANGLE_TABLE, OUTPUT, [returning, restore]);
}

impl Capture {
    fn nat_rules(&self, batch: &mut Batch<'static>) {
        for interface in &self.virtual_interfaces {
            let of = || {
                compare(
                    meta(MetaKey::Iifname),
                    Operator::EQ,
                    text(interface.to_string()),
                )
            };
            // 1
            let to = redirect(OUTBOUND_PORT);
            self.rule(batch, NAT_TABLE, PREROUTING, [of(), new_connection(), to]);
            self.rule(
                batch,
                NAT_TABLE,
                PREROUTING,
                [of(), tcp(), Statement::Return(None)],
            );
        }
        for family in self.families() {
            if self.inbound == Inbound::Capture {
                // 3
                let probe = family.address("saddr", Operator::EQ, family.probe());
                rule(batch, NAT_TABLE, PREROUTING, [tcp(), probe, accept()]);
                // 5
                let hbone = port("dport", Operator::NEQ, HBONE_PORT);
                let foreign = mark(Operator::NEQ, PROXY_MARK);
                let taken = redirect(INBOUND_PLAINTEXT_PORT);
                let matches = [
                    family.not_loopback(),
                    new_connection(),
                    hbone,
                    foreign,
                    taken,
                ];
                rule(batch, NAT_TABLE, PREROUTING, matches);
            }
            // 4
            let probe = family.address("daddr", Operator::EQ, family.probe());
            rule(batch, NAT_TABLE, OUTPUT, [tcp(), probe, accept()]);
        }
        if self.dns {
            self.dns_nat_rules(batch);
        }
        // 11
        self.rule(
            batch,
            NAT_TABLE,
            OUTPUT,
            [tcp(), mark(Operator::EQ, RETURN_MARK), accept()],
        );
        for family in self.families() {
            // 12
            let over_lo = compare(meta(MetaKey::Oifname), Operator::EQ, text("lo"));
            rule(
                batch,
                NAT_TABLE,
                OUTPUT,
                [family.not_loopback(), over_lo, accept()],
            );
            // 13
            let foreign = mark(Operator::NEQ, PROXY_MARK);
            let matches = [
                family.not_loopback(),
                new_connection(),
                foreign,
                redirect(OUTBOUND_PORT),
            ];
            rule(batch, NAT_TABLE, OUTPUT, matches);
        }
    }

    fn dns_nat_rules(&self, batch: &mut Batch<'static>) {
        // 7
        let leaving = compare(meta(MetaKey::Oifname), Operator::NEQ, text("lo"));
        let question = compare(field("udp", "dport"), Operator::EQ, number(53));
        let foreign = mark(Operator::NEQ, PROXY_MARK);
        self.rule(
            batch,
            NAT_TABLE,
            OUTPUT,
            [leaving, question, foreign, redirect(DNS_PORT)],
        );
        for family in self.families() {
            // 8
            let question = port("dport", Operator::EQ, 53);
            let foreign = mark(Operator::NEQ, PROXY_MARK);
            let matches = [family.not_loopback(), question, foreign, redirect(DNS_PORT)];
            rule(batch, NAT_TABLE, OUTPUT, matches);
        }
    }

    fn raw_rules(&self, batch: &mut Batch<'static>) {
        let zone = || {
            let key = ct("zone");
            let value = number(DNS_ZONE);
            Statement::Mangle(Mangle { key, value })
        };
        // 9
        let question = compare(field("udp", "dport"), Operator::EQ, number(53));
        let own = mark(Operator::EQ, PROXY_MARK);
        self.rule(batch, RAW_TABLE, OUTPUT, [question, own, zone()]);
        // 10
        let answer = compare(field("udp", "sport"), Operator::EQ, number(53));
        let foreign = mark(Operator::NEQ, PROXY_MARK);
        self.rule(batch, RAW_TABLE, PREROUTING, [answer, foreign, zone()]);
    }

    fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let v6 = self.ipv6.then_some(Family::V6);
        [Some(Family::V4), v6].into_iter().flatten()
    }

    /// A rule that names no address: for IPv4 alone if IPv6 isn't taken.
    fn rule<const N: usize>(
        &self,
        batch: &mut Batch<'static>,
        table: &'static str,
        chain: &'static str,
        statements: [Statement<'static>; N],
    ) {
        let v4_only = || compare(meta(MetaKey::Nfproto), Operator::EQ, text("ipv4"));
        let guard = (!self.ipv6).then(v4_only);
        rule(batch, table, chain, guard.into_iter().chain(statements));
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn address(self, name: &'static str, op: Operator, address: String) -> Statement<'static> {
        let protocol = match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        };
        compare(field(protocol, name), op, text(address))
    }

    /// Only the one address of each family, not 127.0.0.0/8.
    fn not_loopback(self) -> Statement<'static> {
        let loopback = match self {
            Self::V4 => Ipv4Addr::LOCALHOST.to_string(),
            Self::V6 => Ipv6Addr::LOCALHOST.to_string(),
        };
        self.address("daddr", Operator::NEQ, loopback)
    }

    fn probe(self) -> String {
        match self {
            Self::V4 => PROBE_V4.to_string(),
            Self::V6 => PROBE_V6.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
