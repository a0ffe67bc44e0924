//! From text to [`Expression`]: a Pratt parser with a bound on depth.

use std::iter::Peekable;
use std::str::{CharIndices, FromStr};

use regex::RegexBuilder;

use super::{Attribute, Expression, Function, Node, Operator, Value};

/// Longest expression in bytes.
const MAX_LENGTH: usize = 4_096;
/// Nesting.
const MAX_DEPTH: usize = 32;

/// Why an expression can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExpression {
    /// Longer than 4,096 bytes.
    #[error("the expression is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Too many levels.
    #[error("the expression is nested too deeply")]
    TooDeep,
    /// Something that isn't expected there.
    #[error("unexpected {found:?} at {at}")]
    Unexpected {
        /// What is there; empty: the end.
        found: String,
        /// Its place in bytes.
        at: usize,
    },
    /// A name that is no attribute.
    #[error("{0} is not an attribute that this proxy has")]
    Attribute(String),
    /// A name that is no function.
    #[error("{0}() is not a function that this proxy has")]
    Function(String),
    /// A pattern.
    #[error("{0:?} is not a regular expression of RE2")]
    Regex(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Int(i64),
    Double(f64),
    Sign(&'static str),
}

const SIGNS: [&str; 19] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "?", ":", ".", ",", "(", ")", "[",
    "]",
];

impl FromStr for Expression {
    type Err = InvalidExpression;

    fn from_str(written: &str) -> Result<Self, InvalidExpression> {
        if written.len() > MAX_LENGTH {
            return Err(InvalidExpression::TooLong);
        }
        let mut parser = Parser {
            tokens: lex(written)?,
            next: 0,
            end: written.len(),
        };
        let root = parser.choice(0)?;
        match parser.tokens.get(parser.next) {
            None => Ok(Self {
                written: written.to_owned(),
                root,
            }),
            Some(_) => Err(parser.unexpected()),
        }
    }
}

fn lex(text: &str) -> Result<Vec<(usize, Token)>, InvalidExpression> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.peek().copied() {
        let token = if c.is_whitespace() {
            chars.next();
            continue;
        } else if c == '\'' || c == '"' {
            chars.next();
            Token::Text(quoted(&mut chars, c, at)?)
        } else if c.is_ascii_digit() {
            number(&mut chars, at)?
        } else if c.is_ascii_alphabetic() || c == '_' {
            let mut name = String::new();
            while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_alphanumeric() || *c == '_')
            {
                name.push(c);
            }
            Token::Name(name)
        } else {
            let rest = text.get(at..).unwrap_or_default();
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| InvalidExpression::Unexpected {
                found: c.to_string(),
                at,
            })?;
            sign.chars().for_each(|_| {
                chars.next();
            });
            Token::Sign(sign)
        };
        tokens.push((at, token));
    }
    Ok(tokens)
}

fn quoted(
    chars: &mut Peekable<CharIndices<'_>>,
    quote: char,
    at: usize,
) -> Result<String, InvalidExpression> {
    let mut text = String::new();
    while let Some((_, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok(text),
            '\\' => match chars.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, escaped)) => text.push(escaped),
                None => break,
            },
            _ => text.push(c),
        }
    }
    Err(InvalidExpression::Unexpected {
        found: quote.to_string(),
        at,
    })
}

