//! Kubelet's probes, on the node: their source becomes an address by which
//! the rules in the pods know them (`ztunnel-contract` 7.2).
//!
//! Only sockets of kubelet's user are translated, so that what kube-proxy
//! forwards isn't taken for a probe.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_netns::NetNs;
use nftables::batch::Batch;
use nftables::expr::{Elem, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Set, SetType, SetTypeValue, Table};
use nftables::stmt::{Counter, Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use crate::nft::{self, Listing, NftError};
use crate::rules::{PROBE_V4, PROBE_V6};

/// The node's translation of probes.
#[derive(Debug)]
pub struct Probes {
    node: NetNs,
    kubelet: u32,
    written: Option<Written>,
}

#[derive(Debug)]
struct Written {
    pods: BTreeMap<IpAddr, Arc<str>>,
    listing: Listing,
}

impl Probes {
    /// Translates what the user `kubelet` opens in the node's own namespace.
    pub fn new(node: NetNs, kubelet: u32) -> Self {
        let written = None;
        Self {
            node,
            kubelet,
            written,
        }
    }

    /// Makes exactly these pods' addresses, with the pods' uids, the ones
    /// whose probes are translated. One transaction, and none if the kernel
    /// holds it already.
    ///
    /// # Errors
    /// If `nft` fails; the node's rules are then as before.
    pub async fn ensure(&mut self, pods: &BTreeMap<IpAddr, Arc<str>>) -> Result<(), NftError> {
        if let Some(written) = &self.written
            && written.pods == *pods
            && written.listing == nft::list(&self.node, &[TABLE]).await?
        {
            return Ok(());
        }
        self.written = None;
        nft::apply(&self.node, &self.transaction(pods)).await?;
        let listing = nft::list(&self.node, &[TABLE]).await?;
        let pods = pods.clone();
        self.written = Some(Written { pods, listing });
        Ok(())
    }

    fn transaction(&self, pods: &BTreeMap<IpAddr, Arc<str>>) -> Nftables<'static> {
        let mut batch = Batch::new();
        batch.add(table());
        batch.delete(table());
        batch.add(table());
        batch.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: CHAIN.into(),
            _type: Some(NfChainType::NAT),
            hook: Some(NfHook::Postrouting),
            prio: Some(100),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
        for v6 in [false, true] {
            let of_family = pods.iter().filter(|(ip, _)| ip.is_ipv6() == v6);
            let elements: Vec<_> = of_family.map(|(ip, uid)| element(*ip, uid)).collect();
            batch.add(NfListObject::Set(Box::new(Set {
                family: NfFamily::INet,
                table: TABLE.into(),
                name: set_name(v6).into(),
                set_type: SetTypeValue::Single(if v6 {
                    SetType::Ipv6Addr
                } else {
                    SetType::Ipv4Addr
                }),
                elem: (!elements.is_empty()).then(|| elements.into()),
                ..Set::default()
            })));
            batch.add(NfListObject::Rule(Rule {
                family: NfFamily::INet,
                table: TABLE.into(),
                chain: CHAIN.into(),
                expr: self.rule(v6).into(),
                ..Rule::default()
            }));
        }
        batch.to_nftables()
    }

    fn rule(&self, v6: bool) -> Vec<Statement<'static>> {
        let (protocol, family, source) = match v6 {
            false => ("ip", NATFamily::IP, PROBE_V4.to_string()),
            true => ("ip6", NATFamily::IP6, PROBE_V6.to_string()),
        };
        let (protocol, field) = (protocol.into(), "daddr".into());
        let destination = Payload::PayloadField(PayloadField { protocol, field });
        let is = |left, right| {
            let op = Operator::EQ;
            let left = Expression::Named(left);
            Statement::Match(Match { left, right, op })
        };
        let meta = |key| NamedExpression::Meta(Meta { key });
        vec![
            is(meta(MetaKey::L4proto), Expression::String("tcp".into())),
            is(meta(MetaKey::Skuid), Expression::Number(self.kubelet)),
            is(
                NamedExpression::Payload(destination),
                Expression::String(format!("@{}", set_name(v6)).into()),
            ),
            Statement::Counter(Counter::Anonymous(None)),
            Statement::SNAT(Some(NAT {
                addr: Some(Expression::String(source.into())),
                family: Some(family),
                port: None,
                flags: None,
            })),
        ]
    }
}

fn element(ip: IpAddr, uid: &str) -> Expression<'static> {
    Expression::Named(NamedExpression::Elem(Elem {
        val: Box::new(Expression::String(ip.to_string().into())),
        timeout: None,
        expires: None,
        comment: Some(uid.to_owned().into()),
        counter: None,
    }))
}

fn table() -> NfListObject<'static> {
    NfListObject::Table(Table {
        family: NfFamily::INet,
        name: TABLE.into(),
        handle: None,
    })
}

fn set_name(v6: bool) -> &'static str {
    if v6 {
        "istio-inpod-probes-v6"
    } else {
        "istio-inpod-probes-v4"
    }
}

const TABLE: &str = "istio-ambient-nat";
const CHAIN: &str = "istio-postrouting";
