//! Which expressions a waypoint can judge: the form of the part of CEL that its
//! `observe` knows (`docs/waypoint.md`). Nothing is computed here.

/// What keeps an expression from being used; none for an empty one.
pub(super) fn fault(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return None;
    }
    if text.len() > MAX_LENGTH {
        return Some(format!("an expression has {MAX_LENGTH} bytes at most"));
    }
    let tokens = match tokens(text) {
        Ok(tokens) => tokens,
        Err(at) => return Some(format!("the expression can't be read at {at:?}")),
    };
    let mut form = Form { left: &tokens };
    let read = form.choice(0);
    match (read, form.left.first()) {
        (Err(fault), _) => Some(fault),
        (Ok(()), None) => None,
        (Ok(()), Some(token)) => Some(format!(
            "the expression can't be read at {:?}",
            token.text()
        )),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token<'t> {
    Name(&'t str),
    Text(&'t str),
    Number,
    Sign(&'t str),
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Name(text) | Self::Text(text) | Self::Sign(text) => text,
            Self::Number => "a number",
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, &str> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if matches!(first, '\'' | '"') {
            let inner = rest.get(1..).unwrap_or_default();
            let end = end_of_text(inner, first).ok_or(rest)?;
            (Token::Text(inner.get(..end).unwrap_or_default()), end + 2)
        } else if first.is_ascii_digit() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let digits = rest.get(..end).unwrap_or_default();
            digits.parse::<f64>().map_err(|_| rest)?;
            (Token::Number, end)
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            (Token::Name(rest.get(..end).unwrap_or_default()), end)
        } else {
            let sign = SIGNS
                .iter()
                .find(|sign| rest.starts_with(**sign))
                .ok_or(rest)?;
            (Token::Sign(sign), sign.len())
        };
        all.push(token);
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(all)
}

/// The length of a quoted text, up to its closing quote.
fn end_of_text(inner: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at),
            _ => {}
        }
    }
    None
}

/// What is left to be read.
struct Form<'t> {
    left: &'t [Token<'t>],
}

impl<'t> Form<'t> {
    fn take(&mut self, sign: &str) -> bool {
        match self.left {
            [Token::Sign(found), rest @ ..] if *found == sign => {
                self.left = rest;
                true
            }
            _ => false,
        }
    }

    fn next(&mut self) -> Result<&'t Token<'t>, String> {
        match self.left {
            [token, rest @ ..] => {
                self.left = rest;
                Ok(token)
            }
            [] => Err("the expression ends too early".to_owned()),
        }
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.take(sign) {
            return Ok(());
        }
        Err(format!("{sign:?} is missing in the expression"))
    }

    /// `a ? b : c`, or less.
    fn choice(&mut self, depth: usize) -> Result<(), String> {
        self.operation(depth)?;
        if self.take("?") {
            self.choice(depth + 1)?;
            self.expect(":")?;
            self.choice(depth + 1)?;
        }
        Ok(())
    }

