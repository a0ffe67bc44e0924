//! The access log of a waypoint (`waypoint-contract` 6.2): a line for each
//! request, in text or JSON, by the operators of Envoy's command language.

mod operator;

use std::fmt::Write as _;

use crate::expr::{Expression, InvalidExpression};
use crate::record::Record;

pub use operator::InvalidOperator;
use operator::Operator;

/// The text format of 6.2.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Keys and operators of the JSON format of 6.2, in order.
const JSON_FIELDS: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
];

/// Longest format in bytes.
const MAX_FORMAT: usize = 16 * 1024;

/// How lines are written, and which.
#[derive(Debug, Clone)]
pub struct AccessLog {
    layout: Layout,
    filter: Option<Expression>,
}

#[derive(Debug, Clone)]
enum Layout {
    Text(Vec<Piece>),
    Json(Vec<(String, Vec<Piece>)>),
}

#[derive(Debug, Clone)]
enum Piece {
    Literal(String),
    Operator(Operator),
}

/// Why an access log can't be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccessLog {
    /// The format.
    #[error("access_log.format")]
    Format(#[from] InvalidOperator),
    /// The format is too long.
    #[error("access_log.format: longer than {MAX_FORMAT} bytes")]
    TooLong,
    /// A JSON format isn't an object of texts.
    #[error("access_log.format: not a JSON object of texts")]
    Json,
    /// The filter.
    #[error("access_log.filter")]
    Filter(#[from] InvalidExpression),
}

impl AccessLog {
    /// Reads a format and a filter; empty ones are the default format and every
    /// request. With `json`, a format is a JSON object of texts with operators.
    ///
    /// # Errors
    /// What can't be used.
    pub fn new(encoding: Encoding, format: &str, filter: &str) -> Result<Self, InvalidAccessLog> {
        if format.len() > MAX_FORMAT {
            return Err(InvalidAccessLog::TooLong);
        }
        let layout = match encoding {
            Encoding::Text if format.is_empty() => Layout::Text(pieces(DEFAULT_FORMAT)?),
            Encoding::Text => Layout::Text(pieces(format)?),
            Encoding::Json => Layout::Json(json_fields(format)?),
        };
        let filter = match filter.trim() {
            "" => None,
            filter => Some(filter.parse()?),
        };
        Ok(Self { layout, filter })
    }

    /// The line of a request, with its line end; none if the filter leaves it out.
    pub fn line(&self, record: &Record<'_>) -> Option<String> {
        if self.filter.as_ref().is_some_and(|f| !f.holds(record)) {
            return None;
        }
        let mut line = String::with_capacity(512);
        match &self.layout {
            Layout::Text(pieces) => write_text(&mut line, pieces, record),
            Layout::Json(fields) => write_json(&mut line, fields, record),
        }
        Some(line)
    }
}

/// How a line is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As the format says.
    Text,
    /// One object a line.
    Json,
}

fn json_fields(format: &str) -> Result<Vec<(String, Vec<Piece>)>, InvalidAccessLog> {
    let read = |key: &str, format: &str| Ok((key.to_owned(), pieces(format)?));
    if format.is_empty() {
        let all = JSON_FIELDS.iter();
        return all.map(|(key, format)| read(key, format)).collect();
    }
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(format).map_err(|_| InvalidAccessLog::Json)?;
    let fields = object.iter().map(|(key, value)| {
        let format = value.as_str().ok_or(InvalidAccessLog::Json)?;
        read(key, format)
    });
    fields.collect()
}

/// Takes a format apart; `%%` is one percent sign.
fn pieces(format: &str) -> Result<Vec<Piece>, InvalidOperator> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(escaped) = after.strip_prefix('%') {
            literal.push('%');
            rest = escaped;
            continue;
        }
        let end = operator::end(after).ok_or_else(|| InvalidOperator::Unclosed(after.into()))?;
        let (written, left) = after.split_at(end);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Operator(Operator::parse(written)?));
        rest = left.strip_prefix('%').unwrap_or(left);
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

fn write_text(line: &mut String, pieces: &[Piece], record: &Record<'_>) {
    for piece in pieces {
        match piece {
            Piece::Literal(text) => line.push_str(text),
            Piece::Operator(operator) => match operator.of(record) {
                Some(value) => escape(line, &value.text()),
                None => line.push('-'),
            },
        }
    }
    if !line.ends_with('\n') {
        line.push('\n');
    }
}

/// What a client sends can't end a line or a quoted field.
fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                line.push('\\');
                line.push(c);
            }
            c if c.is_control() => {
                // Writing to a String can't fail.
                let _ = write!(line, "\\x{:02x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
}

fn write_json(line: &mut String, fields: &[(String, Vec<Piece>)], record: &Record<'_>) {
    line.push('{');
    for (index, (key, pieces)) in fields.iter().enumerate() {
        if index > 0 {
            line.push(',');
        }
        line.push_str(&serde_json::Value::from(key.as_str()).to_string());
        line.push(':');
        let value = match pieces.as_slice() {
            // Alone it keeps its type.
            [Piece::Operator(operator)] => operator
                .of(record)
                .map_or(serde_json::Value::Null, operator::Said::json),
            pieces => {
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Literal(literal) => text.push_str(literal),
                        Piece::Operator(operator) => match operator.of(record) {
                            Some(value) => text.push_str(&value.text()),
                            None => text.push('-'),
                        },
                    }
                }
                serde_json::Value::from(text)
            }
        };
        line.push_str(&value.to_string());
    }
    line.push_str("}\n");
}

#[cfg(test)]
mod tests;