fn number(chars: &mut Peekable<CharIndices<'_>>, at: usize) -> Result<Token, InvalidExpression> {
    let mut digits = String::new();
    while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_digit() || *c == '.') {
        digits.push(c);
    }
    let token = match digits.parse() {
        Ok(number) => Some(Token::Int(number)),
        Err(_) => digits.parse().ok().map(Token::Double),
    };
    token.ok_or(InvalidExpression::Unexpected { found: digits, at })
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    end: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn take(&mut self, sign: &str) -> bool {
        let there = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.next += usize::from(there);
        there
    }

    fn expect(&mut self, sign: &str) -> Result<(), InvalidExpression> {
        if self.take(sign) {
            return Ok(());
        }
        Err(self.unexpected())
    }

    fn unexpected(&self) -> InvalidExpression {
        let (at, found) = match self.tokens.get(self.next) {
            None => (self.end, String::new()),
            Some((at, Token::Name(text) | Token::Text(text))) => (*at, text.clone()),
            Some((at, Token::Int(number))) => (*at, number.to_string()),
            Some((at, Token::Double(number))) => (*at, number.to_string()),
            Some((at, Token::Sign(sign))) => (*at, (*sign).to_owned()),
        };
        InvalidExpression::Unexpected { found, at }
    }

    fn choice(&mut self, depth: usize) -> Result<Node, InvalidExpression> {
        if depth > MAX_DEPTH {
            return Err(InvalidExpression::TooDeep);
        }
        let test = self.binary(0, depth + 1)?;
        if !self.take("?") {
            return Ok(test);
        }
        let yes = self.choice(depth + 1)?;
        self.expect(":")?;
        let no = self.choice(depth + 1)?;
        Ok(Node::Choice(Box::new(test), Box::new(yes), Box::new(no)))
    }

    fn operator(&self) -> Option<(Operator, u8)> {
        Some(match self.peek()? {
            Token::Sign("||") => (Operator::Or, 1),
            Token::Sign("&&") => (Operator::And, 2),
            Token::Sign("==") => (Operator::Equal, 3),
            Token::Sign("!=") => (Operator::NotEqual, 3),
            Token::Sign("<") => (Operator::Less, 3),
            Token::Sign("<=") => (Operator::LessOrEqual, 3),
            Token::Sign(">") => (Operator::Greater, 3),
            Token::Sign(">=") => (Operator::GreaterOrEqual, 3),
            Token::Name(name) if name == "in" => (Operator::In, 3),
            Token::Sign("+") => (Operator::Add, 4),
            _ => return None,
        })
    }

    fn binary(&mut self, above: u8, depth: usize) -> Result<Node, InvalidExpression> {
        let mut left = self.unary(depth + 1)?;
        while let Some((operator, power)) = self.operator().filter(|(_, power)| *power > above) {
            self.next += 1;
            let right = self.binary(power, depth + 1)?;
            left = Node::Binary(operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn unary(&mut self, depth: usize) -> Result<Node, InvalidExpression> {
        if depth > MAX_DEPTH {
            return Err(InvalidExpression::TooDeep);
        }
        if self.take("!") {
            return Ok(Node::Not(Box::new(self.unary(depth + 1)?)));
        }
        let mut node = self.primary(depth)?;
        while self.take(".") {
            let Some(Token::Name(name)) = self.peek().cloned() else {
                return Err(self.unexpected());
            };
            self.next += 1;
            node = self.method(node, &name, depth)?;
        }
        Ok(node)
    }

    fn primary(&mut self, depth: usize) -> Result<Node, InvalidExpression> {
        let Some(token) = self.peek().cloned() else {
            return Err(self.unexpected());
        };
        let literal = |value| Ok(Node::Literal(value));
        match token {
            Token::Name(name) => {
                self.next += 1;
                match name.as_str() {
                    "true" => literal(Value::Bool(true)),
                    "false" => literal(Value::Bool(false)),
                    "null" => literal(Value::Null),
                    _ if self.take("(") => self.function(&name, depth),
                    _ => self.attribute(name),
                }
            }
            Token::Text(text) => {
                self.next += 1;
                literal(Value::Text(text))
            }
            Token::Int(number) => {
                self.next += 1;
                literal(Value::Int(number))
            }
            Token::Double(number) => {
                self.next += 1;
                literal(Value::Double(number))
            }
            Token::Sign("-") => {
                self.next += 1;
                match self.primary(depth + 1)? {
                    Node::Literal(Value::Int(number)) => literal(Value::Int(-number)),
                    Node::Literal(Value::Double(number)) => literal(Value::Double(-number)),
                    _ => Err(self.unexpected()),
                }
            }
            Token::Sign("(") => {
                self.next += 1;
                let inner = self.choice(depth + 1)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => {
                self.next += 1;
                Ok(Node::List(self.arguments("]", depth)?))
            }
            Token::Sign(_) => Err(self.unexpected()),
        }
    }

    /// What is separated by commas, up to a sign.
    fn arguments(&mut self, end: &str, depth: usize) -> Result<Vec<Node>, InvalidExpression> {
        let mut list = Vec::new();
        if self.take(end) {
            return Ok(list);
        }
        loop {
            list.push(self.choice(depth + 1)?);
            if self.take(end) {
                return Ok(list);
            }
            self.expect(",")?;
        }
    }

    fn function(&mut self, name: &str, depth: usize) -> Result<Node, InvalidExpression> {
        let arguments = self.arguments(")", depth)?;
        let function = match (name, arguments.len()) {
            ("has", 1) => Function::Has,
            ("size", 1) => Function::Size,
            ("string", 1) => Function::Text,
            ("int", 1) => Function::Int,
            _ => return Err(InvalidExpression::Function(name.to_owned())),
        };
        Ok(Node::Call(function, arguments))
    }

    fn method(&mut self, of: Node, name: &str, depth: usize) -> Result<Node, InvalidExpression> {
        self.expect("(")?;
        let mut arguments = self.arguments(")", depth)?;
        if let ("matches", [Node::Literal(Value::Text(pattern))]) = (name, arguments.as_slice()) {
            let regex = RegexBuilder::new(pattern).size_limit(1 << 20).build();
            let regex = regex.map_err(|_| InvalidExpression::Regex(pattern.clone()))?;
            return Ok(Node::Matches(Box::new(of), Box::new(regex)));
        }
        let function = match (name, arguments.len()) {
            ("startsWith", 1) => Function::StartsWith,
            ("endsWith", 1) => Function::EndsWith,
            ("contains", 1) => Function::Contains,
            ("size", 0) => Function::Size,
            _ => return Err(InvalidExpression::Function(name.to_owned())),
        };
        arguments.insert(0, of);
        Ok(Node::Call(function, arguments))
    }

    /// Names with dots up to a method, and one text in brackets.
    fn attribute(&mut self, mut name: String) -> Result<Node, InvalidExpression> {
        loop {
            let part = match self.tokens.get(self.next..).unwrap_or_default() {
                [
                    (_, Token::Sign(".")),
                    (_, Token::Name(_)),
                    (_, Token::Sign("(")),
                    ..,
                ] => break,
                [(_, Token::Sign(".")), (_, Token::Name(part)), ..] => part.clone(),
                _ => break,
            };
            self.next += 2;
            name.push('.');
            name.push_str(&part);
        }
        let index = match self.tokens.get(self.next..).unwrap_or_default() {
            [
                (_, Token::Sign("[")),
                (_, Token::Text(index)),
                (_, Token::Sign("]")),
                ..,
            ] => Some(index.clone()),
            _ => None,
        };
        self.next += if index.is_some() { 3 } else { 0 };
        Attribute::parse(&name, index.as_deref())
            .map(Node::Attribute)
            .ok_or(InvalidExpression::Attribute(name))
    }
}