    /// Values with operators between them, whose order of binding doesn't matter to the form.
    fn operation(&mut self, depth: usize) -> Result<(), String> {
        // The proxy's parser nests operators of one expression too.
        if depth > MAX_DEPTH {
            return Err("the expression is nested too deeply".to_owned());
        }
        loop {
            while self.take("!") || self.take("-") {}
            self.value(depth)?;
            let operator = match self.left.first() {
                Some(Token::Sign(sign)) => OPERATORS.contains(sign),
                Some(Token::Name(name)) => *name == "in",
                _ => false,
            };
            if !operator {
                return Ok(());
            }
            self.next()?;
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), String> {
        match self.next()? {
            Token::Text(_) | Token::Number => {}
            Token::Name("true" | "false" | "null") => {}
            Token::Name(name) if self.take("(") => {
                let count = self.list(")", depth)?;
                if count != 1 || !FUNCTIONS.contains(name) {
                    return Err(format!("{name}() isn't a function that waypoints have"));
                }
            }
            Token::Name(name) => self.attribute(name)?,
            Token::Sign("(") => {
                self.choice(depth + 1)?;
                self.expect(")")?;
            }
            Token::Sign("[") => {
                self.list("]", depth)?;
            }
            Token::Sign(sign) => return Err(format!("the expression can't be read at {sign:?}")),
        }
        while self.take(".") {
            self.method(depth)?;
        }
        Ok(())
    }

    fn list(&mut self, end: &str, depth: usize) -> Result<usize, String> {
        let mut count = 0;
        while !self.take(end) {
            if count > 0 {
                self.expect(",")?;
            }
            self.choice(depth + 1)?;
            count += 1;
        }
        Ok(count)
    }

    fn method(&mut self, depth: usize) -> Result<(), String> {
        let Token::Name(name) = self.next()? else {
            return Err("a name is missing after the dot".to_owned());
        };
        self.expect("(")?;
        if *name == "matches" {
            let pattern = self.next()?;
            let Token::Text(pattern) = pattern else {
                return Err("matches() takes a text".to_owned());
            };
            let pattern = pattern.replace("\\\\", "\\");
            if regex::Regex::new(&pattern).is_err() {
                return Err(format!("{pattern:?} isn't a regular expression"));
            }
            return self.expect(")");
        }
        let count = self.list(")", depth)?;
        match (*name, count) {
            ("startsWith" | "endsWith" | "contains", 1) | ("size", 0) => Ok(()),
            _ => Err(format!("{name}() isn't a function that waypoints have")),
        }
    }

    /// A dotted name, with a text in brackets for headers.
    fn attribute(&mut self, first: &str) -> Result<(), String> {
        let mut name = first.to_owned();
        while let [Token::Sign("."), Token::Name(part), rest @ ..] = self.left {
            if rest.first() == Some(&Token::Sign("(")) {
                break;
            }
            name.push('.');
            name.push_str(part);
            self.left = rest;
        }
        let known = if let [
            Token::Sign("["),
            Token::Text(_),
            Token::Sign("]"),
            rest @ ..,
        ] = self.left
        {
            self.left = rest;
            LISTED.contains(&name.as_str())
        } else {
            ATTRIBUTES.contains(&name.as_str())
        };
        if known {
            return Ok(());
        }
        Err(format!("{name} isn't an attribute that waypoints have"))
    }
}

const MAX_LENGTH: usize = 4_096;
const MAX_DEPTH: usize = 8;

const SIGNS: [&str; 19] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "?", ":", ".", ",", "(", ")", "[",
    "]",
];

const OPERATORS: [&str; 9] = ["&&", "||", "==", "!=", "<=", ">=", "<", ">", "+"];

const FUNCTIONS: [&str; 4] = ["has", "size", "string", "int"];

/// Those that are asked by name in brackets.
const LISTED: [&str; 3] = ["request.headers", "response.headers", "response.trailers"];

const ATTRIBUTES: [&str; 29] = [
    "request.path",
    "request.url_path",
    "request.query",
    "request.host",
    "request.method",
    "request.protocol",
    "request.id",
    "request.useragent",
    "request.referer",
    "request.size",
    "request.duration",
    "response.code",
    "response.code_details",
    "response.flags",
    "response.grpc_status",
    "response.size",
    "connection.mtls",
    "connection.requested_server_name",
    "connection.uri_san_peer_certificate",
    "connection.termination_details",
    "source.address",
    "source.port",
    "destination.address",
    "destination.port",
    "upstream.address",
    "upstream.port",
    "upstream.transport_failure_reason",
    "xds.route_name",
    "xds.cluster_name",
];

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn expressions_are_judged_by_their_form() {
        for (text, good) in [
            ("", true),
            ("response.code >= 400", true),
            ("response.code >= 500 || request.duration > 250", true),
            (
                "!(request.path.startsWith('/health')) && has(request.headers['x-user'])",
                true,
            ),
            ("request.headers['x-user'].matches('^[a-z]+$')", true),
            ("request.method in ['GET', \"HEAD\"]", true),
            ("response.code == 0 ? 'none' : string(response.code)", true),
            ("request.time > 1", false),
            ("response.code >=", false),
            ("response.code 400", false),
            ("(response.code", false),
            ("request.path.lower()", false),
            ("metadata.filter_metadata['x']", false),
            ("request.path.matches('(')", false),
            ("'open", false),
            ("a ? b", false),
            ("response.code @ 1", false),
        ] {
            assert_eq!(fault(text).is_none(), good, "{text:?}: {:?}", fault(text));
        }
        assert!(fault(&"(".repeat(3_000)).is_some());
    }
}
