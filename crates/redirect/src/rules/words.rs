//! The words that rules are written with: shorthand for the documents' types.

use std::borrow::Cow;

use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField,
};
use nftables::schema::{NfListObject, Rule, Table};
use nftables::stmt::{Counter, Match, NAT, Operator, Statement};
use nftables::types::NfFamily;

use super::MARK_MASK;

pub(super) fn table(name: &'static str) -> NfListObject<'static> {
    NfListObject::Table(Table {
        family: NfFamily::INet,
        name: name.into(),
        handle: None,
    })
}

/// Appends a rule; its counter stands before the last statement, which acts.
pub(super) fn rule(
    batch: &mut Batch<'static>,
    table: &'static str,
    chain: &'static str,
    statements: impl IntoIterator<Item = Statement<'static>>,
) {
    let mut expr: Vec<_> = statements.into_iter().collect();
    let before_last = expr.len().saturating_sub(1);
    expr.insert(before_last, Statement::Counter(Counter::Anonymous(None)));
    batch.add(NfListObject::Rule(Rule {
        family: NfFamily::INet,
        table: table.into(),
        chain: chain.into(),
        expr: expr.into(),
        ..Rule::default()
    }));
}

pub(super) fn compare(
    left: Expression<'static>,
    op: Operator,
    right: Expression<'static>,
) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

pub(super) fn mark(op: Operator, mark: u32) -> Statement<'static> {
    compare(both(meta(MetaKey::Mark), MARK_MASK), op, number(mark))
}

pub(super) fn tcp() -> Statement<'static> {
    compare(meta(MetaKey::L4proto), Operator::EQ, text("tcp"))
}

pub(super) fn port(name: &'static str, op: Operator, port: u16) -> Statement<'static> {
    compare(field("tcp", name), op, number(port.into()))
}

/// SYN without ACK, FIN or RST.
pub(super) fn new_connection() -> Statement<'static> {
    compare(
        both(field("tcp", "flags"), FIN | SYN | RST | ACK),
        Operator::EQ,
        number(SYN),
    )
}

const FIN: u32 = 0x01;
const SYN: u32 = 0x02;
const RST: u32 = 0x04;
const ACK: u32 = 0x10;

pub(super) fn accept() -> Statement<'static> {
    Statement::Accept(None)
}

pub(super) fn redirect(port: u16) -> Statement<'static> {
    Statement::Redirect(Some(NAT {
        addr: None,
        family: None,
        port: Some(number(port.into())),
        flags: None,
    }))
}

pub(super) fn both(value: Expression<'static>, mask: u32) -> Expression<'static> {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(value, number(mask))))
}

pub(super) fn either(value: Expression<'static>, bits: u32) -> Expression<'static> {
    Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![value, number(bits)])))
}

pub(super) fn field(protocol: &'static str, name: &'static str) -> Expression<'static> {
    let (protocol, field) = (protocol.into(), name.into());
    let field = PayloadField { protocol, field };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

pub(super) fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn ct_mark() -> Expression<'static> {
    ct("mark")
}

pub(super) fn ct(key: &'static str) -> Expression<'static> {
    let key = key.into();
    let (family, dir) = (None, None);
    Expression::Named(NamedExpression::CT(CT { key, family, dir }))
}

pub(super) fn number(value: u32) -> Expression<'static> {
    Expression::Number(value)
}

pub(super) fn text(value: impl Into<Cow<'static, str>>) -> Expression<'static> {
    Expression::String(value.into())
}
