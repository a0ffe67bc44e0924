//! Expressions over an ended request: the part of CEL that Telemetry resources
//! use in access log filters and tag values (`waypoint-contract` 6.5).
//!
//! Literals (text, integer, decimal, boolean, null, lists), `! && ||`,
//! comparisons, `in`, `+`, `?:`, `has()`, `size()`, `string()`, `int()`,
//! `.startsWith() .endsWith() .contains() .matches()`, and the attributes of
//! [`Attribute`]. Anything else is refused when it is read, with what it was.
//! What a request lacks makes a comparison with it false, and `&&`, `||` and
//! `has()` see it as absent.

mod attribute;
mod parse;

use regex::Regex;

use crate::record::Record;

pub use attribute::Attribute;
pub use parse::InvalidExpression;

/// An expression that was read.
#[derive(Debug, Clone)]
pub struct Expression {
    written: String,
    root: Node,
}

#[derive(Debug, Clone)]
enum Node {
    Literal(Value),
    Attribute(Attribute),
    List(Vec<Self>),
    Not(Box<Self>),
    Binary(Operator, Box<Self>, Box<Self>),
    Choice(Box<Self>, Box<Self>, Box<Self>),
    Call(Function, Vec<Self>),
    Matches(Box<Self>, Box<Regex>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Has,
    Size,
    Text,
    Int,
    StartsWith,
    EndsWith,
    Contains,
}

/// What an expression yields.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing: `null`, or what the request lacks.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Double(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
}

impl Expression {
    /// Whether it holds for a request; anything but `true` doesn't.
    pub fn holds(&self, record: &Record<'_>) -> bool {
        self.value(record) == Value::Bool(true)
    }

    /// Its value for a request.
    pub fn value(&self, record: &Record<'_>) -> Value {
        self.root.value(record)
    }

    /// As it was written.
    pub fn written(&self) -> &str {
        &self.written
    }
}

impl Value {
    /// As a tag's value; empty for nothing.
    pub fn text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(yes) => yes.to_string(),
            Self::Int(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::List(list) => {
                let texts: Vec<_> = list.iter().map(Self::text).collect();
                texts.join(",")
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "as CEL compares mixed numbers")]
    fn number(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Double(number) => Some(*number),
            _ => None,
        }
    }

    fn equals(&self, other: &Self) -> bool {
        match (self.number(), other.number()) {
            (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
            _ => self == other,
        }
    }

    fn order(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            _ => self.number()?.partial_cmp(&other.number()?),
        }
    }
}

impl Node {
    fn value(&self, record: &Record<'_>) -> Value {
        match self {
            Self::Literal(value) => value.clone(),
            Self::Attribute(attribute) => attribute.of(record),
            Self::List(list) => Value::List(list.iter().map(|one| one.value(record)).collect()),
            Self::Not(inner) => match inner.value(record) {
                Value::Bool(yes) => Value::Bool(!yes),
                _ => Value::Null,
            },
            Self::Binary(operator, a, b) => binary(*operator, a, b, record),
            Self::Choice(test, yes, no) => match test.value(record) {
                Value::Bool(true) => yes.value(record),
                Value::Bool(false) => no.value(record),
                _ => Value::Null,
            },
            Self::Matches(text, regex) => match text.value(record) {
                Value::Text(text) => Value::Bool(regex.is_match(&text)),
                _ => Value::Null,
            },
            Self::Call(function, arguments) => {
                let values: Vec<_> = arguments.iter().map(|one| one.value(record)).collect();
                call(*function, &values)
            }
        }
    }
}

fn binary(operator: Operator, a: &Node, b: &Node, record: &Record<'_>) -> Value {
    let left = a.value(record);
    match (operator, &left) {
        (Operator::And, Value::Bool(false)) | (Operator::Or, Value::Bool(true)) => return left,
        _ => {}
    }
    let right = b.value(record);
    let ordered = |test: fn(std::cmp::Ordering) -> bool| {
        left.order(&right)
            .map_or(Value::Null, |order| Value::Bool(test(order)))
    };
    match operator {
        // The other side decides alone if it can.
        Operator::And | Operator::Or => match (&left, &right) {
            (Value::Bool(_), Value::Bool(_)) => right,
            (_, Value::Bool(right)) if *right == (operator == Operator::Or) => Value::Bool(*right),
            _ => Value::Null,
        },
        Operator::Equal => Value::Bool(left.equals(&right)),
        Operator::NotEqual => Value::Bool(!left.equals(&right)),
        Operator::Less => ordered(std::cmp::Ordering::is_lt),
        Operator::LessOrEqual => ordered(std::cmp::Ordering::is_le),
        Operator::Greater => ordered(std::cmp::Ordering::is_gt),
        Operator::GreaterOrEqual => ordered(std::cmp::Ordering::is_ge),
        Operator::In => match &right {
            Value::List(list) => Value::Bool(list.iter().any(|one| one.equals(&left))),
            _ => Value::Null,
        },
        Operator::Add => match (&left, &right) {
            (Value::Text(a), Value::Text(b)) => Value::Text(format!("{a}{b}")),
            (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map_or(Value::Null, Value::Int),
            _ => match (left.number(), right.number()) {
                (Some(a), Some(b)) => Value::Double(a + b),
                _ => Value::Null,
            },
        },
    }
}

fn call(function: Function, values: &[Value]) -> Value {
    let length = |count: usize| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
    match (function, values) {
        (Function::Has, [one]) => Value::Bool(*one != Value::Null),
        (Function::Size, [Value::Text(text)]) => length(text.chars().count()),
        (Function::Size, [Value::List(list)]) => length(list.len()),
        (Function::Text, [Value::Null]) => Value::Null,
        (Function::Text, [one]) => Value::Text(one.text()),
        (Function::Int, [Value::Text(text)]) => text.parse().map_or(Value::Null, Value::Int),
        (Function::Int, [Value::Int(number)]) => Value::Int(*number),
        (Function::StartsWith, [Value::Text(a), Value::Text(b)]) => Value::Bool(a.starts_with(b)),
        (Function::EndsWith, [Value::Text(a), Value::Text(b)]) => Value::Bool(a.ends_with(b)),
        (Function::Contains, [Value::Text(a), Value::Text(b)]) => Value::Bool(a.contains(b)),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests;
